//! What a store can do is tried out, never guessed from its brand or its version.

use super::Store;
use super::names::{LEASES, trial};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use bytes::Bytes;
use serde::Serialize;
use std::ops::Range;

/// What a store proved able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// A name that is taken is refused and its object left alone. Without it no repository may be kept there: two
    /// writers would overwrite each other's restore points.
    pub create_if_absent: bool,
    /// A range of an object is exactly that range.
    pub range_reads: bool,
    /// A listing shows an object at once, with its size.
    pub prompt_listing: bool,
    /// A deleted object is gone at once.
    pub deletes: bool,
    /// What a repository does without where it is missing.
    #[serde(flatten)]
    pub offers: Offers,
}

/// What some stores offer; none where the store does not say, or is none that can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Offers {
    /// An object that is deleted or overwritten stays as an older version.
    pub versions: Option<bool>,
    /// Objects can be locked against deletion.
    pub locks: Option<bool>,
    /// Content that is not what its checksum says is refused.
    pub checksums: Option<bool>,
    /// An object is kept in the storage class that it was given.
    pub classes: Option<bool>,
}

impl Capabilities {
    /// Each ability and its name.
    pub fn listed(&self) -> [(Option<bool>, &'static str); 8] {
        [
            (Some(self.create_if_absent), "creates only what is absent"),
            (Some(self.range_reads), "reads ranges"),
            (Some(self.prompt_listing), "lists what was just written"),
            (Some(self.deletes), "deletes"),
            (self.offers.versions, "keeps versions"),
            (self.offers.locks, "locks objects"),
            (self.offers.checksums, "verifies checksums"),
            (self.offers.classes, "keeps storage classes"),
        ]
    }

    /// Refuses, with a sentence, a store that cannot keep a repository. [`Kind::Invalid`].
    pub fn require_all(&self, location: &str) -> Result<()> {
        let needed = [
            (
                self.create_if_absent,
                "does not refuse to create what exists (it answers success and overwrites)",
            ),
            (self.range_reads, "does not read ranges of objects as asked"),
            (
                self.prompt_listing,
                "does not list an object as soon as it is written",
            ),
            (self.deletes, "does not delete"),
        ];
        match needed.iter().find(|(able, _)| !able) {
            None => Ok(()),
            Some((_, lack)) => Err(Error::new(
                Kind::Invalid,
                format!(
                    "the store {location} {lack}; choose another, a repository would not be safe there"
                ),
            )),
        }
    }
}

/// The first content has every byte value, so that a range read at the wrong place is noticed.
fn first_content() -> Bytes {
    (0..=255).collect()
}

const SECOND_CONTENT: &[u8] = b"a second writer";
const RANGE: Range<u64> = 17..113;

/// Tries `store` out with one object under a fresh random name, and removes it. Fails only when the store cannot be
/// reached or refuses to be written at all.
pub fn probe(store: &dyn Store) -> Result<Capabilities> {
    let name = trial(ObjectId::random());
    let tried = try_out(store, &name);
    // Whatever happened, nothing may stay; the reason for a failure is the first one.
    let removed = store.delete(&name);
    let capabilities = tried?;
    removed?;
    let deletes = is_gone(store, &name)?;
    Ok(Capabilities {
        deletes,
        offers: match deletes {
            true => store.offers(&name)?,
            false => Offers::default(),
        },
        ..capabilities
    })
}

/// Refuses, with [`Kind::Invalid`], a store that overwrites what exists. Needs no right to delete: where that is missing
/// one small object stays, which nothing reads.
pub(super) fn require_honest_creation(store: &dyn Store) -> Result<()> {
    let name = trial(ObjectId::random());
    let tried = try_creation(store, &name);
    // A right that writing does not need; whoever lacks it may write all the same.
    let _ = store.delete(&name);
    let proved = Capabilities {
        create_if_absent: tried?,
        range_reads: true,
        prompt_listing: true,
        deletes: true,
        offers: Offers::default(),
    };
    proved.require_all(&store.location())
}

fn try_creation(store: &dyn Store, name: &str) -> Result<bool> {
    let content = first_content();
    store.create(name, content.clone())?;
    let refused = refuses_second(store, name)?;
    Ok(refused && store.get(name)? == content)
}

fn refuses_second(store: &dyn Store, name: &str) -> Result<bool> {
    match store.create(name, Bytes::from_static(SECOND_CONTENT)) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(true),
        // A store that does not know the condition says so in its own ways; that is a no as well.
        Err(error) if error.kind() == Kind::Invalid => Ok(false),
        Err(error) => Err(error),
    }
}

fn try_out(store: &dyn Store, name: &str) -> Result<Capabilities> {
    let content = first_content();
    store.create(name, content.clone())?;
    let range_reads = match store.get_range(name, RANGE) {
        Ok(read) => read == content[RANGE.start as usize..RANGE.end as usize],
        Err(error) => return only_if_unable(error),
    };
    let prompt_listing = store
        .list(LEASES)?
        .iter()
        .any(|object| object.name == name && object.size == content.len() as u64);
    let refused = refuses_second(store, name)?;
    Ok(Capabilities {
        create_if_absent: refused && store.get(name)? == content,
        range_reads,
        prompt_listing,
        deletes: true,
        offers: Offers::default(),
    })
}

/// An object that was just written and cannot be read is an answer too, unless the store has become unreachable.
fn only_if_unable(error: Error) -> Result<Capabilities> {
    match error.kind() {
        Kind::NotFound | Kind::Damaged | Kind::Invalid => Ok(Capabilities {
            create_if_absent: false,
            range_reads: false,
            prompt_listing: false,
            deletes: true,
            offers: Offers::default(),
        }),
        _ => Err(error),
    }
}

fn is_gone(store: &dyn Store, name: &str) -> Result<bool> {
    match store.head(name) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == Kind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
