use std::io::{Cursor, Read, Result};

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{
    Input, Location, RawSample, ShardItem,
    columns::{self, Columns},
    shard::{Bodies, Items, SAMPLES_A_SHARD},
};
use crate::{DataError, FaultKind};

/// Longest row: a quotation mark that is never closed would make the rest of the file one.
const MAX_ROW_BYTES: usize = 1 << 20;

/// A CSV or TSV file whose rows name an image and its caption.
#[derive(Debug)]
pub(super) struct Table {
    location: Location,
    separator: u8,
    image: usize,
    caption: usize,
    key: Option<usize>,
    /// Where every part of [`SAMPLES_A_SHARD`] rows begins in the file.
    starts: Vec<u64>,
    rows: u64,
}

impl Table {
    /// Reads the header and finds where the rows begin.
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
        let mut input = Input::open(&location, 0).map_err(io)?;
        let mut head = Vec::new();
        // The header alone says what separates the columns.
        (&mut input)
            .take(MAX_ROW_BYTES as u64)
            .read_to_end(&mut head)
            .map_err(io)?;
        let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let separator = columns.separator.unwrap_or({
            // The reference's lists are separated by tabs, whatever their name ends in.
            if first_line.contains(&b'\t') {
                b'\t'
            } else {
                b','
            }
        });
        let mut reader = rows_from(Cursor::new(head).chain(input), separator, true);
        let header = reader.headers().map_err(|error| bad(error.to_string()))?;
        let names: Vec<&str> = header
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}'))
            .collect();
        let find = |wanted: Option<&str>, usual: &[&str]| columns::find(&names, wanted, usual);
        let image = find(columns.image.as_deref(), columns::IMAGE_PATHS).map_err(&bad)?;
        let caption = find(columns.caption.as_deref(), columns::CAPTIONS).map_err(&bad)?;
        let key = match &columns.key {
            Some(_) => Some(find(columns.key.as_deref(), &[]).map_err(&bad)?),
            None => None,
        };
        let mut table = Self {
            location: location.clone(),
            separator,
            image,
            caption,
            key,
            starts: Vec::new(),
            rows: 0,
        };
        let mut record = ByteRecord::new();
        loop {
            let start = reader.position().byte();
            let line = reader.position().line();
            if !reader
                .read_byte_record(&mut record)
                .map_err(|error| bad(error.to_string()))?
            {
                break;
            }
            if record.as_slice().len() > MAX_ROW_BYTES {
                return Err(bad(format!(
                    "the row at line {line} has more than {MAX_ROW_BYTES} bytes; is a quotation mark never closed?"
                )));
            }
            if table.rows.is_multiple_of(SAMPLES_A_SHARD as u64) {
                table.starts.push(start);
            }
            table.rows += 1;
        }
        if table.rows == 0 {
            return Err(bad("it has a header and no rows".to_owned()));
        }
        Ok(table)
    }

    pub(super) fn name(&self) -> String {
        self.location.to_string()
    }

    /// Whether any row is at hand.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.location, Location::Local(_))
    }

    pub(super) fn parts(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn rows_of(&self, part: usize) -> u64 {
        let before = (part * SAMPLES_A_SHARD) as u64;
        (self.rows - before).min(SAMPLES_A_SHARD as u64)
    }

    /// The rows of a part, from the one at byte `start` on, or all for 0, where the header stands.
    pub(super) fn rows(&self, part: usize, shard: usize, start: u64) -> Result<Rows> {
        let start = if start == 0 { self.starts[part] } else { start };
        let input = Input::open(&self.location, start)?;
        Ok(Rows {
            reader: rows_from(input, self.separator, false),
            table: self.location.clone(),
            image: self.image,
            caption: self.caption,
            key: self.key,
            shard,
            start,
            left: self.rows_of(part),
            bodies: Bodies::All,
        })
    }
}

fn rows_from<R: Read>(file: R, separator: u8, header: bool) -> Reader<R> {
    ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(header)
        .flexible(true)
        .from_reader(file)
}

/// Some rows of a table.
pub(super) struct Rows {
    reader: Reader<Input>,
    table: Location,
    image: usize,
    caption: usize,
    key: Option<usize>,
    shard: usize,
    /// Where the reader began.
    start: u64,
    left: u64,
    bodies: Bodies,
}

impl Rows {
    fn item(&self, record: &ByteRecord) -> ShardItem {
        let field = |column: usize| {
            let bytes = record.get(column).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let name = field(self.image);
        let key = self.key.map_or_else(|| name.clone(), field);
        let mut sample = RawSample {
            shard: self.shard,
            key,
            ..RawSample::default()
        };
        if name.trim().is_empty() {
            return ShardItem::Fault(FaultKind::NoImage, sample.key);
        }
        if self.bodies != Bodies::None {
            let caption = field(self.caption);
            if caption.trim().is_empty() {
                return ShardItem::Fault(FaultKind::EmptyCaption, sample.key);
            }
            sample.captions.push(caption);
        }
        if self.bodies == Bodies::All {
            match self.table.read_named(name.trim()) {
                Ok(image) => sample.image = image,
                Err(kind) => return ShardItem::Fault(kind, sample.key),
            }
        }
        ShardItem::Sample(sample)
    }
}

impl Items for Rows {
    fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let start = self.start + self.reader.position().byte();
        let mut record = ByteRecord::new();
        if let Ok(true) = self.reader.read_byte_record(&mut record) {
            return Some((start, self.item(&record)));
        }
        // The file changed since it was counted.
        self.left = 0;
        Some((
            0,
            ShardItem::Fault(FaultKind::TruncatedShard, String::new()),
        ))
    }

    fn read_bodies(&mut self, bodies: Bodies) {
        self.bodies = bodies;
    }
}
