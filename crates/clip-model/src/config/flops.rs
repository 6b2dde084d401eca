//! Floating-point operations of a model, from its configuration.
//!
//! Counted are matrix products and convolutions, a multiply-add as two operations, as in `docs/model_profile.csv` of
//! OpenCLIP: what is left is a few per cent of arithmetic, although it may take more of the time. A masked score
//! counts like any other. They are sums of whole numbers in `f64`, exact up to 2^53 and never beyond its range.

use super::{ClipConfig, Layers, TextConfig, VisionConfig};

impl ClipConfig {
    /// Floating-point operations to encode an image: of matrix products and convolutions, a multiply-add as two.
    ///
    /// `None` of an architecture that isn't counted: one with an encoder of timm's or of Hugging Face's, and CoCa's with
    /// its decoder.
    pub fn image_flops(&self) -> Option<f64> {
        let vision = &self.vision_cfg;
        self.is_counted()
            .then(|| stem(vision) + after_stem(vision, self.embed_dim))
    }

    /// Floating-point operations to encode a text of so many tokens, start and end included; counted as
    /// [`image_flops`](Self::image_flops), and `None` as those.
    pub fn text_flops(&self, tokens: usize) -> Option<f64> {
        self.is_counted()
            .then(|| text(&self.text_cfg, tokens, self.embed_dim))
    }

    /// Floating-point operations to train on an image and a text of so many tokens: forward, and backward by inputs and by
    /// weights. An image's pixels need no gradient. Counted as [`image_flops`](Self::image_flops), without the loss, and
    /// `None` as those.
    pub fn training_flops(&self, tokens: usize) -> Option<f64> {
        let forward = self.image_flops()? + self.text_flops(tokens)?;
        Some(3.0 * forward - stem(&self.vision_cfg))
    }

    fn is_counted(&self) -> bool {
        self.vision_cfg.timm_model_name.is_none()
            && self.text_cfg.hf_model_name.is_none()
            && self.multimodal_cfg.is_none()
    }
}

/// The convolution that reads pixels.
fn stem(vision: &VisionConfig) -> f64 {
    match vision.layers {
        Layers::Blocks(_) => convolution(vision.grid(), vision.patch_size(), 3, vision.width),
        Layers::Stages(_) => convolution(vision.image_size / 2, 3, 3, vision.width / 2),
    }
}

/// The rest of an image encoder.
fn after_stem(vision: &VisionConfig, embed_dim: usize) -> f64 {
    match vision.layers {
        Layers::Stages(stages) => residual_network(vision, stages, embed_dim),
        Layers::Blocks(layers) => {
            let (width, mlp) = (vision.width, vision.mlp_width());
            blocks(layers, vision.tokens(), width, mlp) + product(1, width, embed_dim)
        }
    }
}

fn text(text: &TextConfig, tokens: usize, embed_dim: usize) -> f64 {
    let width = text.width;
    blocks(text.layers, tokens, width, text.mlp_width()) + product(1, width, embed_dim)
}

/// A matrix of `from` by `to`, by so many rows.
fn product(rows: usize, from: usize, to: usize) -> f64 {
    2.0 * rows as f64 * from as f64 * to as f64
}

/// A transformer's blocks, of which the last gives one token.
fn blocks(layers: usize, tokens: usize, width: usize, mlp: usize) -> f64 {
    let cost = |queries| block(tokens, queries, width, mlp);
    layers.saturating_sub(1) as f64 * cost(tokens) + layers.min(1) as f64 * cost(1)
}

/// A transformer's block that gives so many of its tokens: keys and values of all; queries, outputs, the MLP's two layers,
/// scores, and their mixture of values for those.
fn block(tokens: usize, queries: usize, width: usize, mlp: usize) -> f64 {
    2.0 * product(tokens, width, width)
        + 2.0 * (product(queries, width, width) + product(queries, width, mlp))
        + 2.0 * product(queries, tokens, width)
}

/// A convolution whose output has `side * side` places.
fn convolution(side: usize, kernel: usize, from: usize, to: usize) -> f64 {
    (side as f64).powi(2) * product(kernel * kernel, from, to)
}

/// `ModifiedResNet` after its first convolution. A bottleneck shrinks the image by pooling, after its second.
fn residual_network(vision: &VisionConfig, stages: [usize; 4], embed_dim: usize) -> f64 {
    let (width, half) = (vision.width, vision.image_size / 2);
    let mut sum =
        convolution(half, 3, width / 2, width / 2) + convolution(half, 3, width / 2, width);
    let (mut side, mut channels) = (half / 2, width);
    for (stage, blocks) in stages.into_iter().enumerate() {
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
    sum + product(1 + 2 * tokens, channels, channels)
        + 2.0 * product(1, tokens, channels)
        + product(1, channels, embed_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_model_counted_by_hand() {
        let json = r#"{"embed_dim": 2, "vision_cfg": {"image_size": 8, "layers": 1, "width": 4, "head_width": 4,
            "patch_size": 4}, "text_cfg": {"layers": 3, "width": 2, "heads": 1}}"#;
        let config = ClipConfig::from_json(json, "x.json").unwrap();
        // 4 patches of 48 numbers into 4 features; of 5 tokens the keys and values, of one the queries, outputs and MLP,
        // 2 * 5 products of 4 numbers; one projection of 4 by 2.
        let image = 2 * 4 * 48 * 4 + 2 * 5 * 32 + 2 * (32 + 128) + 2 * 2 * 5 * 4 + 2 * 8;
        assert_eq!(config.image_flops(), Some(f64::from(image)));
        // 2 blocks: 6 tokens through 4 * 4 + 2 * 16 weights, 2 * 36 products of 2 numbers; and one as above.
        let last = 2 * 6 * 8 + 2 * (8 + 32) + 2 * 2 * 6 * 2;
        let text = 2 * (2 * 6 * 48 + 2 * 2 * 36 * 2) + last + 2 * 4;
        assert_eq!(config.text_flops(6), Some(f64::from(text)));
        let training = 3 * (image + text) - 2 * 4 * 48 * 4;
        assert_eq!(config.training_flops(6), Some(f64::from(training)));
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
            let config = ClipConfig::load(preset).unwrap();
            let unread = |tokens: usize, width: usize| {
                block(tokens, tokens, width, 4 * width) - block(tokens, 1, width, 4 * width)
            };
            let near = |flop: f64, giga: f64| (flop / 1e9 - giga).abs() < 0.006;
            let vision = &config.vision_cfg;
            let all = config.image_flops().unwrap() + unread(vision.tokens(), vision.width);
            assert!(near(all, image), "{preset}: {all}");
            let all = config.text_flops(77).unwrap() + unread(77, config.text_cfg.width);
            assert!(near(all, text), "{preset}: {all}");
        }
    }

    #[test]
    fn a_residual_network_costs_what_open_clip_says_but_for_the_queries_of_its_pooling() {
        let config = ClipConfig::load("RN50").unwrap();
        // 12.22e9 in the same file, where each of the 50 tokens asks, scores and is projected.
        let unasked =
            49.0 * (product(1, 2048, 2048) + product(2, 50, 2048) + product(1, 2048, 1024));
        let all = (config.image_flops().unwrap() + unasked) / 1e9;
        assert!((all - 12.22).abs() < 0.3, "{all}");
    }

    #[test]
    fn what_is_not_counted_costs_nothing_known() {
        for preset in ["ViT-B-16-SigLIP", "roberta-ViT-B-32", "coca_ViT-B-32"] {
            let config = ClipConfig::load(preset).unwrap();
            assert_eq!(config.image_flops(), None, "{preset}");
            assert_eq!(config.training_flops(77), None, "{preset}");
        }
    }
}
