//! What chunks mean: restore points, their trees, and how they differ.

mod catalog;
mod diff;
mod entry;
mod newest;
mod page;
mod record;
mod side;
mod tree;
mod walk;

pub use catalog::{
    Backup, Catalog, Contents, Draft, LATEST, PARTIAL, Point, require_backup_name,
    require_point_name,
};
pub use diff::{Change, Difference, diff};
pub use entry::{Attributes, Content, Entry, Extent, File, Node, Owner, Tree, Xattr};
pub use page::{
    Child, ContentPage, ContentWriter, DirectoryPage, DirectoryWriter, PAGE_LEVELS_MAX, PageSink,
    is_name,
};
pub use record::{
    BackupRecord, Catalogue, CatalogueEntry, Condemned, Lease, LeaseKind, Mark, Origin,
    PointRecord, Source, Trash,
};
pub use side::{Inode, SideReader, SideWriter};
pub use tree::{Entries, Extents, Trees};
pub use walk::{Visit, Walk};
