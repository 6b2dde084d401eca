//! The flags that name a model and shards, and what they become.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clip_data::{EvalLoader, EvalNeeds, LoaderConfig, ShardSet};
use clip_model::Precision;
use clip_zeroshot::{
    ClassNames, ClipEncoders, FeatureCache, ImagePass, LabelSource, ShardFeatures,
};

use crate::{
    device::{self, DeviceName, Started},
    numbers, weights,
};

/// Which model.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A model directory in OpenCLIP's layout, such as a run's `model/`; a checkpoint of a run, RUN/checkpoints/step-N; or a
    /// preset or a JSON file of one, with random weights.
    #[arg(long, value_name = "DIR|PRESET")]
    model: String,
}

impl ModelArgs {
    /// The model as it was named.
    pub(crate) fn name(&self) -> &str {
        &self.model
    }

    /// Starts the device and loads the model onto it.
    pub(crate) fn load(&self, name: Option<DeviceName>) -> Result<ClipEncoders> {
        self.load_onto(&device::open(name)?)
    }

    fn load_onto(&self, started: &Started) -> Result<ClipEncoders> {
        log::debug!("computing on {} ({})", started.name, started.what);
        weights::encoders(&self.model, &started.device)
    }
}

/// Which model, and what it computes in.
#[derive(clap::Args)]
pub(crate) struct EncoderArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the encoders compute in: f32, bf16 or f16. The last two take a GPU half the time or less, and bf16 a processor
    /// with AMX; features differ in their third digit.
    #[arg(long, value_name = "TYPE", default_value_t)]
    precision: Precision,
}

impl EncoderArgs {
    /// The model as it was named.
    pub(crate) fn name(&self) -> &str {
        self.model.name()
    }

    /// Starts the device and, if it computes in the precision, loads the model onto it.
    pub(crate) fn load(&self, name: Option<DeviceName>) -> Result<ClipEncoders> {
        let started = device::open(name)?;
        ensure!(
            self.precision.is_supported(&started.device),
            "device {} doesn't compute in {}: take --precision f32, or another --device",
            started.name,
            self.precision
        );
        Ok(self
            .model
            .load_onto(&started)?
            .with_precision(self.precision))
    }
}

/// Which shards.
#[derive(clap::Args)]
pub(crate) struct ShardArgs {
    /// WebDataset tars (plain, gzip or Zstandard; local or at http(s)://, s3://, gs://, az://), a `.csv`, `.tsv` or
    /// `.parquet` table, or a folder of images with captions beside them: brace ranges
    /// (`test-{000000..000009}.tar`), globs, and lists joined by `::`.
    #[arg(long, value_name = "SHARDS")]
    data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
}

impl ShardArgs {
    /// Finds the shards, before a model is loaded for them.
    pub(crate) fn find(&self) -> Result<ShardSet> {
        Ok(ShardSet::parse(&self.data)?)
    }
}

/// How shards are read and encoded.
#[derive(clap::Args)]
pub(crate) struct ReadingArgs {
    /// Images encoded at once. 64 fill a processor; a GPU wants more.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = numbers::from_one::<usize>())]
    batch: usize,
    /// Share of unusable samples above which the evaluation fails.
    #[arg(long, value_name = "SHARE", default_value_t = LoaderConfig::default().max_bad_share, value_parser = numbers::share)]
    max_bad_share: f64,
    /// Keep image features in this folder, and use them again for the same model and unchanged shards.
    #[arg(long, value_name = "DIR")]
    feature_cache: Option<PathBuf>,
}

impl ReadingArgs {
    fn config(&self) -> LoaderConfig {
        LoaderConfig {
            batch: self.batch,
            max_bad_share: self.max_bad_share,
            ..LoaderConfig::default()
        }
    }

    /// A loader of the shards, at the model's image size.
    pub(crate) fn loader(
        &self,
        shards: ShardSet,
        encoders: &ClipEncoders,
        needs: EvalNeeds,
    ) -> Result<EvalLoader> {
        Ok(encoders.loader(shards, needs, self.config())?)
    }

    /// Encodes every image of the shards, or takes the features kept; what could not be used is counted and logged.
    pub(crate) fn encode(
        &self,
        shards: ShardSet,
        encoders: &ClipEncoders,
        needs: EvalNeeds,
        pass: ImagePass,
    ) -> Result<ShardFeatures> {
        let features = match &self.feature_cache {
            None => encoders.encode_shards_in(&self.loader(shards, encoders, needs)?, pass)?,
            Some(folder) => {
                let (cache, config) = (FeatureCache::new(folder), self.config());
                cache.encode_shards(encoders, shards, needs, config, pass)?
            }
        };
        let faults = &features.faults;
        if faults.bad() > 0 {
            log::warn!(
                "{} of {} samples skipped: {}",
                faults.bad(),
                faults.samples,
                faults.worst_shards(3)
            );
        }
        Ok(features)
    }
}

/// Where a sample's class is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LabelsFrom {
    /// The number in `.cls`, or the class folder.
    #[default]
    Cls,
    /// The first caption, which is a class name.
    #[value(alias = "txt")]
    #[serde(alias = "txt")]
    Caption,
}

impl LabelsFrom {
    pub(crate) fn source(self) -> LabelSource {
        match self {
            Self::Cls => LabelSource::Class,
            Self::Caption => LabelSource::Caption,
        }
    }

    /// The shards with their class folders numbered as the classes are.
    pub(crate) fn numbered(self, shards: ShardSet, names: Option<&ClassNames>) -> Result<ShardSet> {
        Ok(match (self, names) {
            (Self::Cls, Some(names)) => shards.with_classes(names.as_slice())?,
            _ => shards,
        })
    }

    pub(crate) fn needs(self) -> EvalNeeds {
        match self {
            Self::Cls => EvalNeeds::Classes,
            Self::Caption => EvalNeeds::Captions,
        }
    }
}
