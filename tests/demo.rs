//! The first command of the README: what it shows, and that nothing is left of it.

use crate::cli::Host;
use crate::mount::try_run;

fn demo(host: &Host, before: &str) -> std::process::Output {
    let directory = host.path("temporary");
    std::fs::create_dir_all(&directory).unwrap();
    try_run(&format!(
        "cd '{home}'; export TMPDIR='{directory}'; {before} '{program}' demo files 2>&1",
        home = host.home.path().display(),
        directory = directory.display(),
        program = env!("CARGO_BIN_EXE_keepfs"),
    ))
}

fn assert_nothing_left(host: &Host) {
    let left = std::fs::read_dir(host.path("temporary")).unwrap().count();
    assert_eq!(left, 0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let directory = host.path("temporary");
    assert!(!mounts.contains(directory.to_str().unwrap()));
}

#[test]
fn the_demo_backs_up_copies_compares_restores_and_leaves_nothing() {
    let host = Host::new();
    host.files();
    let output = demo(&host, "");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for step in [
        "$ keepfs init primary",
        "$ keepfs init offsite",
        "$ keepfs backup ",
        "$ keepfs mount mnt",
        "$ cp -a mnt/primary/demo/first mnt/offsite/demo/",
        "$ diff -r --no-dereference mnt/primary/demo/first mnt/offsite/demo/first",
        "$ cmp ",
        "bytes of files for each byte stored",
    ] {
        assert!(said.contains(step), "no {step} in {said}");
    }
    assert_nothing_left(&host);
}

#[test]
fn without_fuse_the_demo_says_what_to_install() {
    let host = Host::new();
    host.files();
    // Another view of the machine, in which /dev is empty.
    let output = demo(
        &host,
        "unshare -m sh -c 'mount -t tmpfs none /dev && exec \"$@\"' demo",
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("modprobe fuse"), "{said}");
    assert_nothing_left(&host);
}
