use std::{
    collections::HashMap,
    fmt::Display,
    fs::File,
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Shape, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View, tensor::TensorView};

use super::{
    names::named_params,
    state_dict::{HostTensor, StateDict},
};
use crate::{Clip, ModelError};

/// Replaces all the model's weights by a file's, which must have exactly the model's parameters.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::WeightsSyntax`], or [`ModelError::WeightsMismatch`] naming every
/// missing, unexpected and misshapen tensor.
pub fn load_weights(model: Clip, path: &Path) -> Result<Clip, ModelError> {
    let bytes = std::fs::read(path).map_err(ModelError::io("read", path))?;
    let syntax = |reason: String| ModelError::WeightsSyntax {
        path: path.to_owned(),
        reason,
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| syntax(error.to_string()))?;
    let params = named_params(&model, false);

    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for param in &params {
        match file.tensor(&param.name) {
            Ok(tensor) if same_shape(tensor.shape(), &param.shape) => {}
            Ok(tensor) => {
                misshapen.push((
                    param.name.clone(),
                    param.shape.clone(),
                    tensor.shape().to_vec(),
                ));
            }
            Err(_) => missing.push(param.name.clone()),
        }
    }
    let unexpected: Vec<String> = file
        .names()
        .into_iter()
        .filter(|name| !params.iter().any(|param| param.name == **name))
        .map(str::to_owned)
        .collect();
    if !(missing.is_empty() && unexpected.is_empty() && misshapen.is_empty()) {
        let path = path.to_owned();
        return Err(ModelError::WeightsMismatch {
            path,
            missing,
            unexpected,
            misshapen,
        });
    }

    let mut values = HashMap::new();
    for param in params {
        // invariant: presence was checked above.
        let tensor = file.tensor(&param.name).expect("invariant: checked above");
        let numbers = floats(&tensor).ok_or_else(|| {
            syntax(format!(
                "{} has type {:?}, expected a float",
                param.name,
                tensor.dtype()
            ))
        })?;
        let numbers = if param.transposed {
            transpose(&numbers, param.shape[0], param.shape[1])
        } else {
            numbers
        };
        values.insert(param.id, numbers);
    }
    Ok(model.map(&mut WeightMapper { values }))
}

/// Gives the model the weights of a checkpoint, which were checked against its parameters.
pub(super) fn fill(model: Clip, state: &StateDict) -> Clip {
    let params = named_params(&model, false).into_iter();
    let values = params.map(|param| {
        let tensor = state.get(&param.name).and_then(HostTensor::to_f32);
        // invariant: the names, shapes and types were checked when the checkpoint was read.
        let numbers = tensor.expect("invariant: the checkpoint was checked");
        let numbers = if param.transposed {
            transpose(&numbers, param.shape[0], param.shape[1])
        } else {
            numbers
        };
        (param.id, numbers)
    });
    let values = values.collect();
    model.map(&mut WeightMapper { values })
}

/// Writes a file so that a crash leaves the old one or the new one, never half of either.
///
/// # Errors
/// [`ModelError::Io`] when the folder can't be written or the disk is full.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    replace_atomically(path, |partial| std::fs::write(partial, bytes))
}

/// As [`write_atomically`], for a file that is too large to be built in memory first: `write` is given the path to write to.
///
/// # Errors
/// [`ModelError::Io`] when `write` fails, the folder can't be written or the disk is full.
pub fn replace_atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), ModelError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial: PathBuf = path.with_file_name(name);
    let written = write(&partial)
        .and_then(|()| File::options().write(true).open(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| {
        // The error that matters is the one above; a leftover is harmless and overwritten next time.
        let _ = std::fs::remove_file(&partial);
        ModelError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    })?;
    sync_rename(path);
    Ok(())
}

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

/// Makes what was renamed to `path` last: it does once its folder is on disk. Not every system lets a folder be opened,
/// and the content is safe already, so a refusal is no failure.
pub(super) fn sync_rename(path: &Path) {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

/// A scalar may be stored as `[]` or `[1]`.
fn same_shape(got: &[usize], expected: &[usize]) -> bool {
    got == expected || (expected.is_empty() && got == [1])
}

fn floats(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let dtype = match tensor.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64, // batch norms' counts
        _ => return None,
    };
    let bytes = burn::tensor::Bytes::from_bytes_vec(tensor.data().to_vec());
    let count = tensor.shape().iter().product::<usize>();
    let data = TensorData::from_bytes(bytes, Shape::from([count]), dtype);
    data.convert::<f32>().try_to_vec::<f32>().ok()
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

struct WeightMapper {
    values: HashMap<ParamId, Vec<f32>>,
}

impl ModuleMapper for WeightMapper {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.values.remove(&param.id) else {
            return param;
        };
        param.map(|old| {
            let data = TensorData::new(values, old.shape());
            let new = Tensor::from_data(data, &old.device());
            if old.is_require_grad() {
                new.require_grad()
            } else {
                new
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{ClipConfig, weights::weights_bytes};

    fn model(seed: u64, width: usize) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 16, "vision_cfg": {{"image_size": 16, "layers": 1, "width": {width},
            "head_width": 8, "patch_size": 8}}, "text_cfg": {{"context_length": 12,
            "vocab_size": 50, "width": 8, "heads": 2, "layers": 1}}}}"#
        );
        ClipConfig::from_json(&json, "test")
            .unwrap()
            .init(seed, &Device::flex())
    }

    #[test]
    fn weights_survive_a_file_bit_by_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let saved = weights_bytes(&model(1, 32));
        write_atomically(&path, &saved).unwrap();
        let loaded = load_weights(model(2, 32), &path).unwrap();
        assert_eq!(weights_bytes(&loaded), saved);
    }

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

    #[test]
    fn a_file_of_another_model_is_refused_with_every_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.safetensors");
        write_atomically(&path, &weights_bytes(&model(1, 24))).unwrap();
        let error = load_weights(model(2, 32), &path).unwrap_err().to_string();
        assert!(
            error.contains("visual.proj has shape [24, 16], expected [32, 16]"),
            "{error}"
        );
        std::fs::write(&path, b"not weights").unwrap();
        let error = load_weights(model(2, 32), &path).unwrap_err().to_string();
        assert!(error.contains("not a readable safetensors file"), "{error}");
    }
}
