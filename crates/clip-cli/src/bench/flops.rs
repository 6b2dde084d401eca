//! Floating-point operations of a model, from its configuration.
//!
//! Counted are matrix products and convolutions, a multiply-add as two operations, as in `docs/model_profile.csv` of
//! OpenCLIP: what is left is a few per cent of arithmetic, although it may take more of the time. A masked score
//! counts like any other.

use clip_model::presets;
use serde::Deserialize;

/// A configuration's numbers that decide the cost, in OpenCLIP's keys.
#[derive(Deserialize)]
pub(super) struct Shape {
    embed_dim: u64,
    vision_cfg: Vision,
    text_cfg: Text,
    #[serde(default)]
    multimodal_cfg: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Vision {
    image_size: u64,
    layers: Layers,
    width: u64,
    patch_size: Option<u64>,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
}

/// A transformer's blocks, or the bottlenecks of a residual network's four stages.
#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    Blocks(u64),
    Stages([u64; 4]),
}

#[derive(Deserialize)]
struct Text {
    width: u64,
    layers: u64,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
}

fn default_mlp_ratio() -> f64 {
    4.0
}

impl Shape {
    /// Of a preset. `None` for architectures that aren't counted here, such as timm's, and CoCa's with its decoder.
    pub(super) fn of(preset: &str) -> Option<Self> {
        let shape: Self = serde_json::from_str(presets::json(preset)?).ok()?;
        shape.multimodal_cfg.is_none().then_some(shape)
    }

    /// To encode an image.
    pub(super) fn image(&self) -> u64 {
        let vision = &self.vision_cfg;
        match vision.layers {
            Layers::Stages(stages) => {
                self.stem() + residual_network(vision, stages, self.embed_dim)
            }
            Layers::Blocks(layers) => {
                let tokens = self.patches() + 1;
                self.stem()
                    + blocks(layers, tokens, vision.width, vision.mlp_ratio)
                    + 2 * vision.width * self.embed_dim
            }
        }
    }

    /// To encode a text of so many tokens, start and end included.
    pub(super) fn text(&self, tokens: u64) -> u64 {
        let Text {
            width,
            layers,
            mlp_ratio,
        } = self.text_cfg;
        blocks(layers, tokens, width, mlp_ratio) + 2 * width * self.embed_dim
    }

    /// To train on an image and a text: forward, and backward by inputs and by weights. An image's pixels need no
    /// gradient.
    pub(super) fn training(&self, tokens: u64) -> u64 {
        3 * (self.image() + self.text(tokens)) - self.stem()
    }

    /// The convolution that reads pixels.
    fn stem(&self) -> u64 {
        let vision = &self.vision_cfg;
        match vision.layers {
            Layers::Blocks(_) => {
                let patch = vision.patch_size.unwrap_or(1);
                2 * self.patches() * 3 * patch * patch * vision.width
            }
            Layers::Stages(_) => convolution(vision.image_size / 2, 3, 3, vision.width / 2),
        }
    }

    fn patches(&self) -> u64 {
        let vision = &self.vision_cfg;
        (vision.image_size / vision.patch_size.unwrap_or(1)).pow(2)
    }
}

/// A transformer's blocks, of which the last gives one token.
fn blocks(layers: u64, tokens: u64, width: u64, mlp_ratio: f64) -> u64 {
    let cost = |queries| block(tokens, queries, width, mlp_ratio);
    layers.saturating_sub(1) * cost(tokens) + cost(1) * layers.min(1)
}

/// A transformer's block that gives so many of its tokens: keys and values of all; queries, outputs, the MLP's two layers,
/// scores, and their mixture of values for those.
fn block(tokens: u64, queries: u64, width: u64, mlp_ratio: f64) -> u64 {
    let mlp = (width as f64 * mlp_ratio) as u64;
    let square = width * width;
    2 * tokens * 2 * square
        + 2 * queries * (2 * square + 2 * width * mlp)
        + 4 * queries * tokens * width
}

/// A convolution whose output has `side * side` places.
fn convolution(side: u64, kernel: u64, from: u64, to: u64) -> u64 {
    2 * side * side * kernel * kernel * from * to
}

/// `ModifiedResNet` after its first convolution. A bottleneck shrinks the image by pooling, after its second.
fn residual_network(vision: &Vision, stages: [u64; 4], embed_dim: u64) -> u64 {
    let (width, half) = (vision.width, vision.image_size / 2);
    let mut sum =
        convolution(half, 3, width / 2, width / 2) + convolution(half, 3, width / 2, width);
    let (mut side, mut channels) = (half / 2, width);
    for (stage, blocks) in (0..).zip(stages) {
        let planes = width << stage;
        for block in 0..blocks {
            let out = if stage > 0 && block == 0 {
                side / 2
            } else {
                side
            };
            sum += convolution(side, 1, channels, planes)
                + convolution(side, 3, planes, planes)
                + convolution(out, 1, planes, 4 * planes);
            if block == 0 {
                sum += convolution(out, 1, channels, 4 * planes);
            }
            (side, channels) = (out, 4 * planes);
        }
    }
    // Attention pooling: keys and values of every place and their mean, one query.
    let tokens = side * side + 1;
    sum + 2 * channels * channels * (1 + 2 * tokens)
        + 4 * tokens * channels
        + 2 * channels * embed_dim
}

/// The contrastive loss: the matrix of scores, and its product with each side's features.
pub(super) fn loss(batch: u64, embed_dim: u64) -> u64 {
    3 * 2 * batch * batch * embed_dim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_model_counted_by_hand() {
        let json = r#"{"embed_dim": 2, "vision_cfg": {"image_size": 8, "layers": 1, "width": 4, "patch_size": 4},
            "text_cfg": {"layers": 3, "width": 2}}"#;
        let shape: Shape = serde_json::from_str(json).unwrap();
        // 4 patches of 48 numbers into 4 features; of 5 tokens the keys and values, of one the queries, outputs and MLP,
        // 2 * 5 products of 4 numbers; one projection of 4 by 2.
        let image = 2 * 4 * 48 * 4 + 2 * 5 * 32 + 2 * (32 + 128) + 2 * 2 * 5 * 4 + 2 * 8;
        assert_eq!(shape.image(), image);
        // 2 blocks: 6 tokens through 4 * 4 + 2 * 16 weights, 2 * 36 products of 2 numbers; and one as above.
        let last = 2 * 6 * 8 + 2 * (8 + 32) + 2 * 2 * 6 * 2;
        let text = 2 * (2 * 6 * 48 + 2 * 2 * 36 * 2) + last + 2 * 4;
        assert_eq!(shape.text(6), text);
        assert_eq!(shape.training(6), 3 * (image + text) - 2 * 4 * 48 * 4);
    }

    /// Columns `image_gflops` and `text_gflops` of OpenCLIP's `docs/model_profile.csv`, whose last blocks give all tokens.
    #[test]
    fn counts_are_open_clips_but_for_the_tokens_of_the_last_block_that_nobody_reads() {
        for (preset, image, text) in [
            ("ViT-S-16", 9.2, 3.38),
            ("ViT-B-32", 8.82, 5.96),
            ("ViT-B-16", 35.13, 5.96),
            ("ViT-L-14", 162.03, 13.3),
        ] {
            let shape = Shape::of(preset).unwrap();
            let unread = |tokens: u64, width: u64| {
                block(tokens, tokens, width, 4.0) - block(tokens, 1, width, 4.0)
            };
            let near = |flop: u64, giga: f64| (flop as f64 / 1e9 - giga).abs() < 0.006;
            let all = shape.image() + unread(shape.patches() + 1, shape.vision_cfg.width);
            assert!(near(all, image), "{preset}: {all}");
            let all = shape.text(77) + unread(77, shape.text_cfg.width);
            assert!(near(all, text), "{preset}: {all}");
        }
    }

    #[test]
    fn a_residual_network_costs_what_open_clip_says_but_for_the_queries_of_its_pooling() {
        let json = r#"{"embed_dim": 1024, "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64,
            "patch_size": null}, "text_cfg": {"layers": 12, "width": 512}}"#;
        let shape: Shape = serde_json::from_str(json).unwrap();
        // 12.22e9 in the same file, where each of the 50 tokens asks, scores and is projected.
        let unasked = 49 * (2 * 2048 * 2048 + 4 * 50 * 2048 + 2 * 2048 * 1024);
        let all = (shape.image() + unasked) as f64 / 1e9;
        assert!((all - 12.22).abs() < 0.3, "{all}");
    }
}
