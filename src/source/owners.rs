//! The names that this host has for the numbers of users and groups, and the numbers that it has for names.

use crate::clock::Clock;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

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

/// Names of users, and as many of groups, whose numbers are remembered: some 100 bytes each. Whoever shows more of them asks
/// again for the rarest.
const NAMES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The number by which this host knows a user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerNumber {
    /// The number.
    pub number: u32,
    /// Whether this host does not know the name: once somebody adds it, the number may be another one.
    pub unknown: bool,
}

/// Numbers of users and groups that were somebody's on another host: by their names where this host knows these, else as
/// they were, as with `rsync` and `tar`. Root is root, whatever it was called.
///
/// Asking may take seconds where a directory service answers, so no lock is held meanwhile, and whoever wants a name that
/// is just being asked for again gets what it was.
#[derive(Debug)]
pub struct OwnerNumbers {
    numeric: bool,
    users: Numbers,
    groups: Numbers,
}

impl OwnerNumbers {
    /// After so long a name is asked for again: users come and go while a daemon runs.
    pub const ASKED_AGAIN: Duration = Duration::from_secs(60);

    /// Those of this host; with `numeric` all stay what they were.
    pub fn new(numeric: bool, clock: &Clock) -> Self {
        Self {
            numeric,
            users: Numbers::new(clock, user_number),
            groups: Numbers::new(clock, group_number),
        }
    }

    /// The number here of the user who had this number and name there; without a name the same one.
    pub fn user(&self, uid: u32, name: &[u8]) -> OwnerNumber {
        self.local(&self.users, uid, name)
    }

    /// The number here of the group that had this number and name there; without a name the same one.
    pub fn group(&self, gid: u32, name: &[u8]) -> OwnerNumber {
        self.local(&self.groups, gid, name)
    }

    /// The number that this host has for a user's name.
    pub fn number_of_user(&self, name: &[u8]) -> Option<u32> {
        self.users.of(name)
    }

    /// Whether this host has a user of this name.
    pub fn knows_user(&self, name: &[u8]) -> bool {
        self.users.of(name).is_some()
    }

    fn local(&self, numbers: &Numbers, stored: u32, name: &[u8]) -> OwnerNumber {
        let here = match self.numeric || stored == 0 || name.is_empty() {
            true => Some(stored),
            false => numbers.of(name),
        };
        OwnerNumber {
            number: here.unwrap_or(stored),
            unknown: here.is_none(),
        }
    }
}

/// Finds a name's number in a database of this host.
type Ask = dyn Fn(&CStr) -> io::Result<Option<u32>> + Send + Sync;

/// Numbers of names, each asked for now and then.
struct Numbers {
    ask: Box<Ask>,
    clock: Clock,
    known: Mutex<LruCache<Box<[u8]>, Known>>,
}

/// What the database said of a name.
struct Known {
    /// When it was asked, seconds since 1970.
    asked: i64,
    number: Option<u32>,
}

impl Known {
    /// A clock that was set back makes it old, too.
    fn is_fresh(&self, now: i64) -> bool {
        let kept = OwnerNumbers::ASKED_AGAIN.as_secs() as i64;
        (0..kept).contains(&now.saturating_sub(self.asked))
    }
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Numbers").finish_non_exhaustive()
    }
}

impl Numbers {
    fn new(
        clock: &Clock,
        ask: impl Fn(&CStr) -> io::Result<Option<u32>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask: Box::new(ask),
            clock: clock.clone(),
            known: Mutex::new(LruCache::new(NAMES_MAX)),
        }
    }

    /// The number of a name that is not empty; none when this host does not know it.
    fn of(&self, name: &[u8]) -> Option<u32> {
        let now = self.clock.now().seconds;
        let last = match self.known.lock().get_mut(name) {
            Some(known) if known.is_fresh(now) => return known.number,
            Some(known) => {
                // Until there is an answer, the others go on with the last one.
                known.asked = now;
                known.number
            }
            None => None,
        };
        let asked = CString::new(name).map(|name| (self.ask)(&name));
        // A database that does not answer has not forgotten anybody; no name holds a NUL.
        let number = asked.map_or(None, |answer| answer.unwrap_or(last));
        let known = Known { asked: now, number };
        self.known.lock().put(name.into(), known);
        number
    }
}

fn user_name(uid: u32) -> Arc<[u8]> {
    let name = |record: &libc::passwd| {
        // SAFETY: a found record's name is a C string, in the buffer that it was read to.
        unsafe { CStr::from_ptr(record.pw_name) }.to_bytes().into()
    };
    let found = record(name, |record, buffer, found| {
        // SAFETY: every pointer leads to room of the type and length that is said.
        unsafe {
            libc::getpwuid_r(
                uid,
                record.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                found,
            )
        }
    });
    // The number is what counts.
    found.ok().flatten().unwrap_or_default()
}

fn user_number(name: &CStr) -> io::Result<Option<u32>> {
    record(
        |record: &libc::passwd| record.pw_uid,
        |record, buffer, found| {
            // SAFETY: the name ends in a zero, and every pointer leads to room of the type and length that is said.
            unsafe {
                libc::getpwnam_r(
                    name.as_ptr(),
                    record.as_mut_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    found,
                )
            }
        },
    )
}

fn group_name(gid: u32) -> Arc<[u8]> {
    let name = |record: &libc::group| {
        // SAFETY: a found record's name is a C string, in the buffer that it was read to.
        unsafe { CStr::from_ptr(record.gr_name) }.to_bytes().into()
    };
    let found = record(name, |record, buffer, found| {
        // SAFETY: every pointer leads to room of the type and length that is said.
        unsafe {
            libc::getgrgid_r(
                gid,
                record.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                found,
            )
        }
    });
    found.ok().flatten().unwrap_or_default()
}

fn group_number(name: &CStr) -> io::Result<Option<u32>> {
    record(
        |record: &libc::group| record.gr_gid,
        |record, buffer, found| {
            // SAFETY: the name ends in a zero, and every pointer leads to room of the type and length that is said.
            unsafe {
                libc::getgrnam_r(
                    name.as_ptr(),
                    record.as_mut_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    found,
                )
            }
        },
    )
}

/// Reads a record of the user or group database with a buffer that grows until it fits (a group's lists its members), and
/// takes from it what is wanted. None when there is no such record.
fn record<R, T>(
    take: impl Fn(&R) -> T,
    read: impl Fn(&mut MaybeUninit<R>, &mut [u8], &mut *mut R) -> libc::c_int,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; 4096];
    loop {
        let (mut record, mut found) = (MaybeUninit::uninit(), std::ptr::null_mut());
        match read(&mut record, &mut buffer, &mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: a record that was found is filled, and what it points to lies in `buffer`.
            0 => return Ok(Some(take(unsafe { &*found }))),
            libc::ERANGE if buffer.len() < 16 << 20 => buffer.resize(buffer.len() * 4, 0),
            // Several databases say so that they have no such record: getpwnam(3).
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};

    /// Asks that the test answers, and how often it was asked.
    #[derive(Clone)]
    struct Database {
        answer: Arc<Mutex<io::Result<Option<u32>>>>,
        asked: Arc<AtomicU32>,
    }

    impl Database {
        fn empty() -> Self {
            Self {
                answer: Arc::new(Mutex::new(Ok(None))),
                asked: Arc::default(),
            }
        }

        fn says(&self, answer: io::Result<Option<u32>>) {
            *self.answer.lock() = answer;
        }

        fn numbers(&self, clock: &Clock) -> Numbers {
            let database = self.clone();
            Numbers::new(clock, move |_| {
                database.asked.fetch_add(1, SeqCst);
                match &*database.answer.lock() {
                    Ok(number) => Ok(*number),
                    Err(error) => Err(error.kind().into()),
                }
            })
        }
    }

    #[test]
    fn a_name_is_asked_for_again_after_a_while() {
        let seconds = Arc::new(AtomicI64::new(1000));
        let database = Database::empty();
        let numbers = database.numbers(&Clock::fixed(seconds.clone()));
        for _ in 0..3 {
            assert_eq!(numbers.of(b"alice"), None);
        }
        database.says(Ok(Some(7)));
        seconds.store(1059, SeqCst);
        assert_eq!((numbers.of(b"alice"), numbers.of(b"bob")), (None, Some(7)));
        seconds.store(1060, SeqCst);
        assert_eq!(numbers.of(b"alice"), Some(7));
        assert_eq!(database.asked.load(SeqCst), 3);
        // A database that is out of reach has forgotten nobody.
        database.says(Err(io::ErrorKind::TimedOut.into()));
        seconds.store(2000, SeqCst);
        assert_eq!(
            (numbers.of(b"alice"), numbers.of(b"carol")),
            (Some(7), None)
        );
        database.says(Ok(None));
        seconds.store(500, SeqCst);
        assert_eq!(numbers.of(b"alice"), None, "the clock was set back");
    }

    #[test]
    fn names_are_not_remembered_without_end() {
        let database = Database::empty();
        let numbers = database.numbers(&Clock::system());
        for name in 0..NAMES_MAX.get() + 10 {
            numbers.of(name.to_string().as_bytes());
        }
        assert_eq!(numbers.known.lock().len(), NAMES_MAX.get());
    }

    #[test]
    fn numbers_follow_names_and_root_is_always_root() {
        let numbers = OwnerNumbers::new(false, &Clock::system());
        let mut names = OwnerNames::default();
        let nobody = names.user(65534);
        let number = |number| OwnerNumber {
            number,
            unknown: false,
        };
        let unknown = OwnerNumber {
            number: 54321,
            unknown: true,
        };
        assert_eq!(numbers.user(54321, b"root"), number(0));
        assert_eq!(numbers.group(54321, b"root"), number(0));
        assert_eq!(numbers.user(54321, &nobody), number(65534));
        assert_eq!(
            (numbers.user(0, &nobody), numbers.group(0, b"x")),
            (number(0), number(0))
        );
        assert_eq!(numbers.user(54321, b""), number(54321));
        for strange in [&b"no such user"[..], b"a\0b", b"\xff"] {
            assert_eq!(numbers.user(54321, strange), unknown);
            assert_eq!(numbers.group(54321, strange), unknown);
        }
        let numeric = OwnerNumbers::new(true, &Clock::system());
        assert_eq!(numeric.user(54321, b"root"), number(54321));
        assert!(numeric.knows_user(b"root") && !numeric.knows_user(b"no such user"));
    }
}
