use burn::{module::Module, tensor::Tensor};

use super::{
    super::{Activation, BatchNorm, Statistics},
    FastVitShape, FastVitStageShape,
    attention::AttentionBlock,
    kernel::becomes_one,
    layers::{ConvNorm, PositionEncoding, SqueezeExcite},
    mobile_one::MobileOneBlock,
    rep_mixer::RepMixerBlock,
    shape::{KERNEL, LARGE_KERNEL, quarter},
};
use crate::Init;

/// Blocks of one size.
#[derive(Module, Debug)]
pub struct FastVitStage {
    /// Before the blocks; the first stage has none.
    pub downsample: Option<FastVitDownsample>,
    /// Before blocks with attention.
    pub pos_emb: Option<PositionEncoding>,
    /// First to last.
    pub blocks: Vec<FastVitBlock>,
}

/// One of two kinds.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // Burn's modules don't go into boxes.
pub enum FastVitBlock {
    /// Mixes places by a convolution.
    RepMixer(RepMixerBlock),
    /// Mixes places by attention.
    Attention(AttentionBlock),
}

/// To half the side and more channels; timm's `PatchEmbed`.
#[derive(Module, Debug)]
pub struct FastVitDownsample {
    /// Mixes places.
    pub large: LargeKernelConvolution,
    /// Mixes channels.
    pub pointwise: MobileOneBlock,
}

/// The sum of two depthwise convolutions of different sides, then GELU. At inference they are one convolution.
///
/// # References
/// Ding et al. 2022, [RepLKNet](https://arxiv.org/abs/2203.06717), section 3.2.
#[derive(Module, Debug)]
pub struct LargeKernelConvolution {
    /// 7 by 7.
    pub large_conv: ConvNorm,
    /// 3 by 3.
    pub small_conv: ConvNorm,
    /// After the sum.
    pub se: Option<SqueezeExcite>,
}

impl LargeKernelConvolution {
    fn init(stage: &FastVitStageShape, init: &mut Init) -> Self {
        let channels = stage.channels;
        let mut branch = |side: usize| ConvNorm::init([1, channels], side, 2, init);
        Self {
            large_conv: branch(LARGE_KERNEL),
            small_conv: branch(KERNEL),
            se: stage
                .squeeze_excite
                .then(|| SqueezeExcite::init(channels, quarter(channels), init)),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / 2, width / 2]`, rounded up
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let sum = if becomes_one(&x, statistics) {
            let kernel = self.large_conv.kernel().plus(self.small_conv.kernel());
            kernel.forward(x, 2)
        } else {
            let large = self.large_conv.forward(x.clone(), statistics);
            large + self.small_conv.forward(x, statistics)
        };
        Activation::Gelu.forward(match &self.se {
            Some(se) => se.forward(sum),
            None => sum,
        })
    }
}

impl FastVitBlock {
    fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        match self {
            Self::RepMixer(block) => block.forward(x, statistics),
            Self::Attention(block) => block.forward(x, statistics),
        }
    }

    /// In the order of the forward pass.
    fn batch_norms(&self) -> Vec<&BatchNorm> {
        match self {
            Self::RepMixer(block) => block.batch_norms().collect(),
            Self::Attention(block) => block.batch_norms().collect(),
        }
    }
}

impl FastVitStage {
    /// The stage `number`, from 0.
    pub(super) fn init(shape: &FastVitShape, number: usize, init: &mut Init) -> Self {
        let stage = &shape.stages[number];
        let channels = stage.channels;
        let block = |init: &mut Init| {
            if stage.attention {
                FastVitBlock::Attention(AttentionBlock::init(shape, channels, init))
            } else {
                FastVitBlock::RepMixer(RepMixerBlock::init(channels, shape.mlp_ratio, init))
            }
        };
        Self {
            downsample: (number > 0).then(|| FastVitDownsample {
                large: LargeKernelConvolution::init(stage, init),
                pointwise: MobileOneBlock::pointwise(channels, init),
            }),
            pos_emb: stage
                .attention
                .then(|| PositionEncoding::init(channels, init)),
            blocks: (0..stage.depth).map(|_| block(init)).collect(),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels before, height, width]`
    /// - returns `[batch, channels, height / 2, width / 2]`, rounded up; the first stage keeps channels and size
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let x = match &self.downsample {
            Some(FastVitDownsample { large, pointwise }) => {
                let x = large.forward(x, statistics);
                pointwise.forward(x, statistics)
            }
            None => x,
        };
        let x = match &self.pos_emb {
            Some(pos_emb) => pos_emb.forward(x),
            None => x,
        };
        let blocks = self.blocks.iter();
        blocks.fold(x, |x, block| block.forward(x, statistics))
    }

    /// In the order of the forward pass.
    pub(super) fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let downsample = self.downsample.iter().flat_map(|downsample| {
            let FastVitDownsample { large, pointwise } = downsample;
            let large = [&large.large_conv.bn, &large.small_conv.bn].into_iter();
            large.chain(pointwise.batch_norms())
        });
        downsample.chain(self.blocks.iter().flat_map(FastVitBlock::batch_norms))
    }
}
