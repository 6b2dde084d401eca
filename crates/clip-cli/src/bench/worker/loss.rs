use anyhow::Result;
use burn::tensor::{Tensor, TensorData};
use clip_model::{
    INITIAL_LOGIT_SCALE,
    loss::{ContrastiveBatch, InfoNce},
};

use super::{Place, Task, noise};

/// The contrastive loss alone, with its gradients by features and temperature.
pub(super) struct Loss {
    place: Place,
    image: Tensor<2>,
    text: Tensor<2>,
    logit_scale: Tensor<1>,
}

impl Loss {
    pub(super) fn new(place: Place, batch: usize, embed_dim: usize) -> Self {
        let device = &place.started.device;
        let values = noise(2 * batch * embed_dim);
        let features = |bytes: &[u8]| {
            let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) - 127.5).collect();
            Tensor::from_data(TensorData::new(values, [batch, embed_dim]), device)
        };
        let (image, text) = values.split_at(batch * embed_dim);
        Self {
            image: features(image),
            text: features(text),
            logit_scale: Tensor::from_floats([INITIAL_LOGIT_SCALE], device),
            place,
        }
    }
}

impl Task for Loss {
    fn run(&mut self) -> Result<u64> {
        let [batch, _] = self.image.dims();
        let features = (self.image.clone(), self.text.clone());
        let pairs = ContrastiveBatch::new(features.0, features.1, self.logit_scale.clone());
        let found = InfoNce::default().with_gradients(pairs);
        self.place.sync()?;
        drop(found);
        Ok(batch as u64)
    }

    fn flop(&self) -> Option<f64> {
        let [batch, embed_dim] = self.image.dims();
        // The matrix of scores, and its product with each side's features: of a pair, by all the others.
        Some((3 * 2 * batch * embed_dim) as f64)
    }
}
