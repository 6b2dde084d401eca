use burn::{module::Module, tensor::Tensor};

use super::{
    super::{Activation, BiasedConvolution, Statistics},
    layers::{ConvNorm, STD},
};
use crate::Init;

/// A depthwise convolution, then two layers on each place around GELU.
///
/// # References
/// Vasu et al. 2023, section 3.2 (`ConvFFN`).
#[derive(Module, Debug)]
pub struct ConvMlp {
    /// Mixes places.
    pub conv: ConvNorm,
    /// To hidden channels.
    pub fc1: BiasedConvolution,
    /// And back.
    pub fc2: BiasedConvolution,
}

impl ConvMlp {
    pub(super) fn init(channels: usize, ratio: usize, init: &mut Init) -> Self {
        let hidden = ratio * channels;
        let layer = |from, to, init: &mut Init| {
            BiasedConvolution::init_normal([to, from, 1, 1], 1, STD, init)
        };
        Self {
            conv: ConvNorm::init_normal(channels, init),
            fc1: layer(channels, hidden, init),
            fc2: layer(hidden, channels, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let x = self.conv.forward(x, statistics);
        let hidden = Activation::Gelu.forward(self.fc1.forward(x));
        self.fc2.forward(hidden)
    }
}
