//! What chunks mean: restore points, their trees, and how they differ.

mod catalog;
mod diff;
mod entry;
mod newest;
mod page;
mod reach;
mod record;
mod side;
mod tree;
mod walk;

pub use crate::repository::{Condemned, Lease, LeaseKind};
pub use catalog::{
    Backup, Catalog, Contents, Draft, Forgotten, LATEST, PARTIAL, Point, require_backup_name,
    require_point_name,
};
pub use diff::{Change, Difference, diff};
pub use entry::{Attributes, Content, Entry, Extent, File, Node, Owner, Tree, Xattr};
pub use page::{
    Child, ContentPage, ContentWriter, DirectoryPage, DirectoryWriter, PAGE_LEVELS_MAX, PageSink,
    is_name,
};
pub use reach::{Needs, reach, require_kept};
pub use record::{
    BackupRecord, Catalogue, CatalogueEntry, Grave, Mark, Origin, PointRecord, Source, Trash,
};
pub use side::{Inode, SideReader, SideWriter};
pub use tree::{Entries, Extents, Trees};
pub use walk::{Visit, Walk};
