//! Two copies of one repository, at two places or in turns at one, both written to.

use crate::planted::{Item, plant};
use keepfs::check::{Options, check};
use keepfs::clock::Clock;
use keepfs::filesystem::{Answered, Caller, FileSystem, Options as TreeOptions, ROOT};
use keepfs::point::Catalog;
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Local, Repository, Settings};
use keepfs::store::{DirectoryStore, SharedStore};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Directory stores, and hosts with caches of their own.
struct Places {
    home: TempDir,
    key: Credential,
}

impl Places {
    /// A repository at `first` with one restore point, and a copy of it at `second`.
    fn new() -> Self {
        let places = Self {
            home: tempfile::tempdir().unwrap(),
            key: Credential::key_file(&[7; 64]).unwrap(),
        };
        std::fs::create_dir(places.path("first")).unwrap();
        let (store, clock) = (places.store("first"), Clock::system());
        Repository::init(store, &places.key, "test", &Settings::default(), &clock).unwrap();
        places.back_up("first", "one");
        let status = Command::new("cp")
            .arg("-a")
            .args([places.path("first"), places.path("second")])
            .status();
        assert!(status.unwrap().success());
        places
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn store(&self, place: &str) -> SharedStore {
        Arc::new(DirectoryStore::open(&self.path(place)).unwrap())
    }

    fn open(&self, place: &str, host: &str) -> Catalog {
        let local = Local {
            cache: self.path(host),
            frame_cache_bytes: 16 << 20,
            clock: Clock::system(),
        };
        let repository = Repository::open(self.store(place), &self.key, local).unwrap();
        Catalog::open(repository).unwrap()
    }

    /// By a host that knows this place only.
    fn back_up(&self, place: &str, point: &str) {
        let catalog = self.open(place, &format!("host of {place}"));
        plant(&catalog, "web", point, &Item::directory([])).unwrap();
    }

    /// What the host that looks at both places is told at this one.
    fn told(&self, place: &str) -> Option<String> {
        let contents = self.open(place, "observer").contents();
        let told = contents.contradictions.values().next().cloned();
        assert!(
            told.iter()
                .all(|sentence| contents.problems.values().any(|other| other == sentence))
        );
        told
    }

    fn is_told_of_two(&self, place: &str, part: &str) {
        let told = self.told(place).expect("is told");
        let places = ["first", "second"].map(|name| self.path(name).display().to_string());
        for part in [
            &places[0],
            &places[1],
            part,
            "second live copy",
            "keepfs copy",
        ] {
            assert!(told.contains(part), "{told} has no {part:?}");
        }
    }
}

#[test]
fn a_repository_that_was_moved_or_mirrored_is_taken_as_it_is() {
    let places = Places::new();
    for place in ["first", "second", "first"] {
        assert_eq!(places.told(place), None);
    }
    places.back_up("second", "two");
    for place in ["second", "second"] {
        assert_eq!(places.told(place), None);
    }
}

#[test]
fn two_live_copies_are_told_as_long_as_both_are_used() {
    let places = Places::new();
    places.back_up("first", "two of first");
    assert_eq!(places.told("first"), None);
    places.is_told_of_two("second", "the newest here is 1");
    places.back_up("second", "two of second");
    places.is_told_of_two("second", "another record 2 of backup web");
    places.is_told_of_two("second", "another record 2 of backup web");
    assert_eq!(places.told("first"), None);

    // The other one takes the lead: it is told of once more, and the first one from now on.
    places.back_up("second", "three of second");
    places.is_told_of_two("second", "another record 2 of backup web");
    places.is_told_of_two("first", "the newest here is 2");
    // Whoever goes on with one of them only hears no more of it.
    assert_eq!(places.told("second"), None);
    places.back_up("second", "four of second");
    assert_eq!(places.told("second"), None);
}

#[test]
fn copies_that_take_turns_at_one_place_are_told() {
    let places = Places::new();
    places.back_up("first", "two of first");
    places.back_up("second", "two of second");
    assert_eq!(places.told("first"), None);
    std::fs::rename(places.path("first"), places.path("away")).unwrap();
    std::fs::rename(places.path("second"), places.path("first")).unwrap();
    let told = places.told("first").expect("is told");
    assert!(told.contains("take turns at this place"), "{told}");
    assert!(told.contains("another record 2 of backup web"), "{told}");
    let report = check(
        &places.open("first", "observer"),
        &Options::default(),
        &Progress::default(),
    );
    let report = report.unwrap();
    assert_eq!((report.warnings, report.problems), (vec![told], vec![]));
}

#[test]
fn a_mount_of_both_says_so() {
    let places = Places::new();
    places.back_up("second", "two");
    let errors = |mounted: &[(&str, &str)]| {
        let catalogs = mounted.iter().map(|(name, place)| {
            let catalog = places.open(place, "observer");
            ((*name).to_owned(), Arc::new(catalog))
        });
        let options = TreeOptions {
            state_directory: places.path("state"),
            ..TreeOptions::default()
        };
        let tree = FileSystem::new(catalogs.collect(), options);
        let caller = Caller {
            uid: 0,
            gid: 0,
            pid: 0,
        };
        let find = |parent, name: &str| match tree.lookup(parent, name.as_bytes(), caller).unwrap()
        {
            Answered::Found { attributes, .. } => attributes.ino,
            Answered::Missing { .. } => panic!("no {name}"),
        };
        let file = find(find(ROOT, ".keepfs"), "errors");
        let handle = tree.open(file, libc::O_RDONLY).unwrap();
        let read = tree.read(handle, 0, 1 << 16).unwrap();
        String::from_utf8(read.to_vec()).unwrap()
    };
    assert_eq!(errors(&[("one", "second"), ("again", "second")]), "");
    let said = errors(&[("one", "second"), ("other", "first")]);
    assert!(
        said.contains("one and other are two copies of one repository"),
        "{said}"
    );
    assert!(
        said.contains("other: ") && said.contains("second live copy"),
        "{said}"
    );
}
