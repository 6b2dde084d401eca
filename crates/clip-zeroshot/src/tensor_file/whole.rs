use std::{borrow::Cow, collections::HashMap, path::Path};

use clip_files::sha256::Parts;
use clip_model::weights::write_safetensors;
use safetensors::{Dtype, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ABOUT, CHECKSUM, CODES, CODES_CHECKSUM, FORMAT,
    header::{Fault, Opened},
};
use crate::ZeroShotError;

/// A named matrix, row by row.
pub(crate) struct Matrix<'a> {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    pub(crate) values: Cow<'a, [f32]>,
}

/// Writes matrices, sorted by name, and what is known about them.
pub(crate) fn save(
    path: &Path,
    format: &str,
    matrices: &[Matrix<'_>],
    codes: Option<&[u8]>,
    about: &impl Serialize,
) -> Result<(), ZeroShotError> {
    // invariant: strings and numbers always have a JSON form. It is a tensor of bytes because a safetensors header is
    // limited to 100 MB.
    let about = serde_json::to_vec(about).expect("invariant: it has a JSON form");
    let bytes: Vec<Cow<'_, [u8]>> = matrices
        .iter()
        .map(|matrix| little_endian(&matrix.values))
        .collect();
    let hash = Parts::of(&bytes).part(&about).finish();
    let mut metadata = HashMap::from([
        (CHECKSUM.to_owned(), hash),
        (FORMAT.to_owned(), format.to_owned()),
    ]);
    if let Some(codes) = codes {
        let hash = Parts::default().part(codes).part(&about).finish();
        metadata.insert(CODES_CHECKSUM.to_owned(), hash);
    }
    let matrices = matrices.iter().zip(&bytes).map(|(matrix, bytes)| {
        let shape = matrix.shape.to_vec();
        (matrix.name.as_str(), Dtype::F32, shape, &bytes[..])
    });
    let others = [(ABOUT, Some(about.as_slice())), (CODES, codes)];
    let others = others.into_iter().filter_map(|(name, bytes)| {
        let bytes = bytes?;
        Some((name, Dtype::U8, vec![bytes.len()], bytes))
    });
    let views: Vec<_> = matrices
        .chain(others)
        .map(|(name, dtype, shape, bytes)| {
            // invariant: the bytes were just made from values of that shape.
            let view = TensorView::new(dtype, shape, bytes).expect("invariant: bytes fit");
            (name, view)
        })
        .collect();
    let write = |partial: &Path| write_safetensors(partial, views, metadata);
    Ok(clip_files::replace_with(path, write)?)
}

/// Numbers as the format has them. Those of a million images are gigabytes: they are copied only where a processor keeps
/// them otherwise.
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        )
    }
}

/// The matrices, sorted by name, and what is known about them. Each is read into the memory that it stays in: a copy of the
/// file beside it would double what a search of millions needs. Codes are passed over.
pub(crate) fn load<About: DeserializeOwned>(
    path: &Path,
    format: &str,
) -> Result<(Vec<Matrix<'static>>, About), Fault> {
    let opened = Opened::new(path, format)?;
    let mut names = opened.header.offset_keys();
    names.retain(|name| ![ABOUT, CODES].contains(&name.as_str()));
    names.sort_unstable();
    let mut hash = Parts::default();
    let mut matrices = Vec::new();
    for name in names {
        let info = opened.info(&name)?;
        let (&[rows, columns], Dtype::F32) = (info.shape.as_slice(), info.dtype) else {
            return Err(format!("`{name}` is no matrix of f32").into());
        };
        let mut values = vec![0.0_f32; rows * columns];
        opened.read(info, bytemuck::cast_slice_mut(&mut values))?;
        hash = hash.part(bytemuck::cast_slice(&values));
        if cfg!(target_endian = "big") {
            for value in &mut values {
                *value = f32::from_bits(value.to_bits().swap_bytes());
            }
        }
        matrices.push(Matrix {
            name,
            shape: [rows, columns],
            values: values.into(),
        });
    }
    let about = opened.bytes(ABOUT)?;
    if opened.entry(CHECKSUM) != Some(&hash.part(&about).finish()) {
        return Err("its contents do not match their sha256".to_owned().into());
    }
    let about = serde_json::from_slice(&about).map_err(|error| error.to_string())?;
    Ok((matrices, about))
}
