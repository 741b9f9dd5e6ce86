//! A mount of a damaged repository: right bytes or an error that says so, never wrong bytes, and it lives on.

use crate::damage::{Damage, apply};
use crate::filesystem::Asked;
use crate::mount::Mount;
use crate::planted::Shelf;
use crate::pristine::{Pristine, copy_of, pristine};
use keepfs::store::Store;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The files that a mount reads. What it does not read fails with an errno of its own, and it lives on.
pub fn mounted(case: &str, pristine: &Pristine, shelf: &Shelf) -> BTreeSet<String> {
    let state = tempfile::tempdir().unwrap();
    let catalog = Arc::new(shelf.catalog());
    let asked = Asked::of(vec![("r", catalog)], state.path());
    let top = asked.find("r").unwrap().expect("it is mounted").ino;
    let mut failures = 0;
    let contents = asked.read_below(top, "", &mut |path, failure| {
        let errno = failure.errno();
        assert!(
            [libc::EBADMSG, libc::EKEYREJECTED].contains(&errno),
            "{case}: {path} fails with {failure:?}"
        );
        failures += 1;
    });
    for (path, content) in &contents {
        if let Some(expected) = pristine.contents.get(&path[1..]) {
            assert!(content == expected, "{case}: {path} reads wrong bytes");
        }
    }
    let errors = asked.find(".keepfs/errors").unwrap().expect("it is there");
    let told = asked.read(errors.ino).unwrap();
    assert!(failures == 0 || !told.is_empty(), "{case}: nobody is told");
    assert!(
        asked.names(top).failure.is_none(),
        "{case}: it does not list"
    );
    contents
        .into_keys()
        .map(|path| path[1..].to_owned())
        .collect()
}

#[test]
fn a_real_mount_of_a_damaged_repository_tells_and_lives_on() {
    let pristine = pristine();
    for (prefix, damage) in [
        ("packs/data/", Damage::Flip(300)),
        ("packs/tree/", Damage::Delete),
        ("index/", Damage::Cut(100)),
    ] {
        let shelf = copy_of(&pristine);
        for object in shelf.memory.list(prefix).unwrap() {
            apply(&shelf, &object.name, None, damage);
        }
        let mount = Mount::of(vec![("primary", Arc::new(shelf.catalog()))]).of_damaged();
        let top = mount.path().join("primary");
        let mut failed = 0;
        read_mounted(&top, &mut |path, result| match result {
            Ok(content) => {
                let path = path.strip_prefix(&top).unwrap().to_str().unwrap();
                if let Some(expected) = pristine.contents.get(path) {
                    assert!(content == *expected, "{path} reads wrong bytes");
                }
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBADMSG), "{prefix}");
                failed += 1;
            }
        });
        assert!(failed > 0, "{prefix}: nothing failed");
        assert_eq!(std::fs::read_dir(&top).unwrap().count(), 4, "{prefix}");
        mount.unmount();
    }
}

/// Reads every file below a directory of a mount, and tells what fails.
fn read_mounted(directory: &Path, tell: &mut dyn FnMut(&Path, std::io::Result<Vec<u8>>)) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return tell(directory, Err(error)),
    };
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().unwrap().is_dir() => {
                read_mounted(&entry.path(), tell);
            }
            Ok(entry) if entry.file_type().unwrap().is_file() => {
                tell(&entry.path(), std::fs::read(entry.path()));
            }
            Ok(_) => {}
            Err(error) => return tell(directory, Err(error)),
        }
    }
}
