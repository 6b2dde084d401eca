use super::{super::siglip::AttentionPoolLatent, rotary::RotaryGrid};

/// Attention heads of the Perception Encoder's pooling.
pub(super) const POOL_HEADS: usize = 8;
/// Hidden features of its MLP, in multiples of the width.
pub(super) const POOL_MLP_RATIO: usize = 4;
/// Places along a side that EVA-02 was pretrained with, which distances between places are counted in ever since.
const EVA02_REFERENCE: usize = 16;

/// The numbers of one of timm's `Eva`, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaShape {
    /// What its blocks are like.
    pub family: EvaFamily,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Features of a token.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden features of an MLP.
    pub mlp_width: usize,
    /// Whether a class token comes before the patches'.
    pub class_token: bool,
}

/// What a vision transformer has that CLIP's has not, or has otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaFamily {
    /// Keys without a bias. Fang et al. 2022, [EVA](https://arxiv.org/abs/2211.07636).
    Eva01,
    /// EVA-02: EVA with rotary positions, `SwiGLU`, and norms within attention and MLP. Fang et al. 2023,
    /// [EVA-02](https://arxiv.org/abs/2303.11331).
    Eva02,
    /// [`Eva01`](Self::Eva01) with norms after attention and MLP instead of before: EVA-02-CLIP-E. Sun et al. 2023,
    /// [EVA-CLIP](https://arxiv.org/abs/2303.15389).
    Eva02PostNorm,
    /// Rotary positions, a norm before the blocks, and pooling by attention. Bolya et al. 2025,
    /// [Perception Encoder](https://arxiv.org/abs/2504.13181).
    PerceptionEncoder,
}

impl EvaShape {
    /// The shape behind a name such as `eva02_base_patch16_clip_224` (timm, `models/eva.py`).
    pub fn by_timm_name(name: &str) -> Option<Self> {
        use EvaFamily::{Eva01, Eva02, Eva02PostNorm, PerceptionEncoder};
        let (family, image_size, patch_size, width, layers, heads, mlp_width) = match name {
            "eva_giant_patch14_224" => (Eva01, 224, 14, 1408, 40, 16, 6144),
            // Two thirds of four times the width, rounded down.
            "eva02_base_patch16_clip_224" => (Eva02, 224, 16, 768, 12, 12, 2048),
            "eva02_large_patch14_clip_224" => (Eva02, 224, 14, 1024, 24, 16, 2730),
            "eva02_large_patch14_clip_336" => (Eva02, 336, 14, 1024, 24, 16, 2730),
            "eva02_enormous_patch14_clip_224" => (Eva02PostNorm, 224, 14, 1792, 64, 16, 15360),
            "vit_pe_core_tiny_patch16_384" => (PerceptionEncoder, 384, 16, 192, 12, 3, 768),
            "vit_pe_core_small_patch16_384" => (PerceptionEncoder, 384, 16, 384, 12, 6, 1536),
            "vit_pe_core_base_patch16_224" => (PerceptionEncoder, 224, 16, 768, 12, 12, 3072),
            "vit_pe_core_large_patch14_336" => (PerceptionEncoder, 336, 14, 1024, 24, 16, 4096),
            "vit_pe_core_gigantic_patch14_448" => (PerceptionEncoder, 448, 14, 1536, 50, 16, 8960),
            _ => return None,
        };
        Some(Self {
            family,
            image_size,
            patch_size,
            width,
            layers,
            heads,
            mlp_width,
            class_token: name != "vit_pe_core_gigantic_patch14_448",
        })
    }

    /// Whether attention pools all tokens; if not, the class token's features are the image's.
    pub(crate) fn pools_by_attention(&self) -> bool {
        self.family == EvaFamily::PerceptionEncoder
    }

    /// Whether a norm precedes the blocks, which takes the place of the patch embedding's bias.
    pub(super) fn norms_before_blocks(&self) -> bool {
        self.family == EvaFamily::PerceptionEncoder
    }

    /// Added to the variance in the norms.
    pub(super) fn epsilon(&self) -> f64 {
        match self.family {
            EvaFamily::PerceptionEncoder => 1e-5,
            _ => 1e-6,
        }
    }

    /// Tokens of an image.
    pub(super) fn tokens(&self) -> usize {
        self.grid().pow(2) + usize::from(self.class_token)
    }

    /// Patches along a side.
    fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Where the patches are, for queries and keys that are turned by it.
    pub(super) fn rotary(&self) -> Option<RotaryGrid> {
        let side = self.grid();
        let grid = RotaryGrid {
            side,
            reference: EVA02_REFERENCE,
            first: 0,
            columns_first: false,
            class_token: self.class_token,
            head_width: self.width / self.heads,
        };
        match self.family {
            EvaFamily::Eva01 | EvaFamily::Eva02PostNorm => None,
            EvaFamily::Eva02 => Some(grid),
            EvaFamily::PerceptionEncoder => Some(RotaryGrid {
                reference: side,
                // The class token has the place before.
                first: usize::from(self.class_token),
                columns_first: true,
                ..grid
            }),
        }
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        let (width, hidden) = (self.width, self.mlp_width);
        let norm = 2 * width;
        let without_key_bias = 3 * width * width + 2 * width;
        let gelu = linear(width, hidden) + linear(hidden, width);
        let (attention, mlp) = match self.family {
            EvaFamily::Eva01 | EvaFamily::Eva02PostNorm => (without_key_bias, gelu),
            EvaFamily::Eva02 => {
                let gate = linear(width, hidden) + 2 * hidden;
                (without_key_bias + norm, gelu + gate)
            }
            EvaFamily::PerceptionEncoder => (linear(width, 3 * width), gelu),
        };
        let block = attention + linear(width, width) + mlp + 2 * norm;
        // The patch embedding's bias, or the norm that takes its place.
        let bias = if self.norms_before_blocks() {
            norm
        } else {
            width
        };
        let tokens = self.tokens() + usize::from(self.class_token);
        let stem = 3 * self.patch_size.pow(2) * width + bias + tokens * width;
        let pool = if self.pools_by_attention() {
            AttentionPoolLatent::num_params(width, POOL_MLP_RATIO * width)
        } else {
            0
        };
        stem + self.layers * block + norm + pool + linear(width, embed_dim)
    }
}
