use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use safetensors::tensor::{Metadata, TensorInfo};

use super::FORMAT;

/// A header names a few tensors; a longer one is another file's.
const LONGEST_HEADER: u64 = 1 << 20;

/// Why a file can't be read.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(std::io::Error),
    /// What is wrong with its bytes.
    Content(String),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Content(reason)
    }
}

/// A file of which the header alone has been read.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) header: Metadata,
    /// Where the tensors begin.
    start: u64,
}

impl Opened {
    /// Opens a file of a format whose header fits its length.
    pub(super) fn new(path: &Path, format: &str) -> Result<Self, Fault> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let (header, start) = header(&mut file, length)?;
        let opened = Self {
            file,
            header,
            start,
        };
        if opened.entry(FORMAT) != Some(format) {
            return Err(format!("its format is not `{format}`").into());
        }
        Ok(opened)
    }

    /// What the header says under a key.
    pub(super) fn entry(&self, key: &str) -> Option<&str> {
        let entries = self.header.metadata().as_ref()?;
        entries.get(key).map(String::as_str)
    }

    pub(super) fn info(&self, name: &str) -> Result<&TensorInfo, Fault> {
        let info = self.header.info(name);
        Ok(info.ok_or_else(|| format!("it has no `{name}`"))?)
    }

    /// Where a tensor begins in the file.
    pub(super) fn first(&self, info: &TensorInfo) -> u64 {
        self.start + info.data_offsets.0 as u64
    }

    /// Reads a tensor's bytes.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let info = self.info(name)?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.read(info, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor into a place of its length.
    pub(super) fn read(&self, info: &TensorInfo, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.first(info)))?;
        file.read_exact(bytes)
    }
}

/// The header, if it fits the file's length, and where the tensors begin.
fn header(file: &mut File, length: u64) -> Result<(Metadata, u64), Fault> {
    let cut = || Fault::Content("it is cut off, or no such file".to_owned());
    let mut size = [0; 8];
    if length < size.len() as u64 {
        return Err(cut());
    }
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size + 8 > length {
        return Err(cut());
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
    let start = 8 + size;
    // Sizes and shapes agree, and the tensors stand one after the other, or it would not have parsed.
    if start + header.data_len() as u64 != length {
        return Err(cut());
    }
    Ok((header, start))
}
