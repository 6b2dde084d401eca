//! What is measured, by name.

use std::fmt;

use clip_model::{ClipConfig, Precision, presets};
use serde::{Deserialize, Serialize};

/// A piece of work that both sides know how to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Work {
    /// Forward, loss, backward and optimizer, from pixels and tokens on the host.
    TrainStep { preset: String, batch: usize },
    /// `clip pretrain`: the same steps with loader, metrics and all. It is compared with these steps alone.
    Run { preset: String, batch: usize },
    /// Image features without gradients.
    EncodeImages { preset: String, batch: usize },
    /// Text features without gradients, from text.
    EncodeTexts { preset: String, batch: usize },
    /// The contrastive loss and its gradient by every feature.
    Loss { batch: usize, embed_dim: usize },
    /// A zero-shot classifier from class names and templates.
    Head { preset: String },
    /// Shards to batches with one worker.
    Loader { image_size: usize, batch: usize },
    /// Captions to token ids on one thread.
    Tokenize,
    /// Weights and optimizer state to a file that is on the disk.
    SaveCheckpoint { preset: String },
    /// The same back into a model and its optimizer.
    LoadCheckpoint { preset: String },
    /// The largest rate of a square matrix product.
    MatMul,
    /// Reading and writing memory that is larger than every cache.
    Copy,
    /// Writing a file until it is on the disk.
    WriteFile,
}

/// A rate of the machine that work is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    MatMul,
    Disk,
}

#[derive(Clone, Debug)]
pub(super) struct Benchmark {
    pub(super) name: &'static str,
    pub(super) work: Work,
}

/// Names of the class names and templates that [`Work::Head`] reads: 20 classes of 8 templates are 160 prompts.
pub(super) const CLASSES: usize = 20;
pub(super) const TEMPLATES: [&str; 8] = [
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a drawing of a {}.",
    "a photo of a {} taken from far away, on a rainy day.",
    "itap of a {}.",
];

impl Work {
    /// The same on so many pairs, images or texts at once, if it is such work.
    pub(super) fn with_batch(mut self, size: usize) -> Self {
        if let Self::TrainStep { batch, .. }
        | Self::Run { batch, .. }
        | Self::EncodeImages { batch, .. }
        | Self::EncodeTexts { batch, .. }
        | Self::Loss { batch, .. } = &mut self
        {
            *batch = size;
        }
        self
    }

    /// What is counted.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::TrainStep { .. }
            | Self::Run { .. }
            | Self::EncodeImages { .. }
            | Self::Loader { .. } => "images",
            Self::EncodeTexts { .. } => "texts",
            Self::Loss { .. } => "pairs",
            Self::Head { .. } => "prompts",
            Self::Tokenize => "captions",
            Self::SaveCheckpoint { .. }
            | Self::LoadCheckpoint { .. }
            | Self::Copy
            | Self::WriteFile => "bytes",
            Self::MatMul => "FLOP",
        }
    }

    pub(super) fn preset(&self) -> Option<&str> {
        match self {
            Self::TrainStep { preset, .. }
            | Self::Run { preset, .. }
            | Self::EncodeImages { preset, .. }
            | Self::EncodeTexts { preset, .. }
            | Self::Head { preset }
            | Self::SaveCheckpoint { preset }
            | Self::LoadCheckpoint { preset } => Some(preset),
            _ => None,
        }
    }

    /// Why this build can't do it.
    pub(super) fn unknown(&self) -> Option<String> {
        let preset = self.preset()?;
        if presets::json(preset).is_none() {
            return Some(format!("this build has no preset {preset}"));
        }
        let config = ClipConfig::load(preset).ok()?;
        let encoder = config.text_cfg.hf_model_name?;
        Some(format!(
            "the tokenizer of {preset}'s text encoder, {encoder}, comes with weights alone"
        ))
    }

    /// Whether it is a part of training, with memory as `clip pretrain` manages it.
    pub(super) fn trains(&self) -> bool {
        matches!(
            self,
            Self::TrainStep { .. }
                | Self::Loader { .. }
                | Self::Loss { .. }
                | Self::SaveCheckpoint { .. }
                | Self::LoadCheckpoint { .. }
        )
    }

    /// Whether it reads shards.
    pub(super) fn loads(&self) -> bool {
        matches!(self, Self::Loader { .. } | Self::Run { .. })
    }

    /// Whether it says something of PyTorch too. A disk is as fast for everybody, and a run has [steps](Self::steps).
    pub(super) fn has_peer(&self) -> bool {
        !matches!(self, Self::WriteFile | Self::Run { .. })
    }

    /// What this program does in the peer's place: a run's steps alone.
    pub(super) fn steps(&self) -> Option<Self> {
        let Self::Run { preset, batch } = self else {
            return None;
        };
        Some(Self::TrainStep {
            preset: preset.clone(),
            batch: *batch,
        })
    }

    /// What it is compared with, where models compute in this precision.
    pub(super) fn limit(&self, precision: Precision) -> Option<Limit> {
        match self {
            Self::TrainStep { .. }
            | Self::EncodeImages { .. }
            | Self::EncodeTexts { .. }
            | Self::Head { .. } => Some(Limit::MatMul),
            // In f32 always, and so not of the product that is measured in another precision.
            Self::Loss { .. } => (precision == Precision::F32).then_some(Limit::MatMul),
            Self::SaveCheckpoint { .. } => Some(Limit::Disk),
            _ => None,
        }
    }
}

impl Limit {
    /// The benchmark that measures it.
    pub(super) fn benchmark(self) -> &'static str {
        match self {
            Self::MatMul => "matmul",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrainStep { preset, batch } => {
                write!(f, "training step, {preset}, batch {batch}")
            }
            Self::Run { preset, batch } => {
                write!(
                    f,
                    "training run, {preset}, batch {batch}; peer: its steps alone"
                )
            }
            Self::EncodeImages { preset, batch } => {
                write!(f, "image encoding, {preset}, batch {batch}")
            }
            Self::EncodeTexts { preset, batch } => {
                write!(f, "text encoding, {preset}, {batch} captions")
            }
            Self::Loss { batch, embed_dim } => write!(
                f,
                "contrastive loss and gradients, batch {batch}, {embed_dim} features"
            ),
            Self::Head { preset } => write!(
                f,
                "classifier head, {preset}, {CLASSES} classes of {} templates",
                TEMPLATES.len()
            ),
            Self::Loader { image_size, .. } => {
                write!(f, "loader, one worker, images of {image_size} pixels")
            }
            Self::Tokenize => f.write_str("tokenizer, one thread"),
            Self::SaveCheckpoint { preset } => write!(f, "checkpoint saved, {preset}"),
            Self::LoadCheckpoint { preset } => write!(f, "checkpoint loaded, {preset}"),
            Self::MatMul => f.write_str("matrix product"),
            Self::Copy => f.write_str("memory copy, read and written"),
            Self::WriteFile => f.write_str("file on the disk"),
        }
    }
}

/// Every benchmark; what the others are compared with comes first.
pub(super) fn all() -> Vec<Benchmark> {
    let nano = || "ViT-Nano-6-36".to_owned();
    // Weights and both moments take 250 MB.
    let mini = || "ViT-Mini-16-96".to_owned();
    let base = || "ViT-B-32".to_owned();
    let train = |preset: &str, batch| Work::TrainStep {
        preset: preset.to_owned(),
        batch,
    };
    let images = |preset: &str| Work::EncodeImages {
        preset: preset.to_owned(),
        batch: 32,
    };
    let texts = Work::EncodeTexts {
        preset: base(),
        batch: 128,
    };
    let loss = |batch| Work::Loss {
        batch,
        embed_dim: 512,
    };
    let loader = |image_size| Work::Loader {
        image_size,
        batch: 64,
    };
    let run = |preset, batch| Work::Run { preset, batch };
    let all = [
        ("matmul", Work::MatMul),
        ("memory", Work::Copy),
        ("disk", Work::WriteFile),
        ("train-nano", train(&nano(), 128)),
        ("train-mini", train(&mini(), 256)),
        ("train-b-32", train("ViT-B-32", 32)),
        ("train-b-16", train("ViT-B-16", 16)),
        ("train-rn50", train("RN50", 16)),
        ("run-nano", run(nano(), 128)),
        ("run-mini", run(mini(), 256)),
        ("image-b-32", images("ViT-B-32")),
        ("image-rn50", images("RN50")),
        ("text-b-32", texts),
        ("head", Work::Head { preset: base() }),
        ("loss-1024", loss(1024)),
        ("loss-4096", loss(4096)),
        ("loader", loader(224)),
        ("loader-96", loader(96)),
        ("tokenizer", Work::Tokenize),
        ("save", Work::SaveCheckpoint { preset: mini() }),
        ("load", Work::LoadCheckpoint { preset: mini() }),
    ];
    all.map(|(name, work)| Benchmark { name, work }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_limits_come_first() {
        let all = all();
        for (at, benchmark) in all.iter().enumerate() {
            let first = all.iter().position(|other| other.name == benchmark.name);
            assert_eq!(first, Some(at), "{}", benchmark.name);
            if let Some(limit) = benchmark.work.limit(Precision::F32) {
                let measured = all.iter().position(|other| other.name == limit.benchmark());
                assert!(measured.unwrap() < at, "{}", benchmark.name);
            }
        }
    }

    #[test]
    fn a_preset_that_is_not_there_is_named() {
        let work = Work::SaveCheckpoint {
            preset: "ViT-Z-1".to_owned(),
        };
        assert_eq!(work.unknown().unwrap(), "this build has no preset ViT-Z-1");
        assert_eq!(Work::Tokenize.unknown(), None);
    }
}
