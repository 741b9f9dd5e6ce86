//! Open points without a kernel: what survives the daemon, and what is never sealed.

use crate::daemon_kills::wait_for;
use crate::engine::{Bench, assert_clean};
use crate::hooked::HookedStore;
use crate::mount::{back_up, catalog};
use crate::mount_writes::settings;
use crate::served::{FILES, Host, Tree, USER, content, fails, mode};
use keepfs::clock::Clock;
use keepfs::filesystem::{Answer, Answered, Caller, Changes, FileSystem, Mode, Options};
use keepfs::id::ChunkId;
use keepfs::point::Catalog;
use keepfs::repository::{Local, Repository, SEAL_IDLE, Settings};
use keepfs::store::MemoryStore;
use keepfs::store::faults::{Stop, Verb};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

#[test]
fn what_was_not_brought_before_the_daemon_ended_is_brought_before_sealing() {
    let host = Host::new();
    let tree = host.serve();
    // A part of a point, which says of no point that this is a copy of it.
    tree.mkdir("offsite/host/x.partial");
    tree.copy("primary/host/p1/a/one", "offsite/host/x.partial/renamed")
        .unwrap();
    drop(tree);
    let tree = host.serve();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(
        tree.read("offsite/host/x/renamed").unwrap(),
        content("a/one")
    );
    host.assert_clean();
}

#[test]
fn nothing_is_sealed_while_its_source_is_not_mounted() {
    let host = Host::new();
    let tree = host.serve();
    tree.copy_point("primary/host/p1", "offsite/host/y.partial");
    drop(tree);
    let tree = Tree::of(&[("offsite", &host.offsite)], host.state.path());
    for _ in 0..2 {
        let sealed = tree.mv("offsite/host/y.partial", "offsite/host/y");
        fails(sealed, libc::EHOSTDOWN, "is not mounted");
    }
    assert_eq!(tree.fact("offsite/host/y.partial", "state"), "open");
    // It can be written meanwhile.
    tree.put("offsite/host/y.partial/more", b"more");
    drop(tree);
    let tree = host.serve();
    tree.mv("offsite/host/y.partial", "offsite/host/y").unwrap();
    for name in FILES {
        let path = format!("offsite/host/y/{name}");
        assert_eq!(tree.read(&path).unwrap(), content(name));
    }
    host.assert_clean();
}

#[test]
fn a_transfer_that_failed_is_told_once_and_tried_again() {
    let host = Host::new();
    let tree = host.serve();
    let top = tree.mkdir("offsite/host/x.partial");
    host.store.stop_at(1, Stop::Before);
    tree.copy("primary/host/p1/a/one", "offsite/host/x.partial/one")
        .unwrap();
    fails(tree.0.sync_directory(top, USER), libc::EHOSTDOWN, "");
    host.store.heal();
    tree.copy("primary/host/p1/a/two", "offsite/host/x.partial/two")
        .unwrap();
    tree.0.sync_directory(top, USER).unwrap();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(tree.read("offsite/host/x/one").unwrap(), content("a/one"));
    host.assert_clean();
}

/// A copy of all of `p1` that was whole when its daemon ended.
fn left_whole(host: &Host) {
    let tree = host.serve();
    host.store.stop_at(1, Stop::Before);
    tree.copy_point("primary/host/p1", "offsite/host/p1");
    tree.0.settle();
    assert_eq!(tree.fact("offsite/host/p1", "state"), "open");
    drop(tree);
    host.store.heal();
}

#[test]
fn a_copy_that_was_whole_when_its_daemon_ended_can_be_copied_once_more() {
    let host = Host::new();
    left_whole(&host);
    let tree = host.serve_with(|options| options.rerun_patience = Duration::from_secs(3600));
    let path = |name: &str| format!("offsite/host/p1/{name}");
    for name in FILES {
        // What tools do with files that are there.
        tree.cut(&path(name), 0).unwrap();
        let source = tree.ino(&format!("primary/host/p1/{name}"));
        let source = tree.0.open(source, libc::O_RDONLY).unwrap();
        let target = tree.0.open(tree.ino(&path(name)), libc::O_WRONLY).unwrap();
        let copied = tree
            .0
            .copy_range((source, 0), (target, 0), 1 << 20, USER)
            .unwrap();
        assert_eq!(copied, content(name).len() as u32);
        tree.0.close(source);
        tree.0.close(target);
        assert_eq!(tree.fact("offsite/host/p1", "state"), "open", "{name}");
    }
    let of_directory = |mtime| Changes {
        mtime: Some(Some(mtime)),
        ..Changes::default()
    };
    let times = ["a", ""].map(|name| {
        let found = tree.look(format!("primary/host/p1/{name}").trim_end_matches('/'));
        found.unwrap().mtime
    });
    tree.set("offsite/host/p1/a", &of_directory(times[0]))
        .unwrap();
    assert_eq!(tree.fact("offsite/host/p1", "state"), "open");
    tree.set("offsite/host/p1", &of_directory(times[1]))
        .unwrap();
    wait_for(|| tree.fact("offsite/host/p1", "state") == "complete");
    for name in FILES {
        assert_eq!(tree.read(&path(name)).unwrap(), content(name));
    }
    drop(tree);
    host.assert_clean();
}

#[test]
fn a_copy_that_was_whole_when_its_daemon_ended_completes_although_no_tool_comes_again() {
    let host = Host::new();
    left_whole(&host);
    let tree = host.serve_with(|options| options.rerun_patience = Duration::from_millis(1));
    assert!(tree.becomes_complete("offsite/host/p1"));
    drop(tree);
    host.assert_clean();
}

#[test]
fn spooled_bytes_that_are_lost_are_never_sealed_as_zeros() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", &content("file"));
    drop(tree);
    let spool = std::fs::File::options().write(true).open(&host.spools()[0]);
    spool.unwrap().set_len(5000).unwrap();
    let tree = host.serve();
    fails(
        tree.read("offsite/host/x.partial/file"),
        libc::EBADMSG,
        "lost on this host",
    );
    let sealed = tree.mv("offsite/host/x.partial", "offsite/host/x");
    fails(sealed, libc::EBADMSG, "file: bytes");
    assert!(tree.look("offsite/host/x").is_none());
    // What is left is sealed after the file was cut to it.
    tree.cut("offsite/host/x.partial/file", 5000).unwrap();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    let sealed = tree.read("offsite/host/x/file").unwrap();
    assert_eq!(sealed, content("file")[..5000]);
}

#[test]
fn bytes_that_the_journal_does_not_tell_of_do_not_come_back() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"first");
    drop(tree);
    // The daemon was killed between the spool and the journal, or between the journal and the cut.
    std::fs::write(&host.spools()[0], b"first and not answered").unwrap();
    let tree = host.serve();
    let (_, handle) = open_file(&tree, "offsite/host/x.partial/holed", b"first");
    tree.0.write(handle, 20, b"last", USER).unwrap();
    tree.0.close(handle);
    drop(tree);
    let holed = host
        .spools()
        .into_iter()
        .max_by_key(|path| path.file_name().map(ToOwned::to_owned));
    std::fs::write(holed.unwrap(), b"first and not answ! last").unwrap();
    let tree = host.serve();
    let handle = tree.ino("offsite/host/x.partial/file");
    let handle = tree.0.open(handle, libc::O_RDWR).unwrap();
    tree.0.write(handle, 30, b"last", USER).unwrap();
    tree.0.close(handle);
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    let sealed = tree.read("offsite/host/x/file").unwrap();
    assert_eq!(sealed, [&b"first"[..], &[0; 25], b"last"].concat());
    let holed = tree.read("offsite/host/x/holed").unwrap();
    assert_eq!(holed, [&b"first"[..], &[0; 15], b"last"].concat());
}

#[test]
fn a_spool_that_cannot_be_cut_fails_the_cut() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"content");
    let spool = &host.spools()[0];
    std::fs::remove_file(spool).unwrap();
    std::fs::create_dir(spool).unwrap();
    assert!(tree.cut("offsite/host/x.partial/file", 3).is_err());
}

#[test]
fn an_open_point_makes_way_for_a_complete_one_of_its_name() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/p1");
    tree.put("offsite/host/p1/only-here", b"mine");
    drop(tree);
    // Another host copies the point of that name meanwhile.
    let elsewhere = tempfile::tempdir().unwrap();
    let both = [("primary", &host.primary), ("offsite", &host.offsite)];
    let other = Tree::of(&both, elsewhere.path());
    other.copy_point("primary/host/p1", "offsite/host/p1");
    assert!(other.becomes_complete("offsite/host/p1"));
    drop(other);
    for _ in 0..2 {
        let tree = host.serve();
        let kept = "offsite/host/p1.partial";
        assert_eq!(tree.fact(kept, "state"), "open");
        assert_eq!(tree.read(&format!("{kept}/only-here")).unwrap(), b"mine");
        assert_eq!(tree.fact("offsite/host/p1", "state"), "complete");
    }
    assert_eq!(host.open_points().len(), 1);
}

/// A point whose record was created although its daemon never heard of it.
fn sealed_unheard(host: &Host) -> Tree {
    let tree = host.serve();
    let seal = |name: &str| {
        let (from, to) = (
            format!("offsite/host/{name}.partial"),
            format!("offsite/host/{name}"),
        );
        tree.mkdir(&from);
        tree.put(&format!("{from}/file"), &content(name));
        tree.mv(&from, &to)
    };
    let before = host.store.mutations();
    seal("first").unwrap();
    // The last one gives the open point's mark back.
    let mutations = host.store.mutations() - before - 1;
    host.store.stop_at(mutations as u64, Stop::After);
    assert!(seal("second").is_err());
    host.store.heal();
    tree
}

#[test]
fn what_was_sealed_when_the_daemon_died_is_not_open_any_more() {
    let host = Host::new();
    drop(sealed_unheard(&host));
    let tree = host.serve();
    assert!(tree.look("offsite/host/second.partial").is_none());
    let sealed = tree.read("offsite/host/second/file").unwrap();
    assert_eq!(sealed, content("second"));
    assert!(host.open_points().is_empty());
}

#[test]
fn what_was_written_after_an_attempt_to_seal_is_kept() {
    let host = Host::new();
    let tree = sealed_unheard(&host);
    tree.put("offsite/host/second.partial/more", b"more");
    drop(tree);
    let tree = host.serve();
    let more = tree.read("offsite/host/second.partial/more").unwrap();
    assert_eq!(more, b"more");
}

#[test]
fn a_damaged_journal_is_left_alone_and_told_of() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"content");
    drop(tree);
    let journal = host.open_points()[0].join("journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 16;
    std::fs::write(&journal, &bytes).unwrap();
    let tree = host.serve();
    assert!(tree.look("offsite/host/x.partial").is_none());
    let errors = tree.errors();
    assert!(
        errors.contains("cannot be read") && errors.contains(journal.to_str().unwrap()),
        "{errors}"
    );
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);
}

#[test]
fn what_open_points_keep_is_private_and_synced_through_any_handle() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let tree = host.serve();
    let top = tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"content");
    let directory = &host.open_points()[0];
    let spool = &host.spools()[0];
    let bits = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(bits(directory), 0o700);
    assert_eq!(bits(&directory.join("spool")), 0o700);
    assert_eq!(bits(&directory.join("journal")), 0o600);
    assert_eq!(bits(spool), 0o600);
    let file = tree.ino("offsite/host/x.partial/file");
    let handle = tree.0.open(file, libc::O_RDONLY).unwrap();
    tree.0.sync(handle, USER).unwrap();
    tree.0.sync_directory(top, USER).unwrap();
    // A handle that wrote nothing syncs what others wrote: it notices when it cannot.
    let writer = tree.0.open(file, libc::O_RDWR).unwrap();
    tree.0.write(writer, 0, b"changed", USER).unwrap();
    std::fs::remove_file(spool).unwrap();
    std::fs::create_dir(spool).unwrap();
    assert!(tree.0.sync(handle, USER).is_err());
    assert!(tree.0.sync_directory(top, USER).is_err());
}

#[test]
fn what_was_written_is_in_the_repository_after_a_sync_of_its_directory() {
    let host = Host::new();
    let tree = host.serve();
    let top = tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", &content("file"));
    let chunk = ChunkId::of(&content("file"));
    let there = || host.offsite.open().find(&chunk).unwrap().is_some();
    assert!(!there());
    tree.0.sync_directory(top, USER).unwrap();
    assert!(there());
    // Once is enough.
    let before = host.store.mutations();
    tree.0.sync_directory(top, USER).unwrap();
    assert_eq!(host.store.mutations(), before);
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(tree.read("offsite/host/x/file").unwrap(), content("file"));
}

#[test]
fn a_point_that_is_being_removed_is_not_gone_on_with() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"content");
    tree.mkdir("offsite/host/y.partial");
    let (parent, name) = tree.place("offsite/host/y.partial");
    tree.0.remove_directory(parent, name, USER).unwrap();
    assert_eq!(host.open_points().len(), 1);
    drop(tree);
    let left = &host.open_points()[0];
    std::fs::rename(left, left.with_extension("gone")).unwrap();
    let tree = host.serve();
    assert!(tree.look("offsite/host/x.partial").is_none());
    let removed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        host.open_points().is_empty()
    });
    assert!(removed);
}

#[test]
fn directories_may_lie_deeper_than_a_stack_reaches() {
    const LEVELS: usize = 5000;
    let host = Host::new();
    let tree = host.serve();
    let mut directory = tree.mkdir("offsite/host/x.partial");
    for _ in 0..LEVELS {
        let made = tree.0.make_directory(directory, b"d", mode(0o755), USER);
        let Answered::Found { attributes, .. } = made.unwrap() else {
            panic!("it is not there")
        };
        directory = attributes.ino;
    }
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    drop(tree);
    let tree = host.serve();
    let mut directory = tree.ino("offsite/host/x");
    let mut levels = 0;
    while let Answered::Found { attributes, .. } = tree.0.lookup(directory, b"d", USER).unwrap() {
        directory = attributes.ino;
        levels += 1;
    }
    assert_eq!(levels, LEVELS);
}

#[test]
fn a_whole_copy_is_sealed_by_the_next_daemon() {
    let host = Host::new();
    let tree = host.serve();
    host.store.stop_at(1, Stop::Before);
    tree.copy_point("primary/host/p1", "offsite/host/p1");
    let told = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        tree.errors().contains("could not be sealed")
    });
    assert!(told);
    drop(tree);
    host.store.heal();
    let tree = host.serve();
    assert!(tree.becomes_complete("offsite/host/p1"));
    host.assert_clean();
}

#[test]
fn the_end_of_a_mount_waits_for_points_that_are_being_sealed() {
    let host = Host::new();
    let tree = host.serve();
    host.store.delay(Duration::from_millis(100));
    tree.copy_point("primary/host/p1", "offsite/host/p1");
    tree.0.settle();
    assert_eq!(tree.fact("offsite/host/p1", "state"), "complete");
}

#[test]
fn bytes_that_were_written_before_a_restart_are_compared_after_it() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/p1");
    tree.mkdir("offsite/host/p1/a");
    for name in &FILES[..2] {
        tree.put(&format!("offsite/host/p1/{name}"), &content(name));
    }
    drop(tree);
    let tree = host.serve();
    tree.put("offsite/host/p1/three", &content("three"));
    assert!(tree.becomes_complete("offsite/host/p1"));
}

#[test]
fn a_whole_copy_of_another_name_is_sealed_as_the_copy_it_is() {
    let host = Host::new();
    let tree = host.serve();
    tree.copy_point("primary/host/p1", "offsite/host/q.partial");
    tree.mv("offsite/host/q.partial", "offsite/host/q").unwrap();
    tree.copy_point("primary/host/p1", "offsite/host/r.partial");
    let ino = tree.ino("offsite/host/r.partial");
    let state = b"user.keepfs.state";
    tree.0.set_xattr(ino, state, b"complete", 0, USER).unwrap();
    // The ending says that a point is not complete.
    assert!(tree.look("offsite/host/r.partial").is_none());
    drop(tree);
    let (one, other) = (catalog(&host.primary), catalog(&host.offsite));
    let (one, other) = (one.contents(), other.contents());
    let source = one.point(b"host", b"p1").unwrap();
    for name in ["q", "r"] {
        let copy = other.point(b"host", name.as_bytes()).unwrap();
        assert!(copy.record.same_content(&source.record), "{name}");
        assert_eq!(copy.record.time, source.record.time);
        assert_eq!(copy.record.side_bytes, source.record.side_bytes);
        assert_eq!(copy.record.origin.as_ref().unwrap().point, source.id);
    }
    host.assert_clean();
}

#[test]
fn an_open_file_is_read_whatever_becomes_of_its_name() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    let open = |name: &str| {
        let path = format!("offsite/host/x.partial/{name}");
        tree.put(&path, name.as_bytes());
        tree.0.open(tree.ino(&path), libc::O_RDONLY).unwrap()
    };
    let read = |handle: u64| tree.0.read(handle, 0, 100).unwrap().to_vec();
    let handles = [open("removed"), open("replaced"), open("sealed")];
    tree.rm("offsite/host/x.partial/removed").unwrap();
    tree.put("offsite/host/x.partial/new", b"new");
    let (new, replaced) = (
        "offsite/host/x.partial/new",
        "offsite/host/x.partial/replaced",
    );
    tree.mv(new, replaced).unwrap();
    assert_eq!(read(handles[0]), b"removed");
    assert_eq!(read(handles[1]), b"replaced");
    // What nobody has open any more is removed.
    assert_eq!(host.spools().len(), 4);
    tree.0.close(handles[0]);
    tree.0.close(handles[1]);
    assert_eq!(host.spools().len(), 2);
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(read(handles[2]), b"sealed");
}

#[test]
fn copies_side_by_side_are_never_refused_by_the_sealing_of_the_whole() {
    let host = Host::new();
    let tree = host.serve();
    for _ in 0..10 {
        tree.mkdir("offsite/host/p1");
        tree.mkdir("offsite/host/p1/a");
        std::thread::scope(|scope| {
            for name in FILES {
                let tree = &tree;
                let from = format!("primary/host/p1/{name}");
                let to = format!("offsite/host/p1/{name}");
                scope.spawn(move || tree.copy(&from, &to).unwrap());
            }
        });
        assert!(tree.becomes_complete("offsite/host/p1"));
        let (parent, name) = tree.place("offsite/host/p1");
        tree.0.remove_directory(parent, name, USER).unwrap();
    }
}

#[test]
fn only_a_repository_that_asks_for_it_seals_what_nobody_changes() {
    let idle = Settings {
        more: vec![(SEAL_IDLE.to_owned(), "3600".to_owned())],
        ..settings()
    };
    let (asks, asks_not) = (Bench::new(&idle), Bench::new(&settings()));
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("one"), content("one")).unwrap();
    std::fs::write(source.path().join("two"), content("two")).unwrap();
    back_up(&asks_not, source.path(), "point");
    let seconds = Arc::new(AtomicI64::new(1_700_000_000));
    let catalog = |bench: &Bench| {
        let local = Local {
            clock: Clock::fixed(seconds.clone()),
            ..bench.local()
        };
        let opened = Repository::open(bench.store.clone(), &bench.key, local).unwrap();
        Arc::new(Catalog::open(opened).unwrap())
    };
    let state = tempfile::tempdir().unwrap();
    let repositories = vec![
        ("asks".to_owned(), catalog(&asks)),
        ("asks-not".to_owned(), catalog(&asks_not)),
    ];
    let tree = Tree(FileSystem::new(
        repositories,
        Options::new(state.path().to_owned()),
    ));
    tree.mkdir("asks/host");
    for point in [
        "asks/host/done",
        "asks/host/used",
        "asks/host/named.partial",
        "asks-not/host/done",
    ] {
        tree.mkdir(point);
        tree.put(&format!("{point}/file"), b"bytes");
    }
    tree.mkdir("asks/host/empty");
    tree.mkdir("asks/host/point");
    tree.copy("asks-not/host/point/one", "asks/host/point/one")
        .unwrap();
    let used = tree.ino("asks/host/used/file");
    let handle = tree.0.open(used, libc::O_RDONLY).unwrap();
    let state_of = |name: &str| tree.fact(&format!("asks/host/{name}"), "state");
    tree.0.seal_idle();
    seconds.fetch_add(3500, SeqCst);
    tree.put("asks/host/done/more", b"more");
    seconds.fetch_add(3500, SeqCst);
    tree.0.seal_idle();
    assert_eq!(state_of("done"), "open");
    seconds.fetch_add(200, SeqCst);
    tree.0.seal_idle();
    assert_eq!(state_of("done"), "complete");
    for open in ["used", "named.partial", "empty", "point"] {
        assert_eq!(state_of(open), "open", "{open}");
    }
    assert_eq!(tree.fact("asks-not/host/done", "state"), "open");
    tree.0.close(handle);
    tree.0.seal_idle();
    assert_eq!(state_of("used"), "complete");
    assert_eq!(tree.read("asks/host/done/more").unwrap(), b"more");
}

#[test]
fn a_copy_that_is_just_being_sealed_can_be_removed() {
    let host = Host::new();
    let tree = host.serve();
    for _ in 0..10 {
        tree.copy_point("primary/host/p1", "offsite/host/p1");
        let (parent, name) = tree.place("offsite/host/p1");
        tree.0.remove_directory(parent, name, USER).unwrap();
        assert!(tree.look("offsite/host/p1").is_none());
    }
    drop(tree);
    host.assert_clean();
}

#[test]
fn a_rename_ends_when_the_store_takes_nothing_or_its_caller_is_told_to_end() {
    let store = HookedStore::new(MemoryStore::new());
    let bench = Bench::in_store(Arc::new(store.clone()), &settings());
    let state = tempfile::tempdir().unwrap();
    let options = Options {
        patience: Duration::from_millis(600),
        ..Options::new(state.path().to_owned())
    };
    let repositories = vec![("primary".to_owned(), catalog(&bench))];
    let tree = Tree(FileSystem::new(repositories, options));
    tree.mkdir("primary/host");
    tree.mkdir("primary/host/x.partial");
    tree.put("primary/host/x.partial/file", &content("file"));
    let stuck = Arc::new(AtomicBool::new(true));
    let holds = stuck.clone();
    store.after(move |verb, _| {
        while verb == Verb::Upload && holds.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    fails(
        tree.mv("primary/host/x.partial", "primary/host/x"),
        libc::EHOSTDOWN,
        "takes nothing",
    );
    // Stopped, a process keeps the signal that shall end it.
    let mut waits = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = waits.id();
    crate::mount::run(&format!("kill -STOP {pid}; kill -TERM {pid}"));
    let caller = Caller { pid, ..USER };
    let top = tree.ino("primary/host/x.partial");
    let synced = tree.0.sync_directory(top, caller);
    fails(synced, libc::EINTR, "interrupted");
    waits.kill().unwrap();
    waits.wait().unwrap();
    // The end of a child ends nobody's wait, also where it is caught.
    let mut waits = std::process::Command::new("sh")
        .args(["-c", "trap : CHLD WINCH; echo caught; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = waits.id();
    waits
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 7])
        .unwrap();
    crate::mount::run(&format!(
        "kill -STOP {pid}; kill -CHLD {pid}; kill -WINCH {pid}"
    ));
    let synced = tree.0.sync_directory(top, Caller { pid, ..USER });
    fails(synced, libc::EHOSTDOWN, "takes nothing");
    waits.kill().unwrap();
    waits.wait().unwrap();
    stuck.store(false, SeqCst);
    // The attempt that was given up ends without a point; the next one makes it.
    assert!((0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        tree.fact("primary/host/x.partial", "state") == "open"
    }));
    tree.mv("primary/host/x.partial", "primary/host/x").unwrap();
    assert_eq!(tree.read("primary/host/x/file").unwrap(), content("file"));
    assert_eq!(
        catalog(&bench)
            .contents()
            .points
            .values()
            .map(|points| points.len())
            .sum::<usize>(),
        1
    );
}

#[test]
fn backups_and_complete_points_get_other_names() {
    let host = Host::new();
    let tree = host.serve();
    let point = |backup: &[u8], name: &[u8]| {
        let contents = catalog(&host.primary).contents();
        contents.point(backup, name).cloned()
    };
    let before = point(b"host", b"p1").unwrap();
    tree.mv("primary/host/p1", "primary/host/first").unwrap();
    assert!(tree.look("primary/host/p1").is_none());
    fails(
        tree.mv("primary/host/p1", "primary/host/x"),
        libc::ENOENT,
        "",
    );
    fails(
        tree.mv("primary/host/first", "primary/host/.x"),
        libc::EINVAL,
        "cannot be the name",
    );
    tree.mv("primary/host", "primary/named").unwrap();
    assert!(tree.look("primary/host").is_none());
    fails(tree.mv("primary/named", "offsite/named"), libc::EXDEV, "");
    tree.mkdir("primary/host");
    fails(tree.mv("primary/host", "primary/named"), libc::EEXIST, "");
    let after = point(b"named", b"first").unwrap();
    assert!(after.record.same_content(&before.record));
    assert_eq!(after.record.time, before.record.time);
    assert!(point(b"named", b"p1").is_none());
    assert_eq!(
        tree.read("primary/named/first/a/one").unwrap(),
        content("a/one")
    );
    assert_clean("primary", &host.primary.open());
}

/// The inode and a handle of a new file with this content, which is open.
fn open_file(tree: &Tree, path: &str, bytes: &[u8]) -> (u64, u64) {
    let handle = tree.create(path).unwrap();
    tree.0.write(handle, 0, bytes, USER).unwrap();
    (tree.ino(path), handle)
}

#[test]
fn names_change_places_and_holes_stay_after_a_restart() {
    const EXCHANGE: u32 = 2;
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.mkdir("offsite/host/x.partial/a");
    let (_, handle) = open_file(&tree, "offsite/host/x.partial/file", &content("file"));
    tree.put("offsite/host/x.partial/a/below", b"below");
    let place = |path| tree.place(path);
    let (from, to) = (
        place("offsite/host/x.partial/file"),
        place("offsite/host/x.partial/a"),
    );
    tree.0.rename(from, to, EXCHANGE, USER).unwrap();
    let into_itself = (
        place("offsite/host/x.partial/file"),
        place("offsite/host/x.partial/file/below"),
    );
    let refused = tree.0.rename(into_itself.0, into_itself.1, EXCHANGE, USER);
    assert_eq!(refused.unwrap_err().errno(), libc::EINVAL);
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    tree.0.allocate(handle, 10_000, 50_000, hole, USER).unwrap();
    tree.0.allocate(handle, 99_000, 2_000, 0, USER).unwrap();
    tree.0.close(handle);
    let mut expected = content("file");
    expected[10_000..60_000].fill(0);
    expected.resize(101_000, 0);
    drop(tree);
    let tree = host.serve();
    let check = |tree: &Tree, point: &str| {
        assert_eq!(tree.read(&format!("{point}/a")).unwrap(), expected);
        let below = tree.read(&format!("{point}/file/below")).unwrap();
        assert_eq!(below, b"below");
    };
    check(&tree, "offsite/host/x.partial");
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    check(&tree, "offsite/host/x");
    drop(tree);
    check(&host.serve(), "offsite/host/x");
}

#[test]
fn whoever_writes_or_gives_away_takes_capabilities() {
    const CAPABILITY: &[u8] = b"security.capability";
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    let (ino, handle) = open_file(&tree, "offsite/host/x.partial/program", b"program");
    let give = || {
        tree.0
            .set_xattr(ino, CAPABILITY, &[7; 20], 0, USER)
            .unwrap()
    };
    let owner = Changes {
        uid: Some(4711),
        ..Changes::default()
    };
    let takes: [&dyn Fn() -> Answer<()>; 3] = [
        &|| tree.0.write(handle, 2, b"x", USER).map(|_| ()),
        &|| tree.cut("offsite/host/x.partial/program", 3).map(|_| ()),
        &|| {
            tree.set("offsite/host/x.partial/program", &owner)
                .map(|_| ())
        },
    ];
    for take in takes {
        give();
        take().unwrap();
        let refused = tree.0.get_xattr(ino, CAPABILITY).unwrap_err();
        assert_eq!(refused.errno(), libc::ENODATA);
    }
    give();
    tree.0.close(handle);
}

#[test]
fn a_default_acl_takes_the_place_of_the_umask() {
    let host = Host::new();
    let tree = host.serve();
    let point = tree.mkdir("offsite/host/x.partial");
    let mode = Mode {
        mode: 0o666,
        umask: 0o077,
    };
    let made = |name: &str| {
        let (attributes, handle) = tree
            .0
            .create(point, name.as_bytes(), mode, 0, USER)
            .unwrap();
        tree.0.close(handle);
        attributes.mode & 0o777
    };
    assert_eq!(made("masked"), 0o600);
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1u16, 7u16), (4, 6), (0x20, 4)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let name = b"system.posix_acl_default";
    tree.0.set_xattr(point, name, &acl, 0, USER).unwrap();
    assert_eq!(made("inherited"), 0o664);
    // A symbolic link has no permissions, and inherits none.
    tree.0
        .make_symlink(point, b"link", b"masked", USER)
        .unwrap();
    let link = tree.look("offsite/host/x.partial/link").unwrap();
    assert_eq!(link.mode & 0o777, 0o777);
}

#[test]
fn a_listing_that_begins_again_shows_what_changed() {
    let host = Host::new();
    let tree = host.serve();
    let point = tree.mkdir("offsite/host/x.partial");
    let handle = tree.0.open_directory(point).unwrap();
    let names = |offset: u64| {
        let mut names = Vec::new();
        tree.0
            .read_directory(handle, offset, false, |listed| {
                names.push(String::from_utf8_lossy(listed.name).into_owned());
                true
            })
            .unwrap();
        names
    };
    assert_eq!(names(0), [".", ".."]);
    tree.put("offsite/host/x.partial/new", b"new");
    assert_eq!(names(2), Vec::<String>::new());
    assert_eq!(names(0), [".", "..", "new"]);
    tree.0.close_directory(handle);
}

#[test]
fn entries_of_open_points_take_no_more_memory_than_they_may() {
    let bench = Bench::new(&settings());
    let state = tempfile::tempdir().unwrap();
    let options = Options {
        entries_bytes: 100_000,
        ..Options::new(state.path().to_owned())
    };
    let repositories = [("primary", &bench)];
    let tree = Tree::with_options(&repositories, options.clone());
    tree.mkdir("primary/host");
    tree.mkdir("primary/host/x.partial");
    let path = |n: u32| format!("primary/host/x.partial/{n}");
    let mut files = 0;
    let refused = loop {
        match tree.create(&path(files)) {
            Ok(handle) => tree.0.close(handle),
            refused => break refused,
        }
        files += 1;
    };
    fails(refused, libc::ENOSPC, "open-memory");
    assert!((150..300).contains(&files), "{files}");
    // The other open points take of the same memory; what takes none goes on.
    tree.mkdir("primary/host/y.partial");
    let other = tree.create("primary/host/y.partial/file");
    fails(other, libc::ENOSPC, "open-memory");
    tree.mv(&path(0), &path(files)).unwrap();
    let metrics = String::from_utf8(tree.read(".keepfs/metrics").unwrap()).unwrap();
    assert!(metrics.contains("keepfs_open_entries_limit_bytes 100000\n"));
    // A daemon that begins again holds what there is, and no more.
    drop(tree);
    let tree = Tree::with_options(&repositories, options);
    fails(tree.create(&path(0)), libc::ENOSPC, "open-memory");
    // What is removed or discarded makes room.
    for n in 1..10 {
        tree.rm(&path(n)).unwrap();
    }
    tree.put(&path(0), b"bytes");
    tree.mv("primary/host/x.partial", "primary/host/x").unwrap();
    assert_eq!(tree.read("primary/host/x/0").unwrap(), b"bytes");
}
