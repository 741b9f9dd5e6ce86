//! Files that are written at random, as disk images: they are cut in aligned blocks, so that unchanged blocks stay.

/// Endings of their names.
const ENDINGS: [&[u8]; 8] = [
    b".img", b".raw", b".qcow2", b".vmdk", b".vdi", b".vhd", b".vhdx", b".ibd",
];
/// A smaller one is cut by content like any file, bytes.
const BYTES_MIN: u64 = 16 << 20;
/// Their blocks, bytes.
/// After 2 % of a 2 GiB image changed in runs, and in scattered 4 KiB: 128 KiB adds 24 and 191 MB, 64 KiB 23 and 119,
/// 32 KiB 22 and 72; cut by content 64 and 378.
const BLOCK_BYTES: u32 = 64 << 10;

/// The blocks in which a disk that was named as one is cut, in bytes: `device` says that it is not a file.
pub fn block_of_disk(size: u64, device: bool) -> u32 {
    if device || size >= BYTES_MIN {
        BLOCK_BYTES
    } else {
        0
    }
}

/// The blocks in which a new file of this name and of `size` bytes is cut, in bytes; 0 if by content.
pub fn block_of(name: &[u8], size: u64) -> u32 {
    let image = size >= BYTES_MIN && ENDINGS.iter().any(|ending| name.ends_with(ending));
    if image { BLOCK_BYTES } else { 0 }
}
