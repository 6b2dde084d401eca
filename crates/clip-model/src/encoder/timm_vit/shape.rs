/// Hidden features of an MLP, in multiples of the width. Dosovitskiy et al. 2020, table 1.
pub(super) const MLP_RATIO: usize = 4;

/// The numbers of one of timm's `VisionTransformer`, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimmVitShape {
    /// From pixels to tokens.
    pub stem: TimmVitStem,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Features of a token.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// From pixels to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimmVitStem {
    /// Patches of that side, then the class token, positions of all, and a norm, which takes the place of a bias.
    Patches(usize),
    /// Convolutions of patches of patches, then positions, and the class token, which has none.
    Convolutions,
}

/// Sides of the patches of a stem of convolutions. timm: `vit_base_mci_224`.
pub(super) const SIDES: [usize; 3] = [4, 2, 2];

/// Features after each of them but the last, which gives the width.
pub(super) fn hidden(width: usize) -> usize {
    width / 4
}

impl TimmVitShape {
    /// The shape behind a name such as `vit_base_mci_224` (timm, `models/vision_transformer_hybrid.py`).
    pub fn by_timm_name(name: &str) -> Option<Self> {
        let (stem, width, layers, heads) = match name {
            "vit_base_mci_224" => (TimmVitStem::Convolutions, 768, 12, 12),
            "vit_large_patch14_clip_224" => (TimmVitStem::Patches(14), 1024, 24, 16),
            _ => return None,
        };
        Some(Self {
            stem,
            image_size: 224,
            width,
            layers,
            heads,
        })
    }

    /// Added to the variance in the layer norms.
    pub fn epsilon(&self) -> f64 {
        match self.stem {
            TimmVitStem::Patches(_) => 1e-5,
            TimmVitStem::Convolutions => 1e-6,
        }
    }

    /// Tokens that have a position of their own.
    pub(super) fn positions(&self) -> usize {
        let patches = |side: usize| (self.image_size / side).pow(2);
        match self.stem {
            TimmVitStem::Patches(side) => patches(side) + 1,
            TimmVitStem::Convolutions => patches(SIDES.iter().product()),
        }
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        let width = self.width;
        let norm = 2 * width;
        let stem = match self.stem {
            TimmVitStem::Patches(side) => 3 * side.pow(2) * width + norm,
            TimmVitStem::Convolutions => {
                let [first, second, third] = SIDES.map(|side| side.pow(2));
                let hidden = hidden(width);
                let normed = (3 * first + 2) * hidden + (hidden * second + 2) * hidden;
                normed + linear(hidden * third, width)
            }
        };
        let attention = linear(width, 3 * width) + linear(width, width);
        let mlp = linear(width, MLP_RATIO * width) + linear(MLP_RATIO * width, width);
        let block = attention + mlp + 2 * norm;
        let tokens = (1 + self.positions()) * width;
        stem + tokens + self.layers * block + norm + linear(width, embed_dim)
    }
}
