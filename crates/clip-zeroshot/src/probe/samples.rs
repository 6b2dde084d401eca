use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::{ZeroShotError, features::finite_rows};

/// Rows of one product: enough to fill a CPU or a GPU, while logits of 1,000 classes stay at 32 MB.
const CHUNK: usize = 8192;

/// Features with their labels, in chunks on a device.
#[derive(Clone, Debug)]
pub struct Samples {
    pub(super) chunks: Vec<Chunk>,
    classes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// `[rows, features]`
    pub(super) features: Tensor<2>,
    /// `[rows, 1]`
    pub(super) labels: Tensor<2, Int>,
    pub(super) host_labels: Vec<u32>,
}

impl Samples {
    /// Features of images, as they come from the encoder: the paper scales them in no way.
    ///
    /// In f64 they are fitted in f64, else in f32.
    ///
    /// # Shapes
    /// - `features`: `[samples, features]`
    /// - `labels`: `samples` of them, below `classes`
    ///
    /// # Errors
    /// [`ZeroShotError::LabelOutOfRange`], [`ZeroShotError::NotFinite`], [`ZeroShotError::NoSamples`], or
    /// [`ZeroShotError::Shape`] when there are more or fewer labels than features.
    pub fn new(features: Tensor<2>, labels: &[u32], classes: usize) -> Result<Self, ZeroShotError> {
        let [samples, width] = features.dims();
        if samples != labels.len() {
            return Err(ZeroShotError::Shape {
                what: "features of labelled samples".to_owned(),
                expected: [labels.len(), width],
                got: [samples, width],
            });
        }
        if samples == 0 || width == 0 {
            return Err(ZeroShotError::NoSamples);
        }
        if let Some(position) = labels.iter().position(|&label| label as usize >= classes) {
            return Err(ZeroShotError::LabelOutOfRange {
                position,
                label: labels[position],
                classes,
            });
        }
        let dtype = match features.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let device = features.device();
        let mut chunks = Vec::with_capacity(samples.div_ceil(CHUNK));
        for (at, labels) in labels.chunks(CHUNK).enumerate() {
            let start = at * CHUNK;
            let features = features.clone().slice(start..start + labels.len());
            finite_rows(features.clone(), |row| {
                format!("the feature of sample {}", start + row)
            })?;
            let indices: Vec<i64> = labels.iter().map(|&label| label.into()).collect();
            let indices = TensorData::new(indices, [labels.len(), 1]);
            chunks.push(Chunk {
                features: features.cast(dtype),
                labels: Tensor::from_data(indices, (&device, DType::I64)),
                host_labels: labels.to_vec(),
            });
        }
        Ok(Self { chunks, classes })
    }

    /// These samples and others, with no copy of their features.
    ///
    /// # Errors
    /// [`ZeroShotError::Probe`] when they have other classes, features or precision.
    pub fn and(&self, others: &Self) -> Result<Self, ZeroShotError> {
        let kind = |samples: &Self| (samples.classes, samples.width(), samples.dtype());
        let (ours, theirs) = (kind(self), kind(others));
        if ours != theirs {
            return Err(ZeroShotError::Probe {
                reason: format!(
                    "the splits differ: {ours:?} against {theirs:?} (classes, features, type)"
                ),
            });
        }
        let chunks = [self.chunks.as_slice(), &others.chunks].concat();
        Ok(Self { chunks, ..*self })
    }

    /// How many classes the labels may name.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many samples there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.chunks
            .iter()
            .map(|chunk| chunk.host_labels.len())
            .sum()
    }

    /// Numbers in one feature.
    pub fn width(&self) -> usize {
        self.chunks[0].features.dims()[1]
    }

    /// How many samples each class has.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for label in self.chunks.iter().flat_map(|chunk| &chunk.host_labels) {
            counts[*label as usize] += 1;
        }
        counts
    }

    pub(super) fn dtype(&self) -> DType {
        self.chunks[0].features.dtype()
    }

    pub(super) fn device(&self) -> Device {
        self.chunks[0].features.device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::from_host;

    #[test]
    fn what_cannot_be_fitted_is_refused_by_place() {
        let device = Device::flex();
        let samples = |values: Vec<f32>, labels: &[u32]| {
            let rows = values.len() / 2;
            Samples::new(from_host(values, [rows, 2], &device), labels, 3)
        };
        let refused = |result: Result<Samples, ZeroShotError>| result.unwrap_err().to_string();
        assert!(refused(samples(vec![0.0; 4], &[0, 3])).contains("sample 1 has label 3"));
        assert!(refused(samples(vec![0.0, 1.0, f32::NAN, 0.0], &[0, 1])).contains("sample 1"));
        assert!(refused(samples(vec![0.0; 4], &[0])).contains("expected shape [1, 2]"));
        assert!(refused(samples(vec![], &[])).contains("no samples"));
        let wide = Samples::new(Tensor::zeros([1, 5], &device), &[0], 3).unwrap();
        let narrow = samples(vec![0.0; 4], &[2, 2]).unwrap();
        assert!(refused(narrow.and(&wide)).contains("the splits differ"));
        let both = narrow.and(&narrow).unwrap();
        assert_eq!((both.len(), both.counts()), (4, vec![0, 0, 4]));
    }
}
