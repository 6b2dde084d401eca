//! The flags that name a model and shards, and what they become.

use anyhow::Result;
use clip_data::{EvalNeeds, LoaderConfig, ShardSet};
use clip_zeroshot::{ClipEncoders, ShardFeatures};

use crate::device::{self, DeviceName};

/// Which model.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A model directory in OpenCLIP's layout, such as a run's `model/`; or a preset or a JSON file of one, with
    /// random weights.
    #[arg(long, value_name = "DIR|PRESET")]
    model: String,
}

impl ModelArgs {
    /// Starts the device and loads the model onto it.
    pub(crate) fn load(&self, name: Option<DeviceName>) -> Result<ClipEncoders> {
        let started = device::open(name)?;
        log::debug!("computing on {} ({})", started.name, started.what);
        Ok(ClipEncoders::load(&self.model, &started.device)?)
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
    /// Images encoded at once. 64 fill a processor; a GPU wants more.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Share of unusable samples above which the evaluation fails.
    #[arg(long, value_name = "SHARE", default_value_t = LoaderConfig::default().max_bad_share)]
    max_bad_share: f64,
}

impl ShardArgs {
    /// Finds the shards, before a model is loaded for them.
    pub(crate) fn find(&self) -> Result<ShardSet> {
        Ok(ShardSet::parse(&self.data)?)
    }

    /// Encodes every image of the shards; what could not be used is counted and logged.
    pub(crate) fn encode(
        &self,
        shards: ShardSet,
        encoders: &ClipEncoders,
        needs: EvalNeeds,
    ) -> Result<ShardFeatures> {
        let config = LoaderConfig {
            batch: self.batch,
            max_bad_share: self.max_bad_share,
            ..LoaderConfig::default()
        };
        let loader = encoders.loader(shards, needs, config)?;
        let features = encoders.encode_shards(&loader)?;
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
