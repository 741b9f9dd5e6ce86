//! Restore points into another repository: plan (pure), then transfer, then commit.
//!
//! What the target has is not read. A frame that the target needs whole moves as it is: decrypted, encrypted under the
//! target's key, never decompressed; a frame of which it needs a part is cut and grouped anew.

mod transfer;

pub use transfer::{Failure, Transfer, TransferOptions, TransferReport};
