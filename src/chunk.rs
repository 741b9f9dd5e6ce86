//! Where to cut: pure functions from bytes to cut points.
//!
//! # Cutting by content
//!
//! FastCDC's normalised cutting over a gear hash whose table belongs to one repository, so that nobody can tell from
//! the lengths of chunks which well-known file they hold. The rules below are part of format 1.
//!
//! * **Table.** 256 numbers `gear[0..256]`: the first 2048 bytes of the extended output of
//!   `BLAKE3 keyed_hash(seed, "keepfs gear table 1")`, read as little-endian `u64`.
//! * **Hash.** At position `p` the hash is that of the 64 bytes before `p`: beginning at 0, for each byte
//!   `hash = 2 × hash + gear[byte]` modulo 2⁶⁴. A byte that is 64 back has been shifted out, so a position's hash
//!   depends on these 64 bytes and on nothing else. Published FastCDC starts at 0 behind the minimum instead, which
//!   makes the first positions depend on where the chunk began.
//! * **Masks.** `mask(n)` has `n` ones, the highest at bit 62. With an average of 2ᵃ the *strict* mask is
//!   `mask(a + 2)` and the *loose* mask is `mask(a - 2)` (normalisation level 2).
//! * **Cut.** The chunk ends at the first `p` with `min < p ≤ average` where `hash & strict` is 0, else at the first `p`
//!   with `average < p < max` where `hash & loose` is 0, else at `max`, else at the end of the data.
//!
//! A minimum of a quarter of the average gives chunks of about 1.2 × the average.
//!
//! # Fixed blocks
//!
//! Every chunk has the same length; since a file is cut from its beginning, blocks are aligned.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// Bytes that a position's hash depends on: as many as the hash has bits.
const WINDOW: usize = 64;

/// The largest `max` that is accepted, in bytes; a chunk is held in memory whole.
const MAX_LIMIT: u32 = 64 << 20;

/// A way of cutting content into chunks, with its limits in bytes.
#[derive(Clone)]
pub struct Cutting {
    way: Way,
    max: usize,
}

#[derive(Clone)]
enum Way {
    Content(Box<Gear>),
    Fixed,
}

#[derive(Clone)]
struct Gear {
    /// The table, and the table times two: two bytes are hashed in one step.
    table: [u64; 256],
    doubled: [u64; 256],
    min: usize,
    average: usize,
    strict: u64,
    loose: u64,
}

impl Cutting {
    /// Cutting by content under a repository's `seed`. All lengths are bytes: `average` is a power of two from 256,
    /// `min` is at least 64, `min <= average <= max <= 64 MiB`; anything else is [`Kind::Invalid`].
    pub fn by_content(seed: &[u8; 32], min: u32, average: u32, max: u32) -> Result<Self> {
        let fits = average.is_power_of_two()
            && average >= 256
            && min as usize >= WINDOW
            && (min..=max).contains(&average)
            && max <= MAX_LIMIT;
        if !fits {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "cannot cut chunks of {min} to {max} bytes, {average} on average: the average must be a power of \
                     two from 256, the least at least {WINDOW}, the largest at most {MAX_LIMIT}, in this order"
                ),
            ));
        }
        let table = gear_table(seed);
        let bits = average.trailing_zeros();
        Ok(Self {
            way: Way::Content(Box::new(Gear {
                table,
                doubled: table.map(|value| value << 1),
                min: min as usize,
                average: average as usize,
                strict: mask(bits + 2),
                loose: mask(bits - 2),
            })),
            max: max as usize,
        })
    }

    /// Blocks of `size` bytes, 1 to 64 MiB; anything else is [`Kind::Invalid`].
    pub fn fixed(size: u32) -> Result<Self> {
        if !(1..=MAX_LIMIT).contains(&size) {
            return Err(Error::new(
                Kind::Invalid,
                format!("cannot cut blocks of {size} bytes: choose 1 to {MAX_LIMIT}"),
            ));
        }
        Ok(Self {
            way: Way::Fixed,
            max: size as usize,
        })
    }

    /// The longest chunk, in bytes: with so many bytes in hand [`Cutting::cut`] always answers.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The length of the first chunk of `data`, never 0. `None` when more bytes are needed to tell, or when nothing
    /// is left: `at_end` says that nothing follows `data`. The answer does not depend on how much lies behind the cut.
    pub fn cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let reach = &data[..data.len().min(self.max)];
        let found = match &self.way {
            Way::Content(gear) => gear.first_match(reach),
            Way::Fixed => None,
        };
        found.or_else(|| {
            let decided = reach.len() == self.max || (at_end && !reach.is_empty());
            decided.then_some(reach.len())
        })
    }
}

impl fmt::Debug for Cutting {
    /// Shows the limits; the table tells the seed and stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Content(gear) => write!(
                f,
                "Cutting by content ({}, {}, {})",
                gear.min, gear.average, self.max
            ),
            Way::Fixed => write!(f, "Cutting in blocks ({})", self.max),
        }
    }
}

impl Gear {
    /// The first position in `data` that ends a chunk by its hash.
    fn first_match(&self, data: &[u8]) -> Option<usize> {
        if data.len() <= self.min {
            return None;
        }
        let before = &data[self.min - WINDOW..self.min];
        let mut hash = before.iter().fold(0, |hash, &byte| self.roll(hash, byte));
        let middle = data.len().min(self.average);
        self.scan(&data[self.min..middle], &mut hash, self.strict)
            .map(|position| self.min + position)
            .or_else(|| {
                self.scan(&data[middle..], &mut hash, self.loose)
                    .map(|position| middle + position)
            })
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }

    /// The first position in `data` where the hash, going on from `hash`, is 0 under `mask`. Two bytes a step: after
    /// the first of them the hash is kept times two, and compared so; bit 63 of a mask is 0, so nothing is lost.
    #[inline]
    fn scan(&self, data: &[u8], hash: &mut u64, mask: u64) -> Option<usize> {
        let doubled_mask = mask << 1;
        let pairs = data.chunks_exact(2);
        let last = pairs.remainder();
        let mut rolling = *hash;
        for (step, pair) in pairs.enumerate() {
            let doubled = (rolling << 2).wrapping_add(self.doubled[usize::from(pair[0])]);
            if doubled & doubled_mask == 0 {
                return Some(2 * step + 1);
            }
            rolling = doubled.wrapping_add(self.table[usize::from(pair[1])]);
            if rolling & mask == 0 {
                return Some(2 * step + 2);
            }
        }
        for &byte in last {
            rolling = self.roll(rolling, byte);
            if rolling & mask == 0 {
                return Some(data.len());
            }
        }
        *hash = rolling;
        None
    }
}

/// `bits` ones, the highest at bit 62.
fn mask(bits: u32) -> u64 {
    ((1 << bits) - 1) << (63 - bits)
}

fn gear_table(seed: &[u8; 32]) -> [u64; 256] {
    let mut bytes = [0; 2048];
    blake3::Hasher::new_keyed(seed)
        .update(b"keepfs gear table 1")
        .finalize_xof()
        .fill(&mut bytes);
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

/// Whether a page may end behind the item with this hash (BLAKE3 of an entry's name, the id of a chunk or page): one
/// item in `average` is such a one, those whose first four bytes, little-endian, are a multiple of it.
pub fn is_page_boundary(hash: &[u8; 32], average: u32) -> bool {
    let [a, b, c, d, ..] = *hash;
    u32::from_le_bytes([a, b, c, d]).is_multiple_of(average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: usize = 256;
    const AVERAGE: usize = 1024;
    const MAX: usize = 4096;

    fn cutting(seed: u8) -> Cutting {
        Cutting::by_content(&[seed; 32], MIN as u32, AVERAGE as u32, MAX as u32).unwrap()
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// Ends of all chunks, with everything in hand.
    fn ends(cutting: &Cutting, data: &[u8]) -> Vec<usize> {
        let mut ends = vec![];
        let mut at = 0;
        while let Some(length) = cutting.cut(&data[at..], true) {
            at += length;
            ends.push(at);
        }
        ends
    }

    /// Ends of all chunks for a reader that gets a few bytes at a time.
    fn streamed_ends(cutting: &Cutting, data: &[u8], pieces: &[usize]) -> Vec<usize> {
        let (mut start, mut filled) = (0, 0);
        let mut ends = vec![];
        let mut pieces = pieces.iter().cycle();
        loop {
            match cutting.cut(&data[start..filled], filled == data.len()) {
                Some(length) => {
                    start += length;
                    ends.push(start);
                }
                None if filled == data.len() => return ends,
                None => filled = data.len().min(filled + pieces.next().unwrap()),
            }
        }
    }

    /// The rules of the module's page, word for word and one byte at a time.
    fn cut_by_the_book(seed: u8, data: &[u8]) -> usize {
        let table = gear_table(&[seed; 32]);
        for p in MIN + 1..data.len().min(MAX) {
            let hash = data[p - 64..p].iter().fold(0u64, |hash, &byte| {
                hash.wrapping_mul(2).wrapping_add(table[byte as usize])
            });
            let bits = if p <= AVERAGE { 12 } else { 8 };
            if (hash << 1) >> (64 - bits) == 0 {
                return p;
            }
        }
        data.len().min(MAX)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cuts_cover_the_data_and_respect_the_limits(seed: u64, len in 0usize..40_000) {
            let data = noise(seed, len);
            let ends = ends(&cutting(1), &data);
            prop_assert_eq!(ends.last().copied().unwrap_or(0), len);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let lengths: Vec<_> = starts.zip(&ends).map(|(start, end)| end - start).collect();
            prop_assert!(lengths.iter().all(|&length| (1..=MAX).contains(&length)));
            prop_assert!(lengths.iter().rev().skip(1).all(|&length| length > MIN));
        }

        #[test]
        fn buffering_changes_no_cut(seed: u64, len in 0usize..30_000, pieces in proptest::collection::vec(1usize..3000, 1..9)) {
            let data = noise(seed, len);
            prop_assert_eq!(streamed_ends(&cutting(1), &data, &pieces), ends(&cutting(1), &data));
            let blocks = Cutting::fixed(1000).unwrap();
            prop_assert_eq!(streamed_ends(&blocks, &data, &pieces), ends(&blocks, &data));
        }

        #[test]
        fn the_fast_way_is_the_written_rule(seed: u64, len in 1usize..6000) {
            let data = noise(seed, len);
            prop_assert_eq!(cutting(3).cut(&data, true), Some(cut_by_the_book(3, &data)));
        }

        #[test]
        fn an_insertion_moves_only_nearby_cuts(seed: u64, at in 0usize..200_000, inserted in 1usize..600) {
            let before = noise(seed, 200_000);
            let mut after = before.clone();
            after.splice(at..at, noise(!seed, inserted));
            let old = ends(&cutting(1), &before);
            let new = ends(&cutting(1), &after);
            let kept = old.iter().filter(|&&end| {
                new.binary_search(&if end <= at { end } else { end + inserted }).is_ok()
            }).count();
            // Measured: 1 or 2 are lost as a rule; the chunks around lock in again within a few.
            prop_assert!(old.len() - kept <= 16, "{} of {} cuts moved", old.len() - kept, old.len());
        }
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let data = noise(7, 200_000);
        let (one, two) = (ends(&cutting(1), &data), ends(&cutting(2), &data));
        let common = one.iter().filter(|end| two.contains(end)).count();
        assert!(common < one.len() / 10, "{common} of {}", one.len());
    }

    #[test]
    fn chunks_are_near_the_average() {
        let data = noise(9, 4 << 20);
        let mean = data.len() / ends(&cutting(1), &data).len();
        assert!(
            (AVERAGE * 9 / 10..AVERAGE * 14 / 10).contains(&mean),
            "{mean}"
        );
    }

    #[test]
    fn equal_bytes_are_cut_within_the_limits() {
        for byte in 0..=255 {
            let data = vec![byte; 3 * MAX];
            let length = cutting(1).cut(&data, true).unwrap();
            assert!(length > MIN && length <= MAX);
        }
    }

    #[test]
    fn blocks_are_aligned() {
        let blocks = Cutting::fixed(4096).unwrap();
        assert_eq!(ends(&blocks, &[0; 10_000]), [4096, 8192, 10_000]);
        assert_eq!(blocks.cut(&[0; 4095], false), None);
        assert_eq!(blocks.cut(&[], true), None);
    }

    #[test]
    fn wrong_limits_are_refused() {
        let limits = [
            (64, 1000, 4096),
            (63, 1024, 4096),
            (2048, 1024, 4096),
            (256, 1024, 512),
            (64, 128, 512),
            (64, 1024, u32::MAX),
        ];
        for (min, average, max) in limits {
            let refused = Cutting::by_content(&[0; 32], min, average, max).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid);
        }
        assert!(Cutting::fixed(0).is_err());
    }

    /// Golden: these positions are the format. They may never change.
    #[test]
    fn the_cuts_of_format_1_stay() {
        let table = gear_table(&[1; 32]);
        assert_eq!(table[0], 16_333_090_397_557_466_780);
        assert_eq!(table[255], 15_500_021_093_043_815_034);
        let cuts = ends(&cutting(1), &noise(0, 8000));
        assert_eq!(cuts, [1094, 2555, 3829, 5583, 6944, 8000]);
    }

    #[test]
    fn one_item_in_average_ends_a_page() {
        let ends = (0u32..100_000)
            .filter(|key| is_page_boundary(blake3::hash(&key.to_le_bytes()).as_bytes(), 100))
            .count();
        assert!((850..1150).contains(&ends), "{ends}");
        let of_number = |number: u32| {
            let mut hash = [0xff; 32];
            hash[..4].copy_from_slice(&number.to_le_bytes());
            hash
        };
        let ends = [512, 513, 0x0100_0000].map(|number| is_page_boundary(&of_number(number), 512));
        assert_eq!(ends, [true, false, true]);
    }
}
