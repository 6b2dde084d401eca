use std::{io, path::Path, sync::Arc};

use super::{Location, RawSample, ShardCount, archive::Archive, folder::Folder, table::Table};
use crate::{DataError, FaultKind};

/// Largest file that is read into memory. The largest photographs of web crawls stay far below it.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Samples of a table or a folder that are read in one go: few, so that the shuffle buffer mixes many places.
/// Unlike a tar, they cost nothing to open.
pub(super) const SAMPLES_A_SHARD: usize = 100;

/// What a shard yields next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardItem {
    /// A sample with an image and a caption or a class.
    Sample(RawSample),
    /// A sample that lacks something, and its key.
    Fault(FaultKind, String),
}

impl ShardItem {
    /// Whether it stands for all that a damaged shard holds from there on.
    pub(crate) fn ends_its_shard(&self) -> bool {
        matches!(self, Self::Fault(kind, _) if kind.ends_its_shard())
    }

    /// Bytes that the item holds, near enough to bound memory by: none where it is a fault.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Sample(sample) => sample.held_bytes(),
            Self::Fault(..) => 0,
        }
    }
}

/// Samples that are read from front to back: a tar, or a part of a table or folder.
#[derive(Clone, Debug)]
pub(super) enum Shard {
    Tar(Location),
    Rows {
        table: Arc<Table>,
        part: usize,
    },
    #[cfg(feature = "parquet")]
    RowGroup {
        file: Arc<super::parquet::ParquetFile>,
        group: usize,
    },
    Files {
        folder: Arc<Folder>,
        part: usize,
    },
}

impl Shard {
    /// The file or folder that the shard is, or is a part of.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tar(location) => location.to_string(),
            Self::Rows { table, .. } => table.name(),
            #[cfg(feature = "parquet")]
            Self::RowGroup { file, .. } => file.name(),
            Self::Files { folder, .. } => folder.name(),
        }
    }

    /// Opens it at the item that begins at `start`.
    pub(super) fn open(&self, shard: usize, start: u64) -> io::Result<ShardReader> {
        let items: Box<dyn Items> = match self {
            Self::Tar(location) => Box::new(Archive::open(location, shard, start)?),
            Self::Rows { table, part } => Box::new(table.rows(*part, shard, start)?),
            #[cfg(feature = "parquet")]
            Self::RowGroup { file, group } => Box::new(file.rows(*group, shard, start)?),
            Self::Files { folder, part } => Box::new(folder.files(*part, shard, start)),
        };
        Ok(ShardReader { items })
    }

    /// Whether an item can be read again at the cost of that item alone.
    pub(super) fn is_seekable(&self) -> bool {
        match self {
            Self::Tar(location) => super::input::is_seekable(location),
            Self::Rows { table, .. } => table.is_local(),
            #[cfg(feature = "parquet")]
            Self::RowGroup { file, .. } => file.is_local(),
            Self::Files { .. } => true,
        }
    }

    /// Counts the items, by what is known without reading the samples where that suffices. What is cut off counts as far
    /// as it goes; what the system or a server fails to read is an error.
    pub(super) fn count(&self) -> io::Result<ShardCount> {
        let known = match self {
            Self::Rows { table, part } => Some(table.rows_of(*part)),
            #[cfg(feature = "parquet")]
            Self::RowGroup { file, group } => Some(file.rows_of(*group)),
            Self::Tar(_) | Self::Files { .. } => None,
        };
        if let Some(items) = known {
            return Ok(ShardCount {
                samples: items,
                items,
                told: false,
            });
        }
        let mut count = ShardCount::default();
        for item in self.open(0, 0)?.headers_only() {
            // A server's failure must not make the shard smaller for the whole run.
            if let ShardItem::Fault(FaultKind::UnreadableShard, _) = item {
                return Err(io::Error::other(
                    "its samples can't be counted, as reading failed before its end (the warning above says how); \
                     try again, or leave it out",
                ));
            }
            count.items += 1;
            count.samples += u64::from(matches!(item, ShardItem::Sample(_)));
        }
        Ok(count)
    }
}

/// Which files of a sample are read; the others are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bodies {
    All,
    /// All but images.
    Text,
    None,
}

/// A shard's items, whatever it is.
pub(super) trait Items: Send {
    /// The next item and where it begins.
    fn next_located(&mut self) -> Option<(u64, ShardItem)>;

    /// Which files are read.
    fn read_bodies(&mut self, bodies: Bodies);
}

/// Reads a shard from front to back.
///
/// Members of a tar that follow each other and share a key are one sample. A damaged or cut-off archive
/// yields what stands before the damage, and then [`FaultKind::TruncatedShard`]; what begins as no tar, [`FaultKind::NoTar`].
pub struct ShardReader {
    items: Box<dyn Items>,
}

impl ShardReader {
    /// Opens a local tar, compressed or not; `shard` is its index in the set.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be opened.
    pub fn open(path: &Path, shard: usize) -> Result<Self, DataError> {
        let location = Location::Local(path.to_owned());
        let archive = Archive::open(&location, shard, 0).map_err(clip_files::io("read", path))?;
        Ok(Self {
            items: Box::new(archive),
        })
    }

    /// Skips over images and captions: samples then carry their keys alone, and faults of their
    /// contents stay unseen. The number of items is that of a full reading.
    pub fn headers_only(mut self) -> Self {
        self.read_bodies(Bodies::None);
        self
    }

    /// Skips over images: samples then carry the rest, and faults of their images stay unseen. The number of items is that
    /// of a full reading.
    pub fn without_images(mut self) -> Self {
        self.read_bodies(Bodies::Text);
        self
    }

    pub(crate) fn read_bodies(&mut self, bodies: Bodies) {
        self.items.read_bodies(bodies);
    }

    /// The next item and where it begins in the shard.
    pub(crate) fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        self.items.next_located()
    }
}

impl Iterator for ShardReader {
    type Item = ShardItem;

    fn next(&mut self) -> Option<ShardItem> {
        self.next_located().map(|(_, item)| item)
    }
}
