//! Random operations beside a model: what shows is what the model has, and reads as the source was.
//!
//! The model is a map of repositories, backups and points to trees as the kernel showed them when they were backed up.

use crate::crash::assert_restores;
use crate::engine::{Bench, assert_clean, full, seed};
use crate::mount::run;
use crate::sites::Random;
use keepfs::backup::{Options, backup};
use keepfs::copy::{End, Scope, Selection, TransferOptions, copy_points};
use keepfs::progress::Progress;
use keepfs::repository::Settings;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Points of a repository by backup and name, each with the directory that holds what it must read as.
type Points = BTreeMap<(String, String), PathBuf>;

/// Points that one repository keeps: more would only make each step slower.
const POINTS_MAX: usize = 8;

struct Model {
    random: Random,
    source: tempfile::TempDir,
    snapshots: tempfile::TempDir,
    benches: [Bench; 2],
    ends: [End; 2],
    points: [Points; 2],
    made: usize,
}

impl Model {
    fn new(seed: u64) -> Self {
        let settings = Settings {
            pack_bytes: 1 << 20,
            ..Settings::default()
        };
        let benches = [Bench::new(&settings), Bench::new(&settings)];
        let ends = benches
            .each_ref()
            .map(|bench| End::open(bench.open()).unwrap());
        Self {
            random: Random(seed),
            source: tempfile::tempdir().unwrap(),
            snapshots: tempfile::tempdir().unwrap(),
            benches,
            ends,
            points: Default::default(),
            made: 0,
        }
    }

    fn path(&mut self) -> PathBuf {
        let name = format!("d{}/f{}", self.random.below(3), self.random.below(8));
        let path = self.source.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Changes the source at random. What cannot be done, such as removing what is not there, changes nothing.
    fn change(&mut self) {
        let (path, other) = (self.path(), self.path());
        let length = self.random.below(60_000);
        match self.random.below(9) {
            0..=2 => {
                let bytes = self.random.bytes(length as usize);
                let _ = std::fs::remove_file(&path);
                std::fs::write(&path, bytes).unwrap();
            }
            3 => drop(std::fs::remove_file(path)),
            4 => drop(std::fs::rename(path, other)),
            5 => drop(std::fs::hard_link(path, other)),
            6 => drop(std::os::unix::fs::symlink(format!("to/{length}"), path)),
            7 if path.is_file() && !path.is_symlink() => {
                let mode = 0o400 | self.random.below(0o1000) as u32;
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            }
            _ if path.is_file() && !path.is_symlink() => {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_len(length).unwrap();
            }
            _ => {}
        }
    }

    fn back_up(&mut self) {
        self.made += 1;
        let (name, point) = (
            format!("b{}", self.random.below(2)),
            format!("p{}", self.made),
        );
        let options = Options {
            sources: vec![self.source.path().to_owned()],
            backup: name.clone().into(),
            point: Some(point.clone().into()),
            ..Options::default()
        };
        let end = &self.ends[0];
        let report = backup(&end.catalog, &end.trees, &options, &Progress::default()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let kept = self.snapshots.path().join(self.made.to_string());
        let (from, to) = (self.source.path().display(), kept.display());
        run(&format!("cp -a '{from}' '{to}'"));
        self.points[0].insert((name, point), kept);
        while self.points[0].len() > POINTS_MAX {
            self.forget(0);
        }
    }

    fn pick(&mut self, which: usize) -> Option<(String, String)> {
        let count = self.points[which].len() as u64;
        let at = self.random.below(count.max(1)) as usize;
        self.points[which].keys().nth(at).cloned()
    }

    fn forget(&mut self, which: usize) {
        let Some(name) = self.pick(which) else { return };
        let catalog = &self.ends[which].catalog;
        let contents = catalog.refresh().unwrap();
        let point = contents
            .point(name.0.as_bytes(), name.1.as_bytes())
            .unwrap();
        catalog.forget(point).unwrap();
        self.points[which].remove(&name);
    }

    fn copy(&mut self) {
        if self.points[0].is_empty() {
            return;
        }
        let selection = Selection {
            scopes: vec![Scope::Repository],
            into: None,
        };
        let options = TransferOptions::default();
        let [source, target] = &self.ends;
        copy_points(&selection, source, target, &options, &Progress::default()).unwrap();
        for (name, kept) in self.points[0].clone() {
            self.points[1].entry(name).or_insert(kept);
        }
        while self.points[1].len() > 2 * POINTS_MAX {
            self.forget(1);
        }
    }

    fn reopen_cold(&mut self, which: usize) {
        self.benches[which].cache = tempfile::tempdir().unwrap();
        self.ends[which] = End::open(self.benches[which].open()).unwrap();
    }

    fn restore(&mut self, which: usize) {
        let Some(name) = self.pick(which) else { return };
        let end = &self.ends[which];
        let contents = end.catalog.refresh().unwrap();
        let point = contents
            .point(name.0.as_bytes(), name.1.as_bytes())
            .unwrap();
        assert_restores(&end.trees, point, &self.points[which][&name]);
    }

    fn step(&mut self) {
        let which = self.random.below(2) as usize;
        match self.random.below(20) {
            0..=8 => self.change(),
            9..=12 => self.back_up(),
            13 => self.forget(which),
            14 | 15 => self.copy(),
            16 => self.reopen_cold(which),
            _ => self.restore(which),
        }
    }

    /// The points that show are the model's.
    fn assert_listed(&self, case: &str) {
        for (end, points) in self.ends.iter().zip(&self.points) {
            let contents = end.catalog.refresh().unwrap();
            let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
            let mut listed = Vec::new();
            for backup in contents.backups.values() {
                let of_backup = contents.points_of(backup.id);
                listed.extend(of_backup.map(|point| (text(backup.name()), text(point.name()))));
            }
            listed.sort();
            assert_eq!(listed, points.keys().cloned().collect::<Vec<_>>(), "{case}");
        }
    }
}

#[test]
fn random_operations_leave_what_the_model_has() {
    let seed = seed("model");
    let mut model = Model::new(seed);
    for step in 0..if full() { 20_000 } else { 150 } {
        model.step();
        model.assert_listed(&format!("seed {seed}, step {step}"));
    }
    for which in 0..2 {
        model.reopen_cold(which);
        let end = &model.ends[which];
        assert_clean(&format!("seed {seed}"), end.repository());
        let contents = end.catalog.contents();
        for ((backup, name), kept) in &model.points[which] {
            let point = contents.point(backup.as_bytes(), name.as_bytes()).unwrap();
            assert_restores(&end.trees, point, kept);
        }
    }
}
