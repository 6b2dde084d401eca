use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ZeroShotError;

/// Below this norm a feature has no direction; `torch.nn.functional.normalize` uses the same.
pub(crate) const SMALLEST_NORM: f32 = 1e-12;

/// The values of a `[rows, columns]` tensor on the host, refused when one of them is not finite.
///
/// `name` says what a row is, given its number.
pub(crate) fn finite_rows(
    tensor: Tensor<2>,
    name: impl FnOnce(usize) -> String,
) -> Result<Vec<f32>, ZeroShotError> {
    let [_, columns] = tensor.dims();
    let values = tensor.try_into_vec_as::<f32>()?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(ZeroShotError::NotFinite {
            what: name(at / columns.max(1)),
        }),
        None => Ok(values),
    }
}

/// A row-major host matrix as a tensor of f32, whatever the device's default float is.
pub(crate) fn from_host(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// Divides a vector by its Euclidean norm.
pub(crate) fn normalize_in_place(vector: &mut [f64]) {
    let norm = vector
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
        .max(f64::from(SMALLEST_NORM));
    for value in vector {
        *value /= norm;
    }
}
