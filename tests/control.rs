//! The control tree: what is handed in is read, written to and listed as files, without the kernel and in a real mount.

use crate::cli::Host;
use crate::engine::Bench;
use crate::mount::{Mount, catalog, run, try_run};
use crate::mount_writes::settings;
use crate::served::{Tree, USER, fails, mode};
use keepfs::clock::Clock;
use keepfs::error::{Error, Kind, Result};
use keepfs::filesystem::{Caller, Changes, ControlEntry, Controls, Listed, Options};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

/// Jobs that wait for somebody, as something above the file system has them.
#[derive(Debug, Default)]
struct Waiting {
    /// The log of each, by its id.
    logs: Mutex<BTreeMap<String, String>>,
    verbs: Mutex<Vec<(String, u32)>>,
    /// Whoever holds it keeps the verb `wait` waiting.
    gate: Mutex<()>,
}

const WORDS: &str = "retry, skip or undo\n";

impl Waiting {
    fn with(ids: &[&str]) -> Arc<Self> {
        let waiting = Self::default();
        for id in ids {
            let log = format!("{id} began\n");
            waiting.logs.lock().insert((*id).to_owned(), log);
        }
        Arc::new(waiting)
    }

    fn log(&self, id: &str, line: &str) {
        self.logs.lock().get_mut(id).unwrap().push_str(line);
    }

    fn end(&self, id: &str) {
        self.logs.lock().remove(id);
    }

    fn known(&self, id: &str) -> Result<String> {
        let log = self.logs.lock().get(id).cloned();
        log.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no session {id}")))
    }

    fn verbs(&self) -> Vec<String> {
        let verbs = self.verbs.lock();
        verbs.iter().map(|(verb, _)| verb.clone()).collect()
    }
}

impl Controls for Waiting {
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>> {
        let ids: Vec<_> = self.logs.lock().keys().cloned().collect();
        Ok(match path {
            // A name of the mount's own, and two that no file can have.
            [] => ["sessions", "needs-action", "version", "a/b", ".."]
                .map(ControlEntry::directory)
                .into(),
            ["sessions"] => ids.into_iter().map(ControlEntry::directory).collect(),
            ["needs-action"] => ids
                .into_iter()
                .map(|id| ControlEntry::link(&id, format!("../sessions/{id}")))
                .collect(),
            ["sessions", id] => {
                self.known(id)?;
                vec![
                    ControlEntry::action("action"),
                    ControlEntry::private("log"),
                    ControlEntry::text("state"),
                ]
            }
            _ => return Err(Error::new(Kind::NotFound, "there is nothing")),
        })
    }

    fn read(&self, path: &[&str]) -> Result<Vec<u8>> {
        let ["sessions", id, file] = path else {
            return Err(Error::new(Kind::Failed, "this is no file"));
        };
        let log = self.known(id)?;
        Ok(match *file {
            "action" => WORDS.into(),
            "log" => log.into_bytes(),
            _ if log.contains("away") => {
                let message = "the store of the session cannot be reached";
                return Err(Error::new(Kind::Unreachable, message));
            }
            _ => format!("{} lines\n", log.lines().count()).into_bytes(),
        })
    }

    fn write(&self, path: &[&str], verb: &str, caller: Caller) -> Result<()> {
        self.verbs.lock().push((verb.to_owned(), caller.uid));
        let (kind, message) = match verb {
            "retry" => {
                self.log(path[1], "retried\n");
                return Ok(());
            }
            "wait" => {
                drop(self.gate.lock());
                return Ok(());
            }
            "skip" => (Kind::Busy, "the session is running; wait for its end"),
            "gone" => (Kind::NotFound, "the session was finished elsewhere"),
            _ => (Kind::Invalid, "a session can do retry, skip or undo"),
        };
        Err(Error::new(kind, message))
    }
}

fn tree_of(waiting: &Arc<Waiting>, clock: Clock) -> (Tree, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let options = Options {
        clock,
        ..Options::new(state.path().to_owned())
    };
    let tree = Tree::with_options(&[], options);
    tree.0.set_controls(waiting.clone());
    (tree, state)
}

fn served(waiting: &Arc<Waiting>) -> (Tree, tempfile::TempDir) {
    tree_of(waiting, Clock::system())
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let handle = tree.0.open_directory(tree.ino(path)).unwrap();
    let mut names = Vec::new();
    let mut tell = |listed: &Listed<'_>| {
        names.push(String::from_utf8_lossy(listed.name).into_owned());
        true
    };
    tree.0.read_directory(handle, 2, true, &mut tell).unwrap();
    tree.0.close_directory(handle);
    names
}

fn text(tree: &Tree, path: &str) -> String {
    String::from_utf8(tree.read(path).unwrap()).unwrap()
}

/// Writes as `echo VERB > FILE` does; the errno, or 0.
fn says(tree: &Tree, path: &str, written: &[u8]) -> i32 {
    tree.cut(path, 0).unwrap();
    let handle = tree.0.open(tree.ino(path), libc::O_WRONLY).unwrap();
    let said = tree.0.write(handle, 0, written, USER);
    tree.0.close(handle);
    match said {
        Ok(bytes) => {
            assert_eq!(bytes as usize, written.len());
            0
        }
        Err(failure) => failure.errno(),
    }
}

#[test]
fn what_is_handed_in_is_a_tree() {
    let waiting = Waiting::with(&["one", "two"]);
    let (tree, _state) = served(&waiting);
    let top = ["errors", "metrics", "version", "sessions", "needs-action"];
    assert_eq!(names(&tree, ".keepfs"), top);
    assert_eq!(names(&tree, ".keepfs/sessions"), ["one", "two"]);
    assert_eq!(
        names(&tree, ".keepfs/sessions/one"),
        ["action", "log", "state"]
    );
    assert!(text(&tree, ".keepfs/version").starts_with("keepfs "));
    for (path, expected) in [
        ("", libc::S_IFDIR | 0o755),
        ("/errors", libc::S_IFREG | 0o400),
        ("/metrics", libc::S_IFREG | 0o444),
        ("/sessions/two", libc::S_IFDIR | 0o555),
        ("/sessions/two/action", libc::S_IFREG | 0o600),
        ("/sessions/two/log", libc::S_IFREG | 0o400),
        ("/sessions/two/state", libc::S_IFREG | 0o444),
        ("/needs-action/two", libc::S_IFLNK | 0o777),
    ] {
        let shown = tree.look(&format!(".keepfs{path}")).unwrap();
        assert_eq!(shown.mode, expected, "{path}");
        assert_eq!(shown.uid, Options::new("x".into()).uid, "{path}");
        let again = tree.look(&format!(".keepfs{path}")).unwrap();
        assert_eq!(shown.ino, again.ino, "{path}");
    }
    let link = tree.ino(".keepfs/needs-action/one");
    assert_eq!(tree.0.read_link(link).unwrap(), b"../sessions/one");
    for path in ["three", "sessions/three", "a", "a/b"] {
        assert!(tree.look(&format!(".keepfs/{path}")).is_none(), "{path}");
    }
    let state = tree.ino(".keepfs/sessions/one/state");
    fails(tree.0.lookup(state, b"x", USER), libc::ENOTDIR, "");
    fails(tree.0.open_directory(state), libc::ENOTDIR, "");
}

#[test]
fn one_write_is_one_verb_and_its_errno() {
    let waiting = Waiting::with(&["one"]);
    let (tree, _state) = served(&waiting);
    let action = ".keepfs/sessions/one/action";
    assert_eq!(text(&tree, action), WORDS);
    assert_eq!(says(&tree, action, b"retry\n"), 0);
    assert_eq!(text(&tree, ".keepfs/sessions/one/state"), "2 lines\n");
    assert_eq!(says(&tree, action, b"retry"), 0);
    assert_eq!(text(&tree, ".keepfs/sessions/one/state"), "3 lines\n");
    for (written, errno) in [
        ("skip\n", libc::EBUSY),
        ("gone\n", libc::ENOENT),
        ("dance\n", libc::EINVAL),
    ] {
        assert_eq!(says(&tree, action, written.as_bytes()), errno, "{written}");
    }
    assert_eq!(waiting.verbs(), ["retry", "retry", "skip", "gone", "dance"]);
    for written in ["", "\n", "retry\nskip\n", &"x".repeat(4097)] {
        assert_eq!(says(&tree, action, written.as_bytes()), libc::EINVAL);
    }
    assert_eq!(waiting.verbs().len(), 5, "no verb that was never written");

    let errors = tree.errors();
    let told = ".keepfs/sessions/one/action: the session is running; wait for its end";
    assert!(errors.contains(told), "{errors}");
    says(&tree, action, b"skip");
    let told = tree.fact(".keepfs/sessions/one", "error");
    assert!(told.ends_with("wait for its end"), "{told}");
}

#[test]
fn nothing_else_can_be_changed() {
    let waiting = Waiting::with(&["one"]);
    let (tree, _state) = served(&waiting);
    let action = ".keepfs/sessions/one/action";
    let state = ".keepfs/sessions/one/state";
    let words = "made up by keepfs";
    fails(tree.create(".keepfs/sessions/new"), libc::EROFS, words);
    fails(tree.try_mkdir(".keepfs/new"), libc::EROFS, words);
    fails(tree.rm(action), libc::EROFS, words);
    fails(tree.rm(".keepfs/needs-action/one"), libc::EROFS, words);
    fails(tree.cut(state, 0), libc::EROFS, words);
    fails(tree.cut(action, 10), libc::EROFS, words);
    let open = tree.0.open(tree.ino(state), libc::O_WRONLY);
    fails(open, libc::EROFS, words);
    let mode_for_all = Changes {
        mode: Some(0o666),
        ..Changes::default()
    };
    fails(tree.set(action, &mode_for_all), libc::EROFS, words);
    let removed = tree
        .0
        .remove_directory(tree.ino(".keepfs"), b"sessions", USER);
    fails(removed, libc::EROFS, words);
    let link = tree.0.make_symlink(tree.ino(".keepfs"), b"new", b"x", USER);
    fails(link, libc::EROFS, words);
    let pipe = mode(libc::S_IFIFO | 0o600);
    let made = tree.0.make_node(tree.ino(".keepfs"), b"new", pipe, 0, USER);
    fails(made, libc::EROFS, words);
    assert!(waiting.verbs().is_empty());
}

#[test]
fn what_is_gone_is_not_there_and_what_fails_is_told() {
    let waiting = Waiting::with(&["one", "two"]);
    let (tree, _state) = served(&waiting);
    let directory = tree.ino(".keepfs/sessions/one");
    let state = tree.ino(".keepfs/sessions/one/state");
    waiting.end("one");
    fails(tree.0.open(state, libc::O_RDONLY), libc::ENOENT, "");
    fails(tree.0.open_directory(directory), libc::ENOENT, "");
    assert!(tree.look(".keepfs/sessions/one").is_none());
    assert!(tree.look(".keepfs/needs-action/one").is_none());
    assert_eq!(tree.errors(), "", "nobody did anything wrong");
    waiting.log("two", "the store is away\n");
    let state = tree.ino(".keepfs/sessions/two/state");
    let open = tree.0.open(state, libc::O_RDONLY);
    fails(open, libc::EHOSTDOWN, "cannot be reached");
    assert!(tree.errors().contains("cannot be reached"));
}

#[test]
fn a_reader_sees_one_text_and_a_new_one_from_its_beginning() {
    let waiting = Waiting::with(&["one"]);
    let seconds = Arc::new(AtomicI64::new(1_700_000_000));
    let (tree, _state) = tree_of(&waiting, Clock::fixed(seconds.clone()));
    let handle = |path: &str| tree.0.open(tree.ino(path), libc::O_RDONLY).unwrap();
    let (state, log) = (
        handle(".keepfs/sessions/one/state"),
        handle(".keepfs/sessions/one/log"),
    );
    let read = |handle: u64, offset: u64| {
        let data = tree.0.read(handle, offset, 64).unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    };
    waiting.log("one", "and goes on\n");
    assert_eq!(read(state, 0), "1 lines\n", "as it was when it was opened");
    assert_eq!(read(state, 2), "lines\n");
    assert_eq!(read(state, 0), "2 lines\n");
    // At the end, at once: this reader ends.
    assert_eq!(read(log, 0), "one began\n");
    assert_eq!(read(log, 10), "");
    // Still there some time later: this one follows.
    seconds.fetch_add(2, SeqCst);
    assert_eq!(read(log, 10), "and goes on\n");
    assert_eq!(tree.look(".keepfs/sessions/one/log").unwrap().size, 22);
    assert_eq!(read(log, 22), "");
    // A text that became another one is not mixed with what was read.
    waiting.log("one", "3\n4\n5\n6\n7\n8\n9\n10\n");
    seconds.fetch_add(2, SeqCst);
    assert_eq!(read(state, 8), "");
    assert_eq!(read(state, 0), "10 lines\n");
}

fn mounted(waiting: &Arc<Waiting>) -> (Bench, Mount) {
    let bench = Bench::new(&settings());
    let state = tempfile::tempdir().unwrap();
    let options = Options::new(state.path().to_owned());
    let repositories = vec![("primary", catalog(&bench))];
    let mount = Mount::with_tree(repositories, state, options, &|tree| {
        tree.set_controls(waiting.clone());
    });
    (bench, mount)
}

/// What a script in `.keepfs` of the mount says; it must succeed.
fn shell(mount: &Mount, script: &str) -> String {
    run(&format!(
        "cd '{}/.keepfs'; {script}",
        mount.path().display()
    ))
}

/// What a script in `.keepfs` of the mount complains of; it must fail.
fn complaint(mount: &Mount, script: &str) -> String {
    let output = try_run(&format!(
        "cd '{}/.keepfs'; {script}",
        mount.path().display()
    ));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{script}: {said}");
    said
}

#[test]
fn shells_read_states_and_write_verbs() {
    let waiting = Waiting::with(&["one", "two"]);
    let (_bench, mount) = mounted(&waiting);
    assert_eq!(shell(&mount, "cat needs-action/one/state"), "1 lines\n");
    for (number, way) in [
        "echo retry > $action",
        "echo retry >> $action",
        "printf retry > $action",
        "echo retry | tee $action",
        "echo retry | tee -a $action",
        "verb=$(mktemp); echo retry > $verb; cp $verb $action; rm $verb",
        "echo retry | dd of=$action status=none",
        "python3 -c 'open(\"needs-action/one/action\", \"w\").write(\"retry\\n\")'",
    ]
    .into_iter()
    .enumerate()
    {
        let script = format!("action=needs-action/one/action; {way}");
        shell(&mount, &script);
        let lines = format!("{} lines\n", number + 2);
        assert_eq!(shell(&mount, "cat sessions/one/state"), lines, "{way}");
    }
    shell(&mount, ": > sessions/one/action; touch sessions/one/action");
    assert_eq!(waiting.verbs().len(), 8);
    assert_eq!(shell(&mount, "cat sessions/one/action"), WORDS);

    for (way, said) in [
        ("echo skip > sessions/one/action", "resource busy"),
        ("echo skip | tee sessions/one/action", "resource busy"),
        ("printf dance > sessions/one/action", "Invalid argument"),
        ("seq 2000 > sessions/one/action", "Invalid argument"),
        ("echo retry > sessions/one/state", "Read-only"),
        ("echo retry > sessions/three/action", "No such file"),
        ("touch sessions/new", "Read-only"),
        ("mkdir new", "Read-only"),
        ("rm -f needs-action/one", "Read-only"),
        ("mv sessions other", "Read-only"),
    ] {
        let told = complaint(&mount, way);
        assert!(told.contains(said), "{way}: {told}");
    }
    let told = "sessions/one/action: the session is running; wait for its end";
    assert!(shell(&mount, "cat errors").contains(told));
    complaint(&mount, "echo skip > sessions/two/action");
    let of_directory = shell(
        &mount,
        "getfattr --only-values -n user.keepfs.error sessions/two",
    );
    assert!(of_directory.ends_with("wait for its end"), "{of_directory}");
}

#[test]
fn tools_walk_the_control_tree() {
    let waiting = Waiting::with(&["one", "two"]);
    let (_bench, mount) = mounted(&waiting);
    let found = shell(&mount, "find . | sort; find -L . -type f | wc -l");
    let expected = [
        ".",
        "./errors",
        "./metrics",
        "./needs-action",
        "./needs-action/one",
        "./needs-action/two",
        "./sessions",
        "./sessions/one",
        "./sessions/one/action",
        "./sessions/one/log",
        "./sessions/one/state",
        "./sessions/two",
        "./sessions/two/action",
        "./sessions/two/log",
        "./sessions/two/state",
        "./version",
        "15",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    let listed = shell(
        &mount,
        "ls -lR; ls -li sessions/one; stat sessions/one/state",
    );
    assert!(listed.contains("two -> ../sessions/two"), "{listed}");
    let grepped = shell(&mount, "grep -r . . | grep -v ^./metrics | sort");
    for line in [
        "./sessions/one/action:retry, skip or undo",
        "./sessions/two/log:two began",
        "./sessions/two/state:1 lines",
    ] {
        assert!(grepped.lines().any(|told| told == line), "{grepped}");
    }
    // Sizes are those of what was read last; whoever believes them gets it all.
    let counted = shell(
        &mount,
        "wc -c < sessions/one/log; tail -n 1 sessions/one/log",
    );
    assert_eq!(counted, "10\none began\n");
    let copied = shell(
        &mount,
        "copy=$(mktemp -d); cp -r sessions $copy; cat $copy/sessions/two/log; tar -cf - needs-action | tar -tf -",
    );
    assert!(copied.starts_with("two began\nneeds-action/\n"), "{copied}");
    let inodes = "stat -c %i . sessions sessions/one sessions/one/state";
    assert_eq!(shell(&mount, inodes), shell(&mount, inodes));

    // What ended is gone at the next look, from the views too.
    waiting.end("one");
    assert_eq!(
        shell(&mount, "ls sessions needs-action | grep -c one || true"),
        "0\n"
    );
    complaint(&mount, "test -e needs-action/one");
}

#[test]
fn a_text_is_followed_as_it_grows() {
    let waiting = Waiting::with(&["one"]);
    let (_bench, mount) = mounted(&waiting);
    let log = mount.path().join(".keepfs/sessions/one/log");
    let seen = tempfile::NamedTempFile::new().unwrap();
    let mut tail = std::process::Command::new("tail")
        .args(["-f", "-s", "0.1"])
        .arg(&log)
        .stdout(seen.reopen().unwrap())
        .spawn()
        .unwrap();
    let comes = |text: &str| {
        (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            std::fs::read_to_string(seen.path()).unwrap() == text
        })
    };
    let first = comes("one began\n");
    waiting.log("one", "it goes on\n");
    let second = comes("one began\nit goes on\n");
    tail.kill().unwrap();
    tail.wait().unwrap();
    assert!(
        first && second,
        "{:?}",
        std::fs::read_to_string(seen.path())
    );
}

#[test]
fn a_verb_that_waits_keeps_nobody_else_waiting() {
    let waiting = Waiting::with(&["one", "two", "three", "four"]);
    let (_bench, mount) = mounted(&waiting);
    let held = waiting.gate.lock();
    let begin = |id: &str| {
        let action = mount.path().join(format!(".keepfs/sessions/{id}/action"));
        let script = format!("echo wait > '{}'", action.display());
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &script]).spawn().unwrap()
    };
    let shells = ["one", "two", "three"].map(begin);
    let begun = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        waiting.verbs().len() == 3
    });
    let others = "for n in 1 2 3 4 5; do timeout 60 cat sessions/*/state; timeout 60 ls -lR . > /dev/null; done; \
                  timeout 60 bash -c 'echo retry > sessions/four/action'";
    let output = try_run(&format!(
        "cd '{}/.keepfs'; {others}",
        mount.path().display()
    ));
    drop(held);
    let ended = shells.map(|mut shell| shell.wait().unwrap().success());
    assert!(begun && output.status.success(), "{output:?}");
    assert_eq!(ended, [true; 3]);
}

#[test]
fn everybody_sees_states_and_only_the_owner_acts() {
    let waiting = Waiting::with(&["one"]);
    let (_bench, mount) = mounted(&waiting);
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    assert_eq!(
        shell(&mount, &format!("{nobody} cat needs-action/one/state")),
        "1 lines\n"
    );
    shell(&mount, &format!("{nobody} ls -lR > /dev/null"));
    for script in [
        "cat needs-action/one/action",
        "cat sessions/one/log",
        "bash -c 'echo retry > sessions/one/action'",
        "bash -c 'echo retry > needs-action/one/action'",
        "bash -c 'echo retry > sessions/one/state'",
        "cat errors",
    ] {
        let told = complaint(&mount, &format!("{nobody} {script}"));
        assert!(told.contains("Permission denied"), "{script}: {told}");
    }
    assert!(waiting.verbs().is_empty());
}

/// Taken away however the test ends.
struct Served<'a>(&'a Host);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.run(&["umount", "--lazy", "mnt"]);
    }
}

#[test]
fn each_repository_tells_how_it_is() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    let source = files.to_str().unwrap();
    host.expect(0, &["backup", source, "primary/web/first"]);
    std::fs::create_dir(host.path("mnt")).unwrap();
    host.expect(0, &["mount", "mnt"]);
    let _served = Served(&host);
    let top = host.path("mnt/.keepfs/repositories");
    let tells = |file: &str| std::fs::read_to_string(top.join(file)).unwrap();
    let shown = run(&format!("cd '{}'; ls * | tr '\\n' ' '", top.display()));
    let files = "config state stats ";
    assert_eq!(shown, format!("offsite: {files} primary: {files}"));

    let config = tells("offsite/config");
    assert!(config.contains("\npack-size = 64 MiB\n"), "{config}");
    assert!(config.contains("\ntrash-days = 7\n"), "{config}");
    let figures = host.json(&["stats", "primary", "--json"]);
    let line = &figures["repositories"][0];
    let stats = tells("primary/stats");
    for (key, value) in [
        ("points", &line["points"]),
        ("entries", &line["entries"]),
        ("stored-data-bytes", &line["stored"]["data"]),
        ("chunks", &line["chunks"]),
    ] {
        let told = format!("{key} = {value}\n");
        assert!(stats.contains(&told), "{told}{stats}");
    }

    // Away, and back: each look tells how it is then.
    let comes = |text: &str| {
        (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            tells("primary/state").contains(text)
        })
    };
    assert_eq!(tells("primary/state"), "ready\n");
    std::fs::rename(host.path("primary"), host.path("elsewhere")).unwrap();
    assert!(comes("primary"), "{}", tells("primary/state"));
    assert_eq!(tells("offsite/state"), "ready\n");
    std::fs::rename(host.path("elsewhere"), host.path("primary")).unwrap();
    assert!(comes("ready\n"), "{}", tells("primary/state"));

    for file in ["state", "stats", "config"] {
        let refused = std::fs::write(top.join("primary").join(file), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{file}");
    }
}
