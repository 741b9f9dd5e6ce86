//! What a host that goes down takes with it: bytes that were written and not synced.

use crate::mount::catalog;
use crate::served::{Host, Tree, USER, content, fails};
use keepfs::clock::Time;
use keepfs::filesystem::{Changes, FileSystem, Options};
use std::time::Duration;

const LONG_AGO: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 5,
};
const POINT: &str = "offsite/host/x.partial";

/// Serves in this boot of the host.
fn serve(host: &Host, boot: u128) -> Tree {
    let both = [("primary", &host.primary), ("offsite", &host.offsite)];
    let both = both.map(|(name, bench)| (name.to_owned(), catalog(bench)));
    let options = Options {
        boot,
        ..Options::new(host.state.path().to_owned())
    };
    Tree(FileSystem::new(both.into(), options))
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
