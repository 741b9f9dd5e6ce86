//! The systemd units: what systemd itself finds wrong with them, and what a service must be able to do as they limit it.

use crate::cli::Host;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Each of these gives a service a view of its own on files, and then nobody else sees what it mounts.
const HIDE_MOUNTS: [&str; 19] = [
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "InaccessiblePaths",
    "MountFlags",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "TemporaryFileSystem",
];

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    std::fs::read_to_string(units().join(name)).unwrap()
}

/// The values of a setting.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let settings = unit.lines().filter_map(|line| line.split_once('='));
    let of_key = settings.filter(|(name, _)| *name == key);
    of_key.map(|(_, value)| value).collect()
}

fn analyze(words: &[&str]) -> Output {
    Command::new("systemd-analyze")
        .args(words)
        .output()
        .expect("systemd-analyze is there: tests/tools.sh")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    // As they are used: instances, beside a program at the place that they name.
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for template in [
        "keepfs@.service",
        "keepfs-backup@.service",
        "keepfs-backup@.timer",
    ] {
        let program = format!("={} --config", env!("CARGO_BIN_EXE_keepfs"));
        let text = unit(template).replace("=keepfs --config", &program);
        std::fs::write(path(template), text).unwrap();
    }
    let instances = [
        path("keepfs@main.service"),
        path("keepfs-backup@main.service"),
        path("keepfs-backup@main.timer"),
    ];
    let mut words = vec!["verify", "--man=no"];
    words.extend(instances.iter().map(String::as_str));
    let verified = analyze(&words);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    assert_eq!(
        said, "",
        "systemd ignores what it does not know, and says so"
    );
    // Tenths of systemd's own measure, of which 100 is the worst; without any hardening it is 96.
    for (template, threshold) in [("keepfs@.service", "45"), ("keepfs-backup@.service", "36")] {
        let at_most = format!("--threshold={threshold}");
        let rated = analyze(&[
            "security",
            "--offline=yes",
            "--no-pager",
            &at_most,
            &path(template),
        ]);
        let said = String::from_utf8_lossy(&rated.stdout);
        assert!(rated.status.success(), "{said}");
    }
}

#[test]
fn the_service_hides_its_mount_from_nobody() {
    let unit = unit("keepfs@.service");
    for key in HIDE_MOUNTS {
        assert_eq!(values(&unit, key), Vec::<&str>::new(), "{key}");
    }
}

/// With the capabilities that the unit leaves it, and its own way of saying that it is ready.
#[test]
fn the_service_tells_that_it_is_ready_when_the_mount_answers() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    host.expect(
        0,
        &[
            "backup",
            "--quiet",
            host.files().to_str().unwrap(),
            "primary/home/one",
        ],
    );
    std::fs::create_dir(host.path("mnt")).unwrap();
    let socket = UnixDatagram::bind(host.path("notify")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let unit = unit("keepfs@.service");
    assert_eq!(values(&unit, "Type"), ["notify"]);
    let left = values(&unit, "CapabilityBoundingSet")[0].to_lowercase();
    let left = left.replace("cap_", "+").replace(' ', ",");
    let mut daemon = Command::new("setpriv")
        .args([&format!("--bounding-set=-all,{left}"), "--no-new-privs"])
        .arg(env!("CARGO_BIN_EXE_keepfs"))
        .args(["mount", "--foreground", "mnt"])
        .envs(
            host.command::<&str>(&[])
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .env("NOTIFY_SOCKET", host.path("notify"))
        .current_dir(host.home.path())
        .spawn()
        .unwrap();
    let mut heard = [0; 64];
    let heard = socket.recv(&mut heard).map(|bytes| heard[..bytes].to_vec());
    let letter = std::fs::read(host.path("mnt/primary/home/one/letter"));
    let open = host.path("mnt/offsite/home/two.partial");
    let written = std::fs::create_dir_all(&open)
        .and_then(|()| std::fs::write(open.join("new"), "new"))
        .and_then(|()| std::fs::rename(&open, open.with_file_name("two")));
    // SAFETY: kill takes two numbers; the process is a child that nobody has waited for.
    unsafe { libc::kill(daemon.id().try_into().unwrap(), libc::SIGTERM) };
    let ended = daemon.wait().unwrap();
    assert_eq!(heard.unwrap(), b"READY=1\n");
    assert_eq!(letter.unwrap(), b"Dear Alice");
    written.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(std::fs::read_dir(host.path("mnt")).unwrap().count(), 0);
}
