use burn::{module::Module, tensor::Tensor};

use super::{
    super::{BatchNorm, Statistics},
    conv_mlp::ConvMlp,
    kernel::{Kernel, becomes_one},
    layers::ChannelScale,
    mobile_one::{MobileOneBlock, MobileOneShape},
    shape::KERNEL,
};
use crate::Init;

/// Mixes places by a depthwise convolution beside a residual path. At inference both are one convolution.
///
/// # References
/// Vasu et al. 2023, [FastViT](https://arxiv.org/abs/2303.14189), section 3.2.1.
#[derive(Module, Debug)]
pub struct RepMixer {
    /// What is taken away: the input's batch norm.
    pub norm: MobileOneBlock,
    /// What is added.
    pub mixer: MobileOneBlock,
    /// On the difference.
    pub layer_scale: ChannelScale,
}

impl RepMixer {
    fn init(channels: usize, init: &mut Init) -> Self {
        let mixer = MobileOneShape {
            channels: [channels; 2],
            groups: channels,
            side: KERNEL,
            stride: 1,
            scale: true,
            activated: false,
        };
        Self {
            norm: MobileOneBlock::norm(channels, init),
            mixer: MobileOneBlock::init(mixer, init),
            layer_scale: ChannelScale::init(channels, init),
        }
    }

    fn kernel(&self) -> Kernel {
        let factors = self.layer_scale.factors();
        let [channels] = factors.dims();
        let identity = Kernel::identity(channels, &factors);
        let added = self.mixer.kernel().minus(self.norm.kernel());
        identity.plus(added.scaled(factors))
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        if becomes_one(&x, statistics) {
            return self.kernel().forward(x, 1);
        }
        let mixed = self.mixer.forward(x.clone(), statistics);
        let norm = self.norm.forward(x.clone(), statistics);
        x + self.layer_scale.forward(mixed - norm)
    }
}

/// A [`RepMixer`], then an MLP beside a residual path.
#[derive(Module, Debug)]
pub struct RepMixerBlock {
    /// Mixes places.
    pub token_mixer: RepMixer,
    /// Mixes channels.
    pub mlp: ConvMlp,
    /// On what the MLP adds.
    pub layer_scale: ChannelScale,
}

impl RepMixerBlock {
    pub(super) fn init(channels: usize, mlp_ratio: usize, init: &mut Init) -> Self {
        Self {
            token_mixer: RepMixer::init(channels, init),
            mlp: ConvMlp::init(channels, mlp_ratio, init),
            layer_scale: ChannelScale::init(channels, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let x = self.token_mixer.forward(x, statistics);
        let mixed = self.mlp.forward(x.clone(), statistics);
        x + self.layer_scale.forward(mixed)
    }

    /// In the order of the forward pass.
    pub(super) fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let RepMixer { norm, mixer, .. } = &self.token_mixer;
        let mixer = mixer.batch_norms().chain(norm.batch_norms());
        mixer.chain([&self.mlp.conv.bn])
    }
}
