//! Bytes that rsync reads from one mounted repository and writes into another cross as the frames they were read from:
//! they are not compressed again, and not asked of the source's store again.

use crate::engine::{Bench, assert_clean};
use crate::mount::{Mount, back_up, catalog, run, same_trees};
use crate::mount_writes::{becomes_complete, mount_both, settings};
use keepfs::error::Kind;
use keepfs::repository::Settings;
use keepfs::store::MemoryStore;
use keepfs::store::faults::{FaultyStore, Verb};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// Bytes that compress to a fifth or so, and less the more one tries.
fn text(name: &str, length: usize) -> Vec<u8> {
    let mut noise = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
    let mut bytes = Vec::with_capacity(length + 1024);
    let mut words = [0; 64];
    while bytes.len() < length {
        noise.fill(&mut words);
        for word in words.chunks(4) {
            let [a, b, c, d] = [word[0], word[1] / 4, word[2], word[3] % 7];
            writeln!(bytes, "{a:03} of {b:02} to {c} by {d}").unwrap();
        }
    }
    bytes.truncate(length);
    bytes
}

/// A source that compresses well, and a target that would not.
struct Pair {
    source: tempfile::TempDir,
    store: FaultyStore,
    primary: Bench,
    offsite: Bench,
}

impl Pair {
    /// Both cut alike when `alike` says so.
    fn new(alike: bool, fill: impl Fn(&Path)) -> Self {
        let source = tempfile::tempdir().unwrap();
        fill(source.path());
        // rsync leaves a directory the time that it has if only less than a second differs.
        let shown = source.path().display();
        run(&format!("find '{shown}' -exec touch -d @1600000000 {{}} +"));
        let well = Settings {
            level: 9,
            pack_bytes: 4 << 20,
            ..settings()
        };
        let badly = Settings {
            level: 1,
            ..well.clone()
        };
        let badly = match alike {
            true => badly,
            false => Settings {
                seed: [9; 32],
                ..badly
            },
        };
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let primary = Bench::in_store(Arc::new(store.clone()), &well);
        back_up(&primary, source.path(), "point");
        let offsite = Bench::new(&badly);
        catalog(&offsite).ensure_backup(b"host").unwrap();
        Self {
            source,
            store,
            primary,
            offsite,
        }
    }

    fn mount(&self) -> Mount {
        mount_both(&self.primary, &self.offsite, tempfile::tempdir().unwrap())
    }
}

fn data_bytes(bench: &Bench) -> u64 {
    let packs = bench.store.list("packs/data").unwrap();
    packs.iter().map(|pack| pack.size).sum()
}

fn metric(mount: &Mount, name: &str) -> u64 {
    let text = std::fs::read_to_string(mount.path().join(".keepfs/metrics")).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(&format!("keepfs_kept_frames_{name} ")));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

fn rsync(mount: &Mount, from: &str, to: &str) {
    let mount = mount.path().display();
    run(&format!("rsync -a '{mount}/{from}/' '{mount}/{to}/'"));
}

/// Copies the point under another name, so that nothing else than its bytes tells whose they are.
fn copy(pair: &Pair) -> (Mount, u64, u64) {
    let mount = pair.mount();
    rsync(&mount, "primary/host/point", "offsite/host/other.partial");
    let host = mount.path().join("offsite/host");
    std::fs::rename(host.join("other.partial"), host.join("other")).unwrap();
    same_trees(pair.source.path(), &host.join("other"));
    let counted = ["moved_total", "missed_total"].map(|name| metric(&mount, name));
    eprintln!(
        "moved, missed: {counted:?}; reread {}",
        metric(&mount, "reread_total")
    );
    assert!(metric(&mount, "bytes") <= metric(&mount, "limit_bytes"));
    (mount, counted[0], counted[1])
}

fn write_large(source: &Path) {
    for (name, mib) in [("stream", 12), ("a", 3), ("b", 2)] {
        std::fs::write(source.join(name), text(name, mib * MIB + 1234)).unwrap();
    }
}

#[test]
fn frames_of_large_files_are_moved_by_rsync() {
    let pair = Pair::new(true, write_large);
    let (mount, moved, missed) = copy(&pair);
    let (there, here) = (data_bytes(&pair.primary), data_bytes(&pair.offsite));
    eprintln!("{there} {here}");
    // Runs of short chunks may be parted where a stretch of the stream ends.
    assert!(missed * 50 <= moved, "{moved} moved, {missed} compressed");
    assert!(moved >= 17 * 4, "{moved}");
    assert!(here.abs_diff(there) * 100 <= there, "{there} became {here}");
    drop(mount);
    assert_clean("moved", &pair.offsite.open());
}

#[test]
fn frames_of_images_are_moved_by_rsync() {
    let pair = Pair::new(true, |source| {
        std::fs::write(source.join("disk.img"), text("disk", 24 * MIB)).unwrap();
    });
    let (mount, moved, missed) = copy(&pair);
    let (there, here) = (data_bytes(&pair.primary), data_bytes(&pair.offsite));
    eprintln!("{there} {here}");
    assert!(missed * 50 <= moved, "{moved} moved, {missed} compressed");
    assert!(here.abs_diff(there) * 100 <= there, "{there} became {here}");
    drop(mount);
    assert_clean("moved", &pair.offsite.open());
}

#[test]
fn where_two_repositories_cut_otherwise_nothing_is_moved() {
    let pair = Pair::new(false, write_large);
    let (_mount, moved, missed) = copy(&pair);
    assert_eq!(moved, 0);
    assert!(missed > 0);
}

#[test]
fn frames_of_small_files_are_moved_by_rsync() {
    let pair = Pair::new(true, |source| {
        for n in 0..1500 {
            let directory = source.join(format!("d{}", n / 50));
            std::fs::create_dir_all(&directory).unwrap();
            let name = format!("{}.{}", n % 50, ["txt", "log", "c"][n % 3]);
            let content = text(&format!("small {n}"), 2000 + n * 7919 % 30_000);
            std::fs::write(directory.join(name), content).unwrap();
        }
    });
    let (mount, moved, missed) = copy(&pair);
    let (there, here) = (data_bytes(&pair.primary), data_bytes(&pair.offsite));
    eprintln!("{there} {here}");
    assert!(missed * 4 <= moved, "{moved} moved, {missed} compressed");
    assert!(here.abs_diff(there) * 20 <= there, "{there} became {here}");
    drop(mount);
    assert_clean("moved", &pair.offsite.open());
}

#[test]
fn what_a_copy_lacks_at_its_end_is_not_read_from_the_source_again() {
    let pair = Pair::new(true, |source| {
        write_large(source);
        for n in 0..200 {
            std::fs::write(source.join(format!("{n}.txt")), text(&format!("{n}"), 9000)).unwrap();
        }
        std::fs::write(source.join("last"), "").unwrap();
    });
    let mount = pair.mount();
    let (point, host) = ("primary/host/point", mount.path().join("offsite/host"));
    let shown = mount.path().display();
    run(&format!(
        "rsync -a --exclude=last '{shown}/{point}' '{shown}/offsite/host/'"
    ));
    pair.store.fail_at(
        &[Verb::Get, Verb::GetRange],
        "packs/data",
        0..u64::MAX,
        Kind::Unreachable,
    );
    // Now it is whole, and what was not stored yet is brought.
    std::fs::write(host.join("point/last"), "").unwrap();
    assert!(becomes_complete(&host.join("point")));
    pair.store.heal();
    assert!(metric(&mount, "reread_total") > 0);
    assert!(metric(&mount, "missed_total") <= 4, "runs may be parted");
    same_trees(pair.source.path(), &host.join("point"));
    let (there, here) = (data_bytes(&pair.primary), data_bytes(&pair.offsite));
    assert!(here.abs_diff(there) * 100 <= there, "{there} became {here}");
}

#[test]
fn a_mount_of_one_repository_keeps_no_frames() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), text("file", MIB)).unwrap();
    let bench = Bench::new(&settings());
    back_up(&bench, source.path(), "point");
    let mount = Mount::of_bench(&bench);
    run(&format!(
        "cat '{}/primary/host/point/file' >/dev/null",
        mount.path().display()
    ));
    for name in ["bytes", "limit_bytes", "moved_total", "missed_total"] {
        assert_eq!(metric(&mount, name), 0, "{name}");
    }
}
