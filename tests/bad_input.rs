//! Places that refuse: disks that are full or read-only and endpoints that are useless, through the real command.
//! One sentence, the right exit code, and what was there before stays whole.

use crate::cli::{Host, assert_code};
use crate::endpoints::responder;
use crate::mount::run;
use crate::servers::free_ports;
use crate::sites::Random;
use std::path::{Path, PathBuf};

/// A small disk, taken away when its test ends.
struct Disk(PathBuf);

impl Disk {
    fn of(directory: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let shown = directory.display();
        run(&format!(
            "mount -t tmpfs -o size={mebibytes}m keepfs-test '{shown}'"
        ));
        Self(directory.to_owned())
    }

    fn change(&self, options: &str) {
        run(&format!(
            "mount -o remount,{options} '{}'",
            self.0.display()
        ));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// The one sentence of a command that must fail with `code`.
fn sentence(host: &Host, code: i32, words: &[&str]) -> String {
    let output = host.run(words);
    assert_code(&output, code);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{words:?}: {said}");
    assert!(said.starts_with("keepfs: "), "{words:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
    said
}

fn large_source(host: &Host) -> String {
    let files = host.files();
    std::fs::write(files.join("large"), Random(5).bytes(30 << 20)).unwrap();
    files.to_str().unwrap().to_owned()
}

#[test]
fn a_full_disk_fails_a_backup_and_a_copy_and_room_lets_them_complete() {
    let host = Host::new();
    let small = host.files().to_str().unwrap().to_owned();
    let disks = ["primary", "offsite"].map(|name| Disk::of(&host.path(name), 12));
    for name in ["primary", "offsite"] {
        host.expect(0, &["init", name]);
    }
    host.expect(0, &["backup", &small, "primary/web/first"]);
    host.expect(0, &["copy", "primary", "offsite"]);
    let large = large_source(&host);
    sentence(&host, 1, &["backup", &large, "primary/web/second"]);
    host.expect(0, &["check", "--read-data", "primary"]);
    disks[0].change("size=200m");
    host.expect(0, &["backup", &large, "primary/web/second"]);
    sentence(&host, 1, &["copy", "primary", "offsite"]);
    host.expect(0, &["check", "--read-data", "offsite"]);
    disks[1].change("size=200m");
    host.expect(0, &["copy", "primary", "offsite"]);
    for name in ["primary", "offsite"] {
        let checked = host.json(&["check", "--read-data", "--json", name]);
        assert_eq!(
            (&checked[0]["problem_count"], &checked[0]["points"]),
            (&0.into(), &2.into())
        );
    }
}

#[test]
fn a_read_only_disk_refuses_writers_and_serves_readers() {
    let host = Host::new();
    let small = host.files().to_str().unwrap().to_owned();
    let disk = Disk::of(&host.path("primary"), 20);
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", &small, "primary/web/first"]);
    disk.change("ro");
    sentence(&host, 1, &["backup", &small, "primary/web/second"]);
    sentence(&host, 1, &["forget", "primary/web/first"]);
    host.expect(0, &["check", "--read-data", "primary"]);
    host.expect(0, &["restore", "primary/web/first", "out"]);
}

#[test]
fn a_useless_endpoint_is_told_in_one_sentence() {
    let [port] = free_ports();
    let endpoints = [
        format!("http://127.0.0.1:{port}"),
        responder(b""),
        responder(
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        responder(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        responder(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
    ];
    for endpoint in endpoints {
        let host = Host::new();
        let files = host.files().to_str().unwrap().to_owned();
        let mut config = std::fs::read_to_string(host.path("keepfs.toml")).unwrap();
        config += &format!(
            "[repository.cloud]\nurl = \"s3://bucket/keep\"\nendpoint = \"{endpoint}\"\nallow-http = true\nretry-seconds = 1\n\
             access-key = \"AKIAEXAMPLE\"\nsecret-key = \"swordfish\"\nkey-file = \"cloud.key\"\n"
        );
        std::fs::write(host.path("keepfs.toml"), config).unwrap();
        host.expect(0, &["init", "primary"]);
        host.expect(0, &["backup", &files, "primary/web/first"]);
        for words in [
            vec!["points", "cloud"],
            vec!["init", "cloud"],
            vec!["backup", &files, "cloud/web"],
            vec!["copy", "primary", "cloud"],
        ] {
            let said = sentence(&host, 1, &words);
            assert!(
                !said.contains("swordfish") && !said.contains("AKIAEXAMPLE"),
                "{said}"
            );
        }
    }
}
