//! The paper's residual network.

use burn::{
    module::{Module, Param},
    tensor::{
        DType, Tensor, activation::relu, module::avg_pool2d, module::conv2d, ops::AvgPoolOptions,
        ops::ConvOptions,
    },
};

use super::{AttentionPool2d, BatchNorm, BatchStatistics, Statistics};
use crate::{Init, VisionConfig};

/// Channels of a bottleneck's output, in multiples of its own width. He et al. 2016.
const EXPANSION: usize = 4;

/// The residual network of the paper: a stem of three convolutions, strides by average pooling before the
/// convolution, attention in place of the last average.
///
/// # References
/// CLIP section 2.4; He et al. 2016 (`ResNet`), He et al. 2019 (ResNet-D), Zhang 2019 (anti-aliasing).
#[derive(Module, Debug)]
pub struct ModifiedResNet {
    /// 3 to `width / 2` channels, stride 2.
    pub conv1: Convolution,
    /// After `conv1`.
    pub bn1: BatchNorm,
    /// `width / 2` channels.
    pub conv2: Convolution,
    /// After `conv2`.
    pub bn2: BatchNorm,
    /// `width / 2` to `width` channels.
    pub conv3: Convolution,
    /// After `conv3`.
    pub bn3: BatchNorm,
    /// To `4 * width` channels, at a quarter of the image's side.
    pub layer1: Vec<Bottleneck>,
    /// To `8 * width` channels, at an eighth.
    pub layer2: Vec<Bottleneck>,
    /// To `16 * width` channels, at a sixteenth.
    pub layer3: Vec<Bottleneck>,
    /// To `32 * width` channels, at a thirty-second.
    pub layer4: Vec<Bottleneck>,
    /// To `embed_dim` features.
    pub attnpool: AttentionPool2d,
}

/// A convolution without bias, padded so that stride 1 keeps the size.
#[derive(Module, Debug)]
pub struct Convolution {
    /// `[channels out, channels in, side, side]`; of channels in groups, those that come in of each.
    pub weight: Param<Tensor<4>>,
    pub(super) stride: usize,
}

impl Convolution {
    /// PyTorch's default: `U(±1/sqrt(fan_in))`.
    pub(super) fn init(channels: [usize; 2], side: usize, stride: usize, init: &mut Init) -> Self {
        let [from, to] = channels;
        let bound = 1.0 / ((from * side * side) as f64).sqrt();
        Self {
            weight: init.uniform([to, from, side, side], bound),
            stride,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / stride, width / stride]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.with(self.weight.val(), None, x)
    }

    fn with(&self, weight: Tensor<4>, bias: Option<Tensor<1>>, x: Tensor<4>) -> Tensor<4> {
        let [.., side] = weight.dims();
        let (stride, padding) = ([self.stride; 2], [side / 2; 2]);
        let options = ConvOptions::new(stride, padding, [1, 1], 1);
        conv2d(x.cast(weight.dtype()), weight, bias, options)
    }

    /// The convolution, then a batch norm of its channels. At inference in f32 they are one convolution: the norm is a
    /// factor and a summand of each channel, and weights are fewer than pixels.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward)
    fn normed(&self, norm: &BatchNorm, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let weight = self.weight.val();
        let inference = !x.device().is_autodiff() && weight.dtype() == DType::F32;
        if !(inference && matches!(statistics, Statistics::Running)) {
            return norm.forward(self.forward(x), statistics);
        }
        let (factor, shift) = norm.running();
        let [channels, ..] = weight.dims();
        self.with(weight * factor.reshape([channels, 1, 1, 1]), Some(shift), x)
    }
}

/// Three convolutions beside a residual path; where it has a stride, both pool before their last convolution.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// 1 by 1, to the bottleneck's width.
    pub conv1: Convolution,
    /// After `conv1`.
    pub bn1: BatchNorm,
    /// 3 by 3.
    pub conv2: Convolution,
    /// After `conv2`.
    pub bn2: BatchNorm,
    /// 1 by 1, to four times the width.
    pub conv3: Convolution,
    /// After `conv3`; its gain is 0 at first, so that a block begins as its residual path.
    pub bn3: BatchNorm,
    /// The residual path where the size or the channels change.
    pub downsample: Option<Downsample>,
    stride: usize,
}

/// Average pooling, a 1 by 1 convolution, a batch norm.
#[derive(Module, Debug)]
pub struct Downsample {
    /// 1 by 1.
    pub conv: Convolution,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl Bottleneck {
    fn init(inputs: usize, width: usize, stride: usize, init: &mut Init) -> Self {
        let outputs = EXPANSION * width;
        Self {
            conv1: Convolution::init([inputs, width], 1, 1, init),
            bn1: BatchNorm::init(width, 1.0, init),
            conv2: Convolution::init([width, width], 3, 1, init),
            bn2: BatchNorm::init(width, 1.0, init),
            conv3: Convolution::init([width, outputs], 1, 1, init),
            bn3: BatchNorm::init(outputs, 0.0, init),
            downsample: (stride > 1 || inputs != outputs).then(|| Downsample {
                conv: Convolution::init([inputs, outputs], 1, 1, init),
                bn: BatchNorm::init(outputs, 1.0, init),
            }),
            stride,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - returns `[batch, 4 * bottleneck width, height / stride, width / stride]`
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let out = relu(self.conv1.normed(&self.bn1, x.clone(), statistics));
        let out = relu(self.conv2.normed(&self.bn2, out, statistics));
        let out = pool(out, self.stride);
        let out = self.conv3.normed(&self.bn3, out, statistics);
        let identity = match &self.downsample {
            Some(Downsample { conv, bn }) => conv.normed(bn, pool(x, self.stride), statistics),
            None => x,
        };
        relu(out + identity)
    }

    /// In the order of the forward pass.
    fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let downsample = self.downsample.as_ref().map(|downsample| &downsample.bn);
        [&self.bn1, &self.bn2, &self.bn3]
            .into_iter()
            .chain(downsample)
    }
}

/// The average of each square of that side.
fn pool(x: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 1 {
        return x;
    }
    avg_pool2d(x, AvgPoolOptions::new([side, side]))
}

impl ModifiedResNet {
    pub(crate) fn init(
        config: &VisionConfig,
        stages: [usize; 4],
        embed_dim: usize,
        init: &mut Init,
    ) -> Self {
        let width = config.width;
        let half = width / 2;
        let stage = |number: usize, init: &mut Init| -> Vec<Bottleneck> {
            let inside = width << number;
            let block = |block: usize| match (number, block) {
                (0, 0) => Bottleneck::init(width, inside, 1, init),
                (_, 0) => Bottleneck::init(EXPANSION * inside / 2, inside, 2, init),
                _ => Bottleneck::init(EXPANSION * inside, inside, 1, init),
            };
            (0..stages[number]).map(block).collect()
        };
        Self {
            conv1: Convolution::init([3, half], 3, 2, init),
            bn1: BatchNorm::init(half, 1.0, init),
            conv2: Convolution::init([half, half], 3, 1, init),
            bn2: BatchNorm::init(half, 1.0, init),
            conv3: Convolution::init([half, width], 3, 1, init),
            bn3: BatchNorm::init(width, 1.0, init),
            layer1: stage(0, init),
            layer2: stage(1, init),
            layer3: stage(2, init),
            layer4: stage(3, init),
            attnpool: AttentionPool2d::init(
                config.grid(),
                32 * width,
                config.heads(),
                embed_dim,
                init,
            ),
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<2> {
        let x = relu(self.conv1.normed(&self.bn1, images, statistics));
        let x = relu(self.conv2.normed(&self.bn2, x, statistics));
        let x = relu(self.conv3.normed(&self.bn3, x, statistics));
        let x = pool(x, 2); // [batch, width, image_size / 4, image_size / 4]
        let x = self
            .blocks()
            .fold(x, |x, block| block.forward(x, statistics));
        self.attnpool.forward(x) // from [batch, 32 * width, image_size / 32, image_size / 32]
    }

    /// Mixes what a batch showed into the running statistics, once.
    pub fn update_running_statistics(&self, found: &BatchStatistics) {
        let stem = [&self.bn1, &self.bn2, &self.bn3].into_iter();
        found.update(stem.chain(self.blocks().flat_map(Bottleneck::batch_norms)));
    }

    fn blocks(&self) -> impl Iterator<Item = &Bottleneck> {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
            .into_iter()
            .flatten()
    }

    /// Number of parameters, from the configuration alone.
    pub(crate) fn num_params(config: &VisionConfig, stages: [usize; 4], embed_dim: usize) -> usize {
        let conv = |from: usize, to: usize, side: usize| from * to * side * side + 2 * to; // and its batch norm
        let width = config.width;
        let stem =
            conv(3, width / 2, 3) + conv(width / 2, width / 2, 3) + conv(width / 2, width, 3);
        let mut inputs = width;
        let mut blocks = 0;
        for (number, depth) in stages.into_iter().enumerate() {
            let (inside, outputs) = (width << number, EXPANSION * (width << number));
            blocks += conv(inputs, outputs, 1);
            for _ in 0..depth {
                blocks +=
                    conv(inputs, inside, 1) + conv(inside, inside, 3) + conv(inside, outputs, 1);
                inputs = outputs;
            }
        }
        stem + blocks + AttentionPool2d::num_params(config.grid(), 32 * width, embed_dim)
    }
}
