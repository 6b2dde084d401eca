use std::sync::Arc;

use burn::{
    data::dataloader::{DataLoader, DataLoaderIterator},
    tensor::Device,
};

use super::{
    LoaderConfig,
    batch::EvalBatch,
    iter::{BatchIter, Message, Shared, lock},
    pipeline::{Job, Ordered, Pipeline, Watched},
};
use crate::{
    DataError, FaultKind, FaultReport, ImageResizer, RawSample, RgbImage, ShardItem, ShardSet,
    decode,
    faults::FaultLog,
    order::Visit,
    sequence::{Located, Plan, Sequence},
    watch::Watch,
};

/// What every sample must have to be of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalNeeds {
    /// Captions or a class.
    #[default]
    Either,
    /// At least one caption, for retrieval.
    Captions,
    /// A class, for zero-shot classification and probes.
    Classes,
    /// At least one caption; and batches have [`pair_ids`](EvalBatch::pair_ids), for scores of pairs.
    Pairs,
}

/// Samples one after the other in shard order, the image's centre or all of it; the last batch may be smaller.
///
/// Of the configuration it reads `batch`, `image_size`, `resize`, `workers`, `prefetch`, `stall_seconds` and `max_bad_share`.
#[derive(Clone)]
pub struct EvalLoader {
    plan: Arc<Plan>,
    config: LoaderConfig,
    needs: EvalNeeds,
    shared: Shared,
}

impl EvalLoader {
    /// Counts the shards.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::BadSetting`].
    pub fn new(
        shards: ShardSet,
        needs: EvalNeeds,
        config: LoaderConfig,
    ) -> Result<Self, DataError> {
        config.validate()?;
        Ok(Self {
            plan: Arc::new(Plan::new(shards)?),
            config,
            needs,
            shared: Shared::default(),
        })
    }

    /// Reads up to the first sample that can be used, so that a set without any is found before the work that it is to
    /// judge.
    ///
    /// # Errors
    /// [`DataError::NothingUsable`], or [`DataError::Io`] if a shard can't be opened.
    pub fn require_usable(&self) -> Result<(), DataError> {
        let shards = &self.plan.shards;
        let mut faults = FaultReport::default();
        for shard in 0..shards.len() {
            for item in shards.open(shard)? {
                let Err((kind, _)) = usable(item, self.needs) else {
                    return Ok(());
                };
                faults.fault(&shards.name(shard), kind);
            }
        }
        Err(faults.nothing_usable(shards))
    }

    /// What was counted up to the last batch that was taken, over all iterations.
    pub fn faults(&self) -> FaultReport {
        lock(&self.shared).faults.clone()
    }

    fn start(&self) -> Result<Pipeline<Message<EvalBatch>>, DataError> {
        let config = &self.config;
        let watch = Watch::default();
        let visit = |shard| Visit { shard, nth: 0 };
        let order = (0..self.plan.shards.len()).map(visit).collect();
        let source = Sequence::new(Arc::clone(&self.plan), order, watch.clone());
        let needs = self.needs;
        let mut resizer = ImageResizer::with(config.image_size, config.resize);
        let assembler = Assembler {
            shards: self.plan.shards.clone(),
            size: config.batch,
            image_size: config.image_size,
            log: FaultLog::new(config.max_bad_share),
        };
        Pipeline::start(
            config.threads(),
            config.prefetch,
            Watched::new(watch, config.stall_seconds, &self.plan.shards),
            source,
            move |located| Prepared::new(located, needs, &mut resizer),
            move |ordered, send| assembler.run(ordered, send),
        )
    }
}

impl DataLoader<EvalBatch> for EvalLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<EvalBatch> + 'a> {
        let total = self.num_items();
        Box::new(BatchIter::new(
            self.start(),
            Arc::clone(&self.shared),
            total,
        ))
    }

    fn num_items(&self) -> usize {
        self.plan.total() as usize
    }

    /// Itself: its batches are on the host.
    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<EvalBatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<EvalBatch>> {
        Arc::new(Self {
            plan: Arc::new(self.plan.slice(start as u64, end as u64)),
            shared: Shared::default(),
            ..self.clone()
        })
    }
}

impl Job for Located {
    fn bytes(&self) -> usize {
        self.item.held_bytes()
    }
}

struct Prepared {
    shard: usize,
    pair_id: Option<u64>,
    outcome: Result<(RawSample, Vec<u8>), (FaultKind, String)>,
}

impl Prepared {
    fn new(located: Located, needs: EvalNeeds, resizer: &mut ImageResizer) -> Self {
        let pair_id = match (&located.item, needs) {
            (ShardItem::Sample(sample), EvalNeeds::Pairs) => Some(sample.pair_id()),
            _ => None,
        };
        let usable = usable(located.item, needs);
        Self {
            pair_id,
            shard: located.visit.shard,
            outcome: usable.map(|(sample, image)| (sample, resizer.square(&image))),
        }
    }
}

/// A sample and its image, or why it is of no use, and its key.
fn usable(item: ShardItem, needs: EvalNeeds) -> Result<(RawSample, RgbImage), (FaultKind, String)> {
    let mut sample = match item {
        ShardItem::Sample(sample) => sample,
        // What has a class lacks nothing by having no caption.
        ShardItem::Fault(FaultKind::NoCaption | FaultKind::EmptyCaption, key)
            if needs == EvalNeeds::Classes =>
        {
            return Err((FaultKind::NoClass, key));
        }
        ShardItem::Fault(kind, key) => return Err((kind, key)),
    };
    let lacks = match needs {
        EvalNeeds::Captions | EvalNeeds::Pairs if sample.captions.is_empty() => {
            Some(FaultKind::NoCaption)
        }
        EvalNeeds::Classes if sample.class.is_none() => Some(FaultKind::NoClass),
        _ => None,
    };
    let image = std::mem::take(&mut sample.image);
    match lacks.map_or_else(|| decode(&image), Err) {
        Ok(image) => Ok((sample, image)),
        Err(kind) => Err((kind, sample.key)),
    }
}

struct Assembler {
    shards: ShardSet,
    size: usize,
    image_size: usize,
    log: FaultLog,
}

impl Assembler {
    fn run(
        mut self,
        ordered: &mut Ordered<Prepared>,
        send: &mut dyn FnMut(Message<EvalBatch>) -> bool,
    ) {
        let mut batch = self.empty();
        for prepared in ordered {
            let taken = prepared.and_then(|prepared| match prepared.outcome {
                Ok((sample, pixels)) => {
                    self.log.good(false);
                    batch.images.extend_from_slice(&pixels);
                    batch.keys.push(sample.key);
                    batch.captions.push(sample.captions);
                    batch.classes.push(sample.class);
                    batch.pair_ids.extend(prepared.pair_id);
                    batch.batch += 1;
                    Ok(())
                }
                Err((kind, key)) => self
                    .log
                    .fault(&self.shards.name(prepared.shard), kind, &key),
            });
            let full = match taken {
                Ok(()) if batch.batch < self.size => continue,
                Ok(()) => Ok(std::mem::replace(&mut batch, self.empty())),
                Err(error) => Err(error),
            };
            let ended = full.is_err();
            if !send(self.message(Some(full))) || ended {
                return;
            }
        }
        let last = match self.log.epoch(&self.shards) {
            Err(error) => Some(Err(error)),
            Ok(()) if batch.batch > 0 => Some(Ok(batch)),
            Ok(()) => None,
        };
        send(self.message(last));
    }

    fn message(&mut self, batch: Option<Result<EvalBatch, DataError>>) -> Message<EvalBatch> {
        Message {
            batch,
            faults: self.log.take_fresh(),
        }
    }

    fn empty(&self) -> EvalBatch {
        EvalBatch {
            images: Vec::with_capacity(self.size.min(1024) * self.image_size * self.image_size * 3),
            image_size: self.image_size,
            ..EvalBatch::default()
        }
    }
}
