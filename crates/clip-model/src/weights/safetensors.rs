use std::{fmt::Display, fs::File, path::Path};

use safetensors::{SafeTensorError, View};

/// Writes a safetensors file, one tensor after the other: it is never in memory as a whole.
///
/// # Errors
/// When the folder can't be written, the disk is full, or names or sizes make no such file.
pub fn write_safetensors<S: AsRef<str> + Ord + Display>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, impl View)>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> std::io::Result<()> {
    // The format's own writer puts a temporary file in this one's place, which only its owner may read.
    let permissions = File::create(path)?.metadata()?.permissions();
    let metadata = metadata.into_iter().collect();
    let written = safetensors::serialize_to_file(tensors, Some(metadata), path);
    written.map_err(|error| match error {
        SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other),
    })?;
    std::fs::set_permissions(path, permissions)
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

    #[cfg(unix)]
    #[test]
    fn who_may_read_other_files_may_read_a_safetensors_file() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let [plain, written] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&plain, b"text").unwrap();
        let view = TensorView::new(Dtype::U8, vec![4], b"data").unwrap();
        write_safetensors(&written, [("a", view)], []).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&written), mode(&plain));
    }
}
