use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::{Mutex, PoisonError},
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::de::DeserializeOwned;

use super::{ABOUT, CODES, CODES_CHECKSUM, FORMAT};
use crate::Sha256Hex;

/// A header names a few tensors; a longer one is another file's.
const LONGEST_HEADER: u64 = 1 << 20;

/// What a file says about a matrix, the codes of its rows, and the rows on disk.
pub(crate) struct Part<About> {
    pub(crate) about: About,
    pub(crate) codes: Vec<u8>,
    pub(crate) rows: Rows,
}

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

/// A matrix of f32 that stays in its file. A file that is replaced meanwhile is still read as it was.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Reading a row is a seek and a read: one thread at a time.
    file: Mutex<File>,
    first: u64,
    shape: [usize; 2],
}

impl Rows {
    /// `[rows, columns]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Reads some rows, one after the other.
    pub(crate) fn read(&self, rows: &[usize]) -> std::io::Result<Vec<f32>> {
        let bytes_per_row = self.shape[1] * size_of::<f32>();
        let mut bytes = vec![0; rows.len() * bytes_per_row];
        // A panic elsewhere leaves the file as it is: only its position counts, and that is set anew.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, own) in rows.iter().zip(bytes.chunks_exact_mut(bytes_per_row)) {
            file.seek(SeekFrom::Start(self.first + (row * bytes_per_row) as u64))?;
            file.read_exact(own)?;
        }
        let (values, _) = bytes.as_chunks::<4>();
        Ok(values
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect())
    }
}

/// Opens a file for a few rows of a matrix, or nothing if the file has no codes. Codes and what is known about the rows are
/// checked against their checksum; the matrix is not read.
pub(crate) fn open<About: DeserializeOwned>(
    path: &Path,
    format: &str,
    matrix: &str,
) -> Result<Option<Part<About>>, Fault> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let (header, start) = header(&mut file, length)?;
    let entry = |key: &str| {
        let entries = header.metadata().as_ref();
        entries.and_then(|entries| entries.get(key).cloned())
    };
    if entry(FORMAT).as_deref() != Some(format) {
        return Err(format!("its format is not `{format}`").into());
    }
    if header.info(CODES).is_none() {
        return Ok(None);
    }
    let info = |name: &str| {
        let info = header.info(name);
        info.ok_or_else(|| format!("it has no `{name}`"))
    };
    let mut bytes = |info: &TensorInfo| -> std::io::Result<Vec<u8>> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        file.seek(SeekFrom::Start(start + from as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let (about, codes) = (bytes(info(ABOUT)?)?, bytes(info(CODES)?)?);
    let hash = Sha256Hex::default().part(&codes).part(&about).finish();
    if entry(CODES_CHECKSUM) != Some(hash) {
        return Err("its codes do not match their sha256".to_owned().into());
    }
    let values = info(matrix)?;
    let (&[rows, columns], Dtype::F32) = (values.shape.as_slice(), values.dtype) else {
        return Err(format!("`{matrix}` is no matrix of f32").into());
    };
    Ok(Some(Part {
        about: serde_json::from_slice(&about).map_err(|error| error.to_string())?,
        codes,
        rows: Rows {
            first: start + values.data_offsets.0 as u64,
            file: Mutex::new(file),
            shape: [rows, columns],
        },
    }))
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
