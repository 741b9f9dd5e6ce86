//! Suites that others wrote, on an open point of a real mount: what they have written is then sealed and compared.

use crate::engine::{Bench, full, seed};
use crate::mount::{Mount, catalog, run, try_run};
use crate::mount_writes::{settings, state_of};
use crate::servers::tool;
use std::path::{Path, PathBuf};

/// A mounted repository with an open point that only a rename will seal.
pub struct Open {
    bench: Bench,
    mount: Mount,
    pub point: PathBuf,
}

impl Open {
    pub fn new() -> Self {
        let bench = Bench::new(&settings());
        let mount = Mount::of(vec![("primary", catalog(&bench))]);
        let point = mount.path().join("primary/host/x.partial");
        run(&format!("mkdir -p '{}'", point.display()));
        Self {
            bench,
            mount,
            point,
        }
    }

    /// Seals the point and mounts it again: `look` must show the same before and behind each.
    pub fn seal_and_compare(self, look: &dyn Fn(&Path) -> String) {
        let before = look(&self.point);
        let sealed = self.point.with_file_name("x");
        std::fs::rename(&self.point, &sealed).unwrap();
        assert_eq!(state_of(&sealed), "complete");
        assert_eq!(look(&sealed), before, "sealed");
        let state = self.mount.unmount();
        let mount = Mount::with_state(vec![("primary", catalog(&self.bench))], state);
        let sealed = mount.path().join("primary/host/x");
        assert_eq!(look(&sealed), before, "mounted again");
    }
}

pub fn sums(top: &Path) -> String {
    let top = top.display();
    run(&format!(
        "cd '{top}' && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r b2sum"
    ))
}

/// What pjdfstest skips, by the last part of a test's name: why, and what is not shown for that.
const SKIPPED: [(&str, &str); 3] = [
    (
        "erofs_named",
        "remounts the whole mount read-only with mount(8), which asks a program named as the mount's source to do it. \
         Cost: that the kernel answers EROFS before it asks us is not shown; EROFS of complete points is, elsewhere",
    ),
    ("erofs_new_file", "as erofs_named"),
    (
        "link_count_max",
        "the C library knows no limit of a FUSE file system's links. Cost: none; there is no limit, so never EMLINK",
    ),
];

/// pjdfstest wants two users beside root, who exist.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = false
expected_failures = []
[dummy_auth]
entries = [["nobody", "nogroup"], ["tests", "tests"]]
"#;

/// The user `tests`, made if missing and then removed with this.
struct Tests {
    ours: bool,
}

impl Tests {
    fn new() -> Self {
        let ours = !try_run("id -u tests").status.success();
        if ours {
            run("useradd --system --no-create-home --user-group --shell /usr/sbin/nologin tests");
        }
        Self { ours }
    }
}

impl Drop for Tests {
    fn drop(&mut self) {
        if self.ours {
            try_run("userdel tests");
        }
    }
}

#[test]
fn pjdfstest_passes() {
    let open = Open::new();
    let _user = Tests::new();
    let home = tempfile::tempdir().unwrap();
    let configuration = home.path().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    // The second file system is where a rename or link must not lead.
    let output = try_run(&format!(
        "chmod 755 '{2}' && '{0}' -c '{1}' -p '{2}' -s /dev/shm 2>&1",
        tool("bin/pjdfstest").display(),
        configuration.display(),
        open.point.display()
    ));
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = said.lines().find(|line| line.starts_with("Summary:"));
    let summary = summary.unwrap_or_else(|| panic!("no summary: {said}"));
    let failed: Vec<&str> = said
        .lines()
        .filter(|line| line.ends_with("FAILED"))
        .collect();
    assert!(
        output.status.success() && failed.is_empty(),
        "{failed:#?} {summary}"
    );
    let skipped = said.lines().filter(|line| line.ends_with(" skipped"));
    for line in skipped {
        let name = line.split_whitespace().next().unwrap_or_default();
        let last = name.rsplit("::").next().unwrap_or_default();
        let known = SKIPPED.iter().any(|(excluded, _)| *excluded == last);
        assert!(known, "{name} is skipped, and nobody says why");
    }
    let passed = summary
        .split(", ")
        .find_map(|part| part.strip_suffix(" passed"));
    let passed: u32 = passed.and_then(|number| number.parse().ok()).unwrap();
    assert!(passed >= 384, "{summary}");
    open.seal_and_compare(&sums);
}

/// A file that fsx changes at random: its length, the longest operation, how many operations.
struct Exercise {
    length: u64,
    longest: u64,
    count: u64,
}

impl Exercise {
    fn run(&self, file: &Path, seed: u64) {
        let home = tempfile::tempdir().unwrap();
        let configuration = home.path().join("fsx.toml");
        // Of no bytes at all, posix_fallocate is an error everywhere, which fsx does not expect.
        let text = format!(
            "flen = {}\n[opsize]\nmin = 1\nmax = {}\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\nmapread = 10\n\
             mapwrite = 10\ninvalidate = 1\ntruncate = 4\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 3\n\
             punch_hole = 4\nsendfile = 3\nposix_fadvise = 1\ncopy_file_range = 4\n",
            self.length, self.longest
        );
        std::fs::write(&configuration, text).unwrap();
        run(&format!(
            "cd '{}'; '{}' -f '{}' -P . -N {} -S {seed} '{}' >said 2>&1 || {{ tail -40 said; exit 1; }}
             grep -q 'All operations completed' said",
            home.path().display(),
            tool("bin/fsx").display(),
            configuration.display(),
            self.count,
            file.display()
        ));
    }
}

#[test]
fn fsx_finds_what_it_wrote() {
    let seed = seed("fsx_finds_what_it_wrote");
    let (small, large) = match full() {
        false => (800, 250),
        true => (100_000, 20_000),
    };
    let exercises = [
        Exercise {
            length: 60_000,
            longest: 15_000,
            count: small,
        },
        // Several chunks.
        Exercise {
            length: 9_000_000,
            longest: 500_000,
            count: large,
        },
    ];
    let open = Open::new();
    for (number, exercise) in exercises.iter().enumerate() {
        for run in 0..2 {
            let file = open.point.join(format!("file-{number}-{run}"));
            exercise.run(&file, seed.wrapping_add(run) % (1 << 31));
        }
    }
    open.seal_and_compare(&sums);
}
