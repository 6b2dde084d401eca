use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use safetensors::tensor::Metadata;

use super::Stored;
use crate::ModelError;

/// Bytes of the header's length, before the header.
const LENGTH: u64 = 8;

/// Longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// Where the tensors of a safetensors file are. Only its header is read.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, Stored>, ModelError> {
    let syntax = |reason: String| ModelError::WeightsSyntax {
        path: path.to_owned(),
        reason,
    };
    let io = || clip_files::io("read", path);
    let mut file = File::open(path).map_err(io())?;
    let size = file.metadata().map_err(io())?.len();
    if size < LENGTH {
        return Err(syntax(format!("it has {size} bytes, too few for a header")));
    }
    let mut length = [0; LENGTH as usize];
    file.read_exact(&mut length).map_err(io())?;
    let header = u64::from_le_bytes(length);
    if header > size.saturating_sub(LENGTH) {
        return Err(syntax(format!(
            "its header should be {header} bytes long, but the file has {size}"
        )));
    }
    if header > MAX_HEADER {
        return Err(syntax(format!(
            "its header is {header} bytes long, more than the format allows"
        )));
    }
    let mut json = Vec::new();
    let read = (&mut file).take(header).read_to_end(&mut json);
    read.map_err(io())?;
    // It checks that the tensors have the sizes of their shapes and follow each other.
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| syntax(error.to_string()))?;
    let data = LENGTH + header;
    let expected = data + metadata.data_len() as u64;
    if size != expected {
        return Err(syntax(format!(
            "it should be {expected} bytes long, but has {size}"
        )));
    }
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let stored = Stored {
            file: path.to_owned(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            strides: None,
            offset: data + info.data_offsets.0 as u64,
        };
        (name, stored)
    });
    Ok(stored.collect())
}
