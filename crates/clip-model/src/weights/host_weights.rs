use std::{borrow::Cow, collections::HashMap, io, path::Path};

use burn::tensor::DType;
use safetensors::{Dtype, View};

use super::{
    names::{NamedParam, is_count, named_params},
    safetensors::{transpose, write_safetensors},
};
use crate::Clip;

/// A model's weights as they were when they were copied to the host: the model may change meanwhile.
#[derive(Debug)]
pub struct HostWeights {
    params: Vec<NamedParam>,
}

impl HostWeights {
    /// Copies them, once.
    pub fn of(model: &Clip) -> Self {
        let mut params = named_params(model, true);
        for param in &mut params {
            let data = param.data.take();
            param.data = data.map(|data| data.convert_dtype(DType::F32));
        }
        Self { params }
    }

    /// Writes a safetensors file with OpenCLIP's parameter names, in f32, for [`load_weights`](super::load_weights). Of
    /// what has to be transposed, one matrix is held twice at a time.
    ///
    /// # Errors
    /// When the folder can't be written or the disk is full.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_safetensors(path, self.views(), metadata())
    }

    /// What [`write`](Self::write) writes.
    fn to_bytes(&self) -> Vec<u8> {
        // invariant: names are distinct paths of one module, and bytes fit their shapes.
        safetensors::serialize(self.views(), Some(metadata())).expect("invariant: distinct names")
    }

    fn views(&self) -> impl Iterator<Item = (&str, Written<'_>)> {
        let params = self.params.iter();
        params.map(|param| (param.name.as_str(), Written(param)))
    }
}

/// The model's weights as a safetensors file with OpenCLIP's parameter names, in f32.
pub fn weights_bytes(model: &Clip) -> Vec<u8> {
    HostWeights::of(model).to_bytes()
}

/// OpenCLIP's loader asks for the framework's name.
fn metadata() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}

/// A parameter as the file has it, made when its turn comes.
struct Written<'a>(&'a NamedParam);

impl Written<'_> {
    fn is_count(&self) -> bool {
        is_count(&self.0.name)
    }
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        if self.is_count() {
            Dtype::I64
        } else {
            Dtype::F32
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let Self(param) = self;
        // invariant: values were asked for, and every parameter is a float.
        let data = param
            .data
            .as_ref()
            .expect("invariant: values were asked for");
        if self.is_count() {
            let counts = data.iter::<f32>().map(|count| count as i64);
            return Cow::Owned(counts.flat_map(i64::to_le_bytes).collect());
        }
        if !param.transposed {
            return Cow::Borrowed(data.as_bytes());
        }
        let (values, _) = data.as_bytes().as_chunks::<4>();
        let values: Vec<[u8; 4]> = transpose(values, param.shape[1], param.shape[0]);
        Cow::Owned(values.into_flattened())
    }

    fn data_len(&self) -> usize {
        let bytes = if self.is_count() { 8 } else { 4 };
        self.0.shape.iter().product::<usize>() * bytes
    }
}
