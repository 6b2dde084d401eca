use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::{Mutex, PoisonError},
};

use clip_files::sha256::Parts;
use safetensors::Dtype;
use serde::de::DeserializeOwned;

use super::{
    ABOUT, CODES, CODES_CHECKSUM,
    header::{Fault, Opened},
};

/// What a file says about a matrix, the codes of its rows, and the rows on disk.
pub(crate) struct Part<About> {
    pub(crate) about: About,
    pub(crate) codes: Vec<u8>,
    pub(crate) rows: Rows,
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
    let opened = Opened::new(path, format)?;
    if opened.header.info(CODES).is_none() {
        return Ok(None);
    }
    let (about, codes) = (opened.bytes(ABOUT)?, opened.bytes(CODES)?);
    let hash = Parts::default().part(&codes).part(&about).finish();
    if opened.entry(CODES_CHECKSUM) != Some(&hash) {
        return Err("its codes do not match their sha256".to_owned().into());
    }
    let values = opened.info(matrix)?;
    let (&[rows, columns], Dtype::F32) = (values.shape.as_slice(), values.dtype) else {
        return Err(format!("`{matrix}` is no matrix of f32").into());
    };
    Ok(Some(Part {
        about: serde_json::from_slice(&about).map_err(|error| error.to_string())?,
        codes,
        rows: Rows {
            first: opened.first(values),
            file: Mutex::new(opened.file),
            shape: [rows, columns],
        },
    }))
}
