//! The format of a repository, version 1: everything that somebody needs who wants to write a reader of their own.
//! `tests/reader.py` is one, made from this page.
//!
//! Every byte layout stands beside the code that writes and reads it, and nowhere else; this page says how the pieces
//! fit together and where each is described. In an IDE or in `cargo doc --document-private-items` the links lead
//! there; in a source tree the file is named.
//!
//! Integers are little-endian and of fixed width. Every structure begins with its version; a reader refuses a newer
//! one. `BLAKE3` is BLAKE3-256, `HKDF` is HKDF-SHA256 (RFC 5869; an empty salt is 32 zeros), encryption is
//! AES-256-GCM with a 12-byte nonce and a 16-byte tag behind the ciphertext.
//!
//! # Objects
//!
//! ```text
//!  header ──────────────► repository id, flags                    in the clear, authenticated by the ring
//!  keys/<id> ───────────► the key ring, for one password or file  opens everything below
//!  config/<n>             settings                                document; the highest n holds
//!  backups/<id>/<n>       a backup: its name …                    document; the highest n holds
//!  points/<id>.<g> ─────► a restore point ──► root page ──┐       document
//!  trash/<id>.<g>/<n>     … is forgotten, or no more      │       document; the highest n holds
//!  marks/<id>/<n>         what may be said of it later    │       document; the highest n holds
//!  catalogue/<id>         copies of many point records    │       document; may be ignored
//!  index/<id> ──────────► chunk id ──► pack, offset, length       sealed body
//!  packs/tree/<xx>/<id>   pages ◄─────────────────────────┘       pack
//!  packs/data/<xx>/<id>   contents of files                       pack
//!  leases/ sessions/ condemned/                                   documents of writers; a reader ignores them
//! ```
//! Names are built and parsed in `store/names.rs`: ids are 32 hexadecimal digits, numbers and generations 16, `xx`
//! is the id's first byte. A reader ignores names of any other form. Nothing is ever changed in place. Of a series,
//! the highest `n` holds that can be authenticated: whoever can write to the store can give any object any name.
//!
//! # From a password to the ring
//!
//! 1. `header` ([`Header`](super::Header), `header.rs`): magic, version, flags. Refuse an unknown flag that a reader
//!    must understand; the repository id in it is part of everything that follows.
//! 2. Each object `keys/<id>` is a slot ([`Slot`](super::Slot), `keys.rs`). The slot's material is
//!    `Argon2id(password, salt of the slot, memory, passes, lanes)`, version 1.3, 32 bytes, for passwords, or
//!    `HKDF(content of the key file, no salt, "keepfs 1 key file")`, 32 bytes, for key files. Then
//!    `HKDF(material, salt of the slot, "keepfs 1 slot" + kind byte)` gives 64 bytes: a key and a commitment. A
//!    commitment that differs from the one in the slot means that this password is not for this slot.
//! 3. The wrapped ring, decrypted with that key (counter 0, a last section of kind 1, see below), is a document:
//!    the repository id, then the epochs (a sequence of `u32` number and 32 secret bytes).
//! 4. The header's bytes 80..112 must be the keyed BLAKE3 of its bytes 0..80 under the lasting key `header`:
//!    `HKDF(secret of the first epoch, no salt, "keepfs 1 header" + repository id)`, 32 bytes.
//!
//! # Ciphertext
//!
//! An encrypted object names its epoch and carries a random salt and a commitment in the clear. Its key is
//! `HKDF(secret of the epoch, salt, "keepfs 1 object" + repository id)`: 64 bytes, the AES key and the commitment.
//!
//! ```text
//!  nonce            u64 counter, u32 zero
//!  additional data  56 bytes: the place (repository, object, kind, part, last, flags, counter, plain length), in crypto.rs
//! ```
//! The counter of a section or frame is its number in the object; a pack's directory has the number behind its last
//! frame. The plain length is that of the decrypted bytes, and for a frame that of the decompressed ones. The kinds
//! are those of `ObjectKind` in `crypto.rs`; parts are 0 section, 1 frame, 2 directory. The id in the place is the
//! one in the object's name (zeros for `config/` and `condemned/`), the number is the name's number or generation. A
//! name in `trash/` has both: its number is the `n`, its id the first 16 bytes of the BLAKE3 of the 24 bytes that id and
//! generation spell in the name.
//!
//! # Documents and index segments: sealed bodies
//!
//! `sealed.rs` shows the container: a head of 80 bytes, then sections of the body. Flag 1 says that the whole body
//! is one zstd frame. Documents hold values as `codec.rs` ([`encode`](super::encode), [`decode`](super::decode))
//! describes: an envelope of 4 bytes, integers of fixed width, a sequence or string as its `u64` length and its items,
//! an optional value behind a byte 0 or 1, a truth value as a byte, a choice as its `u32` number and its fields;
//! an array of fixed length (ids, hashes) has no length before it. Fields follow each other in the order in which
//! they are declared:
//!
//! | object | declared as |
//! |---|---|
//! | `config/` | `Settings`, in `repository/mod.rs` |
//! | `backups/` | `BackupRecord` in `point/record.rs` |
//! | `points/` | `PointRecord`; its owner and tree in `point/entry.rs`; a time is `i64` seconds and `u32` nanoseconds |
//! | `trash/`, `marks/`, `catalogue/`, `leases/`, `condemned/` | `Trash`, `Mark`, `Catalogue`, `Lease`, `Condemned` in `point/record.rs` |
//! | pages | `StoredDirectory`, `ContentPage`, `Child` in `point/page.rs`, `Node`, `File`, `Content`, `Extent` in `point/entry.rs` |
//!
//! A point is visible when its record is there and `trash/` with the same id and generation is not, or the highest of
//! its records says that the forgetting was undone. Of several generations of one id the highest visible one holds.
//!
//! # From a chunk's id to its bytes
//!
//! An `index/` segment's body is laid out in [`Segment`] (`segment.rs`): packs, frames, chunks. A
//! segment that another one present replaces is ignored. A chunk may stand in several segments; any will do.
//!
//! A pack's origin says whose frames it holds unhashed: its writer decrypted and encrypted them and believed the ids.
//! When all of them have been hashed later (`check --read-data`), a new segment lists the pack with origin zero, in place
//! of the segments that listed it otherwise; head and directory of the pack never change. So the index may say zero where
//! the pack names an origin, and that is the truth; any other difference is damage. An index made anew from packs alone
//! begins with what the packs say. A reader, which hashes what it reads, need not care; a writer must not take a chunk of
//! a pack with an origin for a chunk that it has hashed itself, unless it copies from that same origin.
//!
//! ```text
//!  pack's stream    │ chunk │ chunk │ chunk │        chunk           │
//!                   ├───────────────────────┼───────────┬────────────┤
//!  frames (plain)   │        frame 0        │  frame 1  │  frame 2   │
//!                   └──────────┬────────────┴─────┬─────┴─────┬──────┘
//!  object     head  │ frame 0 + tag │ frame 1 + tag │ frame 2 + tag │ directory + tag │ trailer
//! ```
//! Find the frames of the pack that the chunk's part of the stream (offset, length) touches, read them from the
//! object, decrypt, decompress those that are shorter than their part of the stream, and cut the chunk out. Its
//! BLAKE3 is its id: check it. A zstd frame has one or more blocks: who needs only its first bytes may stop
//! decompressing at the end of the block that holds the last of them, but decrypts all of the frame first, as the tag
//! is that of the whole. Head, directory and trailer (`pack.rs`) say the same as the index, so that the index can be
//! made anew from packs alone; a reader that has the index needs none of them.
//!
//! # From a point to its files
//!
//! The record's tree names the root page of the top directory. A page is a chunk that holds one document
//! (`point/page.rs`): a leaf with a list of owners and the entries, ascending by the bytes of their names, each with
//! the place of its owner in that list; or an inner page with its children in order. A file's content is empty, one
//! chunk of the file's size, a few extents, or the root of pages of extents; an extent without a chunk is a hole.
//! Entries with the same link group, not 0, are names of one inode. Extended attributes are as the kernel gives them,
//! POSIX ACLs among them. The side table (`point/side.rs`) is of no use to a reader.
//!
//! # What is measured
//!
//! The default limits of cutting (128 KiB, 512 KiB, 2 MiB), the pieces of 256 KiB, their blocks of 64 KiB, groups of 1 MiB, and the
//! lengths of pages are constants of the writer, not promises of the format: a reader takes what it finds, up to 8 MiB
//! for a chunk or frame and 16 levels of pages.
//!
//! # How it is pinned
//!
//! `tests/golden/` holds structures byte for byte and a whole repository as it was stored; `tests/golden.rs` says how
//! they are made anew for a new version. Bytes of released versions are never replaced.

use super::pack::PackFacts;
use super::segment::{self, CacheFile, Segment};
use super::{Ring, owner_of, sealed};
use crate::error::Result;
use crate::id::ObjectId;
use crate::store::names::{Name, PackKind};
use std::path::Path;

/// The body of a sealed object that has this name: a document's bytes, or those of an index segment.
/// `Damaged`, `TooNew` or `WrongKey` when these bytes are not such an object.
pub fn open_sealed(ring: &Ring, name: Name, object: &[u8]) -> Result<Vec<u8>> {
    sealed::open(ring, owner_of(ring.repository, name), object)
}

/// The body of an index segment over these packs.
pub fn index_body(packs: &[(PackKind, PackFacts)], replaced: &[ObjectId]) -> Vec<u8> {
    segment::body_of(packs, replaced)
}

/// The segment with this body, mapped from a file in `directory`. `Damaged` when it is no such body.
pub fn map_index_body(body: &[u8], directory: &Path) -> Result<Segment> {
    let mut file = CacheFile::new(directory)?;
    file.write(body)?;
    let id = ObjectId::random();
    Segment::map(id, &file.keep(&id.to_string())?)
}
