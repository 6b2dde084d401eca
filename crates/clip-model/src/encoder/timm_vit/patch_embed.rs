use burn::{module::Module, tensor::Tensor};

use super::{
    super::{Activation, BatchNorm, PatchEmbedding, Statistics, siglip::PatchEmbed},
    TimmVitShape, TimmVitStem,
    shape::{SIDES, hidden},
};
use crate::Init;

/// From pixels to the patches' tokens.
#[derive(Module, Debug)]
pub enum TimmPatchEmbed {
    /// One convolution, without bias.
    Patches(PatchEmbed),
    /// Several.
    Convolutions(ConvStem),
}

/// Convolutions whose strides are their sides; all but the last with a batch norm and GELU.
///
/// # References
/// Xiao et al. 2021, [Early Convolutions Help Transformers See Better](https://arxiv.org/abs/2106.14881).
#[derive(Module, Debug)]
pub struct ConvStem {
    /// First to last.
    pub backbone: Vec<ConvStemLayer>,
}

/// A convolution of patches.
#[derive(Module, Debug)]
pub struct ConvStemLayer {
    /// The last one's has a bias.
    pub conv: PatchEmbedding,
    /// After `conv`.
    pub bn: Option<BatchNorm>,
}

/// PyTorch's default.
fn patches(from: usize, to: usize, side: usize, bias: bool, init: &mut Init) -> PatchEmbedding {
    let bound = 1.0 / ((from * side * side) as f64).sqrt();
    PatchEmbedding {
        weight: init.uniform([to, from, side, side], bound),
        bias: bias.then(|| init.uniform([to], bound)),
    }
}

impl TimmPatchEmbed {
    pub(super) fn init(shape: &TimmVitShape, init: &mut Init) -> Self {
        let width = shape.width;
        match shape.stem {
            TimmVitStem::Patches(side) => Self::Patches(PatchEmbed {
                proj: patches(3, width, side, false, init),
            }),
            TimmVitStem::Convolutions => {
                let hidden = hidden(width);
                let channels = [3, hidden, hidden, width];
                let layers = channels.windows(2).zip(SIDES).enumerate();
                let layer = |(place, (channels, side)): (usize, (&[usize], usize))| {
                    let (from, to) = (channels[0], channels[1]);
                    let is_last = place + 1 == SIDES.len();
                    ConvStemLayer {
                        conv: patches(from, to, side, is_last, init),
                        bn: (!is_last).then(|| BatchNorm::init(to, 1.0, init)),
                    }
                };
                Self::Convolutions(ConvStem {
                    backbone: layers.map(layer).collect(),
                })
            }
        }
    }

    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`
    /// - returns `[batch, patches, width]`, row by row
    pub fn forward(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<3> {
        match self {
            Self::Patches(layer) => layer.proj.forward(images),
            Self::Convolutions(stem) => stem.forward(images, statistics),
        }
    }

    /// In the order of the forward pass.
    pub(super) fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let layers: &[ConvStemLayer] = match self {
            Self::Patches(_) => &[],
            Self::Convolutions(stem) => &stem.backbone,
        };
        layers.iter().filter_map(|layer| layer.bn.as_ref())
    }
}

impl ConvStem {
    fn forward(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<3> {
        let layers = self.backbone.iter();
        let x = layers.fold(images, |x, layer| layer.forward(x, statistics));
        let [batch, width, rows, columns] = x.dims();
        x.reshape([batch, width, rows * columns]).swap_dims(1, 2)
    }
}

impl ConvStemLayer {
    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / side, width / side]`
    fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let [channels, _, side, _] = self.conv.weight.val().dims();
        let x = self.conv.forward(x).swap_dims(1, 2); // [batch, channels out, places]
        let x = x.reshape([batch, channels, height / side, width / side]);
        match &self.bn {
            Some(bn) => Activation::Gelu.forward(bn.forward(x, statistics)),
            None => x,
        }
    }
}
