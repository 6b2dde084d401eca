use burn::{
    module::Module,
    nn::LayerNorm,
    tensor::{Tensor, module::avg_pool2d, ops::AvgPoolOptions},
};

use super::{
    super::{Activation, BiasedConvolution, sequences},
    shape::{EXPANSION, KERNEL, VITAMIN_DEPTHS, VITAMIN_EPSILON, ViTaminShape},
};
use crate::Init;

/// From pixels to tokens.
#[derive(Module, Debug)]
pub struct HybridEmbed {
    /// timm's name for what is before a transformer.
    pub backbone: MbConvStages,
}

/// A stem, two stages of blocks of convolutions, and one more convolution to the transformer's width. Each halves the
/// side, rounded up.
#[derive(Module, Debug)]
pub struct MbConvStages {
    /// To the first stage's channels.
    pub stem: MbConvStem,
    /// Blocks, first to last, of each.
    pub stages: Vec<Vec<MbConvBlock>>,
    /// To the transformer's width.
    pub pool: StridedConv,
}

/// Two convolutions around a norm and GELU.
#[derive(Module, Debug)]
pub struct MbConvStem {
    /// `[channels, 3, 3, 3]`, of stride 2.
    pub conv1: BiasedConvolution,
    /// After `conv1`.
    pub norm1: LayerNorm,
    /// `[channels, channels, 3, 3]`.
    pub conv2: BiasedConvolution,
}

/// More channels, a depthwise convolution of these, and fewer again, after a norm and beside a residual path: the paper's
/// MBConv-LN.
///
/// # References
/// Sandler et al. 2018, [MobileNetV2](https://arxiv.org/abs/1801.04381), here with one layer norm in place
/// of batch norms.
#[derive(Module, Debug)]
pub struct MbConvBlock {
    /// The residual path, where it isn't what comes in.
    pub shortcut: Option<PooledPath>,
    /// Of what comes in.
    pub pre_norm: LayerNorm,
    /// `[hidden, channels in, 1, 1]`.
    pub conv1_1x1: BiasedConvolution,
    /// `[hidden, 1, 3, 3]`, of stride 2 in a stage's first block.
    pub conv2_kxk: BiasedConvolution,
    /// `[channels out, hidden, 1, 1]`.
    pub conv3_1x1: BiasedConvolution,
}

/// Averages of neighbouring places, in as many channels as the block's.
#[derive(Module, Debug)]
pub struct PooledPath {
    /// `[channels out, channels in, 1, 1]`, where these differ.
    pub expand: Option<BiasedConvolution>,
}

/// A convolution of stride 2 after a norm.
#[derive(Module, Debug)]
pub struct StridedConv {
    /// `[width, channels, 3, 3]`.
    pub proj: BiasedConvolution,
    /// Before `proj`.
    pub norm: LayerNorm,
}

/// The norm of each place's channels.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, and so is the result
fn norm(norm: &LayerNorm, x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let places = x.reshape([batch, channels, height * width]).swap_dims(1, 2);
    let normed = sequences::layer_norm(norm, VITAMIN_EPSILON, places);
    normed
        .swap_dims(1, 2)
        .reshape([batch, channels, height, width])
}

/// Normal weights that keep the variance on the way back: timm's `_init_conv`. `shape` is the weight's.
fn convolution(
    shape: [usize; 4],
    groups: usize,
    stride: usize,
    init: &mut Init,
) -> BiasedConvolution {
    let [to, _, side, _] = shape;
    let fan_out = side * side * to / groups;
    let std = (2.0 / fan_out as f64).sqrt();
    BiasedConvolution::init_normal(shape, stride, std, init)
}

impl MbConvStages {
    pub(super) fn init(shape: &ViTaminShape, init: &mut Init) -> Self {
        let [first, second] = shape.channels;
        let stem = MbConvStem {
            conv1: convolution([first, 3, KERNEL, KERNEL], 1, 2, init),
            norm1: init.layer_norm(first, VITAMIN_EPSILON),
            conv2: convolution([first, first, KERNEL, KERNEL], 1, 1, init),
        };
        let stage = |from: usize, to: usize, depth: usize, init: &mut Init| {
            let block = |place| {
                let from = if place == 0 { from } else { to };
                MbConvBlock::init([from, to], place == 0, init)
            };
            (0..depth).map(block).collect()
        };
        let [shallow, deep] = VITAMIN_DEPTHS;
        Self {
            stem,
            stages: vec![
                stage(first, first, shallow, init),
                stage(first, second, deep, init),
            ],
            pool: StridedConv {
                proj: BiasedConvolution::init([shape.width, second, KERNEL, KERNEL], 2, init),
                norm: init.layer_norm(second, VITAMIN_EPSILON),
            },
        }
    }

    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`
    /// - returns `[batch, tokens, width]`, row by row
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let Self { stem, stages, pool } = self;
        let x = norm(&stem.norm1, stem.conv1.forward(images));
        let x = stem.conv2.forward(Activation::Gelu.forward(x));
        let blocks = stages.iter().flatten();
        let x = blocks.fold(x, |x, block| block.forward(x));
        let x = pool.proj.forward(norm(&pool.norm, x));
        let [batch, width, rows, columns] = x.dims();
        x.reshape([batch, width, rows * columns]).swap_dims(1, 2)
    }
}

impl MbConvBlock {
    /// `channels` are those that come in and those that come out.
    fn init(channels: [usize; 2], is_first: bool, init: &mut Init) -> Self {
        let [from, to] = channels;
        let hidden = EXPANSION * to;
        let stride = if is_first { 2 } else { 1 };
        let shortcut = is_first.then(|| PooledPath {
            expand: (from != to).then(|| convolution([to, from, 1, 1], 1, 1, init)),
        });
        Self {
            shortcut,
            pre_norm: init.layer_norm(from, VITAMIN_EPSILON),
            conv1_1x1: convolution([hidden, from, 1, 1], 1, 1, init),
            conv2_kxk: convolution([hidden, 1, KERNEL, KERNEL], hidden, stride, init),
            conv3_1x1: convolution([to, hidden, 1, 1], 1, 1, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / stride, width / stride]`, rounded up
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.shortcut {
            Some(path) => path.forward(x.clone()),
            None => x.clone(),
        };
        let hidden = self.conv1_1x1.forward(norm(&self.pre_norm, x));
        let hidden = self.conv2_kxk.forward(Activation::Gelu.forward(hidden));
        self.conv3_1x1.forward(Activation::Gelu.forward(hidden)) + shortcut
    }
}

impl PooledPath {
    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / 2, width / 2]`, rounded up
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // What lies outside the image has no part in an average.
        let options = AvgPoolOptions::new([KERNEL, KERNEL])
            .with_stride([2, 2])
            .with_padding([KERNEL / 2, KERNEL / 2])
            .with_count_include_pad(false);
        let x = avg_pool2d(x, options);
        match &self.expand {
            Some(expand) => expand.forward(x),
            None => x,
        }
    }
}
