//! A backup that dies at any write: what was there stays whole, nothing half shows, and the next run completes.

use crate::engine::{Bench, assert_clean};
use crate::mount::{run, same_trees};
use keepfs::backup::{Options, Report, backup};
use keepfs::error::Result;
use keepfs::point::{Catalog, Point, Trees};
use keepfs::progress::Progress;
use keepfs::repository::Settings;
use keepfs::store::faults::{FaultyStore, Stop};
use keepfs::store::names;
use keepfs::store::{MemoryStore, Store};
use std::path::Path;
use std::sync::Arc;

/// A repository with one point, and a source that has changed since.
struct Before {
    memory: MemoryStore,
    bench: Bench,
    /// The source as it was when point `one` was made.
    old: tempfile::TempDir,
    source: tempfile::TempDir,
}

fn try_backup(bench: &Bench, source: &Path, point: &str) -> Result<Report> {
    let repository = bench.open();
    let trees = Arc::new(Trees::new(repository.clone()));
    let options = Options {
        sources: vec![source.to_owned()],
        backup: b"host".to_vec(),
        point: Some(point.as_bytes().to_vec()),
        ..Options::default()
    };
    backup(
        &Catalog::open(repository)?,
        &trees,
        &options,
        &Progress::default(),
    )
}

/// Restores a point and compares it with a directory.
pub fn assert_restores(trees: &Arc<Trees>, point: &Point, expected: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("restored");
    let top = Arc::new(point.record.top());
    let options = Default::default();
    keepfs::restore::restore(trees, &top, &target, &options, &Progress::default()).unwrap();
    same_trees(expected, &target);
}

fn before() -> Before {
    let (old, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (source.path().display(), old.path().display());
    run(&format!(
        "cd '{from}'; mkdir -p a/b empty; ln -s a link; echo shared > a/one; ln a/one a/b/two
         for n in $(seq 60); do seq $n $((n * 40)) > a/f$n.txt; done
         head -c 1500000 /dev/urandom > large; truncate -s 9M sparse
         cp -a '{from}/.' '{to}/'"
    ));
    let memory = MemoryStore::new();
    let settings = Settings {
        pack_bytes: 1 << 20,
        ..Settings::default()
    };
    let bench = Bench::in_store(Arc::new(memory.clone()), &settings);
    try_backup(&bench, source.path(), "one").unwrap();
    run(&format!(
        "cd '{from}'; head -c 3500000 /dev/urandom > larger; rm a/f7.txt; mv a/f8.txt a/f9.txt
         echo more >> a/f10.txt; chmod 700 a/b; mkdir new; seq 5000 > new/numbers"
    ));
    Before {
        memory,
        bench,
        old,
        source,
    }
}

impl Before {
    /// The same objects behind a store with faults, for a process that has nothing cached.
    fn copied(&self) -> (FaultyStore, Bench) {
        let memory = MemoryStore::new();
        for object in self.memory.list("").unwrap() {
            memory.overwrite(&object.name, self.memory.get(&object.name).unwrap());
        }
        let store = FaultyStore::new(Arc::new(memory));
        let bench = Bench {
            store: Arc::new(store.clone()),
            cache: tempfile::tempdir().unwrap(),
            key: self.bench.key.clone(),
        };
        (store, bench)
    }

    /// After a death: every point that shows is whole. Returns whether the one that was being made shows.
    fn assert_whole(&self, bench: &Bench, case: &str) -> bool {
        let repository = bench.open();
        assert_clean(case, &repository);
        let trees = Arc::new(Trees::new(repository.clone()));
        let contents = Catalog::open(repository).unwrap().contents();
        let one = contents
            .point(b"host", b"one")
            .expect("what was there stays");
        assert_restores(&trees, one, self.old.path());
        let two = contents.point(b"host", b"two");
        if let Some(two) = two {
            assert_restores(&trees, two, self.source.path());
        }
        two.is_some()
    }
}

/// How a backup went whose store was to stop.
#[derive(Debug, PartialEq)]
enum Went {
    /// It was done before the store stopped.
    NotStopped,
    Died,
    /// Its point is there although it died.
    DiedUnheard,
}

impl Before {
    /// A backup into a store that stops as `stop` tells it; what is left of it is whole, and the next one completes.
    fn dies(&self, case: &str, stop: impl Fn(&FaultyStore)) -> Went {
        let (store, mut bench) = self.copied();
        stop(&store);
        let backup = try_backup(&bench, self.source.path(), "two");
        let stopped = store.is_stopped();
        store.heal();
        bench.cache = tempfile::tempdir().unwrap();
        let shows = self.assert_whole(&bench, case);
        assert!(backup.is_err() || shows, "{case}: it said that it was done");
        assert!(stopped || backup.is_ok(), "{case}: {backup:?}");
        let name = if shows { "three" } else { "two" };
        let rerun = try_backup(&bench, self.source.path(), name).unwrap();
        assert!(rerun.problems.is_empty(), "{case}: {:?}", rerun.problems);
        bench.cache = tempfile::tempdir().unwrap();
        let repository = bench.open();
        assert_clean(case, &repository);
        let trees = Arc::new(Trees::new(repository));
        assert_restores(&trees, &rerun.point, self.source.path());
        match (stopped, backup.is_err() && shows) {
            (false, _) => Went::NotStopped,
            (true, false) => Went::Died,
            (true, true) => Went::DiedUnheard,
        }
    }
}

#[test]
fn a_backup_that_dies_at_any_write_breaks_nothing_and_the_next_completes() {
    let before = before();
    for stop in [Stop::Before, Stop::After] {
        // How chunks fall into packs depends on threads, so runs do not write equally often.
        let deaths = (1..).take_while(|nth| {
            let case = format!("write {nth}, {stop:?}");
            before.dies(&case, |store| store.stop_at(*nth, stop)) != Went::NotStopped
        });
        let deaths = deaths.count();
        assert!(
            deaths >= 5,
            "packs, an index segment and a record: {deaths} writes"
        );
        let went = before.dies(&format!("the record, {stop:?}"), |store| {
            store.stop_at_object(names::POINTS, 1, stop);
        });
        let expected = match stop {
            Stop::Before => Went::Died,
            Stop::After => Went::DiedUnheard,
        };
        assert_eq!(went, expected, "{stop:?}");
    }
}
