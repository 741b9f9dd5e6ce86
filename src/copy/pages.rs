//! Pages of large directories and large files, and which of them a base has too.
//!
//! A *base* is a point whose chunks are in the target already. Its pages are laid beside the source's, by the key at
//! which they begin (a name, or an offset in a file): a page that the base has as well is not read, nor is anything
//! below it.

use super::transfer::Transfer;
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::point::{Child, Content, ContentPage, DirectoryPage, File, PAGE_LEVELS_MAX, Trees};
use crate::repository::decode;
use std::collections::HashSet;
use std::sync::Arc;

/// A page of a base, and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub key: Vec<u8>,
    pub page: ChunkId,
}

/// Pages of one base that may be equal to what is being read.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    pub trees: Arc<Trees>,
    pub places: Vec<Place>,
}

/// Lists the pages below a page, or nothing when it is a leaf.
pub(super) type Below = fn(&Trees, &Place) -> Result<Option<Vec<Place>>>;

/// Pages below a page of a directory; keys are names.
pub(super) fn below_directory(trees: &Trees, place: &Place) -> Result<Option<Vec<Place>>> {
    let page = trees.directory_page(&place.page)?;
    let DirectoryPage::Inner(children) = &*page else {
        return Ok(None);
    };
    Ok(Some(
        children
            .iter()
            .map(|child| Place {
                key: child.first.clone(),
                page: child.page,
            })
            .collect(),
    ))
}

/// Pages below a page of extents; keys are offsets in the file, 8 bytes big-endian, so that they sort as numbers.
fn below_content(trees: &Trees, place: &Place) -> Result<Option<Vec<Place>>> {
    let page = trees.content_page(&place.page)?;
    let ContentPage::Inner(children) = &*page else {
        return Ok(None);
    };
    Ok(Some(places_at(children, offset_of(&place.key))))
}

fn places_at(children: &[Child], mut offset: u64) -> Vec<Place> {
    let mut place = |child: &Child| {
        let key = offset.to_be_bytes().to_vec();
        offset = offset.saturating_add(child.bytes);
        Place {
            key,
            page: child.page,
        }
    };
    children.iter().map(&mut place).collect()
}

fn offset_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().unwrap_or_default())
}

/// What is below an inner page that the bases may have too.
pub(super) struct Level {
    bases: Vec<Beside>,
    known: HashSet<ChunkId>,
}

impl Level {
    /// Goes one level down in the bases. A page of a base that is damaged is as if the base did not have it.
    pub(super) fn new(bases: &[Beside], below: Below) -> Result<Self> {
        let mut level = Self {
            bases: Vec::new(),
            known: HashSet::new(),
        };
        for base in bases {
            let mut places = Vec::new();
            for place in &base.places {
                match below(&base.trees, place) {
                    Ok(Some(children)) => places.extend(children),
                    Ok(None) => places.push(place.clone()),
                    Err(error) if error.kind() == Kind::Damaged => {}
                    Err(error) => return Err(error),
                }
            }
            level.known.extend(places.iter().map(|place| place.page));
            let trees = base.trees.clone();
            level.bases.push(Beside { trees, places });
        }
        Ok(level)
    }

    /// Whether a base has this page.
    pub(super) fn has(&self, page: &ChunkId) -> bool {
        self.known.contains(page)
    }

    /// The bases' pages that hold something from key `begin` to before `end`.
    pub(super) fn narrow(&self, begin: &[u8], end: Option<&[u8]>) -> Vec<Beside> {
        let between = |places: &[Place]| {
            let first = places.partition_point(|place| place.key.as_slice() <= begin);
            let last = end.map_or(places.len(), |end| {
                places.partition_point(|place| place.key.as_slice() < end)
            });
            places[first.saturating_sub(1)..last.max(first)].to_vec()
        };
        self.bases
            .iter()
            .map(|base| Beside {
                trees: base.trees.clone(),
                places: between(&base.places),
            })
            .collect()
    }
}

/// Tells every chunk of a file that is not below a page which a base has too, and puts the pages that are read into
/// the target. Fails with `Damaged` when a page cannot be read.
pub(super) fn for_each_extent(
    transfer: &Transfer,
    file: &File,
    bases: &[(Arc<Trees>, Content)],
    tell: &mut dyn FnMut(ChunkId) -> Result<()>,
) -> Result<()> {
    let root = match &file.content {
        Content::Empty => return Ok(()),
        Content::One(id) => return tell(*id),
        Content::Extents(extents) => {
            return extents
                .iter()
                .filter_map(|extent| extent.chunk)
                .try_for_each(tell);
        }
        Content::Pages(root) => root,
    };
    let start = 0u64.to_be_bytes().to_vec();
    let beside = bases.iter().filter_map(|(trees, content)| match content {
        Content::Pages(page) => Some(Beside {
            trees: trees.clone(),
            places: vec![Place {
                key: start.clone(),
                page: *page,
            }],
        }),
        _ => None,
    });
    let place = Place {
        key: start.clone(),
        page: *root,
    };
    content_page(transfer, &place, &beside.collect::<Vec<_>>(), 0, tell)
}

/// Such pages would make a file endless that has no bytes.
fn holds_nothing() -> Error {
    Error::new(
        Kind::Damaged,
        "a page of a file holds nothing, which keepfs never writes",
    )
}

fn content_page(
    transfer: &Transfer,
    place: &Place,
    bases: &[Beside],
    depth: usize,
    tell: &mut dyn FnMut(ChunkId) -> Result<()>,
) -> Result<()> {
    if bases
        .iter()
        .flat_map(|base| &base.places)
        .any(|other| other.page == place.page)
    {
        return Ok(());
    }
    if depth >= PAGE_LEVELS_MAX {
        let message = "pages of a file lie deeper than any that keepfs writes";
        return Err(Error::new(Kind::Damaged, message));
    }
    let page: ContentPage = decode(&transfer.page(&place.page)?)?;
    let children = match page {
        ContentPage::Leaf(extents) if extents.is_empty() => return Err(holds_nothing()),
        ContentPage::Inner(children) if children.is_empty() => return Err(holds_nothing()),
        ContentPage::Leaf(extents) => {
            return extents
                .iter()
                .filter_map(|extent| extent.chunk)
                .try_for_each(tell);
        }
        ContentPage::Inner(children) => places_at(&children, offset_of(&place.key)),
    };
    let level = Level::new(bases, below_content)?;
    for (number, child) in children.iter().enumerate() {
        if level.has(&child.page) {
            continue;
        }
        let end = children.get(number + 1).map(|next| next.key.as_slice());
        content_page(
            transfer,
            child,
            &level.narrow(&child.key, end),
            depth + 1,
            tell,
        )?;
    }
    Ok(())
}
