//! Clusters: several nodes and the disk that they share are one restore point, and the disk is stored and sent once.

use crate::cli::Host;
use crate::engine::{full, seed};
use crate::mount::{Mount, run, same_trees};
use crate::mount_writes::{settings, state_of};
use crate::proxy::{Proxy, Request};
use crate::servers::{AZURITE_KEY, S3_SECRET, azurite_container, seaweedfs_bucket};
use crate::sites::{MIB, Random};
use keepfs::store::CloudOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const NODES: [&str; 3] = ["web1", "web2", "web3"];

/// The nodes of a cluster on one host, and their disk.
struct Cluster {
    host: Host,
    disk_bytes: u64,
    /// The block device behind which the disk lies just now.
    device: Option<String>,
}

impl Cluster {
    /// Each node has a tenth as many bytes as the disk.
    fn new(disk_bytes: u64) -> Self {
        let host = Host::new();
        let mut random = Random(4711);
        for node in NODES {
            let directory = host.path("nodes").join(node);
            std::fs::create_dir_all(directory.join("etc")).expect("makes");
            let own = random.bytes((disk_bytes / 10) as usize);
            std::fs::write(directory.join("own"), own).expect("writes");
            std::fs::write(directory.join("etc/name"), node).expect("writes");
        }
        std::fs::write(host.path("disk"), random.bytes(disk_bytes as usize)).expect("writes");
        // Older than what rsync, which looks at whole seconds, takes for the directory that it has just made.
        run(&format!(
            "find '{}' -depth -exec touch -h -d '1 hour ago' {{}} +",
            host.path("nodes").display()
        ));
        let mut cluster = Self {
            host,
            disk_bytes,
            device: None,
        };
        cluster.attach("disk");
        cluster
    }

    fn unique_bytes(&self) -> u64 {
        self.disk_bytes + NODES.len() as u64 * (self.disk_bytes / 10)
    }

    /// Lets the disk in this file be a block device of the host.
    fn attach(&mut self, file: &str) {
        self.detach();
        let file = self.host.path(file);
        let device = run(&format!("losetup --find --show '{}'", file.display()));
        self.device = Some(device.trim().to_owned());
    }

    fn detach(&mut self) {
        if let Some(device) = self.device.take() {
            run(&format!("losetup --detach {device}"));
        }
    }

    /// The words of a backup of all nodes and the disk.
    fn backup(&self, place: &str) -> Vec<String> {
        let nodes = NODES.iter().flat_map(|node| {
            let path = self.host.path("nodes").join(node);
            ["--node".into(), format!("{node}={}", path.display())]
        });
        let device = self.device.as_ref().expect("it is attached");
        let shared = ["--shared".into(), format!("disk={device}"), place.into()];
        let first = ["--quiet".into(), "backup".into()];
        first.into_iter().chain(nodes).chain(shared).collect()
    }

    /// Whether a point has all that the cluster has now.
    fn assert_restores(&self, point: &str, disk: &str) {
        let target = self.host.path("restored");
        let words = ["restore", point, target.to_str().expect("text")];
        self.host.expect(0, &words);
        same_trees_of(&self.host.path("nodes"), &target.join("nodes"));
        let (disk, copy) = (self.host.path(disk), target.join("shared/disk"));
        run(&format!("cmp '{}' '{}'", disk.display(), copy.display()));
        std::fs::remove_dir_all(target).expect("removes");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The directory above the nodes is made up, so its own time is nobody's.
fn same_trees_of(nodes: &Path, copy: &Path) {
    for node in NODES {
        same_trees(&nodes.join(node), &copy.join(node));
    }
}

/// A kind of store, and what keepfs has sent to it.
struct Place {
    name: &'static str,
    sent: Sent,
}

enum Sent {
    /// A directory has no wire: what lies in it counts.
    Directory(PathBuf),
    Proxy(Proxy),
}

impl Place {
    fn on_disk(cluster: &Cluster) -> (Self, String) {
        let section = |name: &str| {
            format!("[repository.{name}]\nurl = \"{name}\"\nkey-file = \"{name}.key\"\n")
        };
        let sent = Sent::Directory(cluster.host.path("."));
        let text = section("disk-one") + &section("disk-two");
        (Self { name: "disk", sent }, text)
    }

    fn in_cloud(
        name: &'static str,
        (url, options): (String, CloudOptions),
        secret: &str,
    ) -> (Self, String) {
        let proxy = Proxy::before(&options.endpoint.expect("a server of its own"));
        let section = |number: &str| {
            format!(
                "[repository.{name}-{number}]\nurl = \"{url}/{number}\"\nendpoint = \"{}\"\nallow-http = true\n\
                 region = \"us-east-1\"\naccess-key = \"{}\"\nsecret-key = \"{secret}\"\nkey-file = \"{name}-{number}.key\"\n",
                proxy.endpoint,
                options.access_key.as_deref().expect("a key"),
            )
        };
        let text = section("one") + &section("two");
        let sent = Sent::Proxy(proxy);
        (Self { name, sent }, text)
    }

    /// Bytes in packs that a command sends.
    fn sent_by(&self, number: &str, command: impl FnOnce()) -> u64 {
        let in_packs = |request: &Request| request.is_put() && request.path().contains("/packs/");
        match &self.sent {
            Sent::Directory(directory) => {
                let packs = directory.join(format!("disk-{number}/packs"));
                let bytes = || {
                    let sum = "awk '{s += $1} END {printf \"%d\", s}'";
                    let find = format!("find '{}' -type f -printf '%s\\n'", packs.display());
                    run(&format!("{find} 2>/dev/null | {sum} || echo 0"))
                        .trim()
                        .parse::<u64>()
                        .unwrap_or(0)
                };
                std::fs::create_dir_all(&packs).expect("makes");
                let before = bytes();
                command();
                bytes() - before
            }
            Sent::Proxy(proxy) => {
                proxy.clear_log();
                command();
                proxy.sum(in_packs, |request| request.sent)
            }
        }
    }
}

/// Whether all are the same but for one in a hundred.
fn about_equal(figures: &[u64]) -> bool {
    let (least, most) = (figures.iter().min(), figures.iter().max());
    let (least, most) = least.zip(most).expect("some");
    most * 100 <= least * 101
}

#[test]
fn a_shared_disk_crosses_the_wire_once_on_every_kind_of_store_and_only_changes_follow() {
    let disk_bytes = if full() { 1 << 30 } else { 48 * MIB };
    let mut cluster = Cluster::new(disk_bytes);
    let (places, texts): (Vec<_>, Vec<_>) = [
        Place::on_disk(&cluster),
        Place::in_cloud("s3", seaweedfs_bucket("clusters"), S3_SECRET),
        Place::in_cloud("azure", azurite_container("clusters"), AZURITE_KEY),
    ]
    .into_iter()
    .unzip();
    std::fs::write(cluster.host.path("keepfs.toml"), texts.concat()).expect("writes");
    for place in &places {
        for number in ["one", "two"] {
            let name = format!("{}-{number}", place.name);
            cluster.host.expect(0, &["--quiet", "init", &name]);
        }
    }
    let back_up = |cluster: &Cluster, point: &str| -> Vec<u64> {
        let sent = places.iter().map(|place| {
            let words = cluster.backup(&format!("{}-one/cluster/{point}", place.name));
            place.sent_by("one", || drop(cluster.host.expect(0, &words)))
        });
        sent.collect()
    };
    let copy = |cluster: &Cluster| -> Vec<u64> {
        let sent = places.iter().map(|place| {
            let [from, to] = ["one", "two"].map(|number| format!("{}-{number}", place.name));
            let words = ["--quiet", "copy", &from, &to];
            place.sent_by("two", || drop(cluster.host.expect(0, &words)))
        });
        sent.collect()
    };

    let unique = cluster.unique_bytes();
    for (what, sent) in [
        ("backup", back_up(&cluster, "first")),
        ("copy", copy(&cluster)),
    ] {
        eprintln!("{what}: {sent:?} of {unique} unique bytes");
        let all = unique..=unique * 105 / 100;
        assert!(
            sent.iter().all(|bytes| all.contains(bytes)),
            "{what}: {sent:?}"
        );
        assert!(about_equal(&sent), "{what}: {sent:?}");
    }

    // Another node has the disk now: it is another device, and a tenth of it has changed.
    std::fs::copy(cluster.host.path("disk"), cluster.host.path("moved")).expect("copies");
    let moved = std::fs::File::options()
        .write(true)
        .open(cluster.host.path("moved"));
    let (moved, mut random) = (moved.expect("opens"), Random(7));
    let run_bytes = disk_bytes / 40;
    for run in 0..4 {
        let offset = (run * disk_bytes / 4).next_multiple_of(1 << 16);
        let changed = random.bytes(run_bytes as usize & !0xffff);
        moved.write_all_at(&changed, offset).expect("writes");
    }
    let changed = 4 * (run_bytes & !0xffff);
    cluster.attach("moved");
    for (what, sent) in [
        ("failover", back_up(&cluster, "second")),
        ("its copy", copy(&cluster)),
    ] {
        eprintln!("{what}: {sent:?} of {changed} changed bytes");
        let all = changed..=changed * 105 / 100;
        assert!(
            sent.iter().all(|bytes| all.contains(bytes)),
            "{what}: {sent:?}"
        );
    }
    for place in &places {
        for number in ["one", "two"] {
            let name = format!("{}-{number}", place.name);
            cluster.assert_restores(&format!("{name}/cluster/first"), "disk");
            cluster.assert_restores(&format!("{name}/cluster/second"), "moved");
        }
    }
}

#[test]
fn a_node_or_a_disk_that_cannot_be_read_leaves_no_point() {
    let cluster = Cluster::new(MIB);
    cluster.host.expect(0, &["init", "primary"]);
    let points = || cluster.host.expect(0, &["points", "--json", "primary"]);
    let words = cluster.backup("primary/cluster/one");
    let with = |more: &str, source: &str| {
        let mut words = words.clone();
        words.splice(2..2, [more.to_owned(), source.to_owned()]);
        words
    };
    for wrong in [with("--node", "web1=/tmp"), with("--node", "a/b=/tmp")] {
        cluster.host.complaint(2, &wrong);
    }
    let said = cluster
        .host
        .complaint(1, &with("--node", "web4=/none/web4"));
    assert!(said.contains("/none/web4"), "{said}");
    // It can be opened, and not read.
    let said = cluster
        .host
        .complaint(1, &with("--shared", "bad=/proc/self/mem"));
    assert!(said.contains("shared/bad could not be read"), "{said}");
    assert!(!points().contains("\"one\""), "{}", points());
    // The rest of it is stored: all that is sent by the next run is a few trees.
    let report = cluster
        .host
        .json(&[&["--json".to_owned()], &words[..]].concat());
    assert!(report["stored_bytes"].as_u64() < Some(64 << 10), "{report}");
    assert!(points().contains("\"one\""));
    cluster.assert_restores("primary/cluster/one", "disk");

    let both = ["backup", "--node", "a=/tmp", "/etc", "primary/cluster"];
    cluster.host.complaint(2, &both);
    cluster.host.complaint(2, &["backup", "primary/cluster"]);
}

/// A device tells by nothing that its content has changed: it is always read.
#[test]
fn a_device_is_read_each_time_and_an_image_only_when_it_has_changed() {
    let cluster = Cluster::new(20 * MIB);
    cluster.host.expect(0, &["init", "primary"]);
    cluster
        .host
        .expect(0, &cluster.backup("primary/cluster/one"));
    let device = std::fs::File::options()
        .write(true)
        .open(cluster.device.as_ref().expect("attached"));
    let device = device.expect("opens");
    device.write_all_at(b"changed", 5 * MIB).expect("writes");
    device.sync_all().expect("syncs");
    std::thread::sleep(Duration::from_millis(200));
    cluster
        .host
        .expect(0, &cluster.backup("primary/cluster/two"));
    cluster.assert_restores("primary/cluster/two", "disk");

    let image = format!("disk={}", cluster.host.path("disk").display());
    std::thread::sleep(Duration::from_millis(200));
    for (point, files_read) in [("three", 1), ("four", 0)] {
        let place = format!("primary/cluster/{point}");
        let words = ["--json", "backup", "--shared", &image, &place];
        assert_eq!(cluster.host.json(&words)["files_read"], files_read);
        let words = ["diff", "primary/cluster/two", &place];
        let changes = cluster.host.expect(1, &words);
        assert!(!changes.contains("- shared"), "{changes}");
    }
}

#[test]
fn a_cluster_backup_that_is_killed_at_any_moment_shows_all_nodes_or_none() {
    let kills = if full() { 50 } else { 10 };
    let mut random = Random(seed("clusters"));
    let cluster = Cluster::new(8 * MIB);
    cluster.host.expect(0, &["init", "primary"]);
    let (mut killed, mut shown) = (0, 0);
    for number in 0..kills {
        for node in NODES {
            let own = cluster.host.path("nodes").join(node).join("own");
            std::fs::write(own, random.bytes(MIB as usize)).expect("writes");
        }
        let point = format!("primary/cluster/{number}");
        let mut command = cluster.host.command(&cluster.backup(&point));
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        std::thread::sleep(Duration::from_micros(random.below(700_000)));
        child.kill().expect("kills");
        killed += usize::from(!child.wait().expect("ends").success());
        let points = cluster.host.expect(0, &["points", "--json", "primary"]);
        if points.contains(&format!("\"name\":\"{number}\""))
            || points.contains(&format!("\"name\": \"{number}\""))
        {
            shown += 1;
            cluster.assert_restores(&point, "disk");
        }
    }
    eprintln!("{killed} of {kills} were killed before their end, {shown} show");
    assert!(killed > 0);
    cluster
        .host
        .expect(0, &cluster.backup("primary/cluster/last"));
    cluster.assert_restores("primary/cluster/last", "disk");
    cluster.host.expect(0, &["check", "--read-data", "primary"]);
}

#[test]
fn a_cluster_is_written_through_the_mount_into_one_open_point() {
    let cluster = Cluster::new(20 * MIB);
    let bench = crate::engine::Bench::new(&settings());
    let mount = Mount::of_bench(&bench);
    let backup = mount.path().join("primary/cluster");
    let nodes = cluster.host.path("nodes");
    let open = backup.join("one.partial");
    run(&format!(
        "mkdir -p '{0}/nodes' '{0}/shared'",
        open.display()
    ));
    for node in NODES {
        let (from, to) = (nodes.join(node), open.join("nodes"));
        run(&format!(
            "rsync -a '{}' '{}/'",
            from.display(),
            to.display()
        ));
        assert_eq!(state_of(&open), "open");
    }
    let disk = cluster.host.path("disk");
    run(&format!(
        "rsync -a '{}' '{}/shared/'; mv '{1}' '{2}/one'",
        disk.display(),
        open.display(),
        backup.display()
    ));
    let point = backup.join("one");
    assert_eq!(state_of(&point), "complete");
    same_trees_of(&nodes, &point.join("nodes"));
    run(&format!(
        "cmp '{}' '{}/shared/disk'",
        disk.display(),
        point.display()
    ));
}
