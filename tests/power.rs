//! What a host that goes down takes with it: bytes that were written and not synced.

use crate::engine::{full, seed};
use crate::mount::run;
use crate::served::{Host, Tree, USER, content, fails};
use crate::sites::Random;
use keepfs::clock::Time;
use keepfs::filesystem::{Changes, Options, open_points};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LONG_AGO: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 5,
};
const POINT: &str = "offsite/host/x.partial";

/// Serves in this boot of the host.
fn serve(host: &Host, boot: u128) -> Tree {
    serve_from(host, host.state.path(), boot)
}

fn serve_from(host: &Host, state: &Path, boot: u128) -> Tree {
    let both = [("primary", &host.primary), ("offsite", &host.offsite)];
    let options = Options {
        boot,
        ..Options::new(state.to_owned())
    };
    Tree::with_options(&both, options)
}

fn at(name: &str) -> String {
    format!("{POINT}/{name}")
}

fn set_time(tree: &Tree, name: &str, time: Time) {
    let mtime = Some(Some(time));
    let changes = Changes {
        mtime,
        ..Changes::default()
    };
    tree.set(&at(name), &changes).unwrap();
}

fn time(tree: &Tree, name: &str) -> Time {
    tree.look(&at(name)).unwrap().mtime
}

/// As rsync writes, and whoever syncs besides.
fn put(tree: &Tree, name: &str, sync: bool) {
    let handle = tree.create(&at(name)).unwrap();
    tree.0.write(handle, 0, &content(name), USER).unwrap();
    if sync {
        tree.0.sync(handle, USER).unwrap();
    }
    tree.0.close(handle);
    set_time(tree, name, LONG_AGO);
}

fn overwrite(tree: &Tree, name: &str, cut: bool) {
    let handle = tree.0.open(tree.ino(&at(name)), libc::O_RDWR).unwrap();
    if cut {
        tree.cut(&at(name), 0).unwrap();
    }
    tree.0.write(handle, 0, &content(name), USER).unwrap();
    tree.0.close(handle);
}

/// An open point with a file that was synced and others that were not.
fn written(host: &Host) -> Tree {
    let tree = serve(host, 1);
    tree.mkdir(POINT);
    put(&tree, "synced", true);
    for name in ["cut", "gone", "right", "renamed"] {
        put(&tree, name, false);
    }
    put(&tree, "changed", true);
    overwrite(&tree, "changed", false);
    set_time(&tree, "changed", LONG_AGO);
    tree
}

#[test]
fn what_was_not_synced_when_the_host_went_down_is_not_sealed_before_it_was_copied_again() {
    let host = Host::new();
    drop(written(&host));
    for round in 0..3 {
        // Another daemon of the same boot changes nothing, and one of the next doubts only once.
        let tree = serve(&host, 1 + round / 2);
        let doubted = tree.errors();
        assert_eq!(doubted.contains("went down"), round > 1, "{doubted}");
        assert_eq!(time(&tree, "synced"), LONG_AGO);
        assert_eq!(time(&tree, "cut") == LONG_AGO, round < 2);
        assert_eq!(time(&tree, "changed") == LONG_AGO, round < 2);
    }
    let tree = serve(&host, 2);
    let listed = open_points(host.state.path()).unwrap();
    assert!(listed[0].doubts.as_ref().unwrap().contains("and 2 more"));
    let since = time(&tree, "cut");
    let seal = || tree.mv(POINT, "offsite/host/x");
    fails(seal(), libc::EBADMSG, "went down before all of");
    fails(seal(), libc::EBADMSG, "and 2 more");
    assert_eq!(tree.fact(POINT, "state"), "open");
    for (name, whole) in [("synced", true), ("changed", true), ("right", true)] {
        let bytes = tree.read(&at(name)).unwrap();
        assert_eq!(bytes == content(name), whole, "{name}");
    }
    // As rsync replaces a file, as cp does, and as a user says that one is right.
    put(&tree, "renamed.tmp", false);
    tree.mv(&at("renamed.tmp"), &at("renamed")).unwrap();
    overwrite(&tree, "cut", true);
    tree.rm(&at("gone")).unwrap();
    set_time(&tree, "changed", LONG_AGO);
    // To write a part of it says nothing about the rest.
    overwrite(&tree, "right", false);
    fails(seal(), libc::EBADMSG, "all of right was on its disk");
    set_time(&tree, "right", LONG_AGO);
    assert!(time(&tree, "cut") > since);
    seal().unwrap();
    for name in ["synced", "cut", "right", "changed"] {
        let bytes = tree.read(&format!("offsite/host/x/{name}")).unwrap();
        assert!(bytes == content(name), "{name}");
    }
    drop(tree);
    host.assert_clean();
}

#[test]
fn doubt_survives_daemons_and_hosts_and_is_told_each_time() {
    let host = Host::new();
    drop(written(&host));
    let doubted = time(&serve(&host, 2), "cut");
    for boot in [2, 3, 4] {
        let tree = serve(&host, boot);
        assert!(tree.errors().contains("went down"));
        assert_eq!(
            time(&tree, "cut"),
            doubted,
            "what is on the disk is not doubted anew"
        );
    }
}

#[test]
fn a_daemon_that_ends_and_bytes_that_are_stored_leave_nothing_in_doubt() {
    let host = Host::new();
    let tree = written(&host);
    tree.0.settle();
    drop(tree);
    let tree = serve(&host, 2);
    assert_eq!(tree.errors(), "");
    assert_eq!(time(&tree, "cut"), LONG_AGO);
    // What is written after that is in doubt, and what is in the repository is not.
    put(&tree, "more", false);
    drop(tree);
    let tree = serve(&host, 3);
    fails(
        tree.mv(POINT, "offsite/host/x"),
        libc::EBADMSG,
        "all of more was",
    );
    set_time(&tree, "more", LONG_AGO);
    put(&tree, "last", false);
    tree.0.sync_directory(tree.ino(POINT), USER).unwrap();
    drop(tree);
    let tree = serve(&host, 4);
    assert_eq!(tree.errors(), "");
    assert_eq!(time(&tree, "last"), LONG_AGO);
    tree.mv(POINT, "offsite/host/x").unwrap();
}

#[test]
fn what_is_synced_while_others_write_is_in_doubt() {
    let host = Host::new();
    let tree = serve(&host, 1);
    tree.mkdir(POINT);
    let handle = tree.create(&at("busy")).unwrap();
    tree.0.write(handle, 0, b"first", USER).unwrap();
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            for n in 0..200 {
                tree.0.write(handle, n, b"again", USER).unwrap();
            }
        });
        while !writes.is_finished() {
            tree.0.sync(handle, USER).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    tree.0.sync(handle, USER).unwrap();
    drop(tree);
    // The last sync came when nobody wrote.
    assert_eq!(serve(&host, 2).errors(), "");
}

/// The disk of a host: ext4 in a file. What that file holds is what a loss of power leaves.
struct Disk {
    directory: tempfile::TempDir,
    mounted: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = directory.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        let shown = directory.path().display();
        run(&format!(
            "truncate -s 96M {shown}/disk && mkfs.ext4 -q -F {shown}/disk"
        ));
        let disk = Self { directory, mounted };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let shown = self.directory.path().display();
        run(&format!("mount -o loop {shown}/disk {shown}/mounted"));
    }

    /// The host has been without power since now. Nobody uses the disk any more.
    fn lose_power(&self) {
        let shown = self.directory.path().display();
        run(&format!(
            "cp --sparse=always {shown}/disk {shown}/left\n\
             for try in $(seq 100); do ! umount {shown}/mounted || break; sleep 0.1; done\n\
             mv {shown}/left {shown}/disk"
        ));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let shown = self.mounted.display();
        let _ = crate::mount::try_run(&format!("umount {shown}"));
    }
}

/// A file as it was written last, and whether that was synced.
struct Written {
    bytes: Vec<u8>,
    time: Time,
    synced: bool,
}

/// A tool that writes as rsync, cp and databases do, and a record of what it wrote.
struct Tool {
    random: Random,
    files: BTreeMap<String, Written>,
    seconds: i64,
}

impl Tool {
    fn step(&mut self, tree: &Tree) {
        let name = format!("f{}", self.random.below(12));
        let known = self.files.contains_key(&name);
        match self.random.below(10) {
            0 if known => {
                tree.rm(&at(&name)).unwrap();
                self.files.remove(&name);
            }
            1 if known => self.overwrite(tree, &name),
            2 if known => {
                let handle = tree.0.open(tree.ino(&at(&name)), libc::O_RDWR).unwrap();
                tree.0.sync(handle, USER).unwrap();
                tree.0.close(handle);
                self.files.get_mut(&name).unwrap().synced = true;
            }
            3 if self.random.below(4) == 0 => {
                tree.0.sync_directory(tree.ino(POINT), USER).unwrap();
                self.files.values_mut().for_each(|file| file.synced = true);
            }
            _ => self.replace(tree, &name),
        }
    }

    /// Sets the time, as tools do in the end.
    fn end(&mut self, tree: &Tree, name: &str, bytes: Vec<u8>) {
        self.seconds += 1;
        let time = Time::new(self.seconds, 7);
        set_time(tree, name, time);
        let written = Written {
            bytes,
            time,
            synced: false,
        };
        self.files.insert(name.to_owned(), written);
    }

    fn replace(&mut self, tree: &Tree, name: &str) {
        let length = 1 + self.random.below(300_000) as usize;
        let bytes = self.random.bytes(length);
        let temporary = format!(".{name}");
        if tree.look(&at(&temporary)).is_some() {
            tree.rm(&at(&temporary)).unwrap();
        }
        let handle = tree.create(&at(&temporary)).unwrap();
        for (number, piece) in bytes.chunks(65_536).enumerate() {
            let offset = number as u64 * 65_536;
            tree.0.write(handle, offset, piece, USER).unwrap();
        }
        tree.0.close(handle);
        tree.mv(&at(&temporary), &at(name)).unwrap();
        self.end(tree, name, bytes);
    }

    fn overwrite(&mut self, tree: &Tree, name: &str) {
        let mut bytes = self.files[name].bytes.clone();
        let begin = self.random.below(bytes.len() as u64) as usize;
        let piece = self.random.bytes(1 + self.random.0 as usize % 50_000);
        let end = bytes.len().min(begin + piece.len());
        bytes[begin..end].copy_from_slice(&piece[..end - begin]);
        let handle = tree.0.open(tree.ino(&at(name)), libc::O_RDWR).unwrap();
        let changed = &bytes[begin..end];
        tree.0.write(handle, begin as u64, changed, USER).unwrap();
        tree.0.close(handle);
        self.end(tree, name, bytes);
    }

    /// After the loss: is what it should be, and is made what it was, as `rsync --delete` does.
    fn again(&mut self, tree: &Tree) {
        self.check(tree);
        let names = (0..12).flat_map(|n| [format!("f{n}"), format!(".f{n}")]);
        for name in names {
            let found = tree.look(&at(&name));
            match (self.files.get(&name), found) {
                (Some(file), found) if found.is_none_or(|found| found.mtime != file.time) => {
                    self.replace(tree, &name);
                }
                (None, Some(_)) => tree.rm(&at(&name)).unwrap(),
                _ => {}
            }
        }
    }

    /// The kernel writes some of what it has to the disk, in any order.
    fn write_back(&mut self, disk: &Disk) {
        let files = run(&format!("find {} -type f", disk.mounted.display()));
        for file in files.lines().filter(|_| self.random.below(3) == 0) {
            std::fs::File::open(file).unwrap().sync_data().unwrap();
        }
    }

    /// What was synced is there, and no file has the size and time of what was written without having its bytes.
    fn check(&self, tree: &Tree) {
        for (name, written) in &self.files {
            let found = tree.look(&at(name));
            if written.synced {
                let found = found
                    .as_ref()
                    .unwrap_or_else(|| panic!("{name} was synced"));
                let facts = (found.size, found.mtime);
                assert_eq!(facts, (written.bytes.len() as u64, written.time), "{name}");
            }
            let same = |found: &keepfs::filesystem::Attributes| {
                (found.size, found.mtime) == (written.bytes.len() as u64, written.time)
            };
            if found.is_some_and(|found| same(&found)) {
                let bytes = tree.read(&at(name)).unwrap();
                assert!(bytes == written.bytes, "{name} looks as it was written");
            }
        }
    }
}

#[test]
fn what_was_synced_survives_a_loss_of_power_and_what_was_not_does_not_look_so() {
    let host = Host::new();
    let random = Random(seed("loss of power"));
    let disk = Disk::new();
    let mut tool = Tool {
        random,
        files: BTreeMap::new(),
        seconds: 1_000_000_000,
    };
    let mut doubted = 0;
    for boot in 1..=if full() { 300 } else { 15 } {
        let tree = serve_from(&host, &disk.mounted, boot);
        if tree.look(POINT).is_none() {
            assert!(!tool.files.values().any(|file| file.synced));
            tool.files.clear();
            tree.mkdir(POINT);
        }
        doubted += usize::from(tree.errors().contains("went down"));
        tool.again(&tree);
        for _ in 0..tool.random.below(60) {
            tool.step(&tree);
        }
        drop(tree);
        tool.write_back(&disk);
        disk.lose_power();
    }
    assert!(doubted > 0);
    let tree = serve_from(&host, &disk.mounted, 0);
    tool.again(&tree);
    tree.mv(POINT, "offsite/host/x").unwrap();
    for (name, written) in &tool.files {
        assert!(tree.read(&format!("offsite/host/x/{name}")).unwrap() == written.bytes);
    }
    drop(tree);
    host.assert_clean();
}
