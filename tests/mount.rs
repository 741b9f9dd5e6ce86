//! A real mount: what `find`, `cp`, `diff`, `tar`, `getfattr` and other users see of complete points.

use crate::backup::{Made, one_of_everything};
use crate::engine::{Bench, assert_clean};
use crate::served::resumed;
use keepfs::backup::{Options as BackupOptions, backup};
use keepfs::filesystem::{FileSystem, Options};
use keepfs::fuse::{EndSignals, MountOptions, Mounted, mount};
use keepfs::point::{Catalog, Point, Trees};
use keepfs::progress::Progress;
use keepfs::repository::Settings;
use keepfs::store::DirectoryStore;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;

/// A mount that is taken away at the end of its test, however that ends.
pub struct Mount {
    directory: tempfile::TempDir,
    pub state: Option<tempfile::TempDir>,
    mounted: Option<Mounted>,
    /// What is read and hashed when the mount goes.
    served: Vec<Arc<Catalog>>,
}

impl Mount {
    pub fn of(repositories: Vec<(&str, Arc<Catalog>)>) -> Self {
        Self::with_state(repositories, tempfile::tempdir().unwrap())
    }

    pub fn with_state(repositories: Vec<(&str, Arc<Catalog>)>, state: tempfile::TempDir) -> Self {
        let options = Options::new(state.path().to_owned());
        Self::with_options(repositories, state, options)
    }

    pub fn with_options(
        repositories: Vec<(&str, Arc<Catalog>)>,
        state: tempfile::TempDir,
        options: Options,
    ) -> Self {
        Self::with_tree(repositories, state, options, &|_| ())
    }

    /// The tree is prepared before it is mounted.
    pub fn with_tree(
        repositories: Vec<(&str, Arc<Catalog>)>,
        state: tempfile::TempDir,
        options: Options,
        prepare: &dyn Fn(&FileSystem),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Other users shall enter as far as the mount lets them.
        run(&format!("chmod 755 {}", directory.path().display()));
        let served = repositories.iter().map(|(_, catalog)| catalog.clone());
        let served = served.collect();
        let repositories = repositories
            .into_iter()
            .map(|(name, catalog)| (name.to_owned(), catalog))
            .collect();
        let filesystem = Arc::new(resumed(FileSystem::new(repositories, options)));
        prepare(&filesystem);
        let mounted = mount(filesystem, directory.path(), MountOptions::default()).unwrap();
        Self {
            directory,
            state: Some(state),
            mounted: Some(mounted),
            served,
        }
    }

    /// The same mount, of repositories that were damaged on purpose.
    pub fn of_damaged(mut self) -> Self {
        self.served.clear();
        self
    }

    pub fn of_bench(bench: &Bench) -> Self {
        Self::of(vec![("primary", catalog(bench))])
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes the mount away; the state directory is left.
    pub fn unmount(mut self) -> tempfile::TempDir {
        self.mounted.take().unwrap().unmount().unwrap();
        self.state.take().unwrap()
    }
}

impl Drop for Mount {
    /// Whatever a test did, a check finds nothing wrong with what it leaves.
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let _ = mounted.unmount();
        }
        for catalog in self.served.drain(..) {
            if !std::thread::panicking() {
                let cache = tempfile::tempdir().unwrap();
                let afresh = catalog.repository().afresh(cache.path()).unwrap();
                assert_clean("what a mount leaves", &afresh);
            }
        }
    }
}

pub fn catalog(bench: &Bench) -> Arc<Catalog> {
    Arc::new(Catalog::open(bench.open()).unwrap())
}

pub fn try_run(script: &str) -> Output {
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .output()
        .unwrap()
}

/// What a script says; it must succeed.
pub fn run(script: &str) -> String {
    let output = try_run(script);
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn back_up(bench: &Bench, source: &Path, name: &str) -> Arc<Point> {
    let repository = bench.open();
    let trees = Arc::new(Trees::new(repository.clone()));
    let options = BackupOptions {
        sources: vec![source.to_owned()],
        backup: b"host".to_vec(),
        point: Some(name.as_bytes().to_vec()),
        ..BackupOptions::default()
    };
    let catalog = Catalog::open(repository).unwrap();
    let report = backup(&catalog, &trees, &options, &Progress::default()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    report.point
}

/// Everything of a tree that a user can see, one line a name.
pub fn listing(top: &Path) -> String {
    run(&format!(
        "cd '{}'; find . -printf '%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%T@\\t%l\\n' | LC_ALL=C sort;
         find . -type f -links +1 -printf '%P %n\\n' | LC_ALL=C sort;
         find . -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum;
         getfattr -R -h -d -m - -e hex . 2>/dev/null | LC_ALL=C sort;
         getfacl -R -p -n . | LC_ALL=C sort | uniq -c",
        top.display()
    ))
    .lines()
    // The size of a directory means something else on every file system.
    .map(|line| {
        let mut words: Vec<&str> = line.split('\t').collect();
        if words.len() > 5 && words[1] == "d" {
            words[5] = "-";
        }
        words.join("\t") + "\n"
    })
    .collect()
}

pub fn same_trees(one: &Path, two: &Path) {
    let (first, second) = (listing(one), listing(two));
    for (a, b) in first.lines().zip(second.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(first, second);
    run(&format!(
        "diff -r --no-dereference --exclude=pipe --exclude=socket --exclude=null --exclude=disk '{}' '{}'",
        one.display(),
        two.display()
    ));
}

struct Shown {
    made: Made,
    mount: Mount,
    point: PathBuf,
}

fn shown() -> Shown {
    let made = Made::new();
    let (report, _) = made.backup();
    let mount = Mount::of_bench(&made.bench);
    let name = String::from_utf8(report.point.name().to_vec()).unwrap();
    let point = mount.path().join("primary/host").join(name);
    Shown { made, mount, point }
}

#[test]
fn a_complete_point_shows_and_restores_everything() {
    let shown = shown();
    let source = shown.made.source.path();
    same_trees(source, &shown.point);
    let out = tempfile::tempdir().unwrap();
    let (point, target) = (shown.point.display(), out.path().display());
    run(&format!("cp -a '{point}' '{target}/copied'"));
    same_trees(source, &out.path().join("copied"));
    run(&format!(
        "mkdir '{target}/untarred'; tar -C '{point}' --format=posix --xattrs --acls --exclude=socket -c . |
         tar -C '{target}/untarred' --xattrs --xattrs-include='*' --acls -xp"
    ));
    run(&format!(
        "diff -r --no-dereference --exclude=pipe --exclude=socket --exclude=null --exclude=disk '{}' '{target}/untarred'",
        source.display()
    ));
    let sparse = std::fs::metadata(out.path().join("copied/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 10 << 20, "{}", sparse.blocks());
    // Hard links are one inode, and the same from every name.
    let ino = |name: &str| std::fs::metadata(shown.point.join(name)).unwrap().ino();
    assert_eq!(ino("a/hello"), ino("z-link"));
    assert_eq!(ino("a/hello"), ino("a/b/hello-again"));
    assert_ne!(ino("a/hello"), ino("numbers"));
    shown.mount.unmount();
}

#[test]
fn sizes_and_holes_are_exact() {
    let shown = shown();
    let numbers = std::fs::metadata(shown.point.join("numbers")).unwrap();
    assert_eq!(numbers.blocks(), numbers.size().div_ceil(512));
    let mut sparse = std::fs::File::open(shown.point.join("sparse")).unwrap();
    let facts = sparse.metadata().unwrap();
    assert_eq!(facts.size(), 300 << 20);
    assert!(facts.blocks() > 0 && facts.blocks() * 512 < 10 << 20);
    // SEEK_DATA and SEEK_HOLE, as cp and tar use them.
    let seek = |offset: i64, whence| {
        use std::os::fd::AsRawFd;
        // SAFETY: lseek moves the offset of an open file and touches no memory.
        unsafe { libc::lseek(sparse.as_raw_fd(), offset, whence) }
    };
    let data = seek(0, libc::SEEK_DATA);
    assert!((99 << 20..=100 << 20).contains(&data), "{data}");
    assert_eq!(seek(0, libc::SEEK_HOLE), 0);
    assert!(seek(data, libc::SEEK_HOLE) >= (100 << 20) + 4);
    assert_eq!(seek((100 << 20) + (50 << 20), libc::SEEK_DATA), -1);
    sparse.seek(SeekFrom::Start(100 << 20)).unwrap();
    let mut four = [0; 4];
    sparse.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"data");
    run(&format!(
        "cmp '{0}/random' '{1}/random'",
        shown.point.display(),
        shown.made.source.path().display()
    ));
    // Reads at random, across chunks and frames.
    let expected = std::fs::read(shown.made.source.path().join("random")).unwrap();
    let file = std::fs::File::open(shown.point.join("random")).unwrap();
    for n in 0..200u64 {
        let offset = (n * 7_919_123) % expected.len() as u64;
        let mut bytes = vec![0; 1 + (n as usize * 977) % 9000];
        let count = file.read_at(&mut bytes, offset).unwrap();
        assert_eq!(bytes[..count], expected[offset as usize..][..count]);
    }
}

#[test]
fn complete_points_never_change() {
    let shown = shown();
    let point = shown.point.display();
    for change in [
        format!("echo more >> {point}/numbers"),
        format!("touch {point}/new"),
        format!("rm {point}/numbers"),
        format!("mkdir {point}/d"),
        format!("rmdir {point}/a"),
        format!("mv {point}/numbers {point}/n"),
        format!("ln -s x {point}/l"),
        format!("ln {point}/numbers {point}/l"),
        format!("chmod 600 {point}/numbers"),
        format!("chown 5 {point}/numbers"),
        format!("touch {point}/numbers"),
        format!("truncate -s 0 {point}/numbers"),
        format!("setfattr -n user.a -v b {point}/numbers"),
        format!("setfattr -x user.color {point}/a/hello"),
        format!("mkfifo {point}/f"),
    ] {
        let output = try_run(&change);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("Read-only file system"),
            "{change}: {said}"
        );
    }
    assert!(
        run(&format!(
            "cat {}/.keepfs/errors",
            shown.mount.path().display()
        ))
        .contains("never changes")
    );
}

#[test]
fn facts_are_answered_by_name_and_never_listed() {
    let shown = shown();
    let point = shown.point.display();
    let get = |name: &str, path: &str| {
        run(&format!(
            "getfattr --only-values -h -n user.keepfs.{name} {path}"
        ))
    };
    assert_eq!(get("state", &point.to_string()), "complete");
    assert_eq!(get("state", &format!("{point}/numbers")), "complete");
    assert!(get("source", &point.to_string()).contains(shown.made.source.path().to_str().unwrap()));
    assert_eq!(get("id", &point.to_string()).len(), 34);
    assert!(get("time", &point.to_string()).ends_with('Z'));
    assert!(!run(&format!("getfattr -R -h -d -m - {point}")).contains("keepfs"));
    for forbidden in [
        "-n user.keepfs.id -v x",
        "-n user.keepfs.own -v x",
        "-x user.keepfs.state",
    ] {
        let output = try_run(&format!("setfattr {forbidden} {point}"));
        assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"));
    }
}

#[test]
fn other_users_read_what_modes_and_acls_let_them() {
    let shown = shown();
    let point = shown.point.display();
    let as_nobody = |command: &str| {
        try_run(&format!("cd /; su nobody -s /bin/sh -c '{command}'"))
            .status
            .success()
    };
    run(&format!("cat {point}/zeros | wc -c"));
    assert!(as_nobody(&format!("cat {point}/numbers")));
    assert!(!as_nobody(&format!("cat {point}/zeros")), "mode 000");
    assert!(!as_nobody(&format!("touch {point}/new")));
    assert!(!as_nobody(&format!(
        "getfattr -d -m trusted. {point}/numbers | grep level"
    )));
    assert!(as_nobody(&format!("ls -lR {point}")));
}

#[test]
fn control_files_and_latest() {
    let shown = shown();
    let top = shown.mount.path().display();
    assert_eq!(run(&format!("ls -A {top}")), ".keepfs\nprimary\n");
    assert_eq!(
        run(&format!("ls -A {top}/.keepfs")),
        "errors\nmetrics\nversion\n"
    );
    assert!(run(&format!("cat {top}/.keepfs/version")).starts_with("keepfs "));
    assert!(
        run(&format!("cat {top}/.keepfs/metrics"))
            .contains("keepfs_fuse_requests_total{op=\"readdirplus\"}")
    );
    let link = run(&format!("readlink {top}/primary/host/latest"));
    assert_eq!(
        link.trim(),
        shown.point.file_name().unwrap().to_str().unwrap()
    );
    assert_eq!(run(&format!("ls -A {top}/primary/host | wc -l")), "2\n");
    run(&format!(
        "df {top} {top}/primary; stat -f {}",
        shown.point.display()
    ));
    assert_eq!(
        run(&format!("findmnt -no FSTYPE,SOURCE {top}"))
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["fuse.keepfs", "keepfs"]
    );
    assert!(run(&format!("findmnt -no OPTIONS {top}")).contains("nosuid,nodev"));
}

#[test]
fn points_of_other_hosts_appear_without_a_remount() {
    let store = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "one").unwrap();
    let bench = Bench::in_store(
        Arc::new(DirectoryStore::open(store.path()).unwrap()),
        &Settings::default(),
    );
    back_up(&bench, source.path(), "first");
    let mount = Mount::of_bench(&bench);
    let backups = mount.path().join("primary/host");
    assert_eq!(
        std::fs::read_to_string(backups.join("latest/file")).unwrap(),
        "one"
    );
    assert!(!backups.join("second").exists());
    std::fs::write(source.path().join("file"), "two").unwrap();
    back_up(&bench, source.path(), "second");
    let until = |what: &dyn Fn() -> bool| {
        (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            what()
        })
    };
    assert!(until(&|| backups.join("second").exists()));
    assert!(until(&|| std::fs::read_to_string(
        backups.join("latest/file")
    )
    .unwrap()
        == "two"));
    assert_eq!(
        std::fs::read_to_string(backups.join("first/file")).unwrap(),
        "one"
    );
}

#[test]
fn damage_costs_what_it_hits_and_nothing_else() {
    let store = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    let bench = Bench::in_store(
        Arc::new(DirectoryStore::open(store.path()).unwrap()),
        &Settings {
            pack_bytes: 1 << 20,
            ..Settings::default()
        },
    );
    back_up(&bench, source.path(), "point");
    // One bit in the middle of the largest data pack, which holds a part of `random`.
    let packs = run(&format!(
        "find {}/packs/data -type f -printf '%s %p\\n' | sort -n | tail -1",
        store.path().display()
    ));
    let pack = packs.trim().split_once(' ').unwrap().1;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(pack)
        .unwrap();
    let middle = file.metadata().unwrap().size() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    let mount = Mount::of_bench(&bench).of_damaged();
    let point = mount.path().join("primary/host/point");
    let damaged = std::fs::read(point.join("random")).unwrap_err();
    assert_eq!(damaged.raw_os_error(), Some(libc::EBADMSG));
    // What lies around the damage still reads, and every byte of it is right.
    let expected = std::fs::read(source.path().join("random")).unwrap();
    let file = std::fs::File::open(point.join("random")).unwrap();
    let mut good = 0;
    for offset in (0..expected.len()).step_by(4096) {
        let mut page = vec![0; 4096.min(expected.len() - offset)];
        if file.read_exact_at(&mut page, offset as u64).is_ok() {
            assert_eq!(page, expected[offset..][..page.len()]);
            good += page.len();
        }
    }
    assert!(good > expected.len() / 2 && good < expected.len(), "{good}");
    run(&format!(
        "cmp {0}/numbers {1}/numbers",
        point.display(),
        source.path().display()
    ));
    let errors = run(&format!("cat {}/.keepfs/errors", mount.path().display()));
    assert!(errors.contains("primary/host/point/random"), "{errors}");
    let fact = run(&format!(
        "getfattr --only-values -n user.keepfs.error {}",
        point.display()
    ));
    assert!(fact.contains("random"), "{fact}");
}

#[test]
fn a_busy_mount_goes_away_and_a_dead_one_is_recovered() {
    let shown = shown();
    let path = shown.mount.path().to_owned();
    let mut held = std::fs::File::open(shown.point.join("random")).unwrap();
    shown.mount.mounted.as_ref().unwrap();
    let mut mount = shown.mount;
    mount.mounted.take().unwrap().unmount().unwrap();
    assert!(!run("cat /proc/mounts").contains(path.to_str().unwrap()));
    // Whoever still has a file open reads on until the daemon ends, or gets an error: never wrong bytes.
    held.seek(SeekFrom::Start(3 << 20)).unwrap();
    let mut bytes = [0; 4096];
    if held.read_exact(&mut bytes).is_ok() {
        let expected = std::fs::read(shown.made.source.path().join("random")).unwrap();
        assert_eq!(bytes, expected[3 << 20..][..4096]);
    }
    drop(held);
    // A daemon that died: its mount answers ENOTCONN until the next one takes the place.
    let mut child = serve(&path);
    child.kill().unwrap();
    child.wait().unwrap();
    let dead = std::fs::read_dir(&path).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    for signal in ["TERM", "INT"] {
        let mut child = serve(&path);
        run(&format!("kill -{signal} {}", child.id()));
        let end = child.wait().unwrap();
        assert!(end.success(), "SIG{signal}: {end}");
        assert!(!run("cat /proc/mounts").contains(path.to_str().unwrap()));
    }
    let mut child = serve(&path);
    run(&format!("umount {}", path.display()));
    assert!(child.wait().unwrap().success());
}

/// A process of its own that mounts at `path`, once it answers.
fn serve(path: &Path) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mount::serve_for_another_test", "--nocapture"])
        .env("KEEPFS_TEST_MOUNT", path)
        .spawn()
        .unwrap();
    let there = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        // Read, not looked for: the kernel still knows the names of a mount whose daemon has died.
        std::fs::read(path.join(".keepfs/version")).is_ok()
    });
    assert!(there);
    child
}

/// Not a test: another one runs it as a process of its own.
#[test]
fn serve_for_another_test() {
    let Some(path) = std::env::var_os("KEEPFS_TEST_MOUNT") else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let options = Options::new(state.path().to_owned());
    let filesystem = Arc::new(FileSystem::new(Vec::new(), options));
    let signals = EndSignals::catch().unwrap();
    let mounted = mount(filesystem, Path::new(&path), MountOptions::default()).unwrap();
    mounted.wait(signals).unwrap();
}
