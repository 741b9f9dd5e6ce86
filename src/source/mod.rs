//! Where data comes from: file trees of this host, as plain facts. Knows no repository and no format of trees.
//!
//! [`Walk`] goes through one or several sources, depth first, and yields an [`Event`] for each thing it meets, in an
//! order that depends on nothing but the names. An [`Entry`] carries what one `stat` tells; extended attributes and
//! content cost more calls and are read when asked for, by any thread, through the entry's [`FileRef`]. A caller
//! that finds an entry's [`Stamp`] unchanged since its last visit needs neither: every change of content, attributes
//! or ACLs moves the ctime.
//!
//! A [`Cluster`] is several such sources under names of their own: its nodes, and the disks that they share, each of
//! which is one file of the backup, also where it is a block device on this host.
//!
//! What users and groups are called on this host, and which numbers they have here, is known to [`OwnerNames`] and
//! [`OwnerNumbers`].
//!
//! What cannot be read is reported as a [`Problem`] and the walk goes on. What to leave out is said in [`Options`];
//! the rules of patterns are those of [`Rules`].

mod cluster;
mod directory;
mod exclude;
mod extents;
mod files;
mod metadata;
mod owners;
mod roots;
mod xattrs;

pub use cluster::{Cluster, NamedSource};
pub use directory::FileRef;
pub use exclude::Rules;
pub use extents::{Extent, Extents, extents};
pub use files::{Entry, Event, Options, Problem, Walk};
pub use metadata::{Metadata, Stamp, Type};
pub use owners::{OwnerNames, OwnerNumber, OwnerNumbers};
pub use xattrs::{XATTRS_BYTES_MAX, Xattrs};
