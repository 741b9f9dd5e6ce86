//! Keys and authenticated encryption: AES-256-GCM, HKDF-SHA256, Argon2id, and the key ring.
//!
//! Every encrypted object has a key of its own, derived from an epoch of the ring and the object's random salt.
//! The nonce is a counter within the object, so no pair of key and nonce ever meets two plaintexts; a new attempt
//! to write an object takes a new salt. The second half of the derivation commits to the key: it stands in the
//! clear beside the salt and tells a wrong key from damaged bytes.

use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, random_bytes};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use bincode::{Decode, Encode};
use std::fmt;
use zeroize::Zeroize;

/// Bytes that authentication adds to every ciphertext.
pub const TAG_BYTES: usize = 16;

/// 32 secret bytes: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new secret from the kernel's random generator.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// These bytes as a secret.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// HKDF-SHA256 (RFC 5869): `N` bytes from key material, a salt and a purpose.
pub(crate) fn derive<const N: usize>(material: &[u8], salt: &[u8], purpose: &[&[u8]]) -> [u8; N] {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut output = [0; N];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(material)
        .expand(purpose, Length(N))
        .and_then(|okm| okm.fill(&mut output))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    output
}

/// One period of the ring: objects name the epoch whose secret their key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Epoch {
    /// Counts from 0.
    pub number: u32,
    /// The epoch's secret.
    pub secret: Secret,
}

/// The repository's secrets: one per epoch, the newest for what is written now.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ring {
    /// The repository these secrets belong to.
    pub repository: ObjectId,
    /// By ascending number, at least one.
    pub epochs: Vec<Epoch>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({}, {} epochs)", self.repository, self.epochs.len())
    }
}

impl Ring {
    /// A new ring with one epoch.
    pub fn new(repository: ObjectId) -> Self {
        let first = Epoch {
            number: 0,
            secret: Secret::random(),
        };
        Self {
            repository,
            epochs: vec![first],
        }
    }

    /// The number of the epoch for new objects.
    pub(crate) fn current(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.number)
    }

    /// The key of the object with this salt.
    pub(crate) fn object_key(&self, epoch: u32, salt: &[u8; 32]) -> Result<ObjectKey> {
        let Some(epoch) = self.epochs.iter().find(|known| known.number == epoch) else {
            let message = format!(
                "an object was written with key epoch {epoch}, which this key does not hold"
            );
            return Err(Error::new(Kind::WrongKey, message));
        };
        let purpose: [&[u8]; 2] = [b"keepfs 1 object", &self.repository.0];
        Ok(ObjectKey::new(derive(epoch.secret.bytes(), salt, &purpose)))
    }

    /// A key for one purpose that lasts as long as the repository: from the first epoch.
    pub(crate) fn lasting_key(&self, purpose: &str) -> [u8; 32] {
        let first = self.epochs.first().map(|epoch| epoch.secret.bytes());
        let purpose: [&[u8]; 3] = [b"keepfs 1 ", purpose.as_bytes(), &self.repository.0];
        derive(first.expect("a ring has an epoch"), &[], &purpose)
    }
}

/// The key of one object, with the commitment that stands beside its salt.
pub(crate) struct ObjectKey {
    aead: LessSafeKey,
    pub(crate) commitment: [u8; 32],
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey(…)")
    }
}

impl ObjectKey {
    pub(crate) fn new(mut derived: [u8; 64]) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, &derived[..32]).expect("the key has 32 bytes");
        let commitment = derived[32..]
            .try_into()
            .expect("the other half has 32 bytes");
        derived.zeroize();
        Self {
            aead: LessSafeKey::new(unbound),
            commitment,
        }
    }

    /// Encrypts in place and appends the tag.
    pub(crate) fn encrypt(&self, counter: u64, place: &[u8], buffer: &mut Vec<u8>) {
        self.aead
            .seal_in_place_append_tag(nonce(counter), Aad::from(place), buffer)
            .expect("AES-GCM encrypts up to 64 GiB");
    }

    /// Decrypts in place and cuts off the tag; `Damaged` when the bytes are not what was encrypted at this place.
    pub(crate) fn decrypt(&self, counter: u64, place: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
        let length = self.decrypt_slice(counter, place, buffer)?.len();
        buffer.truncate(length);
        Ok(())
    }

    /// As [`Self::decrypt`], on a slice; returns the plaintext's part of it.
    pub(crate) fn decrypt_slice<'a>(
        &self,
        counter: u64,
        place: &[u8],
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        self.aead
            .open_in_place(nonce(counter), Aad::from(place), buffer)
            .map(|plain| &*plain)
            .map_err(|_| Error::new(Kind::Damaged, "authentication failed"))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// What kind of object some bytes belong to; part of every place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // they are the kinds of design.md's list
pub enum ObjectKind {
    Key = 1,
    Config = 2,
    Backup = 3,
    DataPack = 4,
    TreePack = 5,
    Index = 6,
    Catalogue = 7,
    Point = 8,
    Mark = 9,
    Trash = 10,
    Lease = 11,
    Session = 12,
    Condemned = 13,
}

/// What a piece of ciphertext is within its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    /// A section of a document or index segment: whether it is the last, and the flags of the object's head.
    Section { last: bool, flags: u8 } = 0,
    /// A frame of a pack.
    Frame = 1,
    /// The directory of a pack.
    Directory = 2,
}

/// The object that ciphertext belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub repository: ObjectId,
    pub kind: ObjectKind,
    pub id: ObjectId,
    /// Number or generation; 0 where the name has none.
    pub number: u64,
}

impl Owner {
    /// The additional data of one piece: 56 bytes that bind it to repository, object, position, kind and length.
    ///
    /// ```text
    ///  0  16 repository   16  16 object id   32  u64 number or generation
    /// 40  u8 object kind  41  u8 part  42  u8 last section  43  u8 flags of the object's head
    /// 44  u64 counter     52  u32 plaintext length (of a frame: of its decompressed bytes)
    /// ```
    pub(crate) fn place(&self, part: Part, counter: u64, plain_bytes: u32) -> [u8; 56] {
        let (part, last, flags) = match part {
            Part::Section { last, flags } => (0, u8::from(last), flags),
            Part::Frame => (1, 0, 0),
            Part::Directory => (2, 0, 0),
        };
        let mut place = [0; 56];
        place[..16].copy_from_slice(&self.repository.0);
        place[16..32].copy_from_slice(&self.id.0);
        place[32..40].copy_from_slice(&self.number.to_le_bytes());
        place[40] = self.kind as u8;
        place[41] = part;
        place[42] = last;
        place[43] = flags;
        place[44..52].copy_from_slice(&counter.to_le_bytes());
        place[52..].copy_from_slice(&plain_bytes.to_le_bytes());
        place
    }
}
