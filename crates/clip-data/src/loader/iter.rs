use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::data::{
    dataloader::{DataLoaderIterator, Progress},
    dataset::DatasetError,
};

use super::{batch::Batch, pipeline::Pipeline};
use crate::{Cursor, DataError, FaultReport};

/// What the batching thread hands over: a batch or the end, and what was counted on the way.
pub(super) struct Message<B> {
    pub(super) batch: Option<Result<B, DataError>>,
    pub(super) faults: FaultReport,
}

/// What a loader remembers of the batches that were taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) faults: FaultReport,
    pub(super) cursor: Cursor,
}

pub(super) type Shared = Arc<Mutex<Taken>>;

/// Counters stay right even if a thread panicked while it held them.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Taken> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Batches as Burn iterates over them.
pub(super) struct BatchIter<B> {
    /// `None` once it ended.
    pipeline: Result<Option<Pipeline<Message<B>>>, Option<DataError>>,
    shared: Shared,
    processed: usize,
    total: usize,
}

impl<B: Batch> BatchIter<B> {
    pub(super) fn new(
        pipeline: Result<Pipeline<Message<B>>, DataError>,
        shared: Shared,
        total: usize,
    ) -> Self {
        Self {
            pipeline: pipeline.map(Some).map_err(Some),
            shared,
            processed: 0,
            total,
        }
    }

    fn take(&mut self) -> Result<Option<B>, DataError> {
        let pipeline = match &mut self.pipeline {
            Ok(Some(pipeline)) => pipeline,
            Ok(None) => return Ok(None),
            Err(error) => return error.take().map_or(Ok(None), Err),
        };
        while let Some(message) = pipeline.next()? {
            let mut taken = lock(&self.shared);
            taken.faults.merge(&message.faults);
            if let Some(batch) = message.batch {
                let batch = batch?;
                if let Some(cursor) = batch.cursor() {
                    taken.cursor = cursor;
                }
                self.processed += batch.samples();
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

impl<B: Batch> Iterator for BatchIter<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let taken = self.take();
        if !matches!(taken, Ok(Some(_))) {
            // Ends and joins the threads.
            self.pipeline = Ok(None);
        }
        taken.map_err(DatasetError::new).transpose()
    }
}

impl<B: Batch> DataLoaderIterator<B> for BatchIter<B> {
    fn progress(&self) -> Progress {
        Progress::new(
            self.processed.min(self.total),
            self.total,
            Some("images".to_owned()),
        )
    }
}
