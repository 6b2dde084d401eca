//! A file's numbers become a model's parameters, one tensor after the other.

use std::{collections::HashMap, fs::File, path::Path};

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{Tensor, TensorData},
};

use super::{
    file::Stored,
    fit::is_ignored,
    names::{NamedParam, named_params},
    safetensors::transpose,
    state_dict::{HostTensor, StateDict},
};
use crate::{Clip, ModelError};

/// Replaces all the model's weights by a file's, which must have exactly the model's parameters, beside numbers that follow
/// from its configuration. Beside the model, one tensor is in memory at a time.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::WeightsSyntax`], or [`ModelError::WeightsMismatch`] naming every
/// missing, unexpected and misshapen tensor.
pub fn load_weights(model: Clip, path: &Path) -> Result<Clip, ModelError> {
    let tensors = Stored::in_safetensors(path)?;
    let params = named_params(&model, false);

    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for param in &params {
        match tensors.get(&param.name) {
            Some(stored) if same_shape(stored.shape(), &param.shape) => {}
            Some(stored) => {
                misshapen.push((
                    param.name.clone(),
                    param.shape.clone(),
                    stored.shape().to_vec(),
                ));
            }
            None => missing.push(param.name.clone()),
        }
    }
    let unexpected: Vec<String> = tensors
        .keys()
        .filter(|name| !params.iter().any(|param| param.name == **name) && !is_ignored(name))
        .cloned()
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

    let mut file = File::open(path).map_err(clip_files::io("read", path))?;
    put(model, params, |name| {
        // invariant: presence was checked above.
        let stored = tensors.get(name).expect("invariant: checked above");
        let numbers = stored.read_f32(&mut file);
        let numbers = numbers.map_err(clip_files::io("read", path))?;
        numbers.ok_or_else(|| ModelError::NoFloats {
            path: path.to_owned(),
            tensor: name.to_owned(),
            dtype: stored.dtype().to_string(),
        })
    })
}

/// Gives the model the weights of a checkpoint, which were checked against its parameters.
pub(super) fn fill(model: Clip, state: &StateDict) -> Clip {
    let params = named_params(&model, false);
    let filled = put(model, params, |name| {
        let tensor = state.get(name).and_then(HostTensor::to_f32);
        // invariant: the names, shapes and types were checked when the checkpoint was read.
        Ok(tensor.expect("invariant: the checkpoint was checked"))
    });
    // invariant: nothing above fails.
    filled.expect("invariant: the numbers are in memory")
}

/// Replaces the parameters by the numbers that `numbers` gives for their names, in OpenCLIP's order.
fn put(
    model: Clip,
    params: Vec<NamedParam>,
    numbers: impl FnMut(&str) -> Result<Vec<f32>, ModelError>,
) -> Result<Clip, ModelError> {
    let mut mapper = WeightMapper {
        params: params.into_iter().map(|param| (param.id, param)).collect(),
        numbers,
        failed: Ok(()),
    };
    let model = model.map(&mut mapper);
    mapper.failed.map(|()| model)
}

/// A scalar may be stored as `[]` or `[1]`.
fn same_shape(got: &[usize], expected: &[usize]) -> bool {
    got == expected || (expected.is_empty() && got == [1])
}

struct WeightMapper<F> {
    params: HashMap<ParamId, NamedParam>,
    numbers: F,
    /// The first failure, after which nothing is replaced.
    failed: Result<(), ModelError>,
}

impl<F: FnMut(&str) -> Result<Vec<f32>, ModelError>> ModuleMapper for WeightMapper<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(named) = self
            .params
            .remove(&param.id)
            .filter(|_| self.failed.is_ok())
        else {
            return param;
        };
        let numbers = match (self.numbers)(&named.name) {
            Ok(numbers) if named.transposed => transpose(&numbers, named.shape[0], named.shape[1]),
            Ok(numbers) => numbers,
            Err(error) => {
                self.failed = Err(error);
                return param;
            }
        };
        param.map(|old| {
            let data = TensorData::new(numbers, old.shape());
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
        clip_files::replace(&path, &saved).unwrap();
        let loaded = load_weights(model(2, 32), &path).unwrap();
        assert_eq!(weights_bytes(&loaded), saved);
    }

    #[test]
    fn a_file_of_another_model_is_refused_with_every_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.safetensors");
        clip_files::replace(&path, &weights_bytes(&model(1, 24))).unwrap();
        let error = load_weights(model(2, 32), &path).unwrap_err();
        let ModelError::WeightsMismatch { misshapen, .. } = &error else {
            panic!("{error}");
        };
        let proj = ("visual.proj".to_owned(), vec![32, 16], vec![24, 16]);
        assert!(misshapen.contains(&proj), "{error}");
        // They all say the same.
        let told = error.to_string();
        assert!(
            told.ends_with(&format!("and {} more", misshapen.len() - 3)),
            "{told}"
        );
        std::fs::write(&path, b"not weights").unwrap();
        let error = load_weights(model(2, 32), &path).unwrap_err().to_string();
        assert!(error.contains("not a readable safetensors file"), "{error}");
    }
}
