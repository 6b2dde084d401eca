use std::{hint::black_box, sync::Arc};

use anyhow::{Context, Result};
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use clip_data::{ImageTextBatch, LoaderConfig, ShardSet, Tokenizer, TrainLoader};

use super::{Place, Task};

/// Tokens of a caption at most.
const CONTEXT_LENGTH: usize = 77;
/// Captions that are tokenized at once.
const CAPTIONS: usize = 1_000;

/// Images that are counted at a time.
const IMAGES: u64 = 512;

/// Batches of bytes and token ids, from shards.
pub(super) struct Loader {
    train: &'static TrainLoader,
    batches: Option<Box<dyn DataLoaderIterator<ImageTextBatch>>>,
    /// Batches that may have been ready before anybody asked.
    ahead: usize,
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
        let ahead = config.prefetch + 1;
        let loader = TrainLoader::new(shards, Arc::new(Tokenizer::clip()), config)?;
        Ok(Self {
            // Its iterators borrow it; there is one in a process.
            train: Box::leak(Box::new(loader)),
            batches: None,
            ahead,
        })
    }

    fn next(&mut self) -> Result<u64> {
        let train = self.train;
        let batches = self.batches.get_or_insert_with(|| train.iter());
        let batch = batches.next().context("the loader came to an end")??;
        Ok(black_box(batch).batch as u64)
    }
}

impl Task for Loader {
    /// Starts the pipeline, and takes what it prepares ahead: as much is under way at the end of a measurement as was
    /// at its start.
    fn get_ready(&mut self) -> Result<()> {
        for _ in 0..self.ahead {
            self.next()?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<u64> {
        let mut images = 0;
        while images < IMAGES {
            images += self.next()?;
        }
        Ok(images)
    }

    /// Its threads would go on preparing.
    fn rest(&mut self) -> Result<()> {
        self.batches = None;
        Ok(())
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
