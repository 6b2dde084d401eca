//! A safetensors file of f32 matrices and one JSON object about them, whole or not at all, with a checksum of all.

use std::{collections::HashMap, path::Path};

use clip_model::weights::write_atomically;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Sha256Hex, ZeroShotError};

const ABOUT: &str = "about";
const CHECKSUM: &str = "sha256";
const FORMAT: &str = "format";

/// A named matrix, row by row.
pub(crate) struct Matrix {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    pub(crate) values: Vec<f32>,
}

/// Writes matrices, sorted by name, and what is known about them.
pub(crate) fn save(
    path: &Path,
    format: &str,
    matrices: &[Matrix],
    about: &impl Serialize,
) -> Result<(), ZeroShotError> {
    // invariant: strings and numbers always have a JSON form. It is a tensor of bytes because a safetensors header is
    // limited to 100 MB.
    let about = serde_json::to_vec(about).expect("invariant: it has a JSON form");
    let bytes: Vec<Vec<u8>> = matrices
        .iter()
        .map(|matrix| {
            matrix
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let hash = bytes
        .iter()
        .fold(Sha256Hex::default(), |hash, bytes| hash.part(bytes))
        .part(&about)
        .finish();
    let views = matrices
        .iter()
        .zip(&bytes)
        .map(|(matrix, bytes)| {
            (
                matrix.name.as_str(),
                Dtype::F32,
                matrix.shape.to_vec(),
                bytes,
            )
        })
        .chain([(ABOUT, Dtype::U8, vec![about.len()], &about)])
        .map(|(name, dtype, shape, bytes)| {
            // invariant: the bytes were just made from values of that shape.
            let view = TensorView::new(dtype, shape, bytes).expect("invariant: bytes fit");
            (name, view)
        });
    let metadata = HashMap::from([
        (CHECKSUM.to_owned(), hash),
        (FORMAT.to_owned(), format.to_owned()),
    ]);
    // invariant: the header holds a few names and a hash.
    let file = safetensors::serialize(views, Some(metadata)).expect("invariant: a short header");
    Ok(write_atomically(path, &file)?)
}

/// The matrices, sorted by name, and what is known about them; or what is wrong with the file's bytes.
pub(crate) fn parse<About: DeserializeOwned>(
    bytes: &[u8],
    format: &str,
) -> Result<(Vec<Matrix>, About), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let entry = |key: &str| {
        let metadata = header.metadata().as_ref();
        metadata.and_then(|metadata| metadata.get(key).cloned())
    };
    if entry(FORMAT).as_deref() != Some(format) {
        return Err(format!("its format is not `{format}`"));
    }
    let about = file.tensor(ABOUT).map_err(|error| error.to_string())?;
    let mut names = file.names();
    names.retain(|name| *name != ABOUT);
    names.sort_unstable();
    let mut hash = Sha256Hex::default();
    let mut matrices = Vec::new();
    for name in names {
        let view = file.tensor(name).map_err(|error| error.to_string())?;
        let (&[rows, columns], Dtype::F32) = (view.shape(), view.dtype()) else {
            return Err(format!("`{name}` is no matrix of f32"));
        };
        hash = hash.part(view.data());
        let (values, _) = view.data().as_chunks::<4>();
        matrices.push(Matrix {
            name: name.to_owned(),
            shape: [rows, columns],
            values: values
                .iter()
                .map(|&value| f32::from_le_bytes(value))
                .collect(),
        });
    }
    if entry(CHECKSUM) != Some(hash.part(about.data()).finish()) {
        return Err("its contents do not match their sha256".to_owned());
    }
    let about = serde_json::from_slice(about.data()).map_err(|error| error.to_string())?;
    Ok((matrices, about))
}
