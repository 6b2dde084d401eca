use std::{fs, path::Path};

use burn::tensor::{Tensor, TensorData};
use clip_model::weights::write_safetensors;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{super::state::refused, Adapters, Factors, sites::Site};
use crate::TrainError;

/// Adapters and the weights below them, copied to the host.
#[derive(Debug)]
pub(in super::super) struct AdapterState {
    tensors: Vec<(String, TensorData)>,
}

impl AdapterState {
    /// Writes a safetensors file, in f32: for each adapter `A` `[from, rank]`, `B` `[rank, to]` and `W0` `[from, to]`.
    pub(in super::super) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let views = self.tensors.iter().map(|(name, data)| {
            let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
            // invariant: bytes fit their shape.
            (name.as_str(), view.expect("invariant: a whole tensor"))
        });
        Ok(write_safetensors(path, views, []).map_err(clip_files::io("write", path))?)
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(in super::super) fn read(path: &Path) -> Result<Self, TrainError> {
        let bytes = fs::read(path).map_err(clip_files::io("read", path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(refused)?;
        let tensors = file.iter().map(|(name, view)| {
            let (values, _) = view.data().as_chunks::<4>();
            let values: Vec<f32> = values
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect();
            if view.dtype() != Dtype::F32 {
                return Err(refused(format!("{name} of the adapters isn't f32")));
            }
            let data = TensorData::new(values, view.shape().to_vec());
            Ok((name.to_owned(), data))
        });
        Ok(Self {
            tensors: tensors.collect::<Result<_, _>>()?,
        })
    }

    fn take(&mut self, name: &str, shape: [usize; 2]) -> Result<TensorData, TrainError> {
        let at = self.tensors.iter().position(|(own, _)| own == name);
        let data = at.map(|at| self.tensors.swap_remove(at).1);
        data.filter(|data| data.shape().as_slice() == shape)
            .ok_or_else(|| {
                refused(format!(
                    "{name} of the adapters is missing, or of another shape"
                ))
            })
    }
}

impl Adapters {
    /// A copy on the host.
    pub(in super::super) fn state(&self) -> AdapterState {
        let parts = self.sites.iter().zip(&self.factors).zip(&self.base);
        let tensors = parts.flat_map(|((site, Factors { a, b }), base)| {
            let numbers = [a.val().inner(), b.val().inner(), base.clone()];
            names(site).into_iter().zip(numbers.map(Tensor::into_data))
        });
        AdapterState {
            tensors: tensors.collect(),
        }
    }

    /// Takes up those that were saved of the same sites.
    pub(in super::super) fn with_state(self, mut state: AdapterState) -> Result<Self, TrainError> {
        let mut factors = Vec::with_capacity(self.factors.len());
        let mut base = Vec::with_capacity(self.base.len());
        let parts = self.sites.iter().zip(self.factors).zip(self.base);
        for ((site, Factors { a, b }), weights) in parts {
            let [a_name, b_name, base_name] = names(site);
            let mut saved = |name: &str, old: &Tensor<2>| {
                let data = state.take(name, old.dims())?;
                Ok::<_, TrainError>(Tensor::from_data(data, &old.device()))
            };
            let [a_saved, b_saved] = [
                saved(&a_name, &a.val().inner())?,
                saved(&b_name, &b.val().inner())?,
            ];
            base.push(saved(&base_name, &weights)?);
            factors.push(Factors {
                a: a.map(|_| Tensor::from_inner(a_saved)),
                b: b.map(|_| Tensor::from_inner(b_saved)),
            });
        }
        Ok(Self {
            factors,
            base,
            sites: self.sites,
            scale: self.scale,
        })
    }
}

/// Of `A`, `B` and `W0`: the first two end as peft's do.
fn names(Site { name, target, .. }: &Site) -> [String; 3] {
    ["lora_A", "lora_B", "base"].map(|part| format!("{name}.{target}.{part}"))
}
