use super::*;
use crate::source::Type;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

/// What a walk says, a line each: `+name` and `-` around a directory, `name`, `!path: kind`, `?` for a notice.
fn lines(walk: &mut Walk) -> Vec<String> {
    let text = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
    walk.map(|event| match event {
        Event::Enter(entry) => format!("+{}", text(entry.name)),
        Event::Entry(entry) => text(entry.name),
        Event::Leave => "-".to_owned(),
        Event::Problem(problem) => {
            format!("!{}: {:?}", problem.path.display(), problem.error.kind())
        }
        Event::Notice(_) => "?".to_owned(),
    })
    .collect()
}

fn walk(sources: &[PathBuf], options: Options) -> String {
    lines(&mut Walk::new(sources, options).unwrap()).join(" ")
}

fn of(dir: &Path, options: Options) -> String {
    walk(&[dir.to_owned()], options)
}

/// Makes files, with their directories; a name that ends in a slash is a directory.
fn make(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::write(path, name).unwrap();
        }
    }
}

fn rules(patterns: &[&str]) -> Options {
    Options {
        rules: Rules::new(patterns).unwrap(),
        ..Options::default()
    }
}

#[test]
fn a_directory_is_walked_depth_first_in_byte_order() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["b/2", "b/1/x", "b.txt", "a", "B", "empty/"]);
    let expected = "+ B a +b +1 x - 2 - b.txt +empty - -";
    assert_eq!(of(dir.path(), Options::default()), expected);
    assert_eq!(
        of(&dir.path().join("b/"), Options::default()),
        "+ +1 x - 2 -"
    );
}

#[test]
fn strange_names_come_out_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 4] = [b" \n", &[b'x'; 255], b"\x80", &[0xff; 255]];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), "").unwrap();
    }
    let found: Vec<_> = Walk::new(&[dir.path().to_owned()], Options::default())
        .unwrap()
        .filter_map(|event| match event {
            Event::Entry(entry) => Some(entry.name),
            _ => None,
        })
        .collect();
    assert_eq!(found, names);
}

#[test]
fn entries_carry_type_content_and_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["file"]);
    fs::hard_link(dir.path().join("file"), dir.path().join("hard")).unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("soft")).unwrap();
    xattr::set(dir.path(), "user.top", b"t").unwrap();
    let mut entries = vec![];
    for event in Walk::new(&[dir.path().to_owned()], Options::default()).unwrap() {
        match event {
            Event::Enter(top) => {
                assert_eq!(
                    top.file.xattrs().unwrap(),
                    [(b"user.top".into(), b"t".into())]
                );
                assert!(top.file.open().is_err());
            }
            Event::Entry(entry) => entries.push(entry),
            _ => {}
        }
    }
    let [file, hard, soft] = entries.try_into().unwrap();
    assert_eq!(
        io::read_to_string(file.file.open().unwrap()).unwrap(),
        "file"
    );
    assert_eq!(file.metadata.inode, hard.metadata.inode);
    assert_eq!(hard.metadata.links, 2);
    let target = b"file".to_vec();
    assert_eq!(soft.metadata.file_type, Type::Symlink { target });
    assert!(soft.file.open().is_err());
}

#[test]
fn several_sources_stand_under_one_top_by_base_name() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["x/z/1", "y/a/2", "y/a/3", "file"]);
    let at = |name: &str| dir.path().join(name);
    let sources = [at("x/z"), at("file"), at("y/a")];
    assert_eq!(
        walk(&sources, Options::default()),
        "+ +a 2 3 - file +z 1 - -"
    );
    assert_eq!(walk(&sources, rules(&["/a/2", "/z"])), "+ +a 3 - file -");
    let absolute = at("y/a/3").display().to_string();
    assert_eq!(
        walk(&sources, rules(&[&absolute])),
        "+ +a 2 - file +z 1 - -"
    );
    assert_eq!(walk(&[at("file")], Options::default()), "+ file -");
}

#[test]
fn a_source_that_is_a_symlink_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["real/1", "other"]);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("real", &link).unwrap();
    assert_eq!(of(&link, Options::default()), "+ 1 -");
    let both = [link, dir.path().join("other")];
    assert_eq!(walk(&both, Options::default()), "+ +link 1 - other -");
}

#[test]
fn excluded_directories_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["a/tmp/1", "a/2", "tmp/3", "c/tmp", "d/x.o"]);
    assert_eq!(
        of(dir.path(), rules(&["tmp/", "*.o"])),
        "+ +a 2 - +c tmp - +d - -"
    );
    assert_eq!(
        of(dir.path(), rules(&["/tmp", "!/tmp/3", "d"])),
        "+ +a 2 +tmp 1 - - +c tmp - -"
    );
    let absolute = dir.path().join("a").display().to_string();
    assert_eq!(
        of(dir.path(), rules(&[&absolute, "d", "c"])),
        "+ +tmp 3 - -"
    );
}

#[test]
fn caches_keep_their_tag_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    make(
        dir.path(),
        &[
            "cache/data",
            "cache/sub/x",
            "fake/CACHEDIR.TAG",
            "fake/data",
        ],
    );
    let tag = [CACHE_SIGNATURE.as_slice(), b"\n# more"].concat();
    fs::write(dir.path().join("cache/CACHEDIR.TAG"), tag).unwrap();
    let options = Options {
        exclude_caches: true,
        ..Options::default()
    };
    let expected = "+ +cache CACHEDIR.TAG - +fake CACHEDIR.TAG data - -";
    assert_eq!(of(dir.path(), options), expected);
    let everything = of(dir.path(), Options::default());
    assert!(everything.contains("data +sub x -"), "{everything}");
}

#[test]
fn a_mark_that_is_present_leaves_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    make(
        dir.path(),
        &["a/.nobackup", "a/1", "b/2", "c/.skip/x", "c/3"],
    );
    let options = Options {
        exclude_if_present: vec![".nobackup".into(), ".skip".into()],
        ..Options::default()
    };
    assert_eq!(
        of(dir.path(), options),
        "+ +a .nobackup - +b 2 - +c +.skip x - - -"
    );
}

#[test]
fn what_vanished_is_a_problem_and_the_walk_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["a", "b", "c/1", "d"]);
    let mut walk = Walk::new(&[dir.path().to_owned()], Options::default()).unwrap();
    fs::remove_file(dir.path().join("b")).unwrap();
    fs::remove_dir_all(dir.path().join("c")).unwrap();
    let gone = |name: &str| format!("!{}: NotFound", dir.path().join(name).display());
    let expected = ["+", "a", &gone("b"), &gone("c"), "d", "-"];
    assert_eq!(lines(&mut walk), expected);
}

#[test]
fn another_file_system_stays_an_empty_directory_when_asked() {
    let dev = Path::new("/dev");
    let shm = fs::metadata("/dev/shm");
    let is_mount = |shm: fs::Metadata| {
        use std::os::unix::fs::MetadataExt;
        shm.dev() != fs::metadata(dev).unwrap().dev()
    };
    if !shm.is_ok_and(is_mount) {
        return; // no second file system at hand on this machine
    }
    let inside = tempfile::tempdir_in("/dev/shm").unwrap();
    let name = inside.path().file_name().unwrap().to_str().unwrap();
    let here = Options {
        one_file_system: true,
        ..Options::default()
    };
    let stays = of(dev, here);
    assert!(stays.contains("+shm - "), "{stays}");
    let goes_in = of(dev, Options::default());
    assert!(goes_in.contains(&format!("+{name} -")), "{goes_in}");
}

/// Makes `depth` directories `name` in each other without a path that grows.
fn make_deep(dir: &Path, name: &str, depth: usize) {
    let mut here = Directory::open(dir).unwrap();
    let c_name = CString::new(name).unwrap();
    for _ in 0..depth {
        // SAFETY: the name ends in a NUL.
        let made = unsafe { libc::mkdirat(here.as_fd().as_raw_fd(), c_name.as_ptr(), 0o700) };
        assert_eq!(made, 0);
        let at = |name: &str| format!("/proc/self/fd/{}/{name}", here.as_fd().as_raw_fd());
        fs::write(at("zz"), "z").unwrap();
        here = here.open_child(&c_name, PathBuf::new()).unwrap();
    }
}

#[test]
fn a_deep_tree_with_a_path_longer_than_the_kernel_takes_is_walked_whole() {
    const DEPTH: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    make_deep(dir.path(), &name, DEPTH);
    let open_before = fs::read_dir("/proc/self/fd").unwrap().count();
    let mut walk = Walk::new(&[dir.path().to_owned()], Options::default()).unwrap();
    let (mut entered, mut files, mut open_most) = (0, 0, 0);
    for event in walk.by_ref() {
        match event {
            Event::Enter(_) => entered += 1,
            Event::Entry(entry) => {
                files += 1;
                assert_eq!(io::read_to_string(entry.file.open().unwrap()).unwrap(), "z");
                assert_eq!(entry.file.xattrs().unwrap(), []);
            }
            Event::Leave => {}
            event => panic!("{event:?}"),
        }
        open_most = open_most.max(fs::read_dir("/proc/self/fd").unwrap().count());
    }
    assert_eq!((entered, files), (DEPTH + 1, DEPTH));
    // Other tests of this process open files too; a walk that kept all open would be far above.
    assert!(open_most < open_before + OPEN_LEVELS + 100, "{open_most}");
}

/// A walk that stands at the bottom of 100 directories `d` in each other; behind each of them `zz` is still to come.
fn walk_at_the_bottom(dir: &Path) -> Walk {
    make_deep(dir, "d", 100);
    let mut walk = Walk::new(&[dir.to_owned()], Options::default()).unwrap();
    let deepest = walk
        .by_ref()
        .position(|event| matches!(event, Event::Leave));
    assert!(deepest.is_some());
    walk
}

/// Goes on with a walk: how many `zz` come, and its problems.
fn rest_of(walk: &mut Walk) -> (usize, Vec<String>) {
    let (problems, others): (Vec<_>, Vec<_>) = lines(walk)
        .into_iter()
        .partition(|line| line.starts_with('!'));
    let files = others.iter().filter(|&line| line == "zz").count();
    (files, problems)
}

#[test]
fn a_deep_directory_that_was_moved_away_is_read_to_its_end_and_so_is_all_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut walk = walk_at_the_bottom(dir.path());
    make(dir.path(), &["elsewhere/zz"]);
    fs::rename(dir.path().join("d/d/d"), dir.path().join("elsewhere/d")).unwrap();
    // The moved one is found from below; `..` of it is another directory then, and names lead to the two above.
    assert_eq!(rest_of(&mut walk), (100, vec![]));
}

#[test]
fn a_directory_on_the_way_that_is_gone_costs_its_own_rest_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut walk = walk_at_the_bottom(dir.path());
    let at = |path: &str| dir.path().join(path);
    make(dir.path(), &["elsewhere/zz"]);
    fs::rename(at("d/d/d"), at("elsewhere/d")).unwrap();
    // Moved, not removed: the new one of its name can then not have its inode.
    fs::rename(at("d/d"), at("gone")).unwrap();
    make(dir.path(), &["d/d/zz"]);
    let problem = format!("!{}: NotFound", at("d/d").display());
    assert_eq!(rest_of(&mut walk), (99, vec![problem]));
}

#[test]
fn a_symlink_in_the_place_of_a_directory_on_the_way_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut walk = walk_at_the_bottom(dir.path());
    let at = |path: &str| dir.path().join(path);
    make(dir.path(), &["elsewhere/zz"]);
    fs::rename(at("d/d/d"), at("elsewhere/d")).unwrap();
    fs::rename(at("d"), at("gone")).unwrap();
    std::os::unix::fs::symlink("gone", at("d")).unwrap();
    // The two between the moved one and the top; the link itself came after the names of the top were read.
    let problem = |path: &str| format!("!{}: NotFound", at(path).display());
    assert_eq!(rest_of(&mut walk), (98, vec![problem("d/d"), problem("d")]));
}

#[test]
fn the_way_back_under_several_sources_ends_at_each_of_them() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["a/", "b/zz"]);
    make_deep(&dir.path().join("a"), "d", 100);
    std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
    let sources = [dir.path().join("link"), dir.path().join("b")];
    let mut walk = Walk::new(&sources, Options::default()).unwrap();
    let in_link = |walk: &mut Walk| walk.path().starts_with(b"link/d/d/d/d");
    while !in_link(&mut walk) {
        walk.next().unwrap();
    }
    let deepest = walk
        .by_ref()
        .position(|event| matches!(event, Event::Leave));
    assert!(deepest.is_some());
    make(dir.path(), &["elsewhere/"]);
    fs::rename(dir.path().join("a/d/d"), dir.path().join("elsewhere/d")).unwrap();
    assert_eq!(rest_of(&mut walk), (100, vec![]));
}

#[test]
fn the_path_follows_the_events() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["a/b/c", "d"]);
    let mut walk = Walk::new(&[dir.path().to_owned()], Options::default()).unwrap();
    let mut paths = vec![];
    while walk.next().is_some() {
        paths.push(String::from_utf8_lossy(walk.path()).into_owned());
    }
    assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a", "", "d", ""]);
}
