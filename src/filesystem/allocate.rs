//! fallocate(2) on an open file of an open point.

use super::FileSystem;
use super::changes::Caller;
use super::errno::{Answer, Rule};
use super::read::{OpenedContent, read_only};

const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

impl FileSystem {
    /// Sets space aside or gives it back, with the mode bits of fallocate(2). What is set aside only makes the file
    /// longer: a repository stores no space, so that writing there may still find none. Zeros are holes.
    pub fn allocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
        caller: Caller,
    ) -> Answer<()> {
        let handle = self.files.get(handle)?;
        let OpenedContent::Open(file) = &handle.content else {
            return Err(self.noted(&handle.node, read_only(&handle.node).into()));
        };
        let end = offset.saturating_add(length);
        let (keep, zeros) = (mode & KEEP_SIZE != 0, mode & (PUNCH_HOLE | ZERO_RANGE) != 0);
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 || mode & PUNCH_HOLE != 0 && !keep {
            return Err(Rule::NotSupported.into());
        }
        let set = self.written(caller);
        let allocate = || {
            if zeros {
                file.open.punch(file.node, offset, end, &set)?;
            }
            let size = file.open.size(file.node)?;
            // Setting the size that it has only sets the time.
            let size = if keep { size } else { size.max(end) };
            file.open.resize(file.node, size, &set)
        };
        self.after(&file.open, &handle.node, allocate())
    }
}
