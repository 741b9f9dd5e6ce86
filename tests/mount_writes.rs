//! Writing through a real mount: copies by real tools, sealing, and what survives a daemon.

use crate::backup::one_of_everything;
use crate::engine::{Bench, assert_clean};
use crate::mount::{Mount, back_up, catalog, run, same_trees, try_run};
use keepfs::error::Kind;
use keepfs::filesystem::Options;
use keepfs::repository::Settings;
use keepfs::store::MemoryStore;
use keepfs::store::faults::{FaultyStore, Verb};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Two mounted repositories, one with a point of one of everything.
pub struct Two {
    pub mount: Mount,
    pub source: tempfile::TempDir,
    primary: Bench,
    offsite: Bench,
    pub point: PathBuf,
    /// The backup of the same name in the other repository.
    pub target: PathBuf,
}

pub fn settings() -> Settings {
    Settings {
        pack_bytes: 1 << 20,
        ..Settings::default()
    }
}

pub fn two() -> Two {
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    two_of(source)
}

/// The same with a point of these files.
pub fn two_of(source: tempfile::TempDir) -> Two {
    let (primary, offsite) = (Bench::new(&settings()), Bench::new(&settings()));
    back_up(&primary, source.path(), "point");
    let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap());
    let point = mount.path().join("primary/host/point");
    let target = mount.path().join("offsite/host");
    std::fs::create_dir(&target).unwrap();
    Two {
        mount,
        source,
        primary,
        offsite,
        point,
        target,
    }
}

pub fn mount_both(primary: &Bench, offsite: &Bench, state: tempfile::TempDir) -> Mount {
    let repositories = vec![("primary", catalog(primary)), ("offsite", catalog(offsite))];
    Mount::with_state(repositories, state)
}

pub fn state_of(point: &std::path::Path) -> String {
    run(&format!(
        "getfattr --only-values -n user.keepfs.state '{}'",
        point.display()
    ))
}

/// What keeps a copy from being whole.
pub fn try_unmatched(point: &std::path::Path) -> String {
    let said = try_run(&format!(
        "getfattr --only-values -n user.keepfs.unmatched '{}'",
        point.display()
    ));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

pub fn becomes_complete(point: &std::path::Path) -> bool {
    let complete = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        state_of(point) == "complete"
    });
    // The kernel may keep what it knew of the open point for one second.
    std::thread::sleep(Duration::from_millis(1200));
    complete
}

impl Two {
    fn requests(&self, operation: &str) -> u64 {
        let metrics = std::fs::read_to_string(self.mount.path().join(".keepfs/metrics")).unwrap();
        let line = metrics
            .lines()
            .find(|line| line.contains(&format!("op=\"{operation}\"")));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.mount.path().join(".keepfs/errors")).unwrap()
    }
}

#[test]
fn cp_moves_references_and_the_copy_seals_itself() {
    let two = two();
    let (copies, writes) = (two.requests("copy_file_range"), two.requests("write"));
    let reads = two.requests("read");
    let (point, target) = (two.point.display(), two.target.display());
    run(&format!("cp -a '{point}' '{target}/'"));
    // One for each file; coreutils 9.1 copies the data of a file with holes as bytes.
    let files = run(&format!(
        "find '{point}' -type f -size +0 -printf '%i %s %b\\n' | sort -u | awk '$3 * 512 >= $2' | wc -l"
    ));
    let files: u64 = files.trim().parse().unwrap();
    assert_eq!(two.requests("copy_file_range") - copies, files);
    assert_eq!(two.requests("write") - writes, 1);
    // Reading the metrics costs reads of its own.
    assert!(two.requests("read") - reads < files / 4);
    let copy = two.target.join("point");
    assert!(becomes_complete(&copy), "{}", two.errors());
    same_trees(two.source.path(), &copy);
    // What the tool knew stays the same inode, and nothing changes any more.
    assert!(
        !try_run(&format!("chmod 700 '{}'", copy.display()))
            .status
            .success()
    );
    run(&format!("chmod 4755 '{}/random'", copy.display()));
    // Another daemon sees the same point with the same trees.
    two.mount.unmount();
    let (one, other) = (
        catalog(&two.primary).contents(),
        catalog(&two.offsite).contents(),
    );
    let (one, other) = (
        one.point(b"host", b"point").unwrap(),
        other.point(b"host", b"point").unwrap(),
    );
    assert!(one.record.same_content(&other.record));
    assert_eq!(one.record.time, other.record.time);
}

#[test]
fn cp_copies_large_files_in_slices_and_no_holes() {
    let source = tempfile::tempdir().unwrap();
    let (large, hole) = (300u64 << 20, 6u64 << 30);
    // The same noise again and again: large, and quickly stored.
    run(&format!(
        "cd '{}'; head -c 20M /dev/urandom > part; for n in $(seq 15); do cat part; done > large; rm part; \
         truncate -s {hole} hole",
        source.path().display()
    ));
    let two = two_of(source);
    run(&format!(
        "cp -a '{}' '{}/'",
        two.point.display(),
        two.target.display()
    ));
    // A request cannot be interrupted, so that none may copy more than 64 MiB.
    let slices = two.requests("copy_file_range");
    assert!(
        (large >> 26..=(large >> 26) + 3).contains(&slices),
        "{slices}"
    );
    assert_eq!(two.requests("write"), 0);
    assert!(two.requests("lseek") > 0);
    let copy = two.target.join("point");
    assert!(becomes_complete(&copy), "{}", two.errors());
    let facts = std::fs::metadata(copy.join("hole")).unwrap();
    assert_eq!((facts.size(), facts.blocks()), (hole, 0));
    let out = tempfile::tempdir().unwrap();
    run(&format!(
        "cp -a '{0}' '{1}/'; cmp '{0}/large' '{1}/point/large'",
        copy.display(),
        out.path().display()
    ));
    let restored = std::fs::metadata(out.path().join("point/hole")).unwrap();
    assert_eq!((restored.size(), restored.blocks()), (hole, 0));
}

#[test]
fn writing_and_renaming_seals_as_written() {
    let two = two();
    let target = two.target.display();
    let source = two.source.path().display();
    // rsync leaves the time of a directory alone that differs by less than a second.
    run(&format!("rm '{source}/socket'; sleep 1.1"));
    run(&format!("rsync -aHAX '{source}/' '{target}/new.partial/'"));
    run(&format!(
        "echo more >> '{target}/new.partial/a/hello'; truncate -s 100000 '{target}/new.partial/numbers'"
    ));
    run(&format!(
        "truncate -s 200000 '{target}/new.partial/numbers'"
    ));
    run(&format!(
        "cp '{}/random' '{target}/new.partial/mixed'; printf 12345 | dd of='{target}/new.partial/mixed' bs=1 seek=1234567 conv=notrunc status=none",
        two.point.display()
    ));
    run(&format!("mv '{target}/new.partial' '{target}/new'"));
    let sealed = two.target.join("new");
    assert_eq!(state_of(&sealed), "complete");
    run(&format!(
        "cd '{source}'; echo more >> a/hello; truncate -s 100000 numbers; truncate -s 200000 numbers;
         cp random mixed; printf 12345 | dd of=mixed bs=1 seek=1234567 conv=notrunc status=none; chmod --reference='{target}/new/mixed' mixed
         touch --reference='{target}/new/mixed' mixed; touch -r '{target}/new/numbers' numbers; touch -r '{target}/new/a/hello' a/hello; touch -r '{target}/new' ."
    ));
    same_trees(two.source.path(), &sealed);
    assert_eq!(run(&format!("readlink '{target}/latest'")), "new\n");
}

#[test]
fn an_open_point_survives_its_daemon_and_is_sealed_by_name() {
    let two = two();
    let (point, target) = (two.point.display(), two.target.display());
    run(&format!(
        "mkdir '{target}/mine'; echo own > '{target}/mine/own'; cp -a '{point}/.' '{target}/mine/'; rm '{target}/mine/dangling'; sync '{target}/mine/own' '{target}/mine'"
    ));
    let state = two.mount.unmount();
    let mount = mount_both(&two.primary, &two.offsite, state);
    let mine = mount.path().join("offsite/host/mine");
    assert_eq!(state_of(&mine), "open");
    assert_eq!(std::fs::read_to_string(mine.join("own")).unwrap(), "own\n");
    run(&format!(
        "setfattr -n user.keepfs.state -v complete '{}'",
        mine.display()
    ));
    assert_eq!(state_of(&mine), "complete");
    run(&format!(
        "cd '{}'; rm dangling; echo own > own; touch -r '{0}/own' own; touch -r '{1}' .",
        two.source.path().display(),
        mine.display()
    )
    .replacen(
        &format!("{}/own", two.source.path().display()),
        &format!("{}/own", mine.display()),
        1,
    ));
    same_trees(two.source.path(), &mine);
}

#[test]
fn links_to_a_complete_point_are_references() {
    let two = two();
    let backup = two.point.parent().unwrap().display().to_string();
    run(&format!(
        "cp -al '{backup}/latest/' '{backup}/next.partial'"
    ));
    assert_eq!(state_of(&two.point.with_file_name("next.partial")), "open");
    run(&format!(
        "rm '{backup}/next.partial/numbers'; mv '{backup}/next.partial' '{backup}/next'"
    ));
    assert_eq!(run(&format!("cat '{backup}/next/a/hello'")), "hello\n");
    run(&format!(
        "test -e '{backup}/point/numbers'; test ! -e '{backup}/next/numbers'; cmp '{backup}/point/random' '{backup}/next/random'"
    ));
}

#[test]
fn what_cannot_be_has_its_own_errno_and_sentence() {
    let two = two();
    let target = two.target.display();
    let refused = |script: &str, words: &str| {
        let output = try_run(script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(words),
            "{script}: {said}"
        );
    };
    refused(&format!("touch '{target}/file'"), "Operation not permitted");
    refused(
        &format!("touch '{target}/../file'"),
        "Operation not permitted",
    );
    refused(&format!("mkdir '{target}/latest'"), "Invalid argument");
    refused(
        &format!(
            "mkdir '{}/host/point'",
            two.mount.path().join("primary").display()
        ),
        "File exists",
    );
    refused(
        &format!("rmdir '{}'", two.point.parent().unwrap().display()),
        "Directory not empty",
    );
    assert!(two.errors().contains("cp -a SOURCE"));
}

#[test]
fn an_entry_takes_only_so_many_attributes_as_a_tree_can_hold() {
    let two = two();
    let file = two.target.join("marked.partial/file");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "content").unwrap();
    let set =
        |number: u32, bytes: usize| xattr::set(&file, format!("user.{number}"), &vec![7; bytes]);
    for number in 0..15 {
        set(number, 65_536).unwrap();
    }
    let refused = set(15, 65_536).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    assert!(two.errors().contains("1 MiB"));
    // What is there can still be replaced, and the point sealed.
    set(14, 65_535).unwrap();
    let sealed = two.target.join("marked");
    std::fs::rename(file.parent().unwrap(), &sealed).unwrap();
    assert_eq!(state_of(&sealed), "complete");
    let value = xattr::get(sealed.join("file"), "user.14").unwrap();
    assert_eq!(value.map(|value| value.len()), Some(65_535));
}

#[test]
fn bytes_that_the_source_cannot_give_any_more_are_kept() {
    let source = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(source.path().join("file"), &content).unwrap();
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let primary = Bench::in_store(Arc::new(store.clone()), &settings());
    let offsite = Bench::new(&settings());
    back_up(&primary, source.path(), "point");
    let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap()).of_damaged();
    let point = mount.path().join("primary/host/point");
    let name = run(&format!("find '{}' -type f -printf %P", point.display()));
    let reads = &[Verb::Get, Verb::GetRange];
    store.fail_at(reads, "packs/data/", 0..u64::MAX, Kind::Damaged);
    // The same bytes, written and not referred to: the copy is whole and tries to seal itself.
    let copy = mount.path().join("offsite/host/point");
    let file = copy.join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, &content).unwrap();
    let copy = copy.display();
    // It need not succeed, but must not seal what the repository does not have.
    try_run(&format!(
        "setfattr -n user.keepfs.state -v complete '{copy}'"
    ));
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert_clean("sealed", &offsite.open());
}

#[test]
fn the_kernel_forgets_sealed_points_whose_entries_take_too_much_memory() {
    let bench = Bench::new(&settings());
    catalog(&bench).ensure_backup(b"host").unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = Options {
        entries_bytes: 200_000,
        ..Options::new(state.path().to_owned())
    };
    let mount = Mount::with_options(vec![("primary", catalog(&bench))], state, options);
    let host = mount.path().join("primary/host");
    // Three quarters of the memory, again and again: each time those of before are forgotten.
    for round in 0..3 {
        let partial = host.join(format!("{round}.partial"));
        std::fs::create_dir(&partial).unwrap();
        for n in 0..350 {
            let file = partial.join(n.to_string());
            let made = (0..300).any(|_| match std::fs::write(&file, n.to_string()) {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                    std::thread::sleep(Duration::from_millis(100));
                    false
                }
            });
            assert!(made, "{n} of round {round}");
        }
        std::fs::rename(&partial, host.join(round.to_string())).unwrap();
    }
    for round in 0..3 {
        let file = host.join(format!("{round}/349"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "349");
    }
}
