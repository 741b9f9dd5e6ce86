//! Who may read what in a mount: owners, modes and ACLs in every copy, readers, and repositories for admins only.

use crate::cli::Host;
use crate::engine::Bench;
use crate::mount::{Mount, back_up, catalog, run, same_trees, try_run};
use crate::mount_writes::{becomes_complete, settings};
use crate::servers::{azurite_container, seaweedfs_bucket};
use crate::stores::open_cloud;
use keepfs::filesystem::Options;
use keepfs::repository::{ACL, ADMIN_ONLY, READERS, Settings};
use std::path::Path;
use std::time::Duration;

/// Users that every Debian has, as people of these tests.
const ALICE: &str = "games";
const BOB: &str = "bin";
const HELPDESK: &str = "mail";

fn as_user(user: &str, command: &str) -> String {
    format!("cd /; setpriv --reuid={user} --regid={user} --clear-groups bash -c '{command}'")
}

fn may(user: &str, command: &str) -> bool {
    try_run(&as_user(user, command)).status.success()
}

/// That the kernel or keepfs says no, in these words.
fn refused(user: &str, word: &str, command: &str) {
    let output = try_run(&as_user(user, command));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(word),
        "{user}: {command}: {said}"
    );
}

fn denied(user: &str, command: &str) {
    refused(user, "Permission denied", command);
}

/// Homes as they are: Alice's is hers alone, and she lets Bob read one file.
fn homes() -> tempfile::TempDir {
    let homes = tempfile::tempdir().unwrap();
    run(&format!(
        "cd '{}'; chmod 755 .; mkdir -p alice/deep
         echo secret > alice/key; echo letter > alice/letter; echo below > alice/deep/file; echo run > alice/tool
         setfattr -n user.color -v red alice/letter
         chown -R {ALICE}:{ALICE} alice; chmod 700 alice alice/deep; chmod 600 alice/key alice/deep/file; chmod 750 alice/tool
         setfacl -m u:{BOB}:x alice; setfacl -m u:{BOB}:r,u:{HELPDESK}:- alice/letter; setfacl -d -m g:{BOB}:rx alice/deep",
        homes.path().display()
    ));
    homes
}

fn with(more: &[(&str, &str)]) -> Settings {
    let more = more.iter();
    Settings {
        more: more
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        ..settings()
    }
}

/// ACLs of all below a directory, by relative names.
fn acls(directory: &Path) -> String {
    run(&format!(
        "cd '{}'; getfacl -R -n . | LC_ALL=C sort",
        directory.display()
    ))
}

#[test]
fn owners_modes_and_acls_hold_in_every_copy_on_every_kind_of_store() {
    let homes = homes();
    let primary = Bench::new(&settings());
    back_up(&primary, homes.path(), "point");
    let in_cloud = |(url, options)| {
        let store = open_cloud(&format!("{url}/access"), options);
        Bench::in_store(store, &settings())
    };
    let s3 = in_cloud(seaweedfs_bucket("access"));
    let azure = in_cloud(azurite_container("access"));
    let mount = Mount::of(vec![
        ("primary", catalog(&primary)),
        ("s3", catalog(&s3)),
        ("azure", catalog(&azure)),
    ]);
    let at = |repository: &str| mount.path().join(repository).join("host");
    for (from, to) in [("primary", "s3"), ("s3", "azure")] {
        let (from, to) = (at(from).join("point"), at(to));
        std::fs::create_dir(&to).unwrap();
        run(&format!("cp -a '{}' '{}/'", from.display(), to.display()));
        assert!(becomes_complete(&to.join("point")));
    }
    let own = tempfile::tempdir().unwrap();
    run(&format!("chmod 777 '{}'", own.path().display()));
    for repository in ["primary", "s3", "azure"] {
        let point = at(repository).join("point");
        same_trees(homes.path(), &point);
        assert_eq!(acls(&point), acls(homes.path()), "{repository}");
        let (alice, own) = (point.join("alice"), own.path().join(repository));
        let (alice, own) = (alice.display(), own.display());
        run(&as_user(ALICE, &format!("cp -a {alice} {own}")));
        run(&as_user(ALICE, &format!("diff -r {alice} {own}")));
        assert!(may(BOB, &format!("cat {alice}/letter")));
        denied(BOB, &format!("cat {alice}/key"));
        denied(BOB, &format!("ls {alice}"));
        denied(HELPDESK, &format!("cat {alice}/letter"));
    }
}

#[test]
fn readers_read_everything_in_their_own_tree_and_change_nothing() {
    let homes = homes();
    let bench = Bench::new(&with(&[(READERS, HELPDESK)]));
    back_up(&bench, homes.path(), "point");
    let mount = Mount::of_bench(&bench);
    let top = mount.path().display();
    assert_eq!(
        run(&format!("ls -A {top}/.keepfs")),
        "errors\nmetrics\nreaders\nversion\n"
    );
    let (point, view) = (
        format!("{top}/primary/host/point"),
        format!("{top}/.keepfs/readers/primary/host/point"),
    );
    // Looked at by root before, so that the kernel knows all of it.
    run(&format!("ls -lR {point} {view}; cat {view}/alice/key"));

    denied(HELPDESK, &format!("cat {point}/alice/key"));
    let read =
        format!("cd {view}/alice; cat key letter deep/file; ls -l; getfattr -n user.color letter");
    let said = run(&as_user(HELPDESK, &read));
    assert!(said.starts_with("secret\nletter\nbelow\n"), "{said}");
    assert!(said.contains("red") && said.contains(ALICE), "{said}");
    assert!(may(
        HELPDESK,
        &format!("cat {top}/.keepfs/readers/primary/host/latest/alice/key")
    ));
    let out = tempfile::tempdir().unwrap();
    run(&format!("chmod 777 '{}'", out.path().display()));
    let copy = format!("cp -r {view}/. {}/", out.path().display());
    run(&as_user(HELPDESK, &copy));
    run(&format!(
        "diff -r '{}' '{}'",
        homes.path().display(),
        out.path().display()
    ));

    for change in [
        format!("echo x > {view}/alice/key"),
        format!("echo x > {view}/new"),
        format!("chmod 777 {view}/alice/key"),
        format!("rm -f {view}/alice/key"),
        format!("rmdir {view}"),
        format!("mkdir {view}/../new"),
        format!("mv {view} {view}-2"),
        format!("setfattr -n user.keepfs.state -v complete {view}"),
        format!("setfattr -n user.keepfs.readers -v {BOB} {view}/.."),
        format!("rmdir {point}"),
        format!("mkdir {top}/primary/host/mine"),
        format!("setfattr -n user.keepfs.readers -v {BOB} {top}/primary/host"),
    ] {
        assert!(!may(HELPDESK, &change), "{change}");
        // A complete point may be said to be complete.
        if change.contains("readers/primary") && !change.contains("keepfs.state") {
            refused("root", "Read-only file system", &change);
        }
    }
    for user in [ALICE, BOB] {
        denied(user, &format!("ls {top}/.keepfs/readers/primary"));
        denied(user, &format!("cat {view}/alice/key"));
    }
    // Each file that was read of somebody else, with the bytes that were, is in the log.
    let letter = format!(
        "dd if={view}/alice/letter bs=4 count=1 iflag=fullblock status=none; cat {view}/alice/letter"
    );
    run(&as_user(HELPDESK, &letter));
    let log = mount.state.as_ref().unwrap().path().join("audit.log");
    let wanted = |bytes: u64, path: &str| {
        let [reader, owner] = [HELPDESK, ALICE].map(|user| run(&format!("id -u {user}")));
        format!(
            "uid {} read {bytes} bytes of .keepfs/readers/primary/host/point/alice/{path}, which uid {} owns",
            reader.trim(),
            owner.trim()
        )
    };
    let lines = || std::fs::read_to_string(&log).unwrap();
    let all = |text: &str| {
        let wanted = [
            wanted(7, "key"),
            wanted(7, "letter"),
            wanted(4, "letter"),
            wanted(6, "deep/file"),
        ];
        wanted.iter().all(|line| text.contains(line))
    };
    // The kernel tells of a close when it has time for it.
    let told = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        all(&lines())
    });
    assert!(told, "{}", lines());
    assert!(!lines().contains(" read 0 bytes"), "{}", lines());
    assert_eq!(run(&format!("stat -c %a {}", log.display())), "600\n");
    // What is stored is what is shown where everybody looks.
    same_trees(homes.path(), Path::new(&point));
}

#[test]
fn readers_of_one_backup_read_that_one_until_they_are_none_any_more() {
    let homes = homes();
    let bench = Bench::new(&settings());
    back_up(&bench, homes.path(), "point");
    catalog(&bench).ensure_backup(b"other").unwrap();
    let mount = Mount::of_bench(&bench);
    let top = mount.path().display();
    let key = format!("cat {top}/.keepfs/readers/primary/host/point/alice/key");
    assert!(!may(HELPDESK, &key));
    let soon = || std::thread::sleep(Duration::from_millis(2200));
    let set = |user: &str, names: &str| {
        let set = format!("setfattr -n user.keepfs.readers -v \"{names}\" {top}/primary/host");
        may(user, &set)
    };
    assert!(!set(BOB, BOB));
    assert!(!set("root", "no/name"));
    assert!(set("root", &format!("{HELPDESK}, who-is-not-here")));
    soon();
    assert!(may(HELPDESK, &key));
    denied(HELPDESK, &format!("ls {top}/.keepfs/readers/primary/other"));
    denied(BOB, &key);
    let said = run(&format!(
        "getfattr --only-values -n user.keepfs.readers {top}/primary/host"
    ));
    assert_eq!(said, format!("{HELPDESK},who-is-not-here"));
    assert!(set("root", BOB));
    soon();
    assert!(may(BOB, &key));
    denied(HELPDESK, &key);
    assert!(set("root", ""));
    soon();
    assert!(!may(BOB, &key));
}

#[test]
fn a_repository_for_admins_lets_in_root_and_who_mounts_and_nobody_else() {
    let homes = homes();
    let bench = Bench::new(&with(&[(ACL, ADMIN_ONLY), (READERS, HELPDESK)]));
    back_up(&bench, homes.path(), "point");
    let state = tempfile::tempdir().unwrap();
    let number = |user: &str| run(&format!("id -u {user}")).trim().parse().unwrap();
    let options = Options {
        uid: number(BOB),
        ..Options::new(state.path().to_owned())
    };
    let mount = Mount::with_options(vec![("primary", catalog(&bench))], state, options);
    let top = mount.path().display();
    let alice = format!("{top}/primary/host/point/alice");
    run(&format!("cat {alice}/key; ls -lR {top}/primary"));
    for path in ["primary", "primary/host", "primary/host/point"] {
        denied(ALICE, &format!("ls {top}/{path}"));
    }
    denied(ALICE, &format!("cat {alice}/key"));
    denied(ALICE, &format!("stat {alice}"));
    denied(HELPDESK, &format!("ls {top}/primary"));
    assert!(may(BOB, &format!("cat {alice}/letter")));
    // Whoever was named may read all the same.
    let view = format!("{top}/.keepfs/readers/primary/host/point/alice/key");
    assert!(may(HELPDESK, &format!("cat {view}")));
    denied(ALICE, &format!("cat {view}"));
}

#[test]
fn init_stores_who_may_read_from_its_options_and_the_configuration() {
    let host = Host::new();
    let config = "[repository.primary]\nurl = \"primary\"\nkey-file = \"a.key\"\nacl = \"admin-only\"\nreaders = [\"mail\", \"bin\"]\n\
                  [repository.offsite]\nurl = \"offsite\"\nkey-file = \"b.key\"\n";
    std::fs::write(host.path("keepfs.toml"), config).unwrap();
    let said = host.complaint(2, &["init", "offsite", "--acl", "everybody"]);
    assert!(said.contains("admin-only"), "{said}");
    host.complaint(2, &["init", "offsite", "--readers", "no/name"]);
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite", "--readers", "mail,games"]);
    let mount = host.path("mnt");
    std::fs::create_dir(&mount).unwrap();
    let mount = mount.to_str().unwrap();
    host.expect(0, &["mount", mount]);
    let said = try_run(&format!(
        "cd {mount}/.keepfs; grep -hE \"acl|readers\" repositories/*/config; ls readers; stat -c %a ../primary ../offsite"
    ));
    host.expect(0, &["umount", mount]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let words: Vec<_> = said.split_whitespace().collect();
    for word in ["mail,games", "admin-only", "mail,bin", "700", "755"] {
        assert!(words.iter().any(|one| one.contains(word)), "{word}: {said}");
    }
}
