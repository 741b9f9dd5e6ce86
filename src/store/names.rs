//! Every object name of a repository, built and parsed here only.
//!
//! Names are relative and `/`-separated. Ids are 32 hexadecimal digits; numbers have 16, so that names sort as
//! their numbers do. Anything that is not exactly what [`Name`] prints is foreign and parses to `None`.

use crate::id::{ObjectId, parse_hex};
use std::fmt;

/// What a pack holds; the two kinds lie apart so that trees can stay in a hot storage class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Contents of files.
    Data,
    /// Trees and lists of chunks.
    Tree,
}

impl PackKind {
    fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "tree",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Data, Self::Tree]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

/// One object of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// Magic, format and flags: what makes a store a repository.
    Header,
    /// The key ring, wrapped for one password, key file or user.
    Key(ObjectId),
    /// The nth state of the repository's settings.
    Config(u64),
    /// The nth state of a backup.
    Backup(ObjectId, u64),
    /// A pack.
    Pack(PackKind, ObjectId),
    /// An index segment.
    Index(ObjectId),
    /// A list of restore points.
    Catalogue(ObjectId),
    /// The record of a complete restore point, and its generation (a name may be used again after forgetting).
    Point(ObjectId, u64),
    /// The nth state of what may still be said of a complete restore point.
    Mark(ObjectId, u64),
    /// The nth state of whether this generation of this restore point is forgotten.
    Trash(ObjectId, u64, u64),
    /// A reader's or writer's lease.
    Lease(ObjectId),
    /// The nth record of a copy session.
    Session(ObjectId, u64),
    /// The nth list of what prune will delete.
    Condemned(u64),
}

/// Listing prefix of all wrapped key rings.
pub const KEYS: &str = "keys/";
/// Listing prefix of the repository's settings.
pub const CONFIG: &str = "config/";
/// Listing prefix of all backups' records.
pub const BACKUPS: &str = "backups/";
/// Listing prefix of all packs of both kinds.
pub const PACKS: &str = "packs/";
/// Listing prefix of all index segments.
pub const INDEX: &str = "index/";
/// Listing prefix of all lists of restore points.
pub const CATALOGUE: &str = "catalogue/";
/// Listing prefix of all complete restore points' records.
pub const POINTS: &str = "points/";
/// Listing prefix of all restore points' marks.
pub const MARKS: &str = "marks/";
/// Listing prefix of everything forgotten.
pub const TRASH: &str = "trash/";
/// Listing prefix of all leases.
pub const LEASES: &str = "leases/";
/// Listing prefix of all copy sessions' records.
pub const SESSIONS: &str = "sessions/";
/// Listing prefix of prune's lists.
pub const CONDEMNED: &str = "condemned/";
/// Listing prefixes of all documents: what the key ring opens and is neither a pack nor an index segment.
pub const DOCUMENTS: [&str; 9] = [
    CONFIG, BACKUPS, CATALOGUE, POINTS, MARKS, TRASH, LEASES, SESSIONS, CONDEMNED,
];

/// Listing prefix of the packs of one kind.
pub fn packs(kind: PackKind) -> String {
    format!("{PACKS}{}/", kind.word())
}

/// Listing prefix of one backup's records.
pub fn backup(id: ObjectId) -> String {
    format!("{BACKUPS}{id}/")
}

/// Listing prefix of one restore point's marks.
pub fn marks(point: ObjectId) -> String {
    format!("{MARKS}{point}/")
}

/// Listing prefix of one copy session's records.
pub fn session(id: ObjectId) -> String {
    format!("{SESSIONS}{id}/")
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Key(id) => write!(f, "{KEYS}{id}"),
            Self::Config(n) => write!(f, "{CONFIG}{n:016x}"),
            Self::Backup(id, n) => write!(f, "{BACKUPS}{id}/{n:016x}"),
            Self::Pack(kind, id) => write!(f, "{PACKS}{}/{:02x}/{id}", kind.word(), id.0[0]),
            Self::Index(id) => write!(f, "{INDEX}{id}"),
            Self::Catalogue(id) => write!(f, "{CATALOGUE}{id}"),
            Self::Point(id, generation) => write!(f, "{POINTS}{id}.{generation:016x}"),
            Self::Mark(point, n) => write!(f, "{MARKS}{point}/{n:016x}"),
            Self::Trash(id, generation, n) => write!(f, "{TRASH}{id}.{generation:016x}/{n:016x}"),
            Self::Lease(id) => write!(f, "{LEASES}{id}"),
            Self::Session(id, n) => write!(f, "{SESSIONS}{id}/{n:016x}"),
            Self::Condemned(n) => write!(f, "{CONDEMNED}{n:016x}"),
        }
    }
}

impl Name {
    /// The name that prints as `text`; `None` when keepfs gives no object such a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (room, rest) = match text.split_once('/') {
            Some(halves) => halves,
            None => return (text == "header").then_some(Self::Header),
        };
        match room {
            "keys" => id(rest).map(Self::Key),
            "config" => number(rest).map(Self::Config),
            "backups" => pair(rest, '/').map(|(id, n)| Self::Backup(id, n)),
            "packs" => pack(rest),
            "index" => id(rest).map(Self::Index),
            "catalogue" => id(rest).map(Self::Catalogue),
            "points" => pair(rest, '.').map(|(id, n)| Self::Point(id, n)),
            "marks" => pair(rest, '/').map(|(id, n)| Self::Mark(id, n)),
            "trash" => trash(rest),
            "leases" => id(rest).map(Self::Lease),
            "sessions" => pair(rest, '/').map(|(id, n)| Self::Session(id, n)),
            "condemned" => number(rest).map(Self::Condemned),
            _ => None,
        }
    }
}

fn id(text: &str) -> Option<ObjectId> {
    text.parse().ok()
}

fn number(text: &str) -> Option<u64> {
    parse_hex(text).ok().map(u64::from_be_bytes)
}

fn pair(text: &str, separator: char) -> Option<(ObjectId, u64)> {
    let (left, right) = text.split_once(separator)?;
    Some((id(left)?, number(right)?))
}

fn trash(text: &str) -> Option<Name> {
    let (point, n) = text.split_once('/')?;
    let (id, generation) = pair(point, '.')?;
    Some(Name::Trash(id, generation, number(n)?))
}

fn pack(text: &str) -> Option<Name> {
    let (kind, rest) = text.split_once('/')?;
    let (first, rest) = rest.split_once('/')?;
    let name = Name::Pack(PackKind::parse(kind)?, id(rest)?);
    rest.starts_with(first)
        .then_some(name)
        .filter(|_| first.len() == 2)
}

/// The object with which a store is tried out. It is no [`Name`]: when a crash leaves it, nobody reads it.
pub(super) fn trial(id: ObjectId) -> String {
    format!("{LEASES}{TRIAL}{id}")
}

/// Whether this is such an object's name.
pub(super) fn is_trial(name: &str) -> bool {
    name.strip_prefix(LEASES)
        .is_some_and(|rest| rest.starts_with(TRIAL))
}

const TRIAL: &str = "trial-";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_name() -> impl Strategy<Value = Name> {
        let id = || any::<[u8; 16]>().prop_map(ObjectId);
        let number = any::<u64>;
        prop_oneof![
            Just(Name::Header),
            id().prop_map(Name::Key),
            number().prop_map(Name::Config),
            (id(), number()).prop_map(|(id, n)| Name::Backup(id, n)),
            id().prop_map(|id| Name::Pack(PackKind::Data, id)),
            id().prop_map(|id| Name::Pack(PackKind::Tree, id)),
            id().prop_map(Name::Index),
            id().prop_map(Name::Catalogue),
            (id(), number()).prop_map(|(id, n)| Name::Point(id, n)),
            (id(), number()).prop_map(|(id, n)| Name::Mark(id, n)),
            (id(), number(), number()).prop_map(|(id, g, n)| Name::Trash(id, g, n)),
            id().prop_map(Name::Lease),
            (id(), number()).prop_map(|(id, n)| Name::Session(id, n)),
            number().prop_map(Name::Condemned),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_itself(name in any_name()) {
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn only_what_we_print_parses(text in "[a-z/.0-9]{0,60}|.{0,20}") {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn a_changed_name_is_foreign_or_prints_back(name in any_name(), at in any::<prop::sample::Index>(), to in any::<char>()) {
            let mut letters: Vec<char> = name.to_string().chars().collect();
            let at = at.index(letters.len());
            letters[at] = to;
            let text: String = letters.into_iter().collect();
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn names_sort_as_their_numbers(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(Name::Config(a).to_string().cmp(&Name::Config(b).to_string()), a.cmp(&b));
        }
    }

    #[test]
    fn the_layout_is_the_promised_one() {
        let id = ObjectId([0xab; 16]);
        let hex = "ab".repeat(16);
        for (name, text) in [
            (Name::Header, "header".to_owned()),
            (Name::Key(id), format!("keys/{hex}")),
            (Name::Config(17), "config/0000000000000011".to_owned()),
            (
                Name::Backup(id, 1),
                format!("backups/{hex}/0000000000000001"),
            ),
            (
                Name::Pack(PackKind::Data, id),
                format!("packs/data/ab/{hex}"),
            ),
            (
                Name::Pack(PackKind::Tree, id),
                format!("packs/tree/ab/{hex}"),
            ),
            (Name::Index(id), format!("index/{hex}")),
            (Name::Catalogue(id), format!("catalogue/{hex}")),
            (Name::Point(id, 2), format!("points/{hex}.0000000000000002")),
            (Name::Mark(id, 3), format!("marks/{hex}/0000000000000003")),
            (
                Name::Trash(id, 2, 6),
                format!("trash/{hex}.0000000000000002/0000000000000006"),
            ),
            (Name::Lease(id), format!("leases/{hex}")),
            (
                Name::Session(id, 4),
                format!("sessions/{hex}/0000000000000004"),
            ),
            (Name::Condemned(5), "condemned/0000000000000005".to_owned()),
        ] {
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn a_pack_in_the_wrong_drawer_is_foreign() {
        let hex = "ab".repeat(16);
        assert_eq!(Name::parse(&format!("packs/data/ac/{hex}")), None);
        assert_eq!(Name::parse(&format!("packs/data//{hex}")), None);
        assert_eq!(Name::parse(&format!("packs/other/ab/{hex}")), None);
    }

    #[test]
    fn prefixes_hold_their_names() {
        let id = ObjectId([7; 16]);
        assert!(
            Name::Pack(PackKind::Tree, id)
                .to_string()
                .starts_with(&packs(PackKind::Tree))
        );
        assert!(Name::Backup(id, 0).to_string().starts_with(&backup(id)));
        assert!(Name::Mark(id, 0).to_string().starts_with(&marks(id)));
        assert!(Name::Session(id, 0).to_string().starts_with(&session(id)));
    }
}
