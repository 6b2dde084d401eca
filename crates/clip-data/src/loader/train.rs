use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use burn::{
    data::dataloader::{DataLoader, DataLoaderIterator},
    tensor::Device,
};
use foldhash::quality::FixedState;

use super::{
    LoaderConfig,
    batch::ImageTextBatch,
    iter::{BatchIter, Message, Shared, lock},
    pipeline::{Job, Ordered, Pipeline, Watched},
};
use crate::{
    Augment, Cursor, DataError, Encoded, FaultKind, FaultReport, ImageResizer, RandomResizedCrop,
    ShardItem, ShardSet, Tokenizer, decode,
    faults::FaultLog,
    order::{Purpose, below, stream},
    sequence::Plan,
    stream::{Draw, TrainStream, check},
    watch::Watch,
};

/// An endless stream of training batches.
///
/// Which samples, captions and crops a batch holds is a function of the seed, the shard list and the
/// cursor alone. Epochs follow each other without a gap, and a batch may span two. Iterating again
/// continues after the last batch that was taken.
#[derive(Clone)]
pub struct TrainLoader {
    plan: Arc<Plan>,
    tokenizer: Arc<Tokenizer>,
    config: LoaderConfig,
    shared: Shared,
}

impl TrainLoader {
    /// Counts the shards, and checks that they fill a batch.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::BadSetting`], [`DataError::BatchTooLarge`],
    /// [`DataError::NothingUsable`] if the shards hold no sample at all.
    pub fn new(
        shards: ShardSet,
        tokenizer: Arc<Tokenizer>,
        config: LoaderConfig,
    ) -> Result<Self, DataError> {
        config.validate()?;
        let plan = Plan::new(shards)?;
        // Without weights: a source that is seen twice an epoch doesn't fill a batch with more samples.
        let samples = plan.samples() / config.world_size as u64;
        let drawn = plan.samples_per_epoch(config.sampling());
        if plan.samples() == 0 {
            return Err(DataError::NothingUsable {
                worst: plan.shards.without_samples(),
            });
        }
        if samples.min(drawn) < config.batch as u64 {
            return Err(DataError::BatchTooLarge {
                batch: config.batch,
                samples: samples.min(drawn),
            });
        }
        Ok(Self {
            plan: Arc::new(plan),
            tokenizer,
            config,
            shared: Shared::default(),
        })
    }

    /// Continues at a cursor, that of the last batch trained on.
    ///
    /// # Errors
    /// [`DataError::OtherData`], [`DataError::BadCursor`] if these shards have no such position.
    pub fn starting_at(self, cursor: Cursor) -> Result<Self, DataError> {
        check(&self.plan, self.config.sampling(), cursor)?;
        lock(&self.shared).cursor = cursor;
        Ok(self)
    }

    /// Samples that one epoch draws, bad ones included; on the average, where weights are fractions.
    pub fn samples_per_epoch(&self) -> u64 {
        self.plan.samples_per_epoch(self.config.sampling())
    }

    /// The position after the last batch that was taken.
    pub fn cursor(&self) -> Cursor {
        lock(&self.shared).cursor
    }

    /// What was counted up to the last batch that was taken.
    pub fn faults(&self) -> FaultReport {
        lock(&self.shared).faults.clone()
    }

    fn start(&self) -> Result<Pipeline<Message<ImageTextBatch>>, DataError> {
        let config = &self.config;
        let watch = Watch::default();
        let cursor = self.cursor();
        let source = TrainStream::new(
            Arc::clone(&self.plan),
            config.sampling(),
            config.shuffle_buffer,
            config.shuffle_bytes,
            cursor,
            watch.clone(),
        )?;
        let mut worker = Worker {
            tokenizer: Arc::clone(&self.tokenizer),
            resizer: ImageResizer::new(config.image_size),
            crop: RandomResizedCrop {
                scale: config.crop_scale,
                ..RandomResizedCrop::default()
            },
            augment: config.augment,
            image_size: config.image_size,
            seed: config.seed,
            context_length: config.context_length,
        };
        let assembler = Assembler {
            shards: self.plan.shards.clone(),
            tokenizer: Arc::clone(&self.tokenizer),
            context_length: config.context_length,
            size: config.batch,
            image_size: config.image_size,
            log: if cursor.drawn == 0 {
                FaultLog::new(config.max_bad_share)
            } else {
                FaultLog::within_a_pass(config.max_bad_share)
            },
        };
        Pipeline::start(
            config.threads(),
            config.prefetch,
            Watched::new(watch, config.stall_seconds, &self.plan.shards),
            source,
            move |draw| worker.prepare(draw),
            move |ordered, send| assembler.run(ordered, send),
        )
    }
}

impl DataLoader<ImageTextBatch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageTextBatch> + 'a> {
        let total = self.num_items();
        Box::new(BatchIter::new(
            self.start(),
            Arc::clone(&self.shared),
            total,
        ))
    }

    /// Samples of one epoch.
    fn num_items(&self) -> usize {
        self.samples_per_epoch() as usize
    }

    /// Itself: its batches are on the host.
    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<ImageTextBatch>> {
        Arc::new(self.clone())
    }

    /// A loader of its own over part of the samples, from the stream's beginning.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageTextBatch>> {
        Arc::new(Self {
            plan: Arc::new(self.plan.slice(start as u64, end as u64)),
            shared: Shared::default(),
            ..self.clone()
        })
    }
}

impl Job for Draw {
    fn bytes(&self) -> usize {
        self.item.held_bytes()
    }
}

/// A drawn sample, ready for its batch or known to be bad.
struct Prepared {
    outcome: Result<Pair, (FaultKind, String)>,
    shard: usize,
    epoch: u64,
    after: Cursor,
}

struct Pair {
    pixels: Vec<u8>,
    image_id: u64,
    caption: Encoded,
}

#[derive(Clone)]
struct Worker {
    tokenizer: Arc<Tokenizer>,
    resizer: ImageResizer,
    crop: RandomResizedCrop,
    augment: Augment,
    image_size: usize,
    seed: u64,
    context_length: usize,
}

impl Worker {
    fn prepare(&mut self, draw: Draw) -> Prepared {
        let Draw {
            item,
            shard,
            id,
            epoch,
            after,
        } = draw;
        let outcome = match item {
            ShardItem::Fault(kind, key) => Err((kind, key)),
            ShardItem::Sample(sample) => self
                .pair(&sample.image, &sample.captions, epoch, id)
                .map_err(|kind| (kind, sample.key)),
        };
        Prepared {
            outcome,
            shard,
            epoch,
            after,
        }
    }

    fn pair(
        &mut self,
        image: &[u8],
        captions: &[String],
        epoch: u64,
        id: u64,
    ) -> Result<Pair, FaultKind> {
        if captions.is_empty() {
            return Err(FaultKind::NoCaption);
        }
        let mut rng = stream(self.seed, epoch, Purpose::Caption, id);
        let caption = &captions[below(&mut rng, captions.len() as u64) as usize];
        let mut caption = self.tokenizer.encode(caption, self.context_length);
        if self.tokenizer.is_blank(&caption) {
            return Err(FaultKind::EmptyCaption);
        }
        caption.ids.truncate(self.context_length);
        let mut hasher = FixedState::default().build_hasher();
        hasher.write(image);
        let image = decode(image)?;
        let mut rng = stream(self.seed, epoch, Purpose::Crop, id);
        let part = self.crop.draw(image.width, image.height, &mut rng);
        let mut pixels = self.resizer.crop(&image, part);
        let mut rng = stream(self.seed, epoch, Purpose::Augment, id);
        self.augment.apply(&mut pixels, self.image_size, &mut rng);
        Ok(Pair {
            pixels,
            image_id: hasher.finish(),
            caption,
        })
    }
}

struct Assembler {
    shards: ShardSet,
    tokenizer: Arc<Tokenizer>,
    context_length: usize,
    size: usize,
    image_size: usize,
    log: FaultLog,
}

impl Assembler {
    fn run(
        mut self,
        ordered: &mut Ordered<Prepared>,
        send: &mut dyn FnMut(Message<ImageTextBatch>) -> bool,
    ) {
        let mut pairs = Vec::with_capacity(self.size);
        for prepared in ordered {
            let taken = prepared.and_then(|prepared| self.take(prepared, &mut pairs));
            let batch = match taken {
                Ok(Some(cursor)) => Ok(self.batch(&mut pairs, cursor)),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            let ended = batch.is_err();
            let message = Message {
                batch: Some(batch),
                faults: self.log.take_fresh(),
            };
            if !send(message) || ended {
                return;
            }
        }
    }

    /// The batch's cursor once it is full.
    fn take(
        &mut self,
        prepared: Prepared,
        pairs: &mut Vec<Pair>,
    ) -> Result<Option<Cursor>, DataError> {
        match prepared.outcome {
            Ok(pair) => {
                self.log.good(pair.caption.truncated);
                pairs.push(pair);
            }
            Err((kind, key)) => self
                .log
                .fault(&self.shards.name(prepared.shard), kind, &key)?,
        }
        if prepared.after.epoch > prepared.epoch {
            self.log.epoch(&self.shards)?;
        }
        Ok((pairs.len() == self.size).then_some(prepared.after))
    }

    fn batch(&self, pairs: &mut Vec<Pair>, cursor: Cursor) -> ImageTextBatch {
        let captions = pairs.iter().map(|pair| &pair.caption.ids[..]);
        let (tokens, tokens_per_caption) = self.tokenizer.pad(captions, self.context_length);
        let mut batch = ImageTextBatch {
            images: Vec::with_capacity(pairs.len() * self.image_size * self.image_size * 3),
            image_size: self.image_size,
            tokens,
            image_ids: pairs.iter().map(|pair| pair.image_id).collect(),
            batch: pairs.len(),
            tokens_per_caption,
            cursor,
        };
        for pair in pairs.drain(..) {
            batch.images.extend_from_slice(&pair.pixels);
        }
        batch
    }
}
