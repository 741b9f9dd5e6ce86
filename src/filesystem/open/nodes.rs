//! The nodes of an open point, by number.
//!
//! All of them are in memory. A file of one name and one stretch (a reference to a file of a complete point, or what was
//! written and stored since) takes about 430 bytes: 200 for the node, 100 for the file that it refers to, 100 for its
//! name, 30 for its number. A stretch more takes 32, and 100 if it is of another file. What is seldom (several names,
//! several stretches, attributes, a hash) lies outside of the node. So 100,000 entries are 43 MB, and a million 430 MB:
//! the one thing of an open point that grows with it. `open-memory` of the configuration bounds it: what would make more
//! is refused. What is counted for that is an estimate, no further than a tenth from what was measured here.
//!
//! Nodes that nobody has used for long could lie in a file. It is not done: of the 430 bytes it would leave 170 (names and
//! numbers, which every look-up goes through), every look at a node would have to be able to fail, and nodes share what
//! they refer to. What would end it is a point that is kept on disk as a whole, names included.
//!
//! A node goes when it has no name any more, nobody has it open and the kernel has forgotten its inode. Whoever holds a
//! number without the point's lock (what is stored, brought or hashed behind the tools' backs) finds nothing then, and
//! has nothing to do. Numbers are never used again.

use super::state::OpenNode;
use std::collections::HashMap;

/// Fewer nodes than this are not worth a smaller table.
const TABLE_MIN: usize = 1024;

#[derive(Debug, Default)]
pub(in crate::filesystem) struct Nodes(HashMap<u64, Box<OpenNode>>);

impl Nodes {
    pub fn get(&self, number: &u64) -> Option<&OpenNode> {
        self.0.get(number).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, number: &u64) -> Option<&mut OpenNode> {
        self.0.get_mut(number).map(Box::as_mut)
    }

    pub fn insert(&mut self, number: u64, node: OpenNode) {
        self.0.insert(number, Box::new(node));
    }

    pub fn remove(&mut self, number: &u64) {
        self.0.remove(number);
        // What was once a large point may be a small one for days.
        if self.0.capacity() > TABLE_MIN && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Every node with its number, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &OpenNode)> {
        self.0.iter().map(|(number, node)| (*number, node.as_ref()))
    }

    /// Every node, in no order.
    pub fn values(&self) -> impl Iterator<Item = &OpenNode> {
        self.0.values().map(Box::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::{Change, Facts, Made, TOP};
    use super::super::state::State;
    use crate::clock::Time;
    use crate::id::{ChunkId, ObjectId};
    use crate::point::{Content, File, Owner};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    /// The system's allocator, counting what each thread holds.
    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    thread_local! {
        static HELD: Cell<isize> = const { Cell::new(0) };
    }

    fn count(bytes: isize) {
        // A thread that ends has nothing to count any more.
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(bytes)));
    }

    // SAFETY: every call is handed to the system's allocator as it is; counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size() as isize);
            // SAFETY: the caller's promises are those of the system's allocator.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count(layout.size() as isize);
            // SAFETY: as above.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            count(-(layout.size() as isize));
            // SAFETY: as above.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    const FILES: u64 = 10_000;
    const DIRECTORY: u64 = 100;

    fn facts(n: u64) -> Facts {
        Facts {
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            mtime: Time::new(n as i64, 5),
        }
    }

    fn file(n: u64) -> File {
        File {
            size: 1000 + n,
            content: Content::One(ChunkId::of(&n.to_le_bytes())),
            ..File::empty()
        }
    }

    fn make(parent: u64, name: String, node: u64, made: Made) -> Change {
        Change::Make {
            parent,
            name: name.into_bytes(),
            node,
            made,
            facts: facts(node),
        }
    }

    /// Bytes for each of many files that these changes make; the numbers are those of the directory and the file. What
    /// the state counts by itself is near that.
    fn bytes_for_each(changes: impl Fn(u64, u64) -> Vec<Change>) -> isize {
        let before = HELD.get();
        let mut state = State::default();
        let apply = |state: &mut State, change| {
            let source = match &change {
                Change::Source { number, .. } => Some(*number),
                _ => None,
            };
            state.apply(change, &|_| None);
            if source.is_some() {
                state.forget_sources(source);
            }
        };
        let begin = Change::Begin {
            repository: ObjectId([1; 16]),
            backup: ObjectId([2; 16]),
            started: Time::default(),
            facts: facts(0),
        };
        apply(&mut state, begin);
        let mut directory = TOP;
        for n in 0..FILES {
            if n % DIRECTORY == 0 {
                directory = state.next;
                let name = format!("directory-{n}");
                apply(&mut state, make(TOP, name, directory, Made::Directory));
            }
            for change in changes(directory, state.next) {
                apply(&mut state, change);
            }
        }
        assert_eq!(state.entries, FILES + FILES / DIRECTORY);
        assert_eq!(state.spooled, 0);
        let (held, counted) = (HELD.get() - before, state.memory as isize);
        println!("{held} bytes, counted as {counted}");
        assert!(
            (held - counted).abs() * 10 < held,
            "{held} bytes, {counted}"
        );
        held / FILES as isize
    }

    #[test]
    fn an_ordinary_file_takes_less_than_500_bytes() {
        let name = |node: u64| format!("a-file-name-{node:06}");
        let owner = || Owner {
            uid: 1000,
            gid: 1000,
            user: b"somebody".to_vec(),
            group: b"everybody".to_vec(),
        };
        let linked = bytes_for_each(|directory, node| {
            let source = Change::Source {
                number: node,
                repository: ObjectId([1; 16]),
                file: file(node),
            };
            let owner = owner();
            let made = make(directory, name(node), node, Made::Linked(node));
            vec![source, made, Change::Owner { node, owner }]
        });
        let written = bytes_for_each(|directory, node| {
            let file = file(node);
            let length = file.size;
            let begin = 0;
            vec![
                make(directory, name(node), node, Made::File),
                Change::Written {
                    node,
                    begin,
                    length: 600,
                },
                Change::Written {
                    node,
                    begin: 600,
                    length: length - 600,
                },
                Change::Stored { node, begin, file },
                Change::Facts {
                    node,
                    facts: facts(7),
                },
            ]
        });
        println!("a file that is linked: {linked} bytes, written and stored: {written}");
        assert!(linked < 500, "{linked}");
        assert!(written < 500, "{written}");
    }
}
