//! Problems, and the damage that they mean for readers.

use crate::error::Result;
use crate::id::{ChunkId, ObjectId};
use crate::repository::Repository;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Problems that a report names, and lost files that a problem names.
const NAMED_MAX: usize = 1000;

/// The kind of object that a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // they are the kinds of design.md's list, and what packs hold
pub enum Object {
    Header,
    Key,
    Config,
    Backup,
    Pack,
    Index,
    Catalogue,
    Point,
    Mark,
    Trash,
    Lease,
    Session,
    Condemned,
    /// A page of a tree.
    Page,
    /// A chunk of content.
    Chunk,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of object.
    pub kind: Object,
    /// Which one: its name in the store, or its id.
    pub object: String,
    /// What is wrong.
    pub sentence: String,
    /// The first thousand files that cannot be read because of it, as `BACKUP/POINT/path`; a directory, none of whose
    /// entries can be listed, ends in `/`.
    pub lost: Vec<String>,
    /// All of them.
    pub lost_count: u64,
}

/// A problem's place in the list.
pub(super) type Number = usize;

#[derive(Default)]
struct State {
    problems: Vec<Problem>,
    told: HashSet<(Object, String, String)>,
    packs: HashMap<ObjectId, Number>,
    chunks: HashMap<(ObjectId, ChunkId), Number>,
    missing: Option<(Number, HashSet<ChunkId>)>,
}

/// Everything found so far; used by all threads.
#[derive(Default)]
pub(super) struct Findings(Mutex<State>);

impl Findings {
    /// Notes a problem once.
    pub(super) fn problem(
        &self,
        kind: Object,
        object: impl ToString,
        sentence: impl ToString,
    ) -> Number {
        self.0
            .lock()
            .problem(kind, object.to_string(), sentence.to_string())
    }

    /// Nothing in this pack can be read.
    pub(super) fn pack_is_lost(&self, pack: ObjectId, number: Number) {
        self.0.lock().packs.insert(pack, number);
    }

    /// These chunks cannot be read from this pack.
    pub(super) fn chunks_are_lost(
        &self,
        pack: ObjectId,
        chunks: impl IntoIterator<Item = ChunkId>,
        number: Number,
    ) {
        let mut state = self.0.lock();
        for id in chunks {
            state.chunks.entry((pack, id)).or_insert(number);
        }
    }

    /// The problem because of which a reader cannot read this chunk; none when it can, as far as is known.
    pub(super) fn verdict(&self, repository: &Repository, id: &ChunkId) -> Result<Option<Number>> {
        let found = repository.find(id)?;
        let Some(location) = found.filter(|found| !repository.is_gone(&found.pack.id)) else {
            return Ok(Some(self.0.lock().missing(id)));
        };
        let state = self.0.lock();
        let pack = location.pack.id;
        let number = state
            .packs
            .get(&pack)
            .or_else(|| state.chunks.get(&(pack, *id)));
        Ok(number.copied())
    }

    /// Whether anything costs files.
    pub(super) fn any_damage(&self) -> bool {
        let state = self.0.lock();
        !state.packs.is_empty() || !state.chunks.is_empty() || state.missing.is_some()
    }

    /// A file or directory that cannot be read because of this problem.
    pub(super) fn lost(&self, number: Number, path: String) {
        let problem = &mut self.0.lock().problems[number];
        problem.lost_count += 1;
        if problem.lost.len() < NAMED_MAX {
            problem.lost.push(path);
        }
    }

    /// The problems, and how many there are in all.
    pub(super) fn into_problems(self) -> (Vec<Problem>, u64) {
        let mut problems = self.0.into_inner().problems;
        let count = problems.len() as u64;
        // What costs files comes first.
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.lost_count));
        problems.truncate(NAMED_MAX);
        (problems, count)
    }
}

impl State {
    fn problem(&mut self, kind: Object, object: String, sentence: String) -> Number {
        if !self.told.insert((kind, object.clone(), sentence.clone())) {
            let same = |problem: &Problem| {
                problem.kind == kind && problem.object == object && problem.sentence == sentence
            };
            if let Some(number) = self.problems.iter().position(same) {
                return number;
            }
        }
        self.problems.push(Problem {
            kind,
            object,
            sentence,
            lost: Vec::new(),
            lost_count: 0,
        });
        self.problems.len() - 1
    }

    /// Chunks that no index segment lists are one problem, however many they are: a lost segment lists thousands.
    fn missing(&mut self, id: &ChunkId) -> Number {
        let (number, mut ids) = self.missing.take().unwrap_or_else(|| {
            (
                self.problem(Object::Index, "index/".to_owned(), String::new()),
                HashSet::new(),
            )
        });
        ids.insert(*id);
        self.problems[number].sentence = format!(
            "{} chunks that restore points need, such as {id}, are in no index segment; run `keepfs check --rebuild-index`",
            ids.len()
        );
        self.missing = Some((number, ids));
        number
    }
}
