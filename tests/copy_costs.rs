//! What copies cost: packs, memory and decompression of a large one, requests of a small change in a large tree.

use crate::cli::Host;
use crate::engine::full;
use crate::sites::{Files, MIB, Random, Site, copy};
use keepfs::clock::Clock;
use keepfs::copy::End;
use keepfs::id::ChunkId;
use keepfs::repository::{Credential, Local, Repository};
use keepfs::store::DirectoryStore;
use keepfs::store::faults::{FaultyStore, Verb};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// What a copy may hold in anonymous memory, bytes: the promise of the design, whatever the size.
const MEMORY_MAX: u64 = 128 * MIB;

/// A large copy, in MiB. A short run has a sixteenth of everything, so the ratios are those of the full one.
struct Large {
    data: u64,
    source_pack: u64,
    target_pack: u64,
}

impl Large {
    fn of_this_run() -> Self {
        let size = if full() { 16 } else { 1 };
        Self {
            data: 128 * size,
            source_pack: size,
            target_pack: 16 * size,
        }
    }

    /// A host with a repository `primary` that holds the data as `web/one`, and an empty `offsite`.
    fn host(&self) -> Host {
        let host = Host::new();
        let section = |name: &str, pack: u64| {
            format!(
                "[repository.{name}]\nurl = \"{name}\"\nkey-file = \"{name}.key\"\npack-size = \"{pack} MiB\"\n"
            )
        };
        let config = section("primary", self.source_pack) + &section("offsite", self.target_pack);
        std::fs::write(host.path("keepfs.toml"), config).unwrap();
        host.expect(0, &["init", "primary"]);
        host.expect(0, &["init", "offsite"]);
        let files = host.path("files");
        self.write_files(&files);
        let backup = host.json(&[
            "--json",
            "backup",
            files.to_str().unwrap(),
            "primary/web/one",
        ]);
        assert!(backup["bytes"].as_u64() >= Some(self.data * MIB));
        std::fs::remove_dir_all(files).unwrap();
        host
    }

    /// Large files that do not compress, and a sixteenth of the data in small ones that do.
    fn write_files(&self, directory: &Path) {
        std::fs::create_dir_all(directory.join("small")).unwrap();
        let mut random = Random(71);
        for number in 0..16 {
            let bytes = random.bytes((self.data * MIB / 16) as usize);
            std::fs::write(directory.join(format!("large{number}")), bytes).unwrap();
        }
        for number in 0..self.data * 4 {
            let text = random.text(16 << 10);
            std::fs::write(directory.join(format!("small/{number}.txt")), text).unwrap();
        }
    }
}

#[test]
fn a_large_copy_makes_large_packs_in_bounded_memory_and_decompresses_nothing() {
    let large = Large::of_this_run();
    let host = large.host();
    let words = ["--json", "copy", "primary", "offsite"];
    let (first, memory) = run_and_watch(&host, &words);
    eprintln!(
        "a copy of {} MiB: {memory} bytes of anonymous memory",
        large.data
    );
    assert!((MIB..=MEMORY_MAX).contains(&memory), "{memory} bytes");
    assert_eq!(first["copied"], serde_json::json!(["web/one"]));
    assert_eq!(
        first["frames_cut"], 0,
        "a frame that is cut is decompressed"
    );
    assert!(first["frames_moved"].as_u64() > Some(large.data));

    let packs = data_packs(&host.path("offsite"));
    let stored: u64 = packs.values().sum();
    assert!(stored >= large.data * MIB, "{stored}");
    let most = stored.div_ceil(large.target_pack * MIB) + 2;
    assert!(packs.len() as u64 <= most, "{packs:?}");
    let mut sizes: Vec<_> = packs.values().copied().collect();
    sizes.sort_unstable();
    let half = large.target_pack * MIB / 2;
    assert!(sizes[1..].iter().all(|&size| size >= half), "{sizes:?}");

    let (again, _) = run_and_watch(&host, &words);
    assert_eq!(again["present"], serde_json::json!(["web/one"]));
    for counter in ["frames_moved", "frames_cut", "chunks_moved", "stored_bytes"] {
        assert_eq!(again[counter], 0, "{counter}");
    }
    assert_eq!(data_packs(&host.path("offsite")), packs);
    assert_another_run_asks_for_no_pack(&host);
    host.expect(0, &["check", "offsite"]);
}

/// Runs a command that must succeed: its report, and the most anonymous memory it was seen with, in bytes.
fn run_and_watch(host: &Host, words: &[&str]) -> (Value, u64) {
    let mut command = host.command(words);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(anonymous_bytes(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    crate::cli::assert_code(&output, 0);
    (serde_json::from_slice(&output.stdout).unwrap(), most)
}

/// `None` once the process has ended.
fn anonymous_bytes(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// Every data pack of a repository in a directory, with its bytes.
fn data_packs(repository: &Path) -> BTreeMap<String, u64> {
    let store = DirectoryStore::open(repository).unwrap();
    let packs = keepfs::store::Store::list(&store, "packs/data/").unwrap();
    packs
        .into_iter()
        .map(|pack| (pack.name, pack.size))
        .collect()
}

/// The same copy again, with stores that write down what they are asked, on a host that has nothing cached.
fn assert_another_run_asks_for_no_pack(host: &Host) {
    let (from, source) = open_logged(host, "primary");
    let (to, target) = open_logged(host, "offsite");
    copy(&from, &to);
    let asked: Vec<_> = source.log().into_iter().chain(target.log()).collect();
    assert!(!asked.is_empty());
    let touches_packs = |name: &str| name.is_empty() || name.starts_with("packs/");
    assert!(
        !asked.iter().any(|line| touches_packs(&line.name)),
        "{asked:?}"
    );
}

fn open_logged(host: &Host, name: &str) -> (End, FaultyStore) {
    let directory = DirectoryStore::open(&host.path(name)).unwrap();
    let store = FaultyStore::new(Arc::new(directory));
    let key = std::fs::read(host.path(&format!("{name}.key"))).unwrap();
    let local = Local {
        cache: host.path(&format!("cold-{name}")),
        frame_cache_bytes: 16 << 20,
        clock: Clock::system(),
    };
    let key = Credential::key_file(&key).unwrap();
    let repository = Repository::open(Arc::new(store.clone()), &key, local).unwrap();
    (End::open(repository).unwrap(), store)
}

/// F2.5: the cost of a copy follows the change, not the tree. The bound is the same for a short run's 20,000 files and
/// a full one's million.
#[test]
fn a_hundred_changes_in_a_large_tree_cost_few_requests() {
    const CHANGES: usize = 100;
    let (directories, each) = if full() { (1000, 1000) } else { (100, 200) };
    let mut files = Files::new();
    for directory in 0..directories {
        for number in 0..each {
            let body = format!("file {number} of {directory}").into_bytes();
            files.insert(format!("d{directory:03}/f{number:03}"), body.into());
        }
    }
    let mut source = Site::new(16 * MIB, 1);
    let mut target = Site::new(64 * MIB, 2);
    source.back_up("web", "one", 100, &files);
    copy(&source.open(), &target.open());
    let change = |number: usize| format!("changed {number}").into_bytes();
    for number in 0..CHANGES {
        // As far apart as can be: each in a directory of its own.
        let path = format!("d{:03}/f{number:03}", number * directories / CHANGES);
        files.insert(path, change(number).into());
    }
    let point = source.back_up("web", "two", 200, &files);

    for site in [&source, &target] {
        site.store.clear_log();
    }
    // From the opening of both repositories, by a host that has nothing cached.
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.counters.chunks_moved as usize, CHANGES);
    let gets = |site: &Site| site.store.count(Verb::Get) + site.store.count(Verb::GetRange);
    let (of_source, of_target) = (gets(&source), gets(&target));
    eprintln!(
        "{CHANGES} of {} files changed: {of_source} GETs of the source, {of_target} of the target",
        files.len()
    );
    assert!(of_source + of_target < 300, "{of_source} + {of_target}");
    let to = target.open();
    let contents = to.catalog.contents();
    let copied = contents.point(b"web", b"two").unwrap();
    assert!(copied.record.same_content(&point.record));
    for body in (0..CHANGES).map(change) {
        let read = to.repository().read_chunk(&ChunkId::of(&body)).unwrap();
        assert_eq!(read, body);
    }

    target.store.clear_log();
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.counters.stored_bytes, 0);
    let log = target.store.log();
    let puts_data = |verb| {
        matches!(
            verb,
            Verb::Create | Verb::Upload | Verb::Write | Verb::Finish
        )
    };
    let put: Vec<_> = log
        .iter()
        .filter(|line| puts_data(line.verb) && line.name.starts_with("packs/"))
        .collect();
    assert!(put.is_empty(), "{put:?}");
}
