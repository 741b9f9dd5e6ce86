//! The header, key slots and documents: all decode, and say what their names say.

use super::{Context, Object, examined};
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::point::{
    BackupRecord, Catalog, Catalogue, Condemned, Grave, Lease, Mark, PointRecord, Trash,
};
use crate::repository::{Header, Settings, decode};
use crate::store::names::{self, Name};
use std::collections::{HashMap, HashSet};

/// A point's record as its object holds it.
struct Link {
    name: Name,
    backup: ObjectId,
    sequence: u64,
    previous: [u8; 32],
    hash: [u8; 32],
}

/// What the documents say that concerns others.
#[derive(Default)]
struct Seen {
    backups: HashSet<ObjectId>,
    links: Vec<Link>,
    /// Hashes of the records that catalogues hold.
    copies: HashMap<Name, [u8; 32]>,
    /// Points that are gone for good.
    graves: Vec<Grave>,
    leases: u64,
    /// Of each point that was ever forgotten, the highest record in the trash, and whether that takes it back.
    trash: HashMap<Name, (u64, bool)>,
}

impl Seen {
    /// Decodes a document and sees that it belongs where it lies.
    fn document(&mut self, catalog: &Catalog, name: Name, bytes: &[u8]) -> Result<()> {
        match name {
            Name::Config(_) => drop(decode::<Settings>(bytes)?),
            Name::Backup(id, number) => {
                check_backup(catalog, id, number, &decode(bytes)?)?;
                self.backups.insert(id);
            }
            Name::Catalogue(_) => self.note_copies(decode(bytes)?)?,
            Name::Point(id, _) => self.links.push(link(catalog, name, id, bytes)?),
            Name::Mark(..) => drop(decode::<Mark>(bytes)?),
            Name::Trash(id, generation, n) => {
                let trash: Trash = decode(bytes)?;
                let point = Name::Point(id, generation);
                let newest = self.trash.entry(point).or_default();
                *newest = (*newest).max((n, trash.undone));
            }
            Name::Lease(_) => {
                decode::<Lease>(bytes)?;
                self.leases += 1;
            }
            Name::Condemned(_) => drop(decode::<Condemned>(bytes)?),
            // What a session's record says belongs to the copy room; that it decrypts is checked.
            _ => {}
        }
        Ok(())
    }

    fn note_copies(&mut self, catalogue: Catalogue) -> Result<()> {
        for entry in catalogue.points {
            if let Some(grave) = Grave::decode(&entry.record) {
                self.graves.push(grave);
                continue;
            }
            let name = Name::Point(entry.id, entry.generation);
            decode::<PointRecord>(&entry.record)?;
            self.copies
                .insert(name, *blake3::hash(&entry.record).as_bytes());
        }
        Ok(())
    }
}

/// Returns how many leases there are.
pub(super) fn check(context: &Context, catalog: &Catalog) -> Result<u64> {
    check_header(context)?;
    check_keys(context)?;
    let mut seen = Seen::default();
    for prefix in names::DOCUMENTS {
        for object in context.repository.store().list(prefix)? {
            context.progress.go_on()?;
            let Some(name) = Name::parse(&object.name) else {
                continue;
            };
            let found = examined(context.repository.document_bytes(name))?
                .and_then(|bytes| seen.document(catalog, name, &bytes));
            if let Err(error) = found {
                context.findings.problem(object_of(name), name, error);
            }
        }
    }
    check_copies(context, &seen.links, &seen.copies);
    check_backups_exist(context, &seen.links, &seen.backups);
    let forgotten = seen.trash.iter().filter(|(_, (_, undone))| !undone);
    let forgotten = forgotten.map(|(name, _)| *name).collect();
    check_chains(context, seen.links, &forgotten, &seen.graves);
    Ok(seen.leases)
}

fn object_of(name: Name) -> Object {
    match name {
        Name::Header => Object::Header,
        Name::Key(_) => Object::Key,
        Name::Config(_) => Object::Config,
        Name::Backup(..) => Object::Backup,
        Name::Pack(..) => Object::Pack,
        Name::Index(_) => Object::Index,
        Name::Catalogue(_) => Object::Catalogue,
        Name::Point(..) => Object::Point,
        Name::Mark(..) => Object::Mark,
        Name::Trash(..) => Object::Trash,
        Name::Lease(_) => Object::Lease,
        Name::Session(..) => Object::Session,
        Name::Condemned(_) => Object::Condemned,
    }
}

fn damaged(sentence: &str) -> Error {
    Error::new(crate::error::Kind::Damaged, sentence)
}

fn check_header(context: &Context) -> Result<()> {
    let read = context
        .repository
        .store()
        .get(&Name::Header.to_string())
        .and_then(|bytes| {
            let header = Header::decode(&bytes)?;
            Header::confirm(&bytes, context.repository.ring())?;
            Ok(header)
        });
    match examined(read)? {
        Ok(header) if header == *context.repository.header() => {}
        Ok(_) => {
            context.findings.problem(
                Object::Header,
                Name::Header,
                "it has changed since the repository was opened",
            );
        }
        Err(error) => {
            context
                .findings
                .problem(Object::Header, Name::Header, error);
        }
    }
    Ok(())
}

fn check_keys(context: &Context) -> Result<()> {
    for (id, slot) in context.repository.key_slots()? {
        if let Err(error) = examined(slot)? {
            context.findings.problem(Object::Key, Name::Key(id), error);
        }
    }
    Ok(())
}

fn check_backup(catalog: &Catalog, id: ObjectId, number: u64, record: &BackupRecord) -> Result<()> {
    // A renamed backup keeps its id, which follows from its first name.
    if number == 0
        && !catalog
            .backup_ids(&record.name)
            .any(|possible| possible == id)
    {
        return Err(damaged("its id does not follow from its name"));
    }
    Ok(())
}

fn link(catalog: &Catalog, name: Name, id: ObjectId, bytes: &[u8]) -> Result<Link> {
    let record: PointRecord = decode(bytes)?;
    if catalog.point_id(record.backup, &record.name) != id {
        return Err(damaged(
            "its id does not follow from its backup and its name",
        ));
    }
    if record.side_bytes != 0 && Some(record.side_bytes) != record.tree.entries.checked_mul(28) {
        return Err(damaged(
            "its side table has another length than its entries need",
        ));
    }
    Ok(Link {
        name,
        backup: record.backup,
        sequence: record.sequence,
        previous: record.previous,
        hash: *blake3::hash(bytes).as_bytes(),
    })
}

fn check_copies(context: &Context, links: &[Link], copies: &HashMap<Name, [u8; 32]>) {
    for link in links {
        if copies
            .get(&link.name)
            .is_some_and(|copy| *copy != link.hash)
        {
            context.findings.problem(
                Object::Point,
                link.name,
                "a catalogue holds another record of it",
            );
        }
    }
}

fn check_backups_exist(context: &Context, links: &[Link], backups: &HashSet<ObjectId>) {
    let used: HashSet<ObjectId> = links.iter().map(|link| link.backup).collect();
    for id in used.difference(backups) {
        let points = links.iter().filter(|link| link.backup == *id).count();
        let sentence = format!(
            "the backup of {points} restore points has no record that can be read, so they cannot be reached"
        );
        context
            .findings
            .problem(Object::Backup, names::backup(*id), sentence);
    }
}

/// Each record names the hash of one before it. Two hosts that commit at the same time give the same number twice.
fn check_chains(context: &Context, links: Vec<Link>, forgotten: &HashSet<Name>, graves: &[Grave]) {
    let present: HashSet<Name> = links.iter().map(|link| link.name).collect();
    // Prune removes records that were forgotten, and leaves gaps; mostly it leaves graves, too, which fill them.
    let mut pruned = forgotten.difference(&present).count();
    let mut backups: HashMap<ObjectId, Vec<Link>> = HashMap::new();
    for link in links {
        backups.entry(link.backup).or_default().push(link);
    }
    let mut buried: HashMap<ObjectId, Vec<(u64, [u8; 32])>> = HashMap::new();
    for grave in graves {
        let of_backup = buried.entry(grave.backup).or_default();
        of_backup.push((grave.sequence, grave.hash));
    }
    for (backup, mut chain) in backups {
        chain.sort_by_key(|link| link.sequence);
        let mut hashes: HashMap<u64, Vec<[u8; 32]>> = HashMap::new();
        for link in &chain {
            hashes.entry(link.sequence).or_default().push(link.hash);
        }
        for (sequence, hash) in buried.remove(&backup).unwrap_or_default() {
            hashes.entry(sequence).or_default().push(hash);
        }
        let mut told = 0;
        for link in &chain {
            let before = link.sequence.checked_sub(1).filter(|number| *number > 0);
            let follows = match before {
                None => link.previous == [0; 32],
                Some(number) => match hashes.get(&number) {
                    Some(hashes) => hashes.contains(&link.previous),
                    None if told == number => true,
                    None => {
                        told = number;
                        pruned = match pruned.checked_sub(1) {
                            Some(left) => left,
                            None => {
                                let sentence = format!(
                                    "record {number} of the backup is gone or cannot be read although nobody has forgotten its restore point"
                                );
                                context.findings.problem(
                                    Object::Point,
                                    names::backup(backup),
                                    sentence,
                                );
                                0
                            }
                        };
                        true
                    }
                },
            };
            if !follows {
                context.findings.problem(
                    Object::Point,
                    link.name,
                    "it does not follow the record before it in its backup",
                );
            }
        }
    }
}
