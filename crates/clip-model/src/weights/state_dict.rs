use std::{borrow::Cow, collections::BTreeMap, path::Path};

use burn::tensor::{Bytes, DType, Shape, TensorData};
use safetensors::{Dtype, View};

use super::safetensors::write_safetensors;
use crate::ModelError;

/// How numbers are written to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatType {
    /// 32 bits: nothing is lost.
    #[default]
    F32,
    /// 16 bits with 11 of precision and a largest value of 65,504, as OpenAI stored its weights.
    F16,
    /// 16 bits with 8 of precision and the range of [`FloatType::F32`].
    Bf16,
}

impl FloatType {
    /// PyTorch's name of the type, which Hugging Face's `config.json` holds.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        byte_size(self.stored())
    }

    pub(super) fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// One tensor as a file holds it: row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Tensors by name, on the host.
pub(crate) type StateDict = BTreeMap<String, HostTensor>;

impl HostTensor {
    pub(crate) fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Self {
            dtype: Dtype::F32,
            shape,
            bytes: bytes.collect(),
        }
    }

    /// How many batches a batch norm has seen.
    pub(crate) fn count(batches: i64) -> Self {
        Self {
            dtype: Dtype::I64,
            shape: Vec::new(),
            bytes: batches.to_le_bytes().to_vec(),
        }
    }

    /// Whether it can be read as the count of batches that it is named for.
    pub(crate) fn is_count(&self) -> bool {
        self.dtype == Dtype::I64 || self.is_float()
    }

    /// Its numbers, exactly unless they are 64 bits wide; nothing if they aren't floats or counts.
    pub(crate) fn to_f32(&self) -> Option<Vec<f32>> {
        if self.dtype == Dtype::F32 {
            return Some(bytemuck::pod_collect_to_vec(&self.bytes));
        }
        self.converted(Dtype::F32)?.try_into_vec::<f32>().ok()
    }

    pub(crate) fn is_float(&self) -> bool {
        self.dtype != Dtype::I64 && burn_type(self.dtype).is_some()
    }

    /// Its numbers as a file of `dtype` holds them; counts stay what they are.
    pub(crate) fn written_as(&self, dtype: Dtype) -> Cow<'_, [u8]> {
        if self.dtype == dtype || !self.is_float() {
            return Cow::Borrowed(&self.bytes);
        }
        // invariant: what is a float can be another one.
        let converted = self.converted(dtype);
        let converted = converted.expect("invariant: a float");
        Cow::Owned(converted.as_bytes().to_vec())
    }

    /// The first number that is infinite as another type, and isn't here.
    pub(super) fn beyond(&self, dtype: Dtype) -> Option<f32> {
        let converted = self.converted(dtype)?.convert_dtype(DType::F32);
        let converted = converted.try_into_vec::<f32>().ok()?;
        let numbers = self.to_f32()?.into_iter().zip(converted);
        let mut beyond =
            numbers.filter(|(number, as_other)| number.is_finite() && as_other.is_infinite());
        beyond.next().map(|(number, _)| number)
    }

    /// The same numbers as another type, rounded to the nearest.
    fn converted(&self, to: Dtype) -> Option<TensorData> {
        let (from, to) = (burn_type(self.dtype)?, burn_type(to)?);
        let bytes = Bytes::from_bytes_vec(self.bytes.clone());
        let count = self.shape.iter().product::<usize>();
        Some(TensorData::from_bytes(bytes, Shape::from([count]), from).convert_dtype(to))
    }
}

/// Bytes of one number. Types of less than a byte have none, and weights aren't stored in them.
pub(super) fn byte_size(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

fn burn_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I64 => Some(DType::I64),
        _ => None,
    }
}

/// A tensor that is converted when its turn to be written comes, so that only one is held twice.
struct Written<'a> {
    tensor: &'a HostTensor,
    dtype: Dtype,
}

impl<'a> Written<'a> {
    /// Floats become `dtype`; counts stay what they are.
    fn new(tensor: &'a HostTensor, dtype: Dtype) -> Self {
        let dtype = if tensor.is_float() {
            dtype
        } else {
            tensor.dtype
        };
        Self { tensor, dtype }
    }
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.written_as(self.dtype)
    }

    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * byte_size(self.dtype)
    }
}

/// Writes a safetensors file. The folder is a temporary one, so the file needs no care of its own.
pub(super) fn write_state(
    state: &StateDict,
    dtype: FloatType,
    path: &Path,
) -> Result<(), ModelError> {
    let dtype = dtype.stored();
    let views = state
        .iter()
        .map(|(name, tensor)| (name, Written::new(tensor, dtype)));
    // OpenCLIP's and transformers' loaders ask for the framework's name.
    let metadata = [("format".to_owned(), "pt".to_owned())];
    Ok(write_safetensors(path, views, metadata).map_err(clip_files::io("write", path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f16's largest number is 65,504, and what is halfway to 65,536 is rounded up.
    #[test]
    fn what_another_type_cannot_hold_is_told() {
        let beyond = |number: f32, dtype| {
            let tensor = HostTensor::from_f32(vec![3], &[1.0, f32::INFINITY, number]);
            tensor.beyond(dtype)
        };
        assert_eq!(beyond(65_519.0, Dtype::F16), None);
        assert_eq!(beyond(-65_520.0, Dtype::F16), Some(-65_520.0));
        assert_eq!(beyond(-65_520.0, Dtype::BF16), None);
    }

    /// IEEE 754: 1/3 is 0x3eaaaaab, 0x3555 in half and 0x3eab in bfloat16, all rounded to the nearest.
    #[test]
    fn numbers_are_rounded_to_the_nearest_and_widened_exactly() {
        let third = HostTensor::from_f32(vec![1], &[1.0 / 3.0]);
        for (dtype, bits) in [(Dtype::F16, 0x3555_u16), (Dtype::BF16, 0x3eab)] {
            let narrow = HostTensor {
                dtype,
                shape: vec![1],
                bytes: third.converted(dtype).unwrap().as_bytes().to_vec(),
            };
            assert_eq!(narrow.bytes, bits.to_le_bytes());
            let wide = HostTensor::from_f32(vec![1], &narrow.to_f32().unwrap());
            assert_eq!(wide.converted(dtype).unwrap().as_bytes(), narrow.bytes);
        }
    }
}
