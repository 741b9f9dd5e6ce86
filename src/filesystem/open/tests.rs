//! Open points of a served tree, seen from the inside.

use super::OpenPoint;
use crate::clock::Clock;
use crate::filesystem::{Answered, Caller, FileSystem, Mode, Options, ROOT, Rule};
use crate::point::Catalog;
use crate::repository::{Credential, Local, Repository, Settings};
use crate::store::MemoryStore;
use std::sync::Arc;

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

const MODE: Mode = Mode {
    mode: 0o755,
    umask: 0,
};

/// A repository and a state directory.
struct Host {
    repository: Arc<Repository>,
    state: tempfile::TempDir,
    _cache: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let cache = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let key = Credential::key_file(&[7; 64]).unwrap();
        let clock = Clock::system();
        Repository::init(store.clone(), &key, "test", &Settings::default(), &clock).unwrap();
        let local = Local {
            cache: cache.path().to_owned(),
            frame_cache_bytes: 1 << 20,
            clock,
        };
        Self {
            repository: Repository::open(store, &key, local).unwrap(),
            state: tempfile::tempdir().unwrap(),
            _cache: cache,
        }
    }

    fn serve(&self) -> FileSystem {
        let catalog = Arc::new(Catalog::open(self.repository.clone()).unwrap());
        let options = Options::new(self.state.path().to_owned());
        FileSystem::new(vec![("primary".into(), catalog)], options)
    }
}

fn look(tree: &FileSystem, parent: u64, name: &str) -> Option<u64> {
    match tree.lookup(parent, name.as_bytes(), CALLER).unwrap() {
        Answered::Found { attributes, .. } => Some(attributes.ino),
        Answered::Missing { .. } => None,
    }
}

fn mkdir(tree: &FileSystem, parent: u64, name: &str) -> u64 {
    let made = tree.make_directory(parent, name.as_bytes(), MODE, CALLER);
    match made.unwrap() {
        Answered::Found { attributes, .. } => attributes.ino,
        Answered::Missing { .. } => panic!("{name}"),
    }
}

/// A file with these bytes: its inode, and a handle.
fn create(tree: &FileSystem, parent: u64, name: &str, bytes: &[u8]) -> (u64, u64) {
    let made = tree.create(parent, name.as_bytes(), MODE, 0, CALLER);
    let (attributes, handle) = made.unwrap();
    tree.write(handle, 0, bytes, CALLER).unwrap();
    (attributes.ino, handle)
}

fn put(tree: &FileSystem, parent: u64, name: &str, bytes: &[u8]) -> u64 {
    let (ino, handle) = create(tree, parent, name, bytes);
    tree.close(handle);
    ino
}

/// The only open point, and the inode of its top.
fn begin(tree: &FileSystem) -> (Arc<OpenPoint>, u64) {
    let repository = look(tree, ROOT, "primary").unwrap();
    let backup = mkdir(tree, repository, "web");
    let top = mkdir(tree, backup, "x.partial");
    (tree.open_points.all().remove(0), top)
}

fn nodes(open: &OpenPoint) -> usize {
    open.inner.lock().state.nodes.len()
}

fn is_stale(tree: &FileSystem, ino: u64) -> bool {
    tree.stat(ino).unwrap_err().errno() == libc::ESTALE
}

#[test]
fn nodes_of_removed_files_go_when_the_kernel_has_forgotten_them() {
    let host = Host::new();
    let tree = host.serve();
    let (open, top) = begin(&tree);
    put(&tree, top, "target", b"first");
    assert_eq!(nodes(&open), 2);
    for n in 0..3000 {
        let ino = put(&tree, top, "temporary", b"bytes");
        if n % 2 == 0 {
            tree.unlink(top, b"temporary").unwrap();
            // The kernel may still ask, for a descriptor without a handle.
            assert_eq!(tree.stat(ino).unwrap().links, 0);
            tree.forget(ino, 1);
            assert!(is_stale(&tree, ino));
        } else {
            let replaced = look(&tree, top, "target").unwrap();
            let (from, to) = ((top, &b"temporary"[..]), (top, &b"target"[..]));
            tree.rename(from, to, 0, CALLER).unwrap();
            tree.forget(replaced, u64::MAX);
            assert!(is_stale(&tree, replaced));
        }
    }
    assert_eq!(nodes(&open), 2);
    let inner = open.inner.lock();
    assert_eq!((inner.state.spooled, inner.state.written.len()), (5, 1));
    let spool = host.state.path().join("open").join(open.id.to_string());
    let spooled = std::fs::read_dir(spool.join("spool")).unwrap();
    assert_eq!(spooled.count(), 1);
}

#[test]
fn a_node_stays_while_it_has_a_name_or_a_handle_or_the_kernel_knows_it() {
    let host = Host::new();
    let tree = host.serve();
    let (open, top) = begin(&tree);
    // Open.
    let (ino, handle) = create(&tree, top, "open", b"kept");
    tree.unlink(top, b"open").unwrap();
    tree.forget(ino, 1);
    tree.write(handle, 4, b" and more", CALLER).unwrap();
    let read = tree.read(handle, 0, 100).unwrap();
    assert_eq!(&read[..], b"kept and more");
    assert_eq!(nodes(&open), 2);
    tree.close(handle);
    assert_eq!(nodes(&open), 1);
    // Two names.
    let ino = put(&tree, top, "one", b"linked");
    tree.link(ino, top, b"two").unwrap();
    tree.unlink(top, b"one").unwrap();
    tree.forget(ino, 2);
    assert_eq!(look(&tree, top, "two"), Some(ino));
    // A directory that is somebody's working directory holds nothing new.
    let directory = mkdir(&tree, top, "directory");
    tree.remove_directory(top, b"directory", CALLER).unwrap();
    assert_eq!(tree.stat(directory).unwrap().links, 0);
    let made = tree.create(directory, b"file", MODE, 0, CALLER);
    assert_eq!(made.unwrap_err().errno(), libc::ENOENT);
    let (from, to) = ((top, &b"two"[..]), (directory, &b"two"[..]));
    let moved = tree.rename(from, to, 0, CALLER);
    assert_eq!(moved.unwrap_err().errno(), libc::ENOENT);
    let linked = tree.link(ino, directory, b"three");
    assert_eq!(linked.unwrap_err().errno(), libc::ENOENT);
    assert_eq!(nodes(&open), 3);
    tree.forget(directory, u64::MAX);
    assert_eq!(nodes(&open), 2);
    let gone = tree.make_directory(directory, b"below", MODE, CALLER);
    assert_eq!(gone.unwrap_err().errno(), libc::ESTALE);
    // What has no name and no handle any more gets no name again.
    tree.unlink(top, b"two").unwrap();
    let linked = tree.link(ino, top, b"again");
    assert_eq!(linked.unwrap_err().errno(), libc::ENOENT);
    tree.forget(ino, u64::MAX);
    assert_eq!(nodes(&open), 1);
    drop(open);
    drop(tree);
    // After a restart there is what has a name.
    let tree = host.serve();
    let open = tree.open_points.all().remove(0);
    assert_eq!(nodes(&open), 1);
    assert!(matches!(
        open.node(2, |_| ()),
        Err(crate::filesystem::Failure::Rule(Rule::Stale))
    ));
}

/// Bytes of the only journal.
fn journal_bytes(host: &Host, open: &OpenPoint) -> u64 {
    let directory = host.state.path().join("open").join(open.id.to_string());
    let facts = std::fs::metadata(directory.join("journal"));
    facts.unwrap().len()
}

#[test]
fn a_journal_grows_with_its_point_and_not_with_the_number_of_changes() {
    const LONG: u64 = 32 << 10;
    let host = Host::new();
    let tree = host.serve();
    let (open, top) = begin(&tree);
    let directory = mkdir(&tree, top, "directory");
    let linked = put(&tree, directory, "one", b"linked");
    tree.link(linked, top, b"two").unwrap();
    tree.set_xattr(linked, b"user.note", b"value", 0, CALLER)
        .unwrap();
    let (ino, handle) = create(&tree, directory, "image", b"");
    // Stored before it is written anew.
    let mut image = vec![7; 1 << 20];
    tree.write(handle, 0, &image, CALLER).unwrap();
    tree.sync_directory(top, CALLER).unwrap();
    // What is open and has no name is read as ever.
    let (_, unnamed) = create(&tree, top, "unnamed", b"still there");
    tree.unlink(top, b"unnamed").unwrap();
    let mut longest = 0;
    let mut random = 1u64;
    for n in 0..10_000u64 {
        if journal_bytes(&host, &open) > LONG / 2 {
            open.inner.lock().journal.long = LONG;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // In 64 blocks, so that the point itself does not grow.
        let at = (random >> 58) * 4096;
        let bytes = n.to_le_bytes();
        tree.write(handle, at, &bytes, CALLER).unwrap();
        image[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        put(&tree, top, "temporary", &bytes);
        tree.unlink(top, b"temporary").unwrap();
        longest = longest.max(journal_bytes(&host, &open));
    }
    // Ten thousand times some hundred bytes were written to it.
    assert!(longest < LONG + 1000, "{longest}");
    let read = tree.read(unnamed, 0, 100).unwrap();
    assert_eq!(&read[..], b"still there");
    tree.sync(handle, CALLER).unwrap();
    let attributes = tree.stat(linked).unwrap();
    let next = open.inner.lock().state.next;
    drop(open);
    drop(tree);
    let tree = host.serve();
    let open = tree.open_points.all().remove(0);
    assert_eq!(open.inner.lock().state.next, next);
    let top = look(
        &tree,
        look(&tree, look(&tree, ROOT, "primary").unwrap(), "web").unwrap(),
        "x.partial",
    );
    let top = top.unwrap();
    let directory = look(&tree, top, "directory").unwrap();
    let found = look(&tree, directory, "image").unwrap();
    assert_ne!(look(&tree, directory, "one"), None);
    assert_eq!(look(&tree, directory, "one"), look(&tree, top, "two"));
    let again = tree.stat(look(&tree, top, "two").unwrap()).unwrap();
    assert_eq!(
        (again.ino, again.mtime, again.mode, again.links),
        (attributes.ino, attributes.mtime, attributes.mode, 2)
    );
    let value = tree.get_xattr(again.ino, b"user.note").unwrap();
    assert_eq!(value, b"value");
    assert_eq!(found, ino);
    let handle = tree.open(found, libc::O_RDONLY).unwrap();
    let read = tree.read(handle, 0, 2 << 20).unwrap();
    assert!(read[..] == image[..]);
    assert_eq!(nodes(&open), 4);
}
