//! Copies that a repository's settings rule out, and space that is known beforehand: refused before a byte moves.

use crate::cli::Host;
use crate::engine::Bench;
use crate::mount::{Mount, back_up, catalog, run, try_run};
use keepfs::repository::{CAPACITY, COPY_TARGET, Settings};
use std::collections::BTreeMap;
use std::path::Path;

/// Every object of a store in a directory, by name, with its length.
fn objects(store: &Path) -> BTreeMap<String, u64> {
    let listing = run(&format!(
        "cd '{}'; find . -path ./tmp -prune -o -type f -printf '%P %s\\n'",
        store.display()
    ));
    let lines = listing.lines().map(|line| {
        let (name, size) = line.split_once(' ').expect("two words");
        (name.to_owned(), size.parse().expect("a number"))
    });
    lines.collect()
}

fn with_point() -> Host {
    let host = Host::new();
    host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", "files", "primary/web/one"]);
    host
}

/// The copy is refused with this code and these words, and nothing is written.
fn refused(host: &Host, code: i32, words: &str) -> String {
    let before = objects(&host.path("offsite"));
    let said = host.complaint(code, &["copy", "primary", "offsite"]);
    assert!(said.contains(words), "{said}");
    assert_eq!(objects(&host.path("offsite")), before, "{said}");
    said
}

#[test]
fn wrong_ends_refuse_each_with_a_sentence_of_its_own_and_work_when_that_is_mended() {
    let host = with_point();
    host.expect(0, &["init", "--set", "copy-target=false", "offsite"]);
    let target = refused(&host, 2, "copy-target = false");
    host.expect(0, &["config", "offsite", "copy-target=true"]);
    host.expect(0, &["config", "primary", "copy-source=false"]);
    let source = refused(&host, 2, "copy-source = false");
    host.expect(0, &["config", "primary", "copy-source=true"]);
    assert_ne!(target, source);
    host.expect(0, &["copy", "primary", "offsite"]);
    // What never changes is mended by another repository.
    std::fs::remove_dir_all(host.path("offsite")).expect("removes");
    host.expect(0, &["init", "--set", "retention-type=item", "offsite"]);
    refused(&host, 2, "retention type");
}

#[test]
fn used_up_capacity_begins_nothing_and_what_is_under_way_ends() {
    let host = with_point();
    host.expect(0, &["init", "--set", "capacity=50000", "offsite"]);
    std::fs::write(host.path("files/noise"), crate::stores::noise(300_000)).expect("writes");
    host.expect(0, &["backup", "files", "primary/web/two"]);
    // It crosses the limit on its way, and ends.
    host.expect(0, &["copy", "primary", "offsite"]);
    host.expect(0, &["backup", "files", "primary/web/three"]);
    refused(&host, 1, "capacity is 50000");
    let before = objects(&host.path("offsite"));
    let said = host.complaint(1, &["backup", "files", "offsite/web/own"]);
    assert!(said.contains("capacity"), "{said}");
    assert_eq!(objects(&host.path("offsite")), before);
    host.expect(0, &["config", "offsite", "capacity=1 GiB"]);
    host.expect(0, &["copy", "primary", "offsite"]);
}

#[test]
fn a_copy_that_has_no_room_is_refused_with_its_estimate() {
    let host = with_point();
    let disk = host.path("offsite");
    std::fs::create_dir(&disk).expect("makes");
    run(&format!(
        "mount -t tmpfs -o size=24M none '{}'",
        disk.display()
    ));
    host.expect(0, &["init", "offsite"]);
    std::fs::write(host.path("files/noise"), crate::stores::noise(32 << 20)).expect("writes");
    host.expect(0, &["backup", "files", "primary/web/large"]);
    let said = std::panic::catch_unwind(|| refused(&host, 1, "the copy needs up to"));
    // The small one fits, and so does what the target has already.
    let small = host.run(&["copy", "primary/web/one", "offsite"]);
    let again = host.run(&["copy", "primary/web/one", "offsite"]);
    let _ = try_run(&format!("umount -l '{}'", disk.display()));
    let said = said.expect("is refused");
    assert!(small.status.success() && again.status.success());
    let estimate = said.split("up to ").nth(1).expect("has a number");
    let estimate = estimate.split(' ').next().expect("has a number");
    let estimate: u64 = estimate.parse().expect("is a number");
    assert!((32 << 20..40 << 20).contains(&estimate), "{said}");
}

#[test]
fn cp_in_the_mount_is_refused_and_stores_nothing() {
    let mut closed = Settings::default();
    closed.set_more(COPY_TARGET, Some("false".to_owned()));
    let (primary, offsite) = (Bench::new(&Settings::default()), Bench::new(&closed));
    let source = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(source.path().join("letter"), "Dear Alice").expect("writes");
    back_up(&primary, source.path(), "one");
    let mount = Mount::of(vec![
        ("primary", catalog(&primary)),
        ("offsite", catalog(&offsite)),
    ]);
    let top = mount.path().display().to_string();
    run(&format!("mkdir '{top}/offsite/host'"));
    let copied = try_run(&format!(
        "cp -a '{top}/primary/host/one' '{top}/offsite/host/'"
    ));
    let said = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(!copied.status.success(), "{said}");
    assert!(said.contains("Disk quota exceeded"), "{said}");
    let told = run(&format!("cat '{top}/.keepfs/errors'"));
    assert!(told.contains("copy-target = false"), "{told}");
    for prefix in ["packs/", "points/"] {
        assert_eq!(offsite.store.list(prefix).expect("lists"), []);
    }
    // What tools write themselves is no copy of another repository.
    run(&format!(
        "rm -r '{top}/offsite/host/one'; mkdir '{top}/offsite/host/two.partial'; echo new > '{top}/offsite/host/two.partial/new'; \
         mv '{top}/offsite/host/two.partial' '{top}/offsite/host/two'"
    ));
}

#[test]
fn df_shows_the_capacity_of_a_repository() {
    let mut bounded = Settings::default();
    bounded.set_more(CAPACITY, Some((1u64 << 30).to_string()));
    let bench = Bench::new(&bounded);
    let source = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(source.path().join("noise"), crate::stores::noise(64 << 20)).expect("writes");
    back_up(&bench, source.path(), "one");
    let mount = Mount::of_bench(&bench);
    let shown = run(&format!(
        "df -B1 --output=size,used,avail '{}/primary' | tail -1",
        mount.path().display()
    ));
    let words = shown.split_whitespace();
    let shown: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
    for (shown, right) in shown.iter().zip([1u64 << 30, 64 << 20, 960 << 20]) {
        assert!(
            shown.abs_diff(right) <= right / 100,
            "{shown} is not {right}"
        );
    }
}
