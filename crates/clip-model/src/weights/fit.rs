use std::path::Path;

use super::{
    architecture::side,
    names::is_count,
    resize::{resize_image_positions, resize_text_positions},
    state_dict::{HostTensor, StateDict},
};
use crate::ModelError;

/// OpenCLIP's own, and timm's.
const IMAGE_POSITIONS: [&str; 2] = ["visual.positional_embedding", "visual.trunk.pos_embed"];
const TEXT_POSITIONS: [&str; 2] = ["positional_embedding", "text.positional_embedding"];

/// Whether a tensor is none of the model's: numbers that follow from the configuration.
pub(super) fn is_ignored(name: &str) -> bool {
    const NAMES: [&str; 4] = [
        "input_resolution",
        "context_length",
        "vocab_size",
        "attn_mask",
    ];
    const SUFFIXES: [&str; 4] = [
        ".position_ids",
        ".token_type_ids",
        ".attn_mask",
        ".embed_positions.weights",
    ];
    NAMES.contains(&name) || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// The tensors with the bias that the objective has, at `init` where it is new, or without it.
pub(super) fn to_objective(
    mut state: StateDict,
    init: Option<f64>,
    notes: &mut Vec<String>,
) -> StateDict {
    const BIAS: &str = "logit_bias";
    match init {
        Some(init) if !state.contains_key(BIAS) => {
            notes.push(format!("they have no {BIAS}: it begins at {init}"));
            state.insert(
                BIAS.to_owned(),
                HostTensor::from_f32(Vec::new(), &[init as f32]),
            );
        }
        None if state.remove(BIAS).is_some() => {
            notes.push(format!("their {BIAS} is left out: the objective has none"));
        }
        _ => {}
    }
    state
}

/// The tensors under the model's names and in its shapes, with positional embeddings resized where theirs differ.
///
/// # Errors
/// [`ModelError::WeightsMismatch`] with every difference; [`ModelError::NoFloats`] if one holds others.
pub(super) fn fit(
    mut state: StateDict,
    expected: &[(String, Vec<usize>)],
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<StateDict, ModelError> {
    let mut fitted = StateDict::new();
    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for (name, shape) in expected {
        // OpenCLIP has the text tower's parameters under `text.` or not, by its configuration's `custom_text`.
        let other = match name.strip_prefix("text.") {
            Some(inside) => inside.to_owned(),
            None => format!("text.{name}"),
        };
        let found = state.remove(name).or_else(|| state.remove(&other));
        // Not every writer keeps batch norms' counts, or as 64-bit integers, and nothing computes with them.
        let found = match found {
            Some(count) if is_count(name) && !count.is_count() => Some(HostTensor::count(0)),
            None if is_count(name) => Some(HostTensor::count(0)),
            found => found,
        };
        let Some(tensor) = found else {
            missing.push(name.clone());
            continue;
        };
        if !tensor.is_float() && !is_count(name) {
            return Err(ModelError::NoFloats {
                path: path.to_owned(),
                tensor: name.clone(),
                dtype: tensor.dtype.to_string(),
            });
        }
        let (tensor, note) = resized(name, tensor, shape);
        notes.extend(note);
        match reshaped(tensor, shape) {
            Ok(tensor) => {
                fitted.insert(name.clone(), tensor);
            }
            Err(got) => misshapen.push((name.clone(), shape.clone(), got)),
        }
    }
    let unexpected: Vec<String> = state.into_keys().collect();
    if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
        return Ok(fitted);
    }
    Err(ModelError::WeightsMismatch {
        path: path.to_owned(),
        missing,
        unexpected,
        misshapen,
    })
}

/// A scalar may be stored as `[]` or `[1]`.
fn reshaped(mut tensor: HostTensor, shape: &[usize]) -> Result<HostTensor, Vec<usize>> {
    let is_scalar = |shape: &[usize]| matches!(shape, [] | [1]);
    if tensor.shape != shape && !(is_scalar(&tensor.shape) && is_scalar(shape)) {
        return Err(tensor.shape);
    }
    tensor.shape = shape.to_vec();
    Ok(tensor)
}

/// Positional embeddings of another number of positions, with what was done.
fn resized(name: &str, tensor: HostTensor, shape: &[usize]) -> (HostTensor, Option<String>) {
    let (&[ref before @ .., from, width], &[ref expected_before @ .., to, expected_width]) =
        (tensor.shape.as_slice(), shape)
    else {
        return (tensor, None);
    };
    if before != expected_before || from == to || width != expected_width || from * width == 0 {
        return (tensor, None);
    }
    let Some(values) = tensor.to_f32() else {
        return (tensor, None);
    };
    let (values, note) = match (name, sides(from, to)) {
        (name, Some((from, to))) if IMAGE_POSITIONS.contains(&name) => (
            resize_image_positions(&values, width, from, to),
            format!(
                "{name} is resized from a {from}x{from} grid to {to}x{to} (bicubic, antialiased)"
            ),
        ),
        (name, ..) if TEXT_POSITIONS.contains(&name) => (
            resize_text_positions(&values, width, from, to),
            format!("{name} is resized from {from} tokens to {to} (linear)"),
        ),
        _ => return (tensor, None),
    };
    (HostTensor::from_f32(shape.to_vec(), &values), Some(note))
}

/// Places along the sides of two grids, both with one more position for a class token or both without.
fn sides(from: usize, to: usize) -> Option<(usize, usize)> {
    let with_class = side(from).zip(side(to));
    with_class.or_else(|| side(from + 1).zip(side(to + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_other_integers_are_no_trouble_and_other_tensors_of_them_are_named() {
        let integers = |shape: &[usize]| HostTensor {
            dtype: safetensors::Dtype::I32,
            shape: shape.to_vec(),
            bytes: vec![0; 4 * shape.iter().product::<usize>()],
        };
        let fitted = |name: &str, shape: &[usize]| {
            let state = [(name.to_owned(), integers(shape))].into();
            let expected = [(name.to_owned(), shape.to_vec())];
            fit(state, &expected, Path::new("x.pt"), &mut Vec::new())
        };
        let name = "visual.bn1.num_batches_tracked";
        assert!(fitted(name, &[]).unwrap()[name].to_f32().is_some());
        let error = fitted("visual.proj", &[2]).unwrap_err().to_string();
        assert_eq!(error, "x.pt: visual.proj has type I32, expected a float");
    }

    #[test]
    fn text_positions_are_resized_under_either_name() {
        let values: Vec<f32> = (0..12).map(|at| at as f32).collect();
        for name in TEXT_POSITIONS {
            let tensor = HostTensor::from_f32(vec![6, 2], &values);
            let (tensor, note) = resized(name, tensor, &[4, 2]);
            assert_eq!(tensor.shape, [4, 2]);
            assert!(note.unwrap().contains("from 6 tokens to 4"));
        }
    }

    #[test]
    fn timms_positions_are_resized_with_a_class_token_and_without() {
        for (from, to) in [(17, 5), (16, 4)] {
            let tensor = HostTensor::from_f32(vec![1, from, 2], &vec![0.5; from * 2]);
            let (tensor, note) = resized("visual.trunk.pos_embed", tensor, &[1, to, 2]);
            assert_eq!(tensor.shape, [1, to, 2]);
            assert!(note.unwrap().contains("from a 4x4 grid to 2x2"));
        }
        // One with a class token and one without.
        let tensor = HostTensor::from_f32(vec![1, 17, 2], &[0.5; 34]);
        assert!(
            resized("visual.trunk.pos_embed", tensor, &[1, 4, 2])
                .1
                .is_none()
        );
    }
}
