//! Where the entries of a zip archive are, of those that are stored as they are.
//!
//! PyTorch compresses nothing that weights need, so that it can map tensors: an archive is a table of offsets.
//!
//! # References
//! PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end)
//! and 4.5.3 (the extra field of large files).

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Bytes that may follow the end record: a comment of up to 65,535, and the record itself.
const END_SEARCH: u64 = 65_535 + END as u64;
const END: usize = 22;
const END_64_LOCATOR: usize = 20;
const END_64: usize = 56;
const CENTRAL: usize = 46;
const LOCAL: usize = 30;

/// Longest central directory that is read: a million entries.
const MAX_DIRECTORY: u64 = 128 << 20;

/// An entry of the central directory.
#[derive(Clone, Copy, Debug)]
struct Entry {
    method: u16,
    size: u64,
    header: u64,
}

/// An archive's entries by name.
pub(super) struct Archive {
    file: File,
    entries: HashMap<String, Entry>,
}

impl Archive {
    /// Reads the central directory.
    pub(super) fn open(mut file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let tail_start = length.saturating_sub(END_SEARCH + END_64_LOCATOR as u64);
        let tail = read_at(&mut file, tail_start, length - tail_start)?;
        let end = (0..=tail.len().saturating_sub(END))
            .rev()
            .find(|at| tail[*at..].starts_with(b"PK\x05\x06"))
            .ok_or_else(|| broken("its end is missing: it may be half downloaded"))?;
        let record = slice(&tail, end, END)?;
        let (mut size, mut start) = (u64::from(u32_at(record, 12)), u64::from(u32_at(record, 16)));
        let locator = end.checked_sub(END_64_LOCATOR).map(|at| &tail[at..end]);
        if let Some(locator) = locator.filter(|bytes| bytes.starts_with(b"PK\x06\x07")) {
            let record = read_at(&mut file, u64_at(locator, 8), END_64 as u64)?;
            if !record.starts_with(b"PK\x06\x06") {
                return Err(broken("its end points to something else"));
            }
            (size, start) = (u64_at(&record, 40), u64_at(&record, 48));
        }
        if size > MAX_DIRECTORY {
            return Err(broken("its directory is too long"));
        }
        let directory = read_at(&mut file, start, size)?;
        Ok(Self {
            file,
            entries: entries(&directory)?,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Start and size of a stored entry in the file, if there is one of that name.
    pub(super) fn locate(&mut self, name: &str) -> io::Result<Option<(u64, u64)>> {
        let Some(entry) = self.entries.get(name).copied() else {
            return Ok(None);
        };
        if entry.method != 0 {
            return Err(broken("it is compressed, which PyTorch doesn't do"));
        }
        let header = read_at(&mut self.file, entry.header, LOCAL as u64)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(broken("it is not where the directory says"));
        }
        let names = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let start = entry.header + LOCAL as u64 + names;
        let end = start.checked_add(entry.size);
        if end.is_none_or(|end| self.file.metadata().map_or(true, |file| end > file.len())) {
            return Err(broken("it reaches past the end of the file"));
        }
        Ok(Some((start, entry.size)))
    }

    /// The content of a stored entry of at most `limit` bytes, if there is one of that name.
    pub(super) fn read(&mut self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.locate(name)? {
            Some((_, size)) if size > limit => Err(broken("it is too long")),
            Some((start, size)) => read_at(&mut self.file, start, size).map(Some),
            None => Ok(None),
        }
    }
}

fn entries(directory: &[u8]) -> io::Result<HashMap<String, Entry>> {
    let mut entries = HashMap::new();
    let mut at = 0;
    while directory[at..].starts_with(b"PK\x01\x02") {
        let record = slice(directory, at, CENTRAL)?;
        let [name, extra, comment] = [28, 30, 32].map(|field| usize::from(u16_at(record, field)));
        let mut entry = Entry {
            method: u16_at(record, 10),
            size: u64::from(u32_at(record, 24)),
            header: u64::from(u32_at(record, 42)),
        };
        let compressed = u32_at(record, 20);
        let name_start = at + CENTRAL;
        let extra_start = name_start + name;
        widen(
            &mut entry,
            compressed,
            slice(directory, extra_start, extra)?,
        );
        let name = String::from_utf8_lossy(slice(directory, name_start, name)?);
        if entries.insert(name.clone().into_owned(), entry).is_some() {
            return Err(broken(&format!("it has two entries named {name}")));
        }
        at = extra_start + extra + comment;
        if at > directory.len() {
            return Err(broken("its directory is torn"));
        }
    }
    Ok(entries)
}

/// Takes the numbers that need 64 bits from the extra field, in which only those are.
fn widen(entry: &mut Entry, compressed: u32, mut extra: &[u8]) {
    const LARGE: u16 = 1;
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let length = usize::from(u16_at(head, 2)).min(rest.len());
        let (mut field, next) = rest.split_at(length);
        extra = next;
        if u16_at(head, 0) != LARGE {
            continue;
        }
        let mut take = |wide: bool| {
            let (value, rest) = field.split_at_checked(8).filter(|_| wide)?;
            field = rest;
            Some(u64_at(value, 0))
        };
        let size = take(entry.size == u64::from(u32::MAX));
        take(compressed == u32::MAX);
        let header = take(entry.header == u64::from(u32::MAX));
        entry.size = size.unwrap_or(entry.size);
        entry.header = header.unwrap_or(entry.header);
    }
}

fn read_at(file: &mut File, start: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(broken("it ends too early: it may be half downloaded"));
    }
    Ok(bytes)
}

fn slice(bytes: &[u8], start: usize, length: usize) -> io::Result<&[u8]> {
    let found = bytes.get(start..).and_then(|rest| rest.get(..length));
    found.ok_or_else(|| broken("its directory is torn"))
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Little-endian numbers of records, whose lengths were checked.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
