//! Random changes, and what a journal that is written anew makes of them.

use super::super::journal::{Journal, peek};
use super::*;
use crate::clock::Time;
use crate::id::{ChunkId, ObjectId};
use crate::point::{Content, File, Owner};
use proptest::prelude::*;
use std::path::Path;

/// A change by small numbers, which are made to fit what there is.
#[derive(Clone, Debug)]
struct Step {
    what: u8,
    node: usize,
    other: usize,
    name: u8,
    new_name: u8,
    begin: u64,
    length: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = (0..20u8, 0..100usize, 0..100usize, 0..4u8, 0..4u8);
    (numbers, 0..200u64, 1..80u64).prop_map(|(numbers, begin, length)| Step {
        what: numbers.0,
        node: numbers.1,
        other: numbers.2,
        name: numbers.3,
        new_name: numbers.4,
        begin,
        length,
    })
}

fn file(size: u64, number: u64) -> File {
    File {
        size,
        block: (number % 2) as u32 * 4096,
        content: Content::One(ChunkId::of(&number.to_le_bytes())),
        ..File::empty()
    }
}

fn facts(n: u64) -> Facts {
    Facts {
        mode: 0o600 + n as u32 % 8,
        uid: n as u32,
        gid: 0,
        mtime: Time::new(n as i64, 7),
    }
}

/// The node of this number among those that are like it.
fn pick(state: &State, number: usize, like: impl Fn(u64, &OpenNode) -> bool) -> Option<u64> {
    let nodes = state.nodes.iter();
    let mut found: Vec<_> = nodes
        .filter(|(number, node)| like(*number, node))
        .map(|(number, _)| number)
        .collect();
    found.sort_unstable();
    found.get(number % found.len().max(1)).copied()
}

fn is_named(number: u64, node: &OpenNode) -> bool {
    number == TOP || !node.places.is_empty()
}

fn is_directory(number: u64, node: &OpenNode) -> bool {
    is_named(number, node) && node.names().is_some()
}

fn source(state: &State, length: u64) -> Change {
    let number = state.next_source;
    Change::Source {
        number,
        repository: ObjectId([(number % 3) as u8; 16]),
        file: file(length, number),
    }
}

/// The changes of a step, if a tool could make them now.
fn changes(state: &State, step: &Step) -> Option<Vec<Change>> {
    let directory = |number| pick(state, number, is_directory);
    let (parent, new_parent) = (directory(step.node)?, directory(step.other)?);
    let (name, new_name) = (vec![b'a' + step.name], vec![b'a' + step.new_name]);
    let (old, new) = (
        state.child(parent, &name),
        state.child(new_parent, &new_name),
    );
    let any = pick(state, step.node, |_, _| true)?;
    let content = |_, node: &OpenNode| node.content().is_some();
    let known = pick(state, step.node, content);
    let size = known.and_then(|node| state.nodes.get(&node)?.content());
    let size = size.map_or(0, |content| content.size);
    let (begin, length) = (step.begin, step.length);
    let names = |node: u64| state.nodes.get(&node).and_then(OpenNode::names);
    let change = match step.what {
        0..=2 if old.is_none() => {
            let node = state.next;
            let mut changes = Vec::new();
            let made = match step.other % 7 {
                0 | 1 => Made::Directory,
                2 | 3 => Made::File,
                4 => Made::Symlink(vec![b'x'; step.begin as usize]),
                5 => Made::Special(libc::S_IFCHR, step.begin),
                _ => {
                    changes.push(source(state, length));
                    Made::Linked(state.next_source)
                }
            };
            let facts = facts(begin);
            changes.push(Change::Make {
                parent,
                name,
                node,
                made,
                facts,
            });
            return Some(changes);
        }
        3 if old.is_none() => {
            let like = |number, node: &OpenNode| is_named(number, node) && node.names().is_none();
            let node = pick(state, step.other, like)?;
            Change::Link { parent, name, node }
        }
        4 if names(old?).is_none_or(|names| names.is_empty()) => Change::Remove { parent, name },
        5 if !state.lies_in(new_parent, old?) && old != new => {
            let fits = match new {
                None => true,
                Some(new) => {
                    let empty = names(new).is_none_or(|names| names.is_empty());
                    names(old?).is_some() == names(new).is_some() && empty
                }
            };
            let rename = Change::Rename {
                parent,
                name,
                new_parent,
                new_name,
            };
            fits.then_some(rename)?
        }
        6 if old? != new? && !state.lies_in(new_parent, old?) && !state.lies_in(parent, new?) => {
            Change::Exchange {
                parent,
                name,
                new_parent,
                new_name,
            }
        }
        7 => Change::Facts {
            node: any,
            facts: facts(begin),
        },
        8 => Change::Xattr {
            node: any,
            name,
            value: (!step.other.is_multiple_of(3)).then(|| new_name.repeat(step.length as usize)),
        },
        9 => Change::Owner {
            node: any,
            owner: Owner {
                uid: step.begin as u32 % 3,
                gid: 0,
                user: name,
                group: Vec::new(),
            },
        },
        10 | 11 => Change::Written {
            node: known?,
            begin,
            length,
        },
        12 => {
            let reference = |source| Change::Reference {
                node: known.unwrap_or_default(),
                begin,
                length,
                source,
                offset: step.other as u64 * 10,
            };
            let last = state.sources.keys().next().copied();
            return Some(match last.filter(|_| step.name > 1) {
                Some(last) => vec![reference(last)],
                None => vec![source(state, 5000), reference(state.next_source)],
            });
        }
        13 => Change::Size {
            node: known?,
            size: begin,
        },
        14 if begin < size => Change::Hole {
            node: known?,
            begin,
            length: length.min(size - begin),
        },
        15 | 16 => {
            let content = state.nodes.get(&known?)?.content()?;
            let mut segments = content.segments.iter();
            let spooled = |segment: &&Segment| matches!(segment.place, Place::Spool);
            let segment = segments.find(spooled)?;
            // As far as it was cut.
            let length = segment.length.min(length);
            Change::Stored {
                node: known?,
                begin: segment.begin,
                file: file(length, state.stored + 1000),
            }
        }
        17 if step.name == 0 => Change::Name(new_name),
        17 => Change::From {
            repository: ObjectId([step.name; 16]),
            point: ObjectId([step.new_name; 16]),
            generation: begin,
        },
        18 => Change::Synced { node: known? },
        19 => match step.other % 3 {
            0 => Change::Boot((step.name > 0).then_some(step.name.into())),
            1 => Change::Doubtful { node: known? },
            _ => Change::Trusted { node: known? },
        },
        _ => return None,
    };
    Some(vec![change])
}

/// An open point's state with its journal.
struct Live {
    state: State,
    journal: Journal,
}

impl Live {
    fn begin(directory: &Path) -> Self {
        let mut live = Self {
            state: State::default(),
            journal: Journal::open(directory, &mut |_| ()).unwrap(),
        };
        live.change(Change::Begin {
            repository: ObjectId([1; 16]),
            backup: ObjectId([2; 16]),
            started: Time::new(1, 2),
            facts: facts(3),
        });
        live.change(Change::Name(b"first".to_vec()));
        live
    }

    fn change(&mut self, change: Change) {
        self.journal.append(&change).unwrap();
        let source = match &change {
            Change::Source { number, .. } => Some(*number),
            _ => None,
        };
        self.state.apply(change, &|_| None);
        if source.is_some() {
            self.state.forget_sources(source);
        }
    }

    fn step(&mut self, step: &Step) {
        let changes = changes(&self.state, step);
        let changes = changes.into_iter().flatten();
        changes.for_each(|change| self.change(change));
    }

    fn replace_journal(&mut self) {
        let state = &self.state;
        self.journal.replace(|tell| state.tell(tell)).unwrap();
    }
}

fn again(directory: &Path) -> State {
    let mut state = State::default();
    peek(directory, &mut |change| state.apply(change, &|_| None)).unwrap();
    state.forget_unnamed();
    state
}

/// What a file has at each byte.
fn bytes(content: &OpenContent) -> Vec<String> {
    let mut bytes = Vec::new();
    for (begin, length, place) in content.cover(0, content.size) {
        for n in 0..length {
            bytes.push(match &place {
                None => "hole".to_owned(),
                Some(Place::Spool) => format!("spool {}", begin + n),
                Some(Place::Source(source, offset)) => {
                    // What was stored is found by its place, not by its number.
                    let number = (!source.written).then_some(source.number);
                    let (file, at) = (source.file(), offset + n);
                    format!("{number:?} {} {file:?} {at}", source.repository)
                }
            });
        }
    }
    bytes
}

/// Everything of a state that a user can see, or that matters later.
fn seen(state: &State) -> Vec<String> {
    let nodes = state.nodes.iter();
    let mut nodes: Vec<_> = nodes
        .filter(|(number, node)| is_named(*number, node))
        .collect();
    nodes.sort_unstable_by_key(|(number, _)| *number);
    let spooled = |node: &OpenNode| node.content().map_or(0, |content| content.spooled);
    let sources: Vec<_> = nodes
        .iter()
        .filter_map(|(_, node)| node.content())
        .flat_map(|content| content.segments.iter())
        .filter_map(|segment| match &segment.place {
            Place::Source(source, _) if !source.written => Some(source.number),
            _ => None,
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut seen = vec![
        format!("{:?} {:?} {:?}", state.begun, state.name, state.from),
        format!("{} {} {}", state.next, state.entries, state.repository),
        format!("{sources:?} {:?}", state.boot),
    ];
    for (number, node) in nodes {
        let body = match &node.body {
            Body::Directory {
                names,
                subdirectories,
                ..
            } => {
                let names = names.iter().map(|(name, known)| (name, known.node()));
                format!("{:?} {subdirectories}", names.collect::<Vec<_>>())
            }
            Body::File { content, .. } => format!("{:?}", bytes(content)),
            other => format!("{other:?}"),
        };
        seen.push(format!(
            "{number}: {:?} {:?} {:?} {:?} {:?} {} {} {} {body}",
            node.facts,
            node.atime,
            node.xattrs,
            node.linked_owner,
            &node.places[..],
            spooled(node),
            state.unsynced.contains(&number),
            state.doubtful.contains(&number),
        ));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A journal that was written anew makes the same state, and so does what follows in it.
    #[test]
    fn a_journal_that_is_written_anew_makes_the_same(
        before in proptest::collection::vec(step(), 0..120),
        after in proptest::collection::vec(step(), 0..40),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut live = Live::begin(directory.path());
        before.iter().for_each(|step| live.step(step));
        prop_assert_eq!(live.state.memory, live.state.memory_counted());
        prop_assert_eq!(seen(&again(directory.path())), seen(&live.state));
        live.replace_journal();
        let made = again(directory.path());
        prop_assert_eq!(made.memory, made.memory_counted());
        prop_assert_eq!(seen(&made), seen(&live.state));
        let spooled = made.nodes.values().filter_map(OpenNode::content);
        prop_assert_eq!(made.spooled, spooled.map(|content| content.spooled).sum::<u64>());
        after.iter().for_each(|step| live.step(step));
        prop_assert_eq!(seen(&again(directory.path())), seen(&live.state));
        live.replace_journal();
        prop_assert_eq!(seen(&again(directory.path())), seen(&live.state));
    }
}

#[test]
fn a_reference_finds_its_source_in_a_journal_that_was_written_anew_between_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut live = Live::begin(directory.path());
    live.change(Change::Make {
        parent: TOP,
        name: b"file".to_vec(),
        node: 1,
        made: Made::File,
        facts: facts(1),
    });
    live.change(source(&live.state, 1000));
    live.replace_journal();
    live.change(Change::Reference {
        node: 1,
        begin: 0,
        length: 1000,
        source: 0,
        offset: 0,
    });
    let made = again(directory.path());
    assert_eq!(seen(&made), seen(&live.state));
    assert_eq!(made.sources_in_order().len(), 1);
}
