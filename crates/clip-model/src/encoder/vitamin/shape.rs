use super::super::TimmProjection;

/// Blocks of the two stages of convolutions. timm, `models/vitamin.py`, like the numbers below.
pub const VITAMIN_DEPTHS: [usize; 2] = [2, 4];
/// Added to variances in norms. 1e-6: timm's, everywhere in a `ViTamin`.
pub const VITAMIN_EPSILON: f64 = 1e-6;
/// Side of the convolutions that aren't of single places.
pub(super) const KERNEL: usize = 3;
/// What the convolutions divide a side by: 2 in the stem, each stage and before the transformer, rounded up.
const STRIDE: usize = 16;
/// Hidden channels between a block's convolutions, in multiples of what comes out.
pub(super) const EXPANSION: usize = 4;
/// Hidden features of a transformer block's MLP, in multiples of the width.
pub(super) const MLP_RATIO: usize = 2;

/// The numbers of one of timm's `ViTamin`, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViTaminShape {
    /// Side of the square input that tokens have positions for, in pixels. Without, they have none, and any size will do.
    pub image_size: Option<usize>,
    /// Channels of the two stages of convolutions; the stem's are the first's.
    pub channels: [usize; 2],
    /// Features of a token.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// From the width to the joint space.
    pub projection: TimmProjection,
}

impl ViTaminShape {
    /// The shape behind a name such as `vitamin_large_336` (timm, `models/vitamin.py`).
    pub fn by_timm_name(name: &str, projection: TimmProjection) -> Option<Self> {
        let (body, image_size) = name.strip_prefix("vitamin_")?.rsplit_once('_')?;
        let image_size: usize = image_size.parse().ok()?;
        let (channels, width, layers, heads) = match (body, image_size) {
            ("small", 224) => ([64, 128], 384, 14, 6),
            ("base", 224) => ([128, 256], 768, 14, 12),
            // The second differs in the text encoder that OpenCLIP gives it.
            ("large" | "large2", 224 | 256 | 336 | 384) => ([160, 320], 1024, 31, 16),
            ("xlarge", 256 | 336 | 384) => ([192, 384], 1152, 32, 16),
            _ => return None,
        };
        Some(Self {
            image_size: (body != "xlarge").then_some(image_size),
            channels,
            width,
            layers,
            heads,
            projection,
        })
    }

    /// Tokens that have a position of their own.
    pub(super) fn positions(&self) -> Option<usize> {
        Some(self.image_size?.div_ceil(STRIDE).pow(2))
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        let norm = |width: usize| 2 * width;
        let places = KERNEL * KERNEL;
        let [first, second] = self.channels;
        let stem = linear(3 * places, first) + norm(first) + linear(first * places, first);
        let stage = |from: usize, to: usize, depth: usize| {
            let hidden = EXPANSION * to;
            let block = |from: usize| {
                norm(from) + linear(from, hidden) + linear(places, hidden) + linear(hidden, to)
            };
            let shortcut = if from == to { 0 } else { linear(from, to) };
            shortcut + block(from) + (depth - 1) * block(to)
        };
        let stages =
            stage(first, first, VITAMIN_DEPTHS[0]) + stage(first, second, VITAMIN_DEPTHS[1]);
        let width = self.width;
        let pool = norm(second) + linear(second * places, width);
        let hidden = MLP_RATIO * width;
        let attention = linear(width, 3 * width) + linear(width, width);
        let mlp = norm(width) + 2 * linear(width, hidden) + linear(hidden, width);
        let block = attention + mlp + 2 * norm(width);
        let positions = self.positions().unwrap_or(0) * width;
        let head = self.projection.num_params(width, embed_dim);
        stem + stages + pool + positions + self.layers * block + norm(width) + head
    }
}
