//! A journal that is written anew: the changes that make the present state of an open point from nothing.
//!
//! What they do not tell is what no journal tells: access times, and what is known of contents without having been
//! written down. Nodes without a name are left out: after a restart nobody has them open, and what follows of them is
//! passed over. Numbers of nodes stay, also those that are gone: spool files and stored stretches go by them.

use super::OpenPoint;
use super::change::{Change, Made, TOP};
use super::content::{OpenContent, Place, Segment, SourceFile};
use super::state::{Body, OpenNode, State};
use super::{Inner, Stage};
use crate::error::{Error, Kind, Result};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// What takes one change after the other.
type Tell<'a> = &'a mut dyn FnMut(&Change) -> Result<()>;

impl OpenPoint {
    /// Writes the journal anew if it is much longer than what it tells of. This is done under the point's lock, so that
    /// no change comes between; 100,000 entries are about 30 MB, which take some tenths of a second.
    pub(super) fn shorten_journal(&self, inner: &mut Inner) {
        // While it is sealed the journal ends with what it is about to become.
        if !inner.journal.is_long() || !matches!(inner.stage, Stage::Open) {
            return;
        }
        let Inner { state, journal, .. } = inner;
        if let Err(error) = journal.replace(|tell| state.tell(tell)) {
            // It is as good as before, only longer.
            tracing::warn!("{}: {error}", self.directory.display());
        }
    }
}

impl State {
    /// Tells changes that make this state from nothing.
    pub fn tell(&self, tell: Tell<'_>) -> Result<()> {
        let begun = self.begun.as_ref();
        let begun = begun.ok_or_else(|| {
            Error::new(Kind::Damaged, "this open point was never begun; discard it")
        })?;
        tell(begun)?;
        tell(&Change::Name(self.name.clone()))?;
        if let Some((repository, point, generation)) = self.from {
            tell(&Change::From {
                repository,
                point,
                generation,
            })?;
        }
        let mut anew = Anew {
            state: self,
            tell,
            sources: HashSet::new(),
        };
        anew.last_number()?;
        for source in self.sources.values() {
            anew.source(source)?;
        }
        anew.directories()?;
        let nodes = self.nodes.iter();
        let others = nodes.filter(|(_, node)| node.names().is_none() && !node.places.is_empty());
        let mut others: Vec<_> = others.map(|(number, _)| number).collect();
        others.sort_unstable();
        others.into_iter().try_for_each(|number| anew.node(number))
    }
}

struct Anew<'a> {
    state: &'a State,
    tell: Tell<'a>,
    /// Those that were told.
    sources: HashSet<u64>,
}

impl Anew<'_> {
    fn tell(&mut self, change: &Change) -> Result<()> {
        (self.tell)(change)
    }

    /// The last number that a node has had is not to be given again: a node that is gone is made and removed.
    fn last_number(&mut self) -> Result<()> {
        let last = self.state.next.saturating_sub(1);
        let top = self.state.nodes.get(&TOP);
        let Some(top) = top.filter(|_| last != TOP) else {
            return Ok(());
        };
        let facts = top.facts;
        // No name that a tool can make.
        let name = Vec::new();
        self.tell(&Change::Make {
            parent: TOP,
            name: name.clone(),
            node: last,
            made: Made::File,
            facts,
        })?;
        self.tell(&Change::Remove { parent: TOP, name })
    }

    fn source(&mut self, source: &SourceFile) -> Result<()> {
        if !self.sources.insert(source.number) {
            return Ok(());
        }
        self.tell(&Change::Source {
            number: source.number,
            repository: source.repository,
            file: source.file().into_owned(),
        })
    }

    /// The top and every directory below it, each before what lies in it.
    fn directories(&mut self) -> Result<()> {
        let mut open = vec![TOP];
        while let Some(number) = open.pop() {
            self.node(number)?;
            let names = self.state.nodes.get(&number).and_then(OpenNode::names);
            for (name, below) in names.into_iter().flatten() {
                let below = below.node();
                let node = self.state.nodes.get(&below);
                let node = node.filter(|node| node.names().is_some());
                let place = node.and_then(|node| node.places.first());
                // A directory has one place; only a damaged journal leads in circles.
                if place.is_some_and(|place| place.0 == number && place.1 == *name) {
                    open.push(below);
                }
            }
        }
        Ok(())
    }

    /// A node with everything it has.
    fn node(&mut self, number: u64) -> Result<()> {
        let Some(node) = self.state.nodes.get(&number) else {
            return Ok(());
        };
        self.made(number, node)?;
        for (name, value) in &node.xattrs {
            self.tell(&Change::Xattr {
                node: number,
                name: name.clone(),
                value: Some(value.clone()),
            })?;
        }
        if let Some(owner) = &node.linked_owner {
            let owner = (**owner).clone();
            self.tell(&Change::Owner {
                node: number,
                owner,
            })?;
        }
        match node.content() {
            Some(content) if linked(content).is_none() => self.content(number, content),
            _ => Ok(()),
        }
    }

    /// A node at all its places.
    fn made(&mut self, number: u64, node: &OpenNode) -> Result<()> {
        let facts = node.facts;
        if number == TOP {
            return self.tell(&Change::Facts { node: TOP, facts });
        }
        let Some(((parent, name), others)) = node.places.split_first() else {
            return Ok(());
        };
        let made = match &node.body {
            Body::Directory { .. } => Made::Directory,
            Body::Symlink(target) => Made::Symlink(target.clone()),
            Body::Special(bits, device) => Made::Special(*bits, *device),
            Body::File { content, .. } => match linked(content) {
                None => Made::File,
                Some(source) => {
                    self.source(source)?;
                    Made::Linked(source.number)
                }
            },
        };
        self.tell(&Change::Make {
            parent: *parent,
            name: name.to_vec(),
            node: number,
            made,
            facts,
        })?;
        others.iter().try_for_each(|(parent, name)| {
            self.tell(&Change::Link {
                parent: *parent,
                name: name.to_vec(),
                node: number,
            })
        })
    }

    /// The bytes of a file that is none of another whole: what was stored, as it was stored, then everything else over
    /// it.
    fn content(&mut self, node: u64, content: &OpenContent) -> Result<()> {
        let stored = stored(content);
        for (begin, source) in &stored {
            self.tell(&Change::Stored {
                node,
                begin: *begin,
                file: source.file().into_owned(),
            })?;
        }
        let stored = union(
            stored
                .iter()
                .map(|(begin, source)| *begin..begin + source.size()),
        );
        let size = content.size;
        if size > 0 || !stored.is_empty() {
            self.tell(&Change::Size { node, size })?;
        }
        for (begin, length, place) in content.cover(0, size) {
            let over = match place {
                Some(Place::Spool) => Change::Written {
                    node,
                    begin,
                    length,
                },
                Some(Place::Source(source, offset)) if !source.written => {
                    self.source(&source)?;
                    Change::Reference {
                        node,
                        begin,
                        length,
                        source: source.number,
                        offset,
                    }
                }
                None if touches(&stored, &(begin..begin + length)) => Change::Hole {
                    node,
                    begin,
                    length,
                },
                Some(Place::Source(..)) | None => continue,
            };
            self.tell(&over)?;
        }
        Ok(())
    }
}

/// The file that this one is a link to, whole.
fn linked(content: &OpenContent) -> Option<&Arc<SourceFile>> {
    let [segment] = &content.segments[..] else {
        return None;
    };
    let Segment {
        begin: 0,
        length,
        place: Place::Source(source, 0),
    } = segment
    else {
        return None;
    };
    let whole = *length == content.size && content.size == source.size();
    (whole && !source.written).then_some(source)
}

/// The stretches of a file that were stored and of which something is left, each with the byte of the file where it was
/// stored, in an order that puts the later ones over the earlier ones.
fn stored(content: &OpenContent) -> Vec<(u64, &Arc<SourceFile>)> {
    let stored = content.segments.iter().filter_map(|segment| {
        let Place::Source(source, offset) = &segment.place else {
            return None;
        };
        let begin = segment.begin.saturating_sub(*offset);
        source.written.then_some((begin, source))
    });
    let mut stored: Vec<_> = stored.collect();
    stored.sort_unstable_by_key(|(_, source)| source.number);
    stored.dedup_by_key(|(_, source)| source.number);
    let mut by_place = stored.clone();
    by_place.sort_unstable_by_key(|(begin, _)| *begin);
    let mut neighbours = by_place.windows(2);
    let apart = neighbours.all(|pair| pair[0].0 + pair[0].1.size() <= pair[1].0);
    // In the order of the file each goes on at the end of a list, which is much faster.
    if apart { by_place } else { stored }
}

/// These ranges in order, those that touch each other as one.
fn union(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut union: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}

fn touches(union: &[Range<u64>], range: &Range<u64>) -> bool {
    let first = union.partition_point(|known| known.end <= range.start);
    union
        .get(first)
        .is_some_and(|known| known.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::super::change::Facts;
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
        let numbers = (0..18u8, 0..100usize, 0..100usize, 0..4u8, 0..4u8);
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
                let like =
                    |number, node: &OpenNode| is_named(number, node) && node.names().is_none();
                let node = pick(state, step.other, like)?;
                Change::Link { parent, name, node }
            }
            4 if names(old?).is_none_or(|names| names.is_empty()) => {
                Change::Remove { parent, name }
            }
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
            6 if old? != new?
                && !state.lies_in(new_parent, old?)
                && !state.lies_in(parent, new?) =>
            {
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
                value: (step.other % 3 > 0).then(|| new_name.repeat(step.length as usize)),
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
            format!("{sources:?}"),
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
                "{number}: {:?} {:?} {:?} {:?} {} {body}",
                node.facts,
                node.xattrs,
                node.linked_owner,
                &node.places[..],
                spooled(node),
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
            prop_assert_eq!(seen(&again(directory.path())), seen(&live.state));
            live.replace_journal();
            let made = again(directory.path());
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
}
