//! POSIX ACLs as the kernel passes them: an extended attribute of version 2, 8 bytes an entry. The kernel checks them;
//! keeping mode and ACL in step, and inheriting default ACLs, is left to the file system.

/// The ACL that decides access.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The ACL that new entries of a directory inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether an extended attribute of this name is an ACL.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

type Tagged = (u16, u16, u32);

fn entries(value: &[u8]) -> Option<Vec<Tagged>> {
    let (head, rest) = value.split_first_chunk::<4>()?;
    let (entries, odd) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*head) != VERSION || !odd.is_empty() {
        return None;
    }
    let entry = |e: &[u8; 8]| {
        (
            u16::from_le_bytes([e[0], e[1]]),
            u16::from_le_bytes([e[2], e[3]]),
            u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        )
    };
    Some(entries.iter().map(entry).collect())
}

fn value(entries: &[Tagged]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn of_tag(entries: &[Tagged], tag: u16) -> Option<u32> {
    let found = entries.iter().find(|entry| entry.0 == tag);
    found.map(|entry| u32::from(entry.1 & 7))
}

/// The access ACL of a directory that its owner and these users may enter and list, and nobody else.
pub(super) fn of_readers(users: &[u32]) -> Vec<u8> {
    const READ: u16 = 5;
    const NOBODY: u32 = u32::MAX;
    let mut entries = vec![(USER_OBJ, READ, NOBODY)];
    entries.extend(users.iter().map(|&user| (USER, READ, user)));
    entries.push((GROUP_OBJ, 0, NOBODY));
    if !users.is_empty() {
        entries.push((MASK, READ, NOBODY));
    }
    entries.push((OTHER, 0, NOBODY));
    value(&entries)
}

/// The permission bits that an access ACL stands for, and whether it says no more than they do.
pub(super) fn permissions(acl: &[u8]) -> Option<(u32, bool)> {
    let entries = entries(acl)?;
    let group = of_tag(&entries, MASK).or_else(|| of_tag(&entries, GROUP_OBJ))?;
    let bits = of_tag(&entries, USER_OBJ)? << 6 | group << 3 | of_tag(&entries, OTHER)?;
    Some((bits, entries.len() == 3))
}

/// The access ACL after a chmod to these permission bits.
pub(super) fn changed(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = entries(acl)?;
    let masked = of_tag(&entries, MASK).is_some();
    for (tag, permissions, _) in &mut entries {
        let shift = match *tag {
            USER_OBJ => 6,
            MASK => 3,
            GROUP_OBJ if !masked => 3,
            OTHER => 0,
            _ => continue,
        };
        *permissions = (mode >> shift & 7) as u16;
    }
    Some(value(&entries))
}

/// What something new in a directory with this default ACL gets: its permission bits, and an access ACL where these
/// do not say it all.
pub(super) fn inherited(default: &[u8], mode: u32) -> Option<(u32, Option<Vec<u8>>)> {
    let (allowed, minimal) = permissions(default)?;
    let mode = mode & !0o777 | mode & 0o777 & allowed;
    if minimal {
        return Some((mode, None));
    }
    let entries = entries(default)?;
    let masked = of_tag(&entries, MASK).is_some();
    let acl = value(&entries);
    // Only what chmod would change is narrowed by the creator's mode.
    let acl = if masked { changed(&acl, mode)? } else { acl };
    Some((mode, Some(acl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[Tagged]) -> Vec<u8> {
        value(entries)
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn the_mode_shows_the_mask() {
        let acl = acl(&[
            (USER_OBJ, 6, NONE),
            (2, 7, 1234),
            (GROUP_OBJ, 4, NONE),
            (MASK, 6, NONE),
            (OTHER, 0, NONE),
        ]);
        assert_eq!(permissions(&acl), Some((0o660, false)));
        let after = changed(&acl, 0o741).unwrap();
        assert_eq!(permissions(&after), Some((0o741, false)));
        assert_eq!(entries(&after).unwrap()[1], (2, 7, 1234));
        assert_eq!(entries(&after).unwrap()[2], (GROUP_OBJ, 4, NONE));
    }

    #[test]
    fn what_is_no_acl_is_none() {
        for bytes in [&b""[..], b"abc", &[2, 0, 0, 0, 1], &[1, 0, 0, 0]] {
            assert_eq!(permissions(bytes), None);
            assert_eq!(changed(bytes, 0o777), None);
        }
    }

    #[test]
    fn three_entries_are_a_mode() {
        let acl = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 1, NONE)]);
        assert_eq!(permissions(&acl), Some((0o751, true)));
        assert_eq!(inherited(&acl, 0o100_666), Some((0o100_640, None)));
    }
}
