use std::{hint::black_box, sync::Arc};

use anyhow::{Context, Result};
use burn::data::dataloader::DataLoader;
use clip_data::{LoaderConfig, ShardSet, Tokenizer, TrainLoader};

use super::{Place, Task};

/// Tokens of a caption at most.
const CONTEXT_LENGTH: usize = 77;
/// Captions that are tokenized at once.
const CAPTIONS: usize = 1_000;

/// An epoch's whole batches, from shards to bytes and token ids.
pub(super) struct Loader {
    loader: TrainLoader,
    images: usize,
}

impl Loader {
    pub(super) fn new(place: &Place, image_size: usize, batch: usize) -> Result<Self> {
        let shards = ShardSet::from_paths(place.setup.shards.clone());
        let config = LoaderConfig {
            image_size,
            batch,
            workers: 1,
            ..LoaderConfig::default()
        };
        let loader = TrainLoader::new(shards, Arc::new(Tokenizer::clip()), config)?;
        // A peer's epoch is as long.
        let images = (loader.samples_per_epoch() as usize).min(512);
        Ok(Self { loader, images })
    }
}

impl Task for Loader {
    /// Starts the pipeline anew: threads, shuffle buffer and all.
    fn run(&mut self) -> Result<u64> {
        let mut images = 0;
        let mut batches = self.loader.iter();
        while images < self.images {
            let batch = batches.next().context("the loader came to an end")??;
            images += black_box(batch).batch;
        }
        Ok(images as u64)
    }
}

pub(super) struct Tokenize {
    tokenizer: Tokenizer,
    captions: Vec<String>,
}

impl Tokenize {
    pub(super) fn new(place: &Place) -> Result<Self> {
        Ok(Self {
            tokenizer: Tokenizer::clip(),
            captions: place.captions(CAPTIONS)?,
        })
    }
}

impl Task for Tokenize {
    fn run(&mut self) -> Result<u64> {
        for caption in &self.captions {
            black_box(self.tokenizer.encode(caption, CONTEXT_LENGTH));
        }
        Ok(self.captions.len() as u64)
    }
}
