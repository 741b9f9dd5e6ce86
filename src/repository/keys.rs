//! Key slots: the ring wrapped for one password or key file, one object `keys/<id>` each.
//!
//! ```text
//!  0  "kfky"   4  u16 version (1)   6  u8 kind (1 password, 2 key file, 3 recovery key, 4 user)   7  u8 zero
//!  8  u32 Argon2id memory, KiB   12  u32 passes   16  u32 lanes        (all zero for key files)
//! 20  u32 length w of the wrapped ring   24  u32 length i of the sealed facts   28  u32 zero
//! 32  32 salt   64  32 key commitment
//! 96      w bytes: the ring's document, encrypted with the slot's key, counter 0
//! 96 + w  i bytes: u32 epoch, 32 salt, the slot's facts, encrypted with the ring, counter 0
//! then 32 BLAKE3 of everything before: tells damage from a wrong password
//! ```
//! The slot's key and commitment are HKDF-SHA256 of the Argon2id output (or of the key file's bytes), the salt and
//! `keepfs 1 slot` + kind. The facts hold the slot's own key material, so that whoever holds the ring can wrap a
//! later epoch for every slot without anybody's password.

use super::codec::{self, Fields};
use super::crypto::{ObjectKey, ObjectKind, Owner, Part, Ring, Secret, TAG_BYTES, derive};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, random_bytes};
use argon2::{Algorithm, Argon2, Params, Version};
use bincode::{Decode, Encode};
use std::fmt;
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"kfky";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 96;
/// The only section of a slot.
const LAST: Part = Part::Section {
    last: true,
    flags: 0,
};

/// A key slot is at most this long; more is hostile.
const SLOT_BYTES_MAX: usize = 1 << 20;
/// Argon2id cost for new slots: 64 MiB and 3 passes, 0.18 s on the machine that fixed it (RFC 9106, second choice).
const NEW_COST: Cost = Cost {
    memory_kib: 64 << 10,
    passes: 3,
    lanes: 4,
};
/// What a slot read from a store may ask for: a hostile slot must not take all memory or an hour.
const COST_MAX: Cost = Cost {
    memory_kib: 2 << 20,
    passes: 64,
    lanes: 64,
};

/// What opens a slot. Never printed.
#[derive(Clone)]
pub enum Credential {
    /// A password of any length, hardened by Argon2id.
    Password(Zeroizing<Vec<u8>>),
    /// The content of a key file: at least 32 bytes of full entropy, so no hardening is needed.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::KeyFile(_) => "KeyFile(…)",
        })
    }
}

impl Credential {
    /// A password. Fails with `Invalid` when it is empty.
    pub fn password(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                "the password is empty; choose one that is not",
            ));
        }
        Ok(Self::Password(Zeroizing::new(bytes.to_vec())))
    }

    /// A key file's content. Fails with `Invalid` when it is shorter than 32 bytes.
    pub fn key_file(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 32 {
            let message = "the key file is shorter than 32 bytes; make one with `head -c 64 /dev/urandom > FILE`";
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self::KeyFile(Zeroizing::new(bytes.to_vec())))
    }
}

/// Who a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SlotKind {
    /// A password.
    Password,
    /// A key file.
    KeyFile,
    /// A printed recovery key; opened as a key file's content.
    Recovery,
    /// A user's password.
    User,
}

impl SlotKind {
    fn number(self) -> u8 {
        match self {
            Self::Password => 1,
            Self::KeyFile => 2,
            Self::Recovery => 3,
            Self::User => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Password, Self::KeyFile, Self::Recovery, Self::User]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    fn hardened(self) -> bool {
        matches!(self, Self::Password | Self::User)
    }

    fn accepts(self, credential: &Credential) -> bool {
        self.hardened() == matches!(credential, Credential::Password(_))
    }
}

/// Argon2id parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    const NONE: Self = Self {
        memory_kib: 0,
        passes: 0,
        lanes: 0,
    };

    fn within(self, limit: Self) -> bool {
        self.memory_kib <= limit.memory_kib
            && self.passes <= limit.passes
            && self.lanes <= limit.lanes
    }
}

/// What is told of a slot to whoever holds the ring.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SlotFacts {
    /// A name that a person gave it.
    pub label: String,
    /// When it was made.
    pub created: Time,
    /// The host that made it.
    pub host: String,
    /// The slot's key material before HKDF: lets a holder of the ring wrap a later epoch for this slot.
    material: Secret,
}

/// A slot as it stands in the store.
pub struct Slot {
    /// Who it is for.
    pub kind: SlotKind,
    cost: Cost,
    salt: [u8; 32],
    commitment: [u8; 32],
    wrapped: Vec<u8>,
    facts: Vec<u8>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?})", self.kind)
    }
}

fn owner(repository: ObjectId, slot: ObjectId) -> Owner {
    Owner {
        repository,
        kind: ObjectKind::Key,
        id: slot,
        number: 0,
    }
}

impl Slot {
    /// Wraps the ring for `credential` in the slot `id`.
    pub fn wrap(
        ring: &Ring,
        id: ObjectId,
        kind: SlotKind,
        credential: &Credential,
        label: &str,
        created: Time,
        host: &str,
    ) -> Result<Self> {
        let salt = random_bytes();
        let cost = if kind.hardened() {
            NEW_COST
        } else {
            Cost::NONE
        };
        let material = material(credential, &salt, cost)?;
        let key = slot_key(&material, &salt, kind);
        let mut wrapped = codec::encode(ring);
        let place = owner(ring.repository, id).place(LAST, 0, wrapped.len() as u32);
        key.encrypt(0, &place, &mut wrapped);
        let facts = SlotFacts {
            label: label.to_owned(),
            created,
            host: host.to_owned(),
            material,
        };
        Ok(Self {
            kind,
            cost,
            salt,
            commitment: key.commitment,
            wrapped,
            facts: seal_facts(&facts, ring, id)?,
        })
    }

    /// The slot's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([self.kind.number(), 0]);
        let lengths = [self.wrapped.len() as u32, self.facts.len() as u32, 0];
        let cost = [self.cost.memory_kib, self.cost.passes, self.cost.lanes];
        for number in cost.into_iter().chain(lengths) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.salt);
        bytes.extend(self.commitment);
        bytes.extend(&self.wrapped);
        bytes.extend(&self.facts);
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// Reads a slot. `Damaged` when its bytes are not what was written, `TooNew` for a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Kind::Damaged, "a key slot is damaged");
        if bytes.len() > SLOT_BYTES_MAX || bytes.len() < FIXED_BYTES + 32 {
            return Err(damaged());
        }
        let (content, checksum) = bytes.split_at(bytes.len() - 32);
        if blake3::hash(content).as_bytes() != checksum {
            return Err(damaged());
        }
        let mut fields = Fields(content);
        if fields.bytes(4)? != MAGIC {
            return Err(damaged());
        }
        let version = fields.u16()?;
        let kind = SlotKind::from_number(fields.u8()?);
        let (true, Some(kind), 0) = (version == VERSION, kind, fields.u8()?) else {
            let message = "a key slot was written by a newer keepfs; use that one, or another key";
            return Err(Error::new(Kind::TooNew, message));
        };
        let cost = Cost {
            memory_kib: fields.u32()?,
            passes: fields.u32()?,
            lanes: fields.u32()?,
        };
        let (wrapped_bytes, facts_bytes) = (fields.u32()? as usize, fields.u32()? as usize);
        fields.u32()?;
        let slot = Self {
            kind,
            cost,
            salt: fields.array()?,
            commitment: fields.array()?,
            wrapped: fields.bytes(wrapped_bytes)?.to_vec(),
            facts: fields.bytes(facts_bytes)?.to_vec(),
        };
        if !fields.0.is_empty() || !cost.within(COST_MAX) || wrapped_bytes < TAG_BYTES {
            return Err(damaged());
        }
        Ok(slot)
    }

    /// The ring, when `credential` opens this slot; `None` when it does not.
    pub fn open(
        &self,
        repository: ObjectId,
        id: ObjectId,
        credential: &Credential,
    ) -> Result<Option<Ring>> {
        if !self.kind.accepts(credential) {
            return Ok(None);
        }
        let material = material(credential, &self.salt, self.cost)?;
        let key = slot_key(&material, &self.salt, self.kind);
        if key.commitment != self.commitment {
            return Ok(None);
        }
        let mut document = Zeroizing::new(self.wrapped.clone());
        let plain_bytes = (document.len() - TAG_BYTES) as u32;
        let place = owner(repository, id).place(LAST, 0, plain_bytes);
        key.decrypt(0, &place, &mut document)
            .map_err(|error| error.context(format!("key slot {id}")))?;
        let ring: Ring = codec::decode(&document)?;
        if ring.repository != repository || ring.epochs.is_empty() {
            return Err(Error::new(
                Kind::Damaged,
                format!("key slot {id} belongs to another repository"),
            ));
        }
        Ok(Some(ring))
    }

    /// The slot's facts, for a holder of the ring.
    pub fn facts(&self, ring: &Ring, id: ObjectId) -> Result<SlotFacts> {
        let mut fields = Fields(&self.facts);
        let epoch = fields.u32()?;
        let salt = fields.array()?;
        let key = ring.object_key(epoch, &salt)?;
        let mut document = fields.0.to_vec();
        let plain_bytes = document.len().saturating_sub(TAG_BYTES) as u32;
        let place = owner(ring.repository, id).place(LAST, 0, plain_bytes);
        key.decrypt(0, &place, &mut document)?;
        codec::decode(&document)
    }
}

fn seal_facts(facts: &SlotFacts, ring: &Ring, id: ObjectId) -> Result<Vec<u8>> {
    let salt: [u8; 32] = random_bytes();
    let key = ring.object_key(ring.current(), &salt)?;
    let mut document = codec::encode(facts);
    let place = owner(ring.repository, id).place(LAST, 0, document.len() as u32);
    key.encrypt(0, &place, &mut document);
    let mut sealed = ring.current().to_le_bytes().to_vec();
    sealed.extend(salt);
    sealed.extend(document);
    Ok(sealed)
}

fn material(credential: &Credential, salt: &[u8; 32], cost: Cost) -> Result<Secret> {
    match credential {
        Credential::KeyFile(content) => Ok(Secret::from_bytes(derive(
            content,
            &[],
            &[b"keepfs 1 key file"],
        ))),
        Credential::Password(password) => {
            let wrong = |error: argon2::Error| {
                Error::new(
                    Kind::Damaged,
                    format!("a key slot asks for impossible costs: {error}"),
                )
            };
            let params =
                Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(wrong)?;
            let mut output = [0; 32];
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(password, salt, &mut output)
                .map_err(wrong)?;
            Ok(Secret::from_bytes(output))
        }
    }
}

fn slot_key(material: &Secret, salt: &[u8; 32], kind: SlotKind) -> ObjectKey {
    ObjectKey::new(derive(
        material.bytes(),
        salt,
        &[b"keepfs 1 slot", &[kind.number()]],
    ))
}
