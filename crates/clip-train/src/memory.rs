//! How much memory a step takes, and into what chunks a batch is cut so that it fits.

use clip_model::{ClipConfig, Layers, Precision};

use crate::{LoraConfig, Target, config::RunConfig};

/// What a block keeps of each token for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptByBlocks {
    /// In multiples of the width.
    widths: f64,
    /// In multiples of the MLP's hidden width.
    hidden: f64,
    /// In multiples of heads times tokens.
    scores: f64,
    /// Bytes of each number that is kept in half precision.
    half: f64,
}

impl KeptByBlocks {
    /// A block of Burn's operations, with passes of its own: the residual path before and after attention, two norms'
    /// results, query, key, value and their mix; the MLP before the non-linearity; softmax. Norms and softmax are f32 while
    /// they are computed: by measurement, as if each number kept had more than its two bytes.
    pub const COMPOSED: Self = Self {
        widths: 8.0,
        hidden: 1.0,
        scores: 1.0,
        half: 2.8,
    };
    /// A block that is one operation, as on the CPU: the residual path before and after attention, query, key, value and
    /// their mix; the MLP before the non-linearity; softmax. All of it is f32.
    pub const FUSED: Self = Self {
        widths: 6.0,
        hidden: 1.0,
        scores: 1.0,
        half: 4.0,
    };
}

/// Captions are computed on as far as the longest of their bucket only; longer ones than this are rare.
const USUAL_CAPTION: usize = 32;

/// What a training step of a run takes, predicted from its configuration.
///
/// A graph keeps as much of each token in each block as [`KeptByBlocks`] says, both towers together; what isn't chunked are
/// parameters with their gradients and moments, pixels and features. ViT-Nano-6-36 took 0.67 MB a pair on the CPU where
/// 0.85 are predicted (peaks of batches of 256 and 1,024 compared), and 0.66 in bf16; in bf16 with blocks of Burn's
/// operations 0.70 MB where 0.71 are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMemory {
    /// Bytes of each pair that is being encoded.
    per_encoded_pair: f64,
    /// Bytes of each pair of the batch, encoded or not.
    per_pair: f64,
    /// Bytes whatever the batch.
    fixed: f64,
}

/// A batch cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkPlan {
    /// Pairs that a thread encodes at once.
    pub chunk: usize,
    /// What a step takes then, in bytes.
    pub predicted: u64,
    /// Whether that is within the limit.
    pub fits: bool,
}

/// An encoder, by what a pair makes it keep.
struct Tower {
    /// Whether none of it is trained.
    locked: bool,
    tokens: f64,
    layers: usize,
    width: usize,
    hidden: usize,
    heads: usize,
}

impl Tower {
    /// Numbers that are kept of a pair for the backward pass.
    fn kept(&self, by_blocks: KeptByBlocks, recomputed: bool) -> f64 {
        let block = self.tokens
            * (by_blocks.widths * self.width as f64
                + by_blocks.hidden * self.hidden as f64
                + by_blocks.scores * self.heads as f64 * self.tokens);
        if self.locked {
            // Nothing is, but a block needs it while it is computed.
            block
        } else if recomputed {
            block + self.tokens * (self.layers * self.width) as f64
        } else {
            block * self.layers as f64
        }
    }

    /// Numbers that adapters take beside the weights: of their matrices gradients, which come from each thread, with
    /// their sum, and the weights below; of the factors values, gradients and two moments.
    fn adapted(&self, lora: &LoraConfig, threads: usize) -> usize {
        let (width, hidden) = (self.width, self.hidden);
        let has = |target: Target| lora.targets.contains(&target);
        let projections = [Target::QProj, Target::KProj, Target::VProj];
        let below = lora.targets.iter().map(|target| match target {
            Target::CFc | Target::CProj => [width, hidden],
            _ => [width, width],
        });
        let (products, sums) = below.fold((0, 0), |(products, sums), [from, to]| {
            (products + from * to, sums + from + to)
        });
        // The gradient of the product that has queries, keys and values is one.
        let wanted = projections.iter().filter(|target| has(**target)).count();
        let unwanted = if wanted > 0 { 3 - wanted } else { 0 };
        let gradients = products + unwanted * width * width;
        let factors = lora.rank * sums;
        self.layers * ((1 + threads) * gradients + products + 4 * factors)
    }
}

impl StepMemory {
    /// With blocks that keep so much for the backward pass; which they do is the device's and the precision's affair.
    ///
    /// `None` for encoders other than CLIP's transformers: nothing was measured for timm's, Hugging Face's and CoCa's, and a
    /// residual network's batch norms make chunks part of what is learned.
    pub fn predict(config: &RunConfig, model: &ClipConfig, kept: KeptByBlocks) -> Option<Self> {
        let (vision, text) = (&model.vision_cfg, &model.text_cfg);
        let Layers::Blocks(layers) = vision.layers else {
            return None;
        };
        let others = vision.timm_model_name.is_some() || text.hf_model_name.is_some();
        if others || vision.attentional_pool || text.embed_cls {
            return None;
        }
        let patches = vision.grid().pow(2) as f64 * (1.0 - vision.patch_dropout);
        let caption = if text.no_causal_mask {
            text.context_length
        } else {
            text.context_length.min(USUAL_CAPTION)
        };
        let image = Tower {
            locked: config.lock_image && config.lock_image_unlocked_groups == 0,
            tokens: patches.floor() + 1.0,
            layers,
            width: vision.width,
            hidden: vision.mlp_width(),
            heads: vision.heads(),
        };
        let caption = Tower {
            locked: config.lock_text && config.lock_text_unlocked_layers == 0,
            tokens: caption as f64,
            layers: text.layers,
            width: text.width,
            hidden: text.mlp_width(),
            heads: text.heads,
        };
        let threads = config.threads.max(1);
        let (bytes, cast) = match config.precision {
            Precision::F32 => (4.0, 0),
            // All threads share a copy of the weights, but for token embeddings, which stay f32.
            Precision::Bf16 | Precision::F16 => {
                let cast = model.num_params() - text.vocab_size * text.width;
                (kept.half, 2 * cast)
            }
        };
        let pixels = (3 * vision.image_size.pow(2)) as f64;
        // Weights, and the averaged ones; of those that are trained gradients, which come from each thread, with their
        // sum, and two moments.
        let towers = [
            (&image, model.image_params()),
            (&caption, model.text_params()),
        ];
        let trained = if let Some(lora) = &config.lora {
            let adapted = towers.iter().filter(|(tower, _)| !tower.locked);
            let adapted = adapted.map(|(tower, _)| tower.adapted(lora, threads));
            adapted.sum::<usize>()
        } else {
            let locked = towers.iter().filter(|(tower, _)| tower.locked);
            let locked = locked.map(|(_, params)| params).sum::<usize>();
            (3 + threads) * (model.num_params() - locked)
        };
        let encoded = [image, caption].map(|tower| tower.kept(kept, config.grad_checkpointing));
        let weights = (1 + usize::from(config.ema.is_some())) * model.num_params();
        Some(Self {
            // Pixels are f32 once they are encoded.
            per_encoded_pair: bytes * encoded.iter().sum::<f64>() + 4.0 * pixels,
            // In the loader, on their way and in the step; features, normalised ones and gradients of both.
            per_pair: pixels * (config.data.prefetch + 2) as f64 + (4 * 6 * model.embed_dim) as f64,
            fixed: (4 * (weights + trained) + cast) as f64,
        })
    }

    /// The same beside weights of another model, `parameters` of them, which encodes in the same precision and keeps
    /// nothing.
    pub fn beside(self, parameters: usize) -> Self {
        Self {
            fixed: self.fixed + (4 * parameters) as f64,
            ..self
        }
    }

    /// The largest chunk with which a step fits in `limit` bytes, where `together` threads share them: the whole of a
    /// thread's part of the batch, or a power of two; 1 if none fits.
    ///
    /// # Panics
    /// If one of the numbers is 0.
    pub fn plan(&self, batch: usize, threads: usize, together: usize, limit: u64) -> ChunkPlan {
        let part = batch.div_ceil(threads);
        let plan = |chunk: usize| {
            let encoded = self.per_encoded_pair * (chunk * together) as f64;
            let predicted = (self.fixed + self.per_pair * batch as f64 + encoded) as u64;
            ChunkPlan {
                chunk,
                predicted,
                fits: predicted <= limit,
            }
        };
        let smaller = (0..usize::BITS)
            .rev()
            .map(|power| 1 << power)
            .filter(|chunk| *chunk < part);
        let mut plans = std::iter::once(part).chain(smaller).map(plan);
        plans.find(|plan| plan.fits).unwrap_or_else(|| plan(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(preset: &str, kept: KeptByBlocks, change: impl FnOnce(&mut RunConfig)) -> StepMemory {
        let mut config = RunConfig {
            preset: preset.to_owned(),
            ..RunConfig::default()
        };
        change(&mut config);
        StepMemory::predict(&config, &config.model().unwrap(), kept).unwrap()
    }

    fn nano(kept: KeptByBlocks, change: impl FnOnce(&mut RunConfig)) -> StepMemory {
        of("ViT-Nano-6-36", kept, change)
    }

    /// `peak_rss_mb` of two steps of `clip pretrain` with two threads on a processor: of ViT-Nano-6-36 on the shapes, where
    /// bf16 with blocks of Burn's operations was that of a version that had no other, and of ViT-B-32 on photographs, means
    /// of two runs.
    #[test]
    fn a_prediction_is_near_what_was_measured() {
        let (f32, bf16) = (Precision::F32, Precision::Bf16);
        let (fused, composed) = (KeptByBlocks::FUSED, KeptByBlocks::COMPOSED);
        for (preset, kept, precision, batch, measured) in [
            ("ViT-Nano-6-36", fused, f32, 256, 246.9e6),
            ("ViT-Nano-6-36", fused, f32, 1_024, 766.0e6),
            ("ViT-Nano-6-36", fused, bf16, 256, 243.6e6),
            ("ViT-Nano-6-36", fused, bf16, 1_024, 748.2e6),
            ("ViT-Nano-6-36", composed, bf16, 256, 227.1e6),
            ("ViT-Nano-6-36", composed, bf16, 1_024, 765.7e6),
            ("ViT-B-32", fused, f32, 8, 4_168.4e6),
            ("ViT-B-32", fused, bf16, 8, 4_729.9e6),
        ] {
            let memory = of(preset, kept, |config| {
                config.threads = 2;
                config.precision = precision;
            });
            let predicted = memory.plan(batch, 2, 2, u64::MAX).predicted as f64;
            let ratio = predicted / measured;
            let case = format!("{preset}, {kept:?}, {precision}, {batch}: {ratio}");
            assert!((0.8..1.25).contains(&ratio), "{case}");
        }
    }

    #[test]
    fn adapters_take_no_moments_of_their_matrices() {
        let fixed = |lora: Option<LoraConfig>| {
            of("ViT-B-32", KeptByBlocks::FUSED, |config| config.lora = lora).fixed
        };
        let numbers = 4.0 * 151_277_313.0;
        // Weights, a gradient of one thread, their sum and two moments.
        assert!((fixed(None) / numbers - 5.0).abs() < 1e-6);
        // Of the blocks' matrices the gradient, the sum and the weights below.
        let matrices = 4.0 * 12.0 * 12.0 * (768.0 * 768.0 + 512.0 * 512.0);
        let adapted = fixed(Some(LoraConfig::default()));
        let without_factors = numbers + 3.0 * matrices;
        assert!(
            (1.0..1.03).contains(&(adapted / without_factors)),
            "{adapted}"
        );
        // Of queries and values alone, the gradient has keys' too.
        let lora = LoraConfig {
            targets: vec![Target::QProj, Target::VProj],
            ..LoraConfig::default()
        };
        let without_factors = numbers + (3.0 + 3.0 + 2.0) / 12.0 * matrices;
        let adapted = fixed(Some(lora));
        assert!(
            (1.0..1.01).contains(&(adapted / without_factors)),
            "{adapted}"
        );
    }

    #[test]
    fn half_precision_takes_a_copy_of_the_weights() {
        let fixed = |precision| {
            let change = |config: &mut RunConfig| config.precision = precision;
            of("ViT-B-32", KeptByBlocks::FUSED, change).fixed
        };
        let more = fixed(Precision::Bf16) - fixed(Precision::F32);
        // Two bytes each, but for 49,408 tokens of 512 numbers.
        let copied = 2.0 * (151_277_313.0 - 49_408.0 * 512.0);
        assert!((more / copied - 1.0).abs() < 1e-6, "{more}");
    }

    #[test]
    fn a_batch_is_cut_until_it_fits() {
        let memory = nano(KeptByBlocks::COMPOSED, |_| ());
        let chunk = |limit| memory.plan(4_096, 2, 2, limit).chunk;
        assert_eq!(chunk(u64::MAX), 2_048);
        let plan = memory.plan(4_096, 2, 2, 1 << 30);
        assert!(plan.fits && plan.predicted <= 1 << 30);
        assert_eq!(plan.chunk, 256);
        let tight = memory.plan(4_096, 2, 2, 1_000);
        assert_eq!((tight.chunk, tight.fits), (1, false));
        // A batch that isn't a power of two.
        assert_eq!(memory.plan(100, 1, 1, u64::MAX).chunk, 100);
        assert_eq!(memory.plan(100, 1, 1, 80 << 20).chunk, 64);
    }

    #[test]
    fn what_saves_memory_is_predicted_to() {
        let of = |change: fn(&mut RunConfig)| nano(KeptByBlocks::FUSED, change).per_encoded_pair;
        let plain = of(|_| ());
        assert!(of(|config| config.grad_checkpointing = true) < 0.5 * plain);
        let composed = |precision| {
            let memory = nano(KeptByBlocks::COMPOSED, |config| {
                config.precision = precision;
            });
            memory.per_encoded_pair
        };
        assert!(composed(Precision::Bf16) < 0.8 * composed(Precision::F32));
        assert!(of(|config| config.patch_dropout = Some(0.5)) < 0.7 * plain);
        assert!(of(|config| config.lock_image = true) < 0.8 * plain);
        let fixed = |change: fn(&mut RunConfig)| nano(KeptByBlocks::FUSED, change).fixed;
        assert!(fixed(|config| config.lock_text = true) < 0.8 * fixed(|_| ()));
        // Of a tower that is trained in part, all counts.
        let part = |config: &mut RunConfig| {
            config.lock_image = true;
            config.lock_image_unlocked_groups = 1;
        };
        assert!((of(part) - plain).abs() < 1.0);
        let resnet = RunConfig {
            preset: "RN50".to_owned(),
            ..RunConfig::default()
        };
        let model = resnet.model().unwrap();
        assert!(StepMemory::predict(&resnet, &model, KeptByBlocks::FUSED).is_none());
    }
}
