//! Copies that seal themselves, through a real mount and by real tools: when, as what, and never too early.

use crate::backup::entries;
use crate::daemon_kills::wait_for;
use crate::engine::{Bench, full, seed};
use crate::mount::{Mount, back_up, catalog, run, same_trees, try_run};
use crate::mount_writes::{
    becomes_complete, mount_both, settings, state_of, try_unmatched, two, two_of,
};
use keepfs::point::Trees;
use keepfs::repository::Settings;
use keepfs::store::MemoryStore;
use keepfs::store::faults::{FaultyStore, Stop};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The user and the group of `nobody`.
const NOBODY: u32 = 65534;

/// Longer than a whole copy waits for anything.
fn stays_open(point: &Path) {
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(state_of(point), "open", "{}", point.display());
}

fn fact(name: &str, path: &Path) -> String {
    let path = path.display();
    run(&format!(
        "getfattr --only-values -n user.keepfs.{name} '{path}'"
    ))
}

fn fails_with(words: &str, script: &str) {
    let output = try_run(script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains(words),
        "{script}: {said}"
    );
}

/// Two mounted repositories, of which the first holds a point of a few files that anybody may read.
struct Plain {
    mount: Mount,
    source: tempfile::TempDir,
    store: FaultyStore,
    point: PathBuf,
    target: PathBuf,
    /// Their caches are used as long as they are mounted.
    benches: [Bench; 2],
}

impl Plain {
    /// The second repository and its backups belong to this user and group.
    fn owned_by(owner: u32) -> Self {
        let source = tempfile::tempdir().unwrap();
        run(&format!(
            "cd '{}'; chmod 755 .; mkdir -p a/b; seq 1 30000 > a/numbers; seq 1 50 > a/b/short; ln a/numbers a/b/again
             ln -s ../numbers a/b/link; echo tool > tool; chmod 4755 tool; chmod 750 a/b; chmod o+rx a/b; chmod 640 a/b/short
             chmod o+r a/b/short; : > zz; chown 1234:4321 tool a/numbers; chmod 4755 tool; touch -d 2001-02-03T04:05:06.7Z a/b zz a .",
            source.path().display()
        ));
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let owned = Settings {
            uid: owner,
            gid: owner,
            ..settings()
        };
        let primary = Bench::new(&settings());
        let offsite = Bench::in_store(Arc::new(store.clone()), &owned);
        back_up(&primary, source.path(), "point");
        catalog(&offsite).ensure_backup(b"host").unwrap();
        let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap());
        Self {
            point: mount.path().join("primary/host/point"),
            target: mount.path().join("offsite/host"),
            mount,
            source,
            store,
            benches: [primary, offsite],
        }
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.mount.path().join(".keepfs/errors")).unwrap()
    }
}

#[test]
fn every_tool_copies_whole_points() {
    for tool in [
        "cp -r",
        "cp -r --preserve=links",
        "cp -a",
        "rsync -aX",
        "rsync -aHAX",
    ] {
        let two = two();
        let (point, target) = (two.point.display(), two.target.display());
        run(&format!("{tool} '{point}' '{target}/'"));
        let copy = two.target.join("point");
        assert!(
            becomes_complete(&copy),
            "{tool}: {} {}",
            two.errors(),
            try_unmatched(&copy)
        );
        same_trees(two.source.path(), &copy);
        two.mount.unmount();
    }
}

#[test]
fn tools_that_read_and_write_plain_files_copy_whole_points() {
    let tar = "cd $P/.. && tar cf - point | tar xf - -C $T";
    let python = "python3 -c 'import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], symlinks=True)' $P $T/point";
    let gio = "cd $P && find . -type d -exec mkdir -p $T/point/{} \\; \
               && find . ! -type d -exec gio copy -P {} $T/point/{} \\;";
    for tool in [tar, python, gio] {
        let source = tempfile::tempdir().unwrap();
        run(&format!(
            "cd '{}'; mkdir -p a/b c; seq 1 300000 > a/numbers; ln a/numbers a/again; echo text > a/b/text; : > c/empty
             ln -s ../a/b/text c/link; chmod 640 a/b/text; touch -d 2001-02-03T04:05:06.7Z a/b a/b/text",
            source.path().display()
        ));
        let two = two_of(source);
        run(&format!(
            "P='{}'; T='{}'; {tool}",
            two.point.display(),
            two.target.display()
        ));
        let copy = two.target.join("point");
        let complete = becomes_complete(&copy);
        assert!(
            complete,
            "{tool}: {} {}",
            two.errors(),
            try_unmatched(&copy)
        );
        same_trees(two.source.path(), &copy);
        two.mount.unmount();
    }
}

#[test]
fn half_a_copy_stays_open() {
    let two = two();
    let (point, target) = (two.point.display(), two.target.display());
    run(&format!(
        "mkdir '{target}/point'; cp -a '{point}/a' '{point}/numbers' '{target}/point/'"
    ));
    stays_open(&two.target.join("point"));
    run(&format!("cmp '{point}/numbers' '{target}/point/numbers'"));
    run(&format!("rm -r '{target}/point'/*; mkdir '{target}/empty'"));
    assert_eq!(
        state_of(&two.target.join("point")),
        "open",
        "empty, of the name of another"
    );
    assert_eq!(state_of(&two.target.join("empty")), "open");
    run(&format!("rmdir '{target}/empty' '{target}/point'"));
    assert_eq!(run(&format!("ls -A '{target}'")), "");
    run(&format!("rmdir '{target}'"));
    assert!(!two.target.exists());
}

#[test]
fn equality_with_an_older_point_means_nothing() {
    for copy in ["cp -r", "cat"] {
        let source = tempfile::tempdir().unwrap();
        let (primary, offsite) = (Bench::new(&settings()), Bench::new(&settings()));
        let write = |n: u32| {
            let path = source.path().join(format!("f{n}"));
            std::fs::write(path, format!("content {n}\n").repeat(5000)).unwrap();
        };
        (0..9).for_each(write);
        back_up(&primary, source.path(), "p1");
        write(9);
        back_up(&primary, source.path(), "p2");
        let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap());
        let top = mount.path().display();
        run(&format!(
            "mkdir {top}/offsite/host; cp -a {top}/primary/host/p1 {top}/offsite/host/"
        ));
        assert!(becomes_complete(&mount.path().join("offsite/host/p1")));
        let copied = mount.path().join("offsite/host/p2");
        run(&format!(
            "cd {top}; mkdir offsite/host/p2; for n in $(seq 0 8); do {} primary/host/p2/f$n {} offsite/host/p2/f$n; done",
            copy,
            if copy == "cat" { ">" } else { "" }
        ));
        stays_open(&copied);
        run(&format!(
            "cd {top}; {copy} primary/host/p2/f9 {} offsite/host/p2/f9",
            if copy == "cat" { ">" } else { "" }
        ));
        assert!(becomes_complete(&copied));
        same_trees(source.path(), &copied);
        run(&format!(
            "cd {top}; rmdir offsite/host/p2; cp -r primary/host/p2 offsite/host/"
        ));
        assert!(becomes_complete(&copied));
        same_trees(source.path(), &copied);
    }
}

#[test]
fn links_to_the_newest_point_stay_open() {
    let two = two();
    let backup = two.point.parent().unwrap();
    let next = backup.join("next");
    run(&format!("cd '{}'; cp -al latest/ next", backup.display()));
    stays_open(&next);
    run(&format!(
        "cd '{}'; rm numbers; cp a/hello numbers; echo more >> a/hello; chmod 600 random",
        next.display()
    ));
    stays_open(&next);
    same_trees(two.source.path(), &two.point);
}

#[test]
fn a_killed_cp_is_never_sealed() {
    let two = two();
    let (point, target) = (two.point.display(), two.target.display());
    let copy = two.target.join("point");
    let names = |path: &Path| -> usize {
        let found = try_run(&format!("find '{}' 2>/dev/null | wc -l", path.display()));
        let found = String::from_utf8_lossy(&found.stdout);
        found.trim().parse().unwrap_or(0)
    };
    let all = names(&two.point);
    let seed = seed("a_killed_cp_is_never_sealed") as usize;
    let mut halves = 0;
    for kill in 0..if full() { 500 } else { 8 } {
        let mut tool = Command::new("cp")
            .arg("-a")
            .args([&two.point, &two.target])
            .spawn()
            .unwrap();
        let upto = 1 + (seed + kill * 7919) % (all - 1);
        while tool.try_wait().unwrap().is_none() && names(&copy) < upto {}
        let _ = tool.kill();
        tool.wait().unwrap();
        let whole = names(&copy) == all;
        if !whole && copy.exists() {
            halves += 1;
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(state_of(&copy), "open");
        }
        if kill % 4 == 0 && !whole {
            // The same command goes on.
            run(&format!("cp -a '{point}' '{target}/'"));
            assert!(becomes_complete(&copy), "{}", two.errors());
            same_trees(two.source.path(), &copy);
        }
        run(&format!(
            "! test -d '{target}/point' || rmdir '{target}/point'"
        ));
    }
    assert!(halves > 0, "every copy was finished before it was killed");
}

#[test]
fn after_sealing_only_what_the_source_has_is_accepted() {
    let two = two();
    let (point, target) = (two.point.display(), two.target.display());
    run(&format!("cp -r '{point}' '{target}/'"));
    let copy = two.target.join("point");
    assert!(becomes_complete(&copy), "{}", two.errors());
    run(&format!(
        "cd '{target}/point'; chmod 4755 random; chown 1000:1001 random; touch -r '{point}/a/nothing' a/nothing
         touch -r '{point}' .; touch -h -r '{point}/dangling' dangling"
    ));
    for change in [
        "chmod 755 random",
        "chown 1000:1000 random",
        "touch -d 2011-01-01 a/nothing",
        "touch .",
        "touch -h -d 2011-01-01 dangling",
        "setfattr -n user.color -v red a/hello",
        "setfacl -m u:5:r a/nothing",
        "rm numbers",
        "touch new",
        "truncate -s 1 numbers",
    ] {
        fails_with(
            "Read-only file system",
            &format!("cd '{target}/point'; {change}"),
        );
    }
    same_trees(two.source.path(), &copy);
}

#[test]
fn a_whole_copy_that_cannot_be_sealed_says_why() {
    let plain = Plain::owned_by(0);
    let (point, target) = (plain.point.display(), plain.target.display());
    let copy = plain.target.join("point");
    // Everything but an empty file is there before the store goes away.
    run(&format!(
        "mkdir '{target}/point'; cp -a '{point}/a' '{point}/tool' '{target}/point/'; sync '{target}/point'"
    ));
    plain.store.stop_at(1, Stop::Before);
    run(&format!("cp '{point}/zz' '{target}/point/'"));
    let told = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        run(&format!(
            "cat '{}/.keepfs/errors'",
            plain.mount.path().display()
        ))
        .contains("offsite/host/point: the copy is whole, but could not be sealed")
    });
    assert!(told);
    assert!(fact("error", &copy).contains("keepfs seal"));
    assert_eq!(state_of(&copy), "open");
    // It is mended, and becomes what it would have been.
    plain.store.heal();
    run(&format!(
        "setfattr -n user.keepfs.state -v complete '{target}/point'"
    ));
    assert!(becomes_complete(&copy));
    same_trees(plain.source.path(), &copy);
}

/// Copies the point while the store is away: it is whole, and stays open.
fn copy_unsealed(plain: &Plain) {
    let (point, target) = (plain.point.display(), plain.target.display());
    run(&format!(
        "mkdir '{target}/point'; cp -a '{point}/a' '{point}/tool' '{target}/point/'; sync '{target}/point'"
    ));
    plain.store.stop_at(1, Stop::Before);
    run(&format!("cp -a '{point}/zz' '{target}/point/'"));
    wait_for(|| plain.errors().contains("could not be sealed"));
    plain.store.heal();
}

#[test]
fn the_same_tool_finishes_a_copy_that_was_whole_when_its_daemon_ended() {
    for tool in ["cp -a", "rsync -aHAX"] {
        let plain = Plain::owned_by(0);
        copy_unsealed(&plain);
        let state = plain.mount.unmount();
        let [primary, offsite] = &plain.benches;
        let mount = mount_both(primary, offsite, state);
        let host = mount.path().join("offsite/host");
        let copy = host.join("point");
        assert_eq!(state_of(&copy), "open");
        run(&format!(
            "{tool} '{}/primary/host/point' '{}/'",
            mount.path().display(),
            host.display()
        ));
        wait_for(|| state_of(&copy) == "complete");
        same_trees(plain.source.path(), &copy);
    }
}

#[test]
fn what_was_set_while_sealing_failed_is_set() {
    let plain = Plain::owned_by(0);
    copy_unsealed(&plain);
    let time = |path: PathBuf| run(&format!("stat -c %.9Y '{}'", path.display()));
    assert_eq!(
        time(plain.target.join("point/zz")),
        time(plain.point.join("zz"))
    );
}

#[test]
fn a_copy_by_another_user_seals_as_it_was_written() {
    let as_nobody = |script: &str| run(&format!("cd /; su nobody -s /bin/sh -c '{script}'"));
    let facts = |path: &Path, format: &str| {
        let path = path.display();
        run(&format!(
            "cd '{path}'; find . -printf '%P %y %m %U:%G %l {format}\\n' | LC_ALL=C sort; md5sum a/numbers a/b/short tool"
        ))
    };
    for (tool, times) in [("cp -r", ""), ("cp -a", "%T@"), ("rsync -aX", "%T@")] {
        let plain = Plain::owned_by(NOBODY);
        let elsewhere = tempfile::tempdir().unwrap();
        run(&format!("chmod 777 {}", elsewhere.path().display()));
        let (point, target) = (plain.point.display(), plain.target.display());
        let copy = plain.target.join("point");
        // Half of it, for as long as one likes.
        as_nobody(&format!(
            "mkdir {target}/point; cp {point}/tool {target}/point/"
        ));
        stays_open(&copy);
        run(&format!("rmdir {target}/point"));
        as_nobody(&format!("{tool} {point} {target}/"));
        assert!(
            becomes_complete(&copy),
            "{tool}: {} {}",
            plain.errors(),
            try_unmatched(&copy)
        );
        // It is what the same tool makes anywhere.
        as_nobody(&format!("{tool} {point} {}/", elsewhere.path().display()));
        let expected = facts(&elsewhere.path().join("point"), times);
        assert_eq!(facts(&copy, times), expected, "{tool}");
        assert!(expected.contains("65534:65534") && !expected.contains("1234:4321"));
        for same in ["time", "source"] {
            assert_eq!(fact(same, &copy), fact(same, &plain.point));
        }
        fails_with("Read-only", &format!("chmod 600 {target}/point/tool"));
    }
}

#[test]
fn what_is_sealed_as_written_holds_the_names_of_owners() {
    let (primary, offsite) = (Bench::new(&settings()), Bench::new(&settings()));
    let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap());
    run(&format!(
        "cd '{}'; mkdir -p offsite/host/new.partial/d; echo x > offsite/host/new.partial/d/file
         echo y > offsite/host/new.partial/other; chown 4000000000 offsite/host/new.partial/other
         mv offsite/host/new.partial offsite/host/new; cp -al offsite/host/new offsite/host/next.partial
         mv offsite/host/next.partial offsite/host/next",
        mount.path().display()
    ));
    let contents = catalog(&offsite).contents();
    let trees = Arc::new(Trees::new(offsite.open()));
    for name in ["new", "next"] {
        let point = contents.point(b"host", name.as_bytes()).unwrap();
        let entries = entries(&trees, point);
        let named = |path: &str| {
            let owner = &entries[path.as_bytes()].attributes.owner;
            (owner.uid, owner.user.clone(), owner.group.clone())
        };
        let root = (0, b"root".to_vec(), b"root".to_vec());
        assert_eq!((named("d"), named("d/file")), (root.clone(), root.clone()));
        assert_eq!(named("other"), (4_000_000_000, Vec::new(), root.2));
        assert_eq!(point.record.owner.user, b"root");
    }
}
