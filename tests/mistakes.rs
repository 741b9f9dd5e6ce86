//! What hardly anybody wants is done all the same, with one line in `.keepfs/errors`.

use crate::engine::Bench;
use crate::filesystem::{Asked, caller};
use crate::mount::catalog;
use crate::mount_writes::settings;
use keepfs::filesystem::Mode;

fn make(asked: &Asked, path: &str) {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = asked.find(parent).unwrap().unwrap().ino;
    let mode = Mode {
        mode: libc::S_IFDIR | 0o755,
        umask: 0,
    };
    let filesystem = &asked.filesystem;
    filesystem
        .make_directory(parent, name.as_bytes(), mode, caller())
        .unwrap();
}

/// The lines that making these directories leaves.
fn lines(paths: &[&str]) -> Vec<String> {
    let bench = Bench::new(&settings());
    let state = tempfile::tempdir().unwrap();
    let asked = Asked::of(vec![("primary", catalog(&bench))], state.path());
    paths.iter().for_each(|path| make(&asked, path));
    let errors = asked.find(".keepfs/errors").unwrap().unwrap().ino;
    let errors = String::from_utf8(asked.read(errors).unwrap()).unwrap();
    errors.lines().map(str::to_owned).collect()
}

#[test]
fn a_backup_with_the_name_of_a_point_leaves_a_line() {
    let told = lines(&[
        "primary/web",
        "primary/web/2026-11-20",
        "primary/2026-11-20T02-00-00Z",
    ]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("mkdir primary/BACKUP/2026-11-20T02-00-00Z"),
        "{told:?}"
    );
}

#[test]
fn a_home_directory_that_became_a_point_leaves_one_line() {
    let told = lines(&[
        "primary/home",
        "primary/home/daemon",
        "primary/home/daemon/Documents",
        "primary/home/daemon/.ssh",
        "primary/home/daemon/.config",
        "primary/home/nobody.partial",
        "primary/home/nobody.partial/.ssh",
    ]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("the home directory of daemon")
            && told[0].contains("cp -a /home primary/home/POINT")
    );
    assert!(told[1].contains("primary/home/nobody.partial"), "{told:?}");
    // The homes of a day, and that of one user, with points of days and of other names.
    let none = lines(&[
        "primary/home",
        "primary/home/2026-11-20",
        "primary/home/2026-11-20/daemon",
        "primary/home/2026-11-20/daemon/.ssh",
        "primary/alice",
        "primary/alice/before-the-move",
        "primary/alice/before-the-move/.ssh",
    ]);
    assert_eq!(none, Vec::<String>::new());
}
