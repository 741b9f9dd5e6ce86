//! The mark of an open point whose host is gone: shown and removed on another host, and what the first one finds when it
//! comes back after all.

use crate::cli::Host;
use crate::daemon_kills::wait_for;
use crate::sites::Random;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Bytes of what each of two files holds.
const BYTES: usize = 6 << 20;

/// A daemon in the foreground, killed when it goes.
struct Daemon {
    child: Child,
    mount: PathBuf,
}

impl Daemon {
    fn of(host: &Host) -> Self {
        let mut command = host.command(&["mount", "--foreground", "mnt"]);
        let child = command.spawn().unwrap();
        let mount = host.path("mnt");
        wait_for(|| fs::read_dir(mount.join("primary/web")).is_ok());
        Self { child, mount }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut umount = Command::new("umount");
        let _ = umount
            .arg("-l")
            .arg(&self.mount)
            .stderr(Stdio::null())
            .status();
    }
}

fn two_hosts() -> [Host; 2] {
    let hosts = [Host::new(), Host::new()];
    let (url, key) = (hosts[0].path("primary"), hosts[0].path("primary.key"));
    let config =
        format!("[repository.primary]\nurl = {url:?}\nkey-file = {key:?}\npack-size = \"1 MiB\"\n");
    for host in &hosts {
        fs::write(host.path("keepfs.toml"), &config).unwrap();
        fs::create_dir(host.path("mnt")).unwrap();
    }
    hosts
}

fn deleted_bytes(report: &Value) -> u64 {
    report[0]["deleted_bytes"].as_u64().unwrap()
}

/// A host that lost an open point with a large file, which is in the repository and nowhere else.
fn lost_point(lost: &Host, bytes: &[u8]) {
    let (mut random, files) = (Random(31), lost.path("files"));
    fs::create_dir(&files).unwrap();
    lost.expect(0, &["init", "--trash-days", "0", "primary"]);
    fs::write(files.join("old"), random.bytes(BYTES)).unwrap();
    lost.expect(0, &["backup", "--quiet", "files", "primary/web/gone"]);
    fs::write(files.join("old"), "new").unwrap();
    lost.expect(0, &["backup", "--quiet", "files", "primary/web/stays"]);
    lost.expect(0, &["forget", "primary/web/gone"]);

    let open = lost.path("mnt/primary/web/new.partial");
    let _daemon = Daemon::of(lost);
    fs::create_dir(&open).unwrap();
    fs::write(open.join("large"), bytes).unwrap();
    fs::File::open(&open).unwrap().sync_all().unwrap();
}

#[test]
fn the_mark_of_a_host_that_is_gone_is_shown_and_removed_elsewhere() {
    let [lost, other] = two_hosts();
    lost_point(&lost, &Random(32).bytes(BYTES));
    let prune = || other.json(&["--json", "prune", "--grace", "0", "primary"]);
    let waits = prune();
    assert_eq!(deleted_bytes(&waits), 0, "{waits}");
    let note = waits[0]["notes"].to_string();
    assert!(note.contains("keepfs forget --open"), "{waits}");
    let told = other.json(&["points", "--open", "--json", "primary"]);
    let mark = &told["marks"][0];
    let id = mark["id"].as_str().unwrap();
    assert_eq!(mark["path"], "primary/web/new.partial");
    assert!(!mark["host"].as_str().unwrap().is_empty());
    let next = format!("keepfs forget --open primary {id}");
    assert!(mark["next"].as_str().unwrap().contains(&next), "{told}");
    assert!(other.expect(0, &["points", "--open"]).contains(&next));
    // Where the open point is, it is no stranger's mark.
    let own = lost.json(&["points", "--open", "--json"]);
    assert_eq!(
        (own["points"].as_array().map(Vec::len), &own["marks"]),
        (Some(1), &Value::Array(vec![]))
    );
    let refused = lost.complaint(1, &["forget", "--open", "primary", id]);
    assert!(refused.contains("open point of this host"), "{refused}");
    other.complaint(1, &["forget", "--open", "primary", "no-such-id"]);
    other.complaint(2, &["forget", "--open", "primary"]);

    let removed = other.run(&["forget", "--open", "primary", &id[..8]]);
    let said =
        [&removed.stderr, &removed.stdout].map(|said| String::from_utf8_lossy(said).into_owned());
    assert!(
        removed.status.success() && said[0].contains("may delete"),
        "{said:?}"
    );
    assert!(
        said[1].contains(&format!("removed the mark {id}")),
        "{said:?}"
    );
    let decided = prune();
    assert!(deleted_bytes(&decided) > BYTES as u64, "{decided}");
    other.expect(0, &["check", "--read-data", "primary"]);
}

#[test]
fn a_host_that_comes_back_without_its_mark_seals_nothing_with_a_hole() {
    for pruned in [false, true] {
        let [lost, other] = two_hosts();
        let bytes = Random(33).bytes(BYTES);
        lost_point(&lost, &bytes);
        let told = other.json(&["points", "--open", "--json"]);
        let id = told["marks"][0]["id"].as_str().unwrap();
        other.expect(0, &["forget", "--open", "primary", id]);
        // The lease of the writer that stored its bytes may still be there, and ends by itself after two days.
        let leases = fs::read_dir(lost.path("primary/leases")).unwrap();
        leases.for_each(|lease| fs::remove_file(lease.unwrap().path()).unwrap());
        for _ in 0..2 {
            let grace = if pruned { "0" } else { "24h" };
            other.expect(0, &["prune", "--grace", grace, "primary"]);
        }
        other.expect(0, &["check", "--read-data", "primary"]);

        let daemon = Daemon::of(&lost);
        wait_for(|| other.json(&["points", "--open", "--json"])["marks"][0]["id"] == id);
        let (open, sealed) = (
            daemon.mount.join("primary/web/new.partial"),
            daemon.mount.join("primary/web/new"),
        );
        if pruned {
            fs::rename(&open, &sealed).unwrap_err();
            let errors = fs::read_to_string(daemon.mount.join(".keepfs/errors")).unwrap();
            assert!(errors.contains("not all of large is in"), "{errors}");
            fs::write(open.join("large"), &bytes).unwrap();
        }
        fs::rename(&open, &sealed).unwrap();
        assert!(fs::read(sealed.join("large")).unwrap() == bytes);
        drop(daemon);
        other.expect(0, &["check", "--read-data", "primary"]);
        assert_eq!(other.expect(0, &["points", "--open"]), "");
    }
}
