use std::{
    fmt::Display,
    fs::File,
    io::{Error, Result, Write},
    path::Path,
};

use safetensors::{
    View,
    tensor::{Metadata, TensorInfo},
};

/// The longest header that readers of the format take.
const LONGEST_HEADER: usize = 100_000_000;

/// Writes a safetensors file, one tensor after the other: it is never in memory as a whole.
///
/// The format's own writer makes a temporary file beside this one, which a process that is killed leaves behind under a name
/// that nobody knows.
///
/// # Errors
/// When the folder can't be written, the disk is full, or names or sizes make no such file.
pub fn write_safetensors<S: AsRef<str> + Ord + Display, V: View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, V)>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    // The widest numbers first, so that all lie at a multiple of their size.
    tensors.sort_by(|(name, tensor), (other_name, other)| {
        let narrower = other.dtype().cmp(&tensor.dtype());
        narrower.then_with(|| name.cmp(other_name))
    });
    let mut end = 0;
    let places = tensors.iter().map(|(name, tensor)| {
        let begin = end;
        end += tensor.data_len();
        let place = TensorInfo {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            data_offsets: (begin, end),
        };
        (name.to_string(), place)
    });
    let places = places.collect();
    let header = Metadata::new(Some(metadata.into_iter().collect()), places);
    let mut header = serde_json::to_vec(&header.map_err(Error::other)?)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    if header.len() > LONGEST_HEADER {
        return Err(Error::other(
            "its names are longer than a safetensors file takes",
        ));
    }
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, tensor) in &tensors {
        file.write_all(&tensor.data())?;
    }
    Ok(())
}

/// Rows and columns that are transposed at a time: their lines stay in the cache.
const BLOCK: usize = 16;

/// A row-major `[rows, columns]` matrix to `[columns, rows]`.
pub(super) fn transpose<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut out = values.to_vec();
    for first_row in (0..rows).step_by(BLOCK) {
        for first_column in (0..columns).step_by(BLOCK) {
            for column in first_column..columns.min(first_column + BLOCK) {
                for row in first_row..rows.min(first_row + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    #[test]
    fn the_file_is_the_formats_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let view = |dtype, bytes| TensorView::new(dtype, vec![2], bytes).unwrap();
        let tensors = || {
            [
                ("bytes", view(Dtype::U8, b"ab")),
                ("wide", view(Dtype::F32, b"abcdefgh")),
                ("half", view(Dtype::F16, b"abcd")),
            ]
        };
        let metadata = || [("format".to_owned(), "pt".to_owned())];
        write_safetensors(&path, tensors(), metadata()).unwrap();
        let expected = safetensors::serialize(tensors(), Some(metadata().into())).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        // Nothing else was made beside it.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
