//! The names that this host has for user and group numbers.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Names of users and groups, each looked up once.
#[derive(Debug, Default)]
pub struct OwnerNames {
    users: HashMap<u32, Arc<[u8]>>,
    groups: HashMap<u32, Arc<[u8]>>,
}

impl OwnerNames {
    /// The name of a user; empty when the number has none.
    pub fn user(&mut self, uid: u32) -> Arc<[u8]> {
        let name = self.users.entry(uid).or_insert_with(|| user_name(uid));
        Arc::clone(name)
    }

    /// The name of a group; empty when the number has none.
    pub fn group(&mut self, gid: u32) -> Arc<[u8]> {
        let name = self.groups.entry(gid).or_insert_with(|| group_name(gid));
        Arc::clone(name)
    }
}

fn user_name(uid: u32) -> Arc<[u8]> {
    database_name(|buffer| {
        let mut user = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer leads to room of the type and length that is said.
        let error = unsafe {
            libc::getpwuid_r(
                uid,
                user.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        let name = (error == 0 && !found.is_null()).then(|| {
            // SAFETY: a found record is filled, and its name is a C string in `buffer`.
            unsafe { CStr::from_ptr((*found).pw_name) }
                .to_bytes()
                .into()
        });
        (error, name)
    })
}

fn group_name(gid: u32) -> Arc<[u8]> {
    database_name(|buffer| {
        let mut group = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer leads to room of the type and length that is said.
        let error = unsafe {
            libc::getgrgid_r(
                gid,
                group.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        let name = (error == 0 && !found.is_null()).then(|| {
            // SAFETY: a found record is filled, and its name is a C string in `buffer`.
            unsafe { CStr::from_ptr((*found).gr_name) }
                .to_bytes()
                .into()
        });
        (error, name)
    })
}

/// Asks `lookup` with a buffer that grows until the record fits (a group's lists its members). A failed look-up is an
/// unknown name: the number is what counts.
fn database_name(lookup: impl Fn(&mut [u8]) -> (libc::c_int, Option<Arc<[u8]>>)) -> Arc<[u8]> {
    let mut buffer = vec![0; 4096];
    loop {
        match lookup(&mut buffer) {
            (libc::ERANGE, _) if buffer.len() < 16 << 20 => buffer.resize(buffer.len() * 4, 0),
            (_, name) => return name.unwrap_or_default(),
        }
    }
}
