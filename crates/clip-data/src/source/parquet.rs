use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    basic::{ConvertedType, Type},
    column::reader::{ColumnReaderImpl, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, page_index::RowGroupPageIndex},
        properties::ReaderProperties,
        reader::{ChunkReader, RowGroupReader},
        serialized_reader::SerializedRowGroupReader,
    },
    schema::types::ColumnDescriptor,
};

#[cfg(feature = "object-store")]
use super::remote::Blocks;
use super::{
    Location, RawSample, ShardItem,
    columns::{self, Columns},
    shard::{Bodies, Items, MAX_FILE_BYTES},
};
use crate::{DataError, FaultKind};

/// Columns that hold encoded images: img2dataset's by its formats, then those of Hugging Face's data sets.
const IMAGE_BYTES: &[&str] = &[
    "jpg",
    "png",
    "webp",
    "image.bytes",
    "image",
    "image_bytes",
    "bytes",
];

/// Columns that hold an image's path, beside those of other tables.
const NESTED_PATH: &str = "image.path";

/// A Parquet file of images, or of their paths, and captions.
#[derive(Debug)]
pub(super) struct ParquetFile {
    location: Location,
    /// Of the footer, which is read once.
    metadata: ParquetMetaData,
    image: Image,
    caption: usize,
    key: Option<usize>,
}

/// Where images are.
#[derive(Clone, Copy, Debug)]
enum Image {
    /// In a column.
    Inside(usize),
    /// In files that a column names.
    Named(usize),
    /// In files named by the key, in a folder named as the table: img2dataset's layout.
    Keyed,
}

impl ParquetFile {
    /// Reads the footer.
    pub(super) fn open(
        location: Location,
        columns: &Columns,
    ) -> std::result::Result<Self, DataError> {
        let name = location.to_string();
        let bad = |reason: String| DataError::BadTable {
            path: name.clone().into(),
            reason,
        };
        let io = |error| clip_files::io("read", name.clone())(error);
        let parsed = match &location {
            Location::Local(path) => footer(&File::open(path).map_err(io)?),
            #[cfg(feature = "object-store")]
            Location::Remote(object) => footer(&Blocks::open(object).map_err(io)?),
        };
        let metadata = parsed.map_err(|error| bad(format!("not a Parquet file: {error}")))?;
        let described = metadata.file_metadata().schema_descr();
        // Columns of bytes alone: numbers are neither images nor captions.
        let usable = |column: &ColumnDescriptor| {
            column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
        };
        let names: Vec<String> = described
            .columns()
            .iter()
            .map(|column| {
                if usable(column) {
                    column.path().string()
                } else {
                    String::new()
                }
            })
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let find = |wanted: Option<&str>, usual: &[&str]| columns::find(&names, wanted, usual);
        let key = find(columns.key.as_deref(), &["key"]);
        let key = if columns.key.is_some() {
            Some(key.map_err(&bad)?)
        } else {
            key.ok()
        };
        let usual: Vec<&str> = IMAGE_BYTES
            .iter()
            .chain(columns::IMAGE_PATHS)
            .copied()
            .chain([NESTED_PATH])
            .collect();
        let image = match find(columns.image.as_deref(), &usual) {
            Ok(column) => {
                // Text holds a path, bytes an image.
                let text = described.column(column).converted_type() == ConvertedType::UTF8;
                if text {
                    Image::Named(column)
                } else {
                    Image::Inside(column)
                }
            }
            Err(_) if columns.image.is_none() && key.is_some() => Image::Keyed,
            Err(reason) => return Err(bad(reason)),
        };
        let caption = find(columns.caption.as_deref(), columns::CAPTIONS).map_err(&bad)?;
        Ok(Self {
            location,
            metadata,
            image,
            caption,
            key,
        })
    }

    pub(super) fn name(&self) -> String {
        self.location.to_string()
    }

    /// Whether any row is at hand.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.location, Location::Local(_))
    }

    pub(super) fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    pub(super) fn rows_of(&self, group: usize) -> u64 {
        self.metadata.row_group(group).num_rows().max(0) as u64
    }

    /// The rows of a group from the `start`th on.
    pub(super) fn rows(&self, group: usize, shard: usize, start: u64) -> Result<ParquetRows> {
        let opened = match &self.location {
            Location::Local(path) => self.columns(File::open(path)?, group, start),
            #[cfg(feature = "object-store")]
            Location::Remote(object) => self.columns(Blocks::open(object)?, group, start),
        };
        let (image, caption, key) =
            opened.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let (_, file) = self.location.folder_and_file();
        let stem = file.rsplit_once('.').map_or("", |(stem, _)| stem);
        Ok(ParquetRows {
            image,
            inside: matches!(self.image, Image::Inside(_)),
            caption,
            key,
            table: self.location.clone(),
            folder: stem.to_owned(),
            shard,
            row: start,
            rows: self.rows_of(group),
            bodies: Bodies::All,
        })
    }

    /// The columns of image, caption and key.
    fn columns(
        &self,
        file: impl ChunkReader + 'static,
        group: usize,
        start: u64,
    ) -> std::result::Result<(Option<Column>, Column, Option<Column>), ParquetError> {
        guarded(|| {
            let properties = Arc::new(ReaderProperties::builder().build());
            let group = SerializedRowGroupReader::new(
                Arc::new(file),
                self.metadata.row_group(group),
                RowGroupPageIndex::new(group, None),
                properties,
            )?;
            let column = |column| Column::open(&group, column, start);
            let image = match self.image {
                Image::Inside(index) | Image::Named(index) => Some(column(index)?),
                Image::Keyed => None,
            };
            let key = self.key.map(column).transpose()?;
            Ok((image, column(self.caption)?, key))
        })
    }
}

fn footer(file: &impl ChunkReader) -> std::result::Result<ParquetMetaData, ParquetError> {
    guarded(|| ParquetMetaDataReader::new().parse_and_finish(file))
}

/// A damaged file may make the reader panic.
fn guarded<T>(
    read: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("it is damaged".to_owned())))
}

/// A column, read value by value.
struct Column {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// The level of a value that is there.
    present: i16,
    /// Rows that were passed over and not yet left behind.
    behind: usize,
}

impl Column {
    fn open(
        group: &dyn RowGroupReader,
        column: usize,
        start: u64,
    ) -> std::result::Result<Self, ParquetError> {
        let present = group
            .metadata()
            .schema_descr()
            .column(column)
            .max_def_level();
        let reader = group.get_column_reader(column)?;
        Ok(Self {
            reader: get_typed_column_reader(reader),
            present,
            behind: start as usize,
        })
    }

    /// The next row's value.
    fn next(&mut self) -> std::result::Result<Option<ByteArray>, ParquetError> {
        if self.behind > 0 {
            self.reader.skip_records(std::mem::take(&mut self.behind))?;
        }
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let levels_wanted = (self.present > 0).then_some(&mut levels);
        let (rows, _, _) = self
            .reader
            .read_records(1, levels_wanted, None, &mut values)?;
        if rows == 0 {
            return Err(ParquetError::EOF("the column ends early".to_owned()));
        }
        Ok(values.pop())
    }

    fn pass(&mut self) {
        self.behind += 1;
    }
}

/// Some rows of a Parquet file.
pub(super) struct ParquetRows {
    image: Option<Column>,
    /// Whether the image column holds images rather than their paths.
    inside: bool,
    caption: Column,
    key: Option<Column>,
    table: Location,
    /// Beside the table, where images are named by their keys.
    folder: String,
    shard: usize,
    row: u64,
    rows: u64,
    bodies: Bodies,
}

impl ParquetRows {
    fn item(&mut self) -> std::result::Result<ShardItem, ParquetError> {
        let text = |value: Option<ByteArray>| {
            let bytes = value.as_ref().map(ByteArray::data).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let key = match &mut self.key {
            Some(key) => text(key.next()?),
            None => self.row.to_string(),
        };
        let mut sample = RawSample {
            shard: self.shard,
            key,
            ..RawSample::default()
        };
        let image = match &mut self.image {
            Some(image) if self.bodies == Bodies::All => Some(image.next()?),
            Some(image) => {
                image.pass();
                None
            }
            None => None,
        };
        if self.bodies == Bodies::None {
            self.caption.pass();
            return Ok(ShardItem::Sample(sample));
        }
        let caption = self.caption.next()?;
        if caption.is_none() {
            return Ok(ShardItem::Fault(FaultKind::NoCaption, sample.key));
        }
        let caption = text(caption);
        if caption.trim().is_empty() {
            return Ok(ShardItem::Fault(FaultKind::EmptyCaption, sample.key));
        }
        sample.captions.push(caption);
        if self.bodies == Bodies::Text {
            return Ok(ShardItem::Sample(sample));
        }
        let read = match image {
            Some(None) => Err(FaultKind::NoImage),
            Some(Some(bytes)) if self.inside => match bytes.len() as u64 {
                0 => Err(FaultKind::NoImage),
                size if size > MAX_FILE_BYTES => Err(FaultKind::TooLarge),
                _ => Ok(bytes.data().to_vec()),
            },
            Some(path) => self.table.read_named(&text(path)),
            None => {
                let name = format!("{}/{}.jpg", self.folder, sample.key);
                self.table.read_named(&name)
            }
        };
        Ok(match read {
            Ok(image) => {
                sample.image = image;
                ShardItem::Sample(sample)
            }
            Err(kind) => ShardItem::Fault(kind, sample.key),
        })
    }
}

impl Items for ParquetRows {
    fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        if self.row == self.rows {
            return None;
        }
        let start = self.row;
        let item = guarded(|| self.item());
        self.row += 1;
        Some(match item {
            Ok(item) => (start, item),
            Err(error) => {
                log::warn!("row {start} of a row group: {error}");
                self.row = self.rows;
                (
                    0,
                    ShardItem::Fault(FaultKind::TruncatedShard, String::new()),
                )
            }
        })
    }

    fn read_bodies(&mut self, bodies: Bodies) {
        self.bodies = bodies;
    }
}
