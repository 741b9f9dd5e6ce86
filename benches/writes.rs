//! What writing into the mount costs: ordinary tools into an open point, into an empty file system on the same kernel
//! (the floor: nothing that is mounted by FUSE can be faster), and onto the file system of the temporary directory.
//!
//! `cargo bench --bench writes [large|small|linked]`, as root, with `rsync` and `tar`. Each place is taken once before
//! anything is measured, and then three times in rotation; medians are printed, and keepfs as a ratio to both others.
//! *stored* is the rename that returns when all of it is in the repository, and `sync` on the plain file system.
//! Requests are those that the kernel sends, for each file or each MiB: the figure that must not grow.

#![allow(clippy::disallowed_methods)] // a bench measures time

mod empty;

use empty::Empty;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LARGE_MIB: usize = 512;
const SMALL_FILES: usize = 10_000;
const FILES_PER_DIRECTORY: usize = 100;
const ROUNDS: usize = 3;

/// What a tool is asked to do: `$S` is the source, `$T` the directory that it makes, `$P` what it made the day before.
struct Job {
    kind: &'static str,
    name: &'static str,
    command: &'static str,
    /// Files or MiB.
    items: usize,
    /// Whether it goes by what it made the day before.
    again: bool,
}

const JOBS: [Job; 6] = [
    Job {
        kind: "large",
        name: "512 MiB in requests of 1 MiB (dd)",
        command: "mkdir $T && dd if=$S/large of=$T/large bs=1M status=none",
        items: LARGE_MIB,
        again: false,
    },
    Job {
        kind: "large",
        name: "512 MiB by cp",
        command: "mkdir $T && cp $S/large $T/large",
        items: LARGE_MIB,
        again: false,
    },
    Job {
        kind: "small",
        name: "10,000 files of 4 KiB by cp -a",
        command: "cp -a $S/small $T",
        items: SMALL_FILES,
        again: false,
    },
    Job {
        kind: "small",
        name: "the same by rsync -a",
        command: "rsync -a $S/small/ $T/",
        items: SMALL_FILES,
        again: false,
    },
    Job {
        kind: "small",
        name: "the same by tar x",
        command: "mkdir $T && tar -C $T -xf $S/small.tar",
        items: SMALL_FILES,
        again: false,
    },
    Job {
        kind: "linked",
        name: "all unchanged, rsync -a --link-dest",
        command: "rsync -a --link-dest=$P/ $S/small/ $T/",
        items: SMALL_FILES,
        again: true,
    },
];

/// Where tools write.
trait Place {
    fn name(&self) -> &'static str;
    /// Where a job of this name makes its directory.
    fn target(&self, job: &str) -> PathBuf;
    /// Where a job's directory is found when it was stored.
    fn stored(&self, job: &str) -> PathBuf;
    /// Returns when everything of that job is stored.
    fn store(&self, job: &str);
    fn remove(&self, job: &str);
    /// Requests of the kernel so far.
    fn requests(&self) -> Option<u64>;
}

struct Plain(PathBuf);

impl Place for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn target(&self, job: &str) -> PathBuf {
        self.0.join(job)
    }

    fn stored(&self, job: &str) -> PathBuf {
        self.0.join(job)
    }

    fn store(&self, _: &str) {
        shell("sync -f .", &self.0, &[]);
    }

    fn remove(&self, job: &str) {
        std::fs::remove_dir_all(self.target(job)).expect("the job's directory can be removed");
        self.store(job);
    }

    fn requests(&self) -> Option<u64> {
        None
    }
}

struct Floor {
    directory: PathBuf,
    requests: Arc<AtomicU64>,
    /// Unmounts when it is dropped.
    _session: fuser::BackgroundSession,
}

impl Floor {
    fn new(directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).expect("a place to mount the empty file system");
        let requests = Arc::new(AtomicU64::new(0));
        let mut config = fuser::Config::default();
        config.n_threads = Some(2);
        let empty = Empty::new(requests.clone());
        let session = fuser::Session::new(empty, &directory, &config).expect("mounting");
        Self {
            directory,
            requests,
            _session: session.spawn().expect("serving the empty file system"),
        }
    }
}

impl Place for Floor {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn target(&self, job: &str) -> PathBuf {
        self.directory.join(job)
    }

    fn stored(&self, job: &str) -> PathBuf {
        self.directory.join(job)
    }

    fn store(&self, _: &str) {}

    fn remove(&self, job: &str) {
        std::fs::remove_dir_all(self.target(job)).expect("the job's directory can be removed");
    }

    fn requests(&self) -> Option<u64> {
        Some(self.requests.load(Ordering::Relaxed))
    }
}

struct Keepfs {
    mount: PathBuf,
    daemon: Child,
}

impl Keepfs {
    fn new(work: &Path) -> Self {
        let binary = env!("CARGO_BIN_EXE_keepfs");
        let (config, mount) = (work.join("keepfs.toml"), work.join("keep"));
        let repository = format!(
            "[repository.main]\nurl = \"{0}/main\"\nkey-file = \"{0}/main.key\"\n",
            work.display()
        );
        std::fs::write(&config, repository).expect("a configuration can be written");
        std::fs::create_dir(&mount).expect("a place to mount");
        let keepfs = |arguments: &[&str]| {
            let mut command = Command::new(binary);
            command.arg("--config").arg(&config).args(arguments);
            command
                .env("XDG_CACHE_HOME", work.join("cache"))
                .env("XDG_STATE_HOME", work.join("state"));
            command
        };
        let made = keepfs(&["--quiet", "init", "main"]).status();
        assert!(made.expect("keepfs runs").success(), "init");
        let mut daemon = keepfs(&["mount", "--foreground"]);
        let daemon = daemon.arg(&mount).spawn().expect("keepfs runs");
        while !mount.join("main").is_dir() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::create_dir(mount.join("main/bench")).expect("a backup can be made");
        Self { mount, daemon }
    }
}

impl Place for Keepfs {
    fn name(&self) -> &'static str {
        "keepfs"
    }

    fn target(&self, job: &str) -> PathBuf {
        self.mount.join(format!("main/bench/{job}.partial"))
    }

    fn stored(&self, job: &str) -> PathBuf {
        self.mount.join("main/bench").join(job)
    }

    fn store(&self, job: &str) {
        let sealed = std::fs::rename(self.target(job), self.stored(job));
        sealed.expect("the point can be sealed");
    }

    fn remove(&self, job: &str) {
        std::fs::remove_dir(self.stored(job)).expect("the point can be forgotten");
    }

    fn requests(&self) -> Option<u64> {
        let metrics = std::fs::read_to_string(self.mount.join(".keepfs/metrics")).ok()?;
        let counts = metrics.lines().filter_map(|line| {
            let count = line.strip_prefix("keepfs_fuse_requests_total{")?;
            count.split(' ').nth(1)?.parse::<u64>().ok()
        });
        Some(counts.sum())
    }
}

impl Drop for Keepfs {
    fn drop(&mut self) {
        // When it fails the daemon stays, and so does its mount: the person at the terminal sees both.
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = self.daemon.wait();
    }
}

fn shell(command: &str, directory: &Path, variables: &[(&str, &Path)]) {
    let mut shell = Command::new("sh");
    shell.args(["-euc", command]).current_dir(directory);
    shell.envs(variables.iter().copied());
    let status = shell.status().expect("sh runs");
    assert!(status.success(), "failed: {command}");
}

/// Bytes of five bits of noise each: they compress to about five eighths, and no chunk is there twice.
fn fill(bytes: &mut [u8], state: &mut u64) {
    for byte in bytes {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *byte = b'@' + (*state >> 40) as u8 % 32;
    }
}

/// The files that are written, anew for each round: keepfs must not find the bytes of the round before.
fn make_source(directory: &Path, kinds: &[&str], state: &mut u64) {
    if directory.exists() {
        std::fs::remove_dir_all(directory).expect("the old source can be removed");
    }
    std::fs::create_dir_all(directory.join("small")).expect("a source can be made");
    if kinds.contains(&"large") {
        let mut content = vec![0; LARGE_MIB << 20];
        fill(&mut content, state);
        std::fs::write(directory.join("large"), content).expect("a source can be written");
    }
    if kinds.contains(&"small") || kinds.contains(&"linked") {
        let mut content = vec![0; 4096];
        for file in 0..SMALL_FILES {
            let below = directory.join(format!("small/{}", file / FILES_PER_DIRECTORY));
            std::fs::create_dir_all(&below).expect("a source can be made");
            fill(&mut content, state);
            std::fs::write(below.join(file.to_string()), &content)
                .expect("a source can be written");
        }
        shell("tar -C small -cf small.tar .", directory, &[]);
    }
    shell("sync -f .", directory, &[]);
}

/// Seconds of the tool and of storing, and requests.
#[derive(Clone, Copy)]
struct Figures {
    tool: f64,
    store: f64,
    requests: Option<u64>,
}

fn measure(place: &dyn Place, job: &Job, source: &Path, label: &str, previous: &str) -> Figures {
    let (target, before) = (place.target(label), place.stored(previous));
    let counted = place.requests();
    let began = Instant::now();
    shell(
        job.command,
        source,
        &[("S", source), ("T", &target), ("P", &before)],
    );
    let tool = began.elapsed().as_secs_f64();
    let requests = place.requests().zip(counted).map(|(now, then)| now - then);
    let began = Instant::now();
    place.store(label);
    Figures {
        tool,
        store: began.elapsed().as_secs_f64(),
        requests,
    }
}

fn median(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<&str> = asked
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let kinds = match asked.is_empty() {
        true => vec!["large", "small", "linked"],
        false => asked,
    };
    let work = tempfile::tempdir().expect("a temporary directory");
    let source = work.path().join("source");
    let plain = work.path().join("plain");
    std::fs::create_dir(&plain).expect("a directory can be made");
    let places: [Box<dyn Place>; 3] = [
        Box::new(Plain(plain)),
        Box::new(Floor::new(work.path().join("empty"))),
        Box::new(Keepfs::new(work.path())),
    ];
    let mut state = 88_172_645_463_325_252;
    println!(
        "| | empty, s | plain, s (stored) | keepfs, s (stored) | of empty | of plain, stored too | requests: empty, keepfs |"
    );
    println!("|---|---|---|---|---|---|---|");
    for job in JOBS.iter().filter(|job| kinds.contains(&job.kind)) {
        let mut all: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
        for round in 0..=ROUNDS {
            make_source(&source, &[job.kind], &mut state);
            for turn in 0..places.len() {
                let place = &places[(round + turn) % places.len()];
                let (label, previous) = (format!("day-{round}"), format!("day-before-{round}"));
                if job.again {
                    let first = Job {
                        command: "rsync -a $S/small/ $T/",
                        ..*job
                    };
                    measure(place.as_ref(), &first, &source, &previous, &previous);
                }
                let figures = measure(place.as_ref(), job, &source, &label, &previous);
                place.remove(&label);
                if job.again {
                    place.remove(&previous);
                }
                if round > 0 {
                    all.entry(place.name()).or_default().push(figures);
                }
            }
        }
        report(job, &all);
    }
}

fn report(job: &Job, all: &BTreeMap<&str, Vec<Figures>>) {
    let (empty, plain, keepfs) = (&all["empty"], &all["plain"], &all["keepfs"]);
    let each = |figures: &[Figures]| {
        median(figures, |figures| {
            figures.requests.unwrap_or_default() as f64 / job.items as f64
        })
    };
    let whole = |figures: &[Figures]| median(figures, |figures| figures.tool + figures.store);
    let tool = |figures: &[Figures]| median(figures, |figures| figures.tool);
    println!(
        "| {} | {:.2} | {:.2} ({:.2}) | {:.2} ({:.2}) | {:.2} | {:.2} | {:.1}, {:.1} |",
        job.name,
        tool(empty),
        tool(plain),
        whole(plain),
        tool(keepfs),
        whole(keepfs),
        tool(keepfs) / tool(empty),
        whole(keepfs) / whole(plain),
        each(empty),
        each(keepfs),
    );
}
