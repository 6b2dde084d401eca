use std::borrow::Cow;

use clip_model::weights::{FloatType, ImportedWeights};

use crate::onnx::ElementType;

/// A checkpoint's tensors as an ONNX file has them.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) checkpoint: &'a ImportedWeights,
    pub(crate) dtype: FloatType,
}

/// One of them, yet to be read.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// OpenCLIP's.
    pub(crate) name: String,
    /// As it is written.
    pub(crate) shape: Vec<usize>,
    /// Whether OpenCLIP's is `[to, from]`, and ours `[from, to]`.
    pub(crate) transposed: bool,
    /// Bytes that it takes in the file.
    pub(crate) bytes: u64,
}

impl Weights<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.shape(name).is_some()
    }

    /// OpenCLIP's shape.
    ///
    /// # Panics
    /// If the architecture has no such tensor: a checkpoint has all that its architecture has.
    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        let shape = self.checkpoint.shape(name);
        shape.unwrap_or_else(|| panic!("invariant: a checkpoint has {name}"))
    }

    /// Side of a convolution's kernel, in pixels or places; its names begin with `prefix`.
    pub(crate) fn side(&self, prefix: &str) -> usize {
        let side = self.shape(&format!("{prefix}weight")).last();
        *side.expect("invariant: a kernel has sides")
    }

    pub(crate) fn element_type(&self) -> ElementType {
        match self.dtype {
            FloatType::F32 => ElementType::Float,
            FloatType::F16 => ElementType::Float16,
            FloatType::Bf16 => ElementType::BFloat16,
        }
    }

    pub(crate) fn weight(&self, name: &str, transposed: bool) -> Weight {
        let mut shape = self.shape(name).to_vec();
        let count = shape.iter().product::<usize>();
        if transposed {
            shape.reverse();
        }
        Weight {
            name: name.to_owned(),
            shape,
            transposed,
            bytes: (count * self.dtype.bytes()) as u64,
        }
    }

    pub(crate) fn read(&self, weight: &Weight) -> Cow<'_, [u8]> {
        let Self { checkpoint, dtype } = *self;
        let bytes = if weight.transposed {
            let bytes = checkpoint.transposed_bytes(&weight.name, dtype);
            bytes.map(Cow::Owned)
        } else {
            checkpoint.bytes(&weight.name, dtype)
        };
        bytes.expect("invariant: a weight was found when the graph was built")
    }

    /// A parameter that is one number, if the model has it.
    pub(crate) fn scalar(&self, name: &str) -> Option<f32> {
        let bytes = self.checkpoint.bytes(name, FloatType::F32)?;
        bytes
            .as_chunks::<4>()
            .0
            .first()
            .copied()
            .map(f32::from_le_bytes)
    }
}
