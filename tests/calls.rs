//! Random file system calls below a directory.

use crate::sites::Random;

/// Files that are kept open.
pub const HANDLES: usize = 5;
/// A user who is not root, in a group of the same number.
const OTHER: u32 = 4711;
const FALLOCATE_MODES: [i32; 5] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
];

/// A path below the top, in bytes.
pub type Name = Vec<u8>;
/// Seconds and nanoseconds, or one of the two marks that utimensat knows.
pub type Stamp = (i64, i64);

#[derive(Clone, Debug)]
pub enum Call {
    MakeDirectory(Name, u32),
    MakeNode(Name, u32, u64),
    Symlink(Name, Name),
    Open(usize, Name, i32, u32),
    Close(usize),
    Unlink(Name),
    RemoveDirectory(Name),
    Link(Name, Name),
    Rename(Name, Name, u32),
    Mode(Name, u32),
    Owner(Name, Option<u32>, Option<u32>),
    Times(Name, Stamp, Stamp),
    Truncate(Name, u64),
    SetXattr(Name, &'static str, Vec<u8>, i32),
    RemoveXattr(Name, &'static str),
    Xattrs(Name),
    Stat(Name),
    ReadLink(Name),
    List(Name),
    Access(Name, i32),
    Read(usize, u64, usize),
    Write(usize, u64, Vec<u8>),
    Append(usize, Vec<u8>),
    Map(usize, u64, Vec<u8>),
    Resize(usize, u64),
    Allocate(usize, u64, u64, i32),
    HandleMode(usize, u32),
    HandleStat(usize),
    Copy(usize, u64, usize, u64, usize),
    /// The next data (or else hole).
    Seek(usize, u64, bool),
    /// flock(2) with these flags.
    Lock(usize, i32),
    /// A lock of this kind on a range, of the open file (not of the process).
    LockRange(usize, libc::c_int, u64, u64),
    Sync(usize),
}

/// A call, by whom, and whether the times of what it names are looked at before and behind it.
#[derive(Clone, Debug)]
pub struct Step {
    pub call: Call,
    pub user: u32,
    pub timed: bool,
}

/// A name: few, so that they are met again; some odd, one too long.
fn name(random: &mut Random) -> Name {
    match random.below(60) {
        0 => vec![b'n'; 256],
        1 | 2 => vec![b'n'; 255],
        3..=5 => b"\xff o'dd\n".to_vec(),
        number => vec![b'a' + (number % 6) as u8],
    }
}

fn directory(random: &mut Random) -> Name {
    vec![b'd' + random.below(2) as u8]
}

fn path_to(random: &mut Random, last: Name) -> Name {
    let mut parts = Vec::new();
    while parts.len() < 4 && random.below(2) == 0 {
        parts.push(directory(random));
    }
    parts.push(last);
    parts.join(&b'/')
}

fn path(random: &mut Random) -> Name {
    let last = name(random);
    path_to(random, last)
}

fn offset(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => random.below(4 << 20),
        1 => 0,
        2 => 4096 * random.below(20),
        _ => random.below(90_000),
    }
}

fn content(random: &mut Random) -> Vec<u8> {
    let length = match random.below(30) {
        0 => 300_000,
        1 => 0,
        _ => random.below(9_000) as usize,
    };
    random.bytes(length)
}

fn stamp(random: &mut Random) -> Stamp {
    match random.below(6) {
        0 => (0, libc::UTIME_NOW),
        1 => (0, libc::UTIME_OMIT),
        2 => (-1_000_000, 999_999_999),
        3 => (5_000_000_000, 1),
        _ => (
            random.below(1 << 30) as i64,
            random.below(1_000_000_000) as i64,
        ),
    }
}

fn mode(random: &mut Random) -> u32 {
    const MODES: [u32; 10] = [
        0o777, 0o755, 0o644, 0o600, 0o4755, 0o2775, 0o6711, 0o1777, 0o2644, 0o000,
    ];
    MODES[random.below(10) as usize]
}

fn flags(random: &mut Random) -> i32 {
    let mut flags =
        [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR][random.below(4) as usize];
    for (flag, one_in) in [
        (libc::O_CREAT, 2),
        (libc::O_EXCL, 6),
        (libc::O_TRUNC, 5),
        (libc::O_APPEND, 5),
        (libc::O_NOFOLLOW, 8),
        (libc::O_DIRECTORY, 25),
    ] {
        if random.below(one_in) == 0 {
            flags |= flag;
        }
    }
    // What the kernel answers to both differs from release to release.
    if flags & libc::O_DIRECTORY != 0 {
        flags &= !libc::O_CREAT;
    }
    flags
}

/// An access control list as the kernel takes it: owner, one user, group, mask, others.
fn acl(random: &mut Random) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut value = 2u32.to_le_bytes().to_vec();
    let full = random.below(3) > 0;
    let entries = [
        (1u16, NOBODY),
        (2, OTHER),
        (4, NOBODY),
        (0x10, NOBODY),
        (0x20, NOBODY),
    ];
    for (tag, id) in entries {
        if full || !matches!(tag, 2 | 0x10) {
            value.extend(tag.to_le_bytes());
            value.extend((random.below(8) as u16).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
    }
    value
}

fn xattr(random: &mut Random) -> Call {
    let path = path(random);
    let flags = [0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE][random.below(4) as usize];
    match random.below(6) {
        0 => Call::SetXattr(path, "system.posix_acl_access", acl(random), 0),
        1 => {
            let last = directory(random);
            let path = path_to(random, last);
            Call::SetXattr(path, "system.posix_acl_default", acl(random), 0)
        }
        2 => Call::SetXattr(path, "trusted.t", b"trusted".to_vec(), flags),
        _ => {
            let length = random.below(200) as usize;
            let name = ["user.one", "user.two"][random.below(2) as usize];
            Call::SetXattr(path, name, random.bytes(length), flags)
        }
    }
}

fn call(random: &mut Random) -> Call {
    let handle = random.below(HANDLES as u64) as usize;
    let number = random.below(100);
    match number {
        0..=6 => {
            let last = match random.below(5) {
                0 => name(random),
                _ => directory(random),
            };
            Call::MakeDirectory(path_to(random, last), mode(random) | 0o700)
        }
        7 | 8 => {
            const TYPES: [u32; 5] = [
                libc::S_IFREG,
                libc::S_IFIFO,
                libc::S_IFSOCK,
                libc::S_IFBLK,
                libc::S_IFCHR,
            ];
            let kind = TYPES[random.below(5) as usize];
            let device = match kind {
                libc::S_IFBLK | libc::S_IFCHR => libc::makedev(7, 300 + random.below(9) as u32),
                _ => 0,
            };
            Call::MakeNode(path(random), kind | mode(random), device)
        }
        9 | 10 => {
            let target = match random.below(3) {
                0 => [b"../".to_vec(), path(random)].concat(),
                _ => path(random),
            };
            Call::Symlink(path(random), target)
        }
        11..=25 => Call::Open(handle, path(random), flags(random), mode(random) | 0o600),
        26 => Call::Close(handle),
        27..=31 => Call::Unlink(path(random)),
        32 | 33 => {
            let last = directory(random);
            Call::RemoveDirectory(path_to(random, last))
        }
        34..=36 => Call::Link(path(random), path(random)),
        37..=44 => {
            let flags = [0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, 3]
                [random.below(6) as usize];
            Call::Rename(path(random), path(random), flags)
        }
        45..=47 => Call::Mode(path(random), mode(random)),
        48 | 49 => {
            let mut id = || match random.below(3) {
                0 => None,
                1 => Some(0),
                _ => Some(OTHER),
            };
            // One that names nobody reaches a FUSE daemon without what it needs to refuse it.
            let (uid, gid) = match (id(), id()) {
                (None, None) => (Some(OTHER), None),
                ids => ids,
            };
            Call::Owner(path(random), uid, gid)
        }
        50..=52 => Call::Times(path(random), stamp(random), stamp(random)),
        53 | 54 => Call::Truncate(path(random), offset(random)),
        55..=57 => xattr(random),
        58 => {
            const NAMES: [&str; 5] = [
                "user.one",
                "user.two",
                "trusted.t",
                "system.posix_acl_access",
                "system.posix_acl_default",
            ];
            Call::RemoveXattr(path(random), NAMES[random.below(5) as usize])
        }
        59 => Call::Xattrs(path(random)),
        60..=63 => Call::Stat(path(random)),
        64 => Call::ReadLink(path(random)),
        65 | 66 => {
            let last = directory(random);
            Call::List(path_to(random, last))
        }
        67 => Call::Access(path(random), random.below(8) as i32),
        68..=73 => Call::Read(handle, offset(random), random.below(200_000) as usize),
        74..=83 => Call::Write(handle, offset(random), content(random)),
        84 | 85 => Call::Append(handle, content(random)),
        86 | 87 => {
            let length = 1 + random.below(9_000) as usize;
            Call::Map(handle, offset(random), random.bytes(length))
        }
        88 | 89 => Call::Resize(handle, offset(random)),
        90..=93 => {
            let mode = FALLOCATE_MODES[random.below(5) as usize];
            Call::Allocate(handle, offset(random), 1 + random.below(60_000), mode)
        }
        94 => Call::HandleMode(handle, mode(random)),
        95 | 96 => Call::HandleStat(handle),
        97 | 98 => {
            let source = random.below(HANDLES as u64) as usize;
            let length = random.below(100_000) as usize;
            Call::Copy(source, offset(random), handle, offset(random), length)
        }
        _ => match random.below(12) {
            0 => Call::Sync(handle),
            1..=4 => Call::Seek(handle, offset(random), random.below(2) == 0),
            5 | 6 => {
                const HOW: [i32; 3] = [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN];
                Call::Lock(handle, HOW[random.below(3) as usize])
            }
            7 | 8 => {
                const KINDS: [i32; 3] = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK];
                let kind = KINDS[random.below(3) as usize];
                Call::LockRange(handle, kind, random.below(9_000), random.below(9_000))
            }
            _ => Call::Close(handle),
        },
    }
}

/// The next step of a random run.
pub fn step(random: &mut Random) -> Step {
    let call = call(random);
    // Taking root's number away leaves a thread the right to see `trusted.` names, which keepfs goes by the number for.
    // Removing an access ACL costs who is not in the group its set-id bit on tmpfs, but not on ext4 and here.
    let root = matches!(call, Call::Xattrs(_) | Call::RemoveXattr(..));
    let other = random.below(6) == 0 && !root;
    Step {
        call,
        user: if other { OTHER } else { 0 },
        timed: random.below(6) == 0,
    }
}
