use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use burn::{
    data::dataloader::{DataLoader, DataLoaderIterator},
    data::dataset::DatasetError,
    tensor::Device,
};
use clip_data::{Cursor, ImageTextBatch};
use clip_model::{ImageNorm, loss::Groups};

use crate::{
    Captions, Images, PairBatch, PatchDropout, StochasticDepth, config::Duplicates,
    step::on_a_device,
};

/// What becomes of a loader's batches before a step.
#[derive(Clone, Debug)]
pub(super) struct Preparation {
    pub(super) norm: ImageNorm,
    pub(super) patch_dropout: Option<PatchDropout>,
    pub(super) stochastic_depth: Option<StochasticDepth>,
    pub(super) duplicates: Duplicates,
}

/// A batch as the step takes it.
pub(super) struct Prepared {
    pub(super) pairs: PairBatch,
    /// The position after it.
    pub(super) cursor: Cursor,
}

impl Preparation {
    pub(super) fn pairs(&self, batch: ImageTextBatch) -> PairBatch {
        let images = Images::new(batch.images, batch.image_size, self.norm);
        let captions = Captions::new(batch.tokens, batch.tokens_per_caption);
        let groups = match self.duplicates {
            Duplicates::Negatives => None,
            Duplicates::Positives => {
                let groups = Groups::alone(batch.batch)
                    .join_equal(captions.rows())
                    .join_equal(batch.image_ids);
                (!groups.are_alone()).then_some(groups)
            }
        };
        let patches = self
            .patch_dropout
            .map(|dropout| dropout.draw(batch.cursor, batch.batch));
        let paths = self
            .stochastic_depth
            .as_ref()
            .map(|depth| depth.draw(batch.cursor, batch.batch));
        PairBatch {
            images,
            captions,
            patches,
            paths,
            groups,
        }
    }

    fn prepare(&self, batch: ImageTextBatch) -> Prepared {
        let cursor = batch.cursor;
        let pairs = self.pairs(batch);
        Prepared { pairs, cursor }
    }
}

/// The batches of a run.
pub(super) enum Batches<'a> {
    /// Prepared when they are asked for.
    Here(
        Box<dyn DataLoaderIterator<ImageTextBatch> + 'a>,
        Preparation,
    ),
    /// Prepared, with their images on the device, while the batch before is trained on.
    Ahead(Receiver<Result<Prepared, DatasetError>>),
}

impl<'a> Batches<'a> {
    /// `to` is the device that each batch is brought to, if a step computes on the whole batch there and nowhere else.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(
        loader: &'a Arc<dyn DataLoader<ImageTextBatch>>,
        preparation: Preparation,
        to: Option<Device>,
    ) -> io::Result<Self> {
        let Some(device) = to else {
            return Ok(Self::Here(loader.iter(), preparation));
        };
        // One batch is on the device while the next waits to be taken.
        let (sender, batches) = sync_channel(0);
        let loader = Arc::clone(loader);
        let send = move || {
            for batch in loader.iter() {
                let batch = batch.map(|batch| {
                    let mut prepared = preparation.prepare(batch);
                    prepared.pairs.images = sent(prepared.pairs.images, &device);
                    prepared
                });
                let is_last = batch.is_err();
                // Nobody takes it when the run has ended.
                if sender.send(batch).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("batches ahead".to_owned());
        // It ends with the receiver: where a source stalls, later than the run, which doesn't wait for it.
        thread.spawn(send)?;
        Ok(Self::Ahead(batches))
    }
}

impl Batches<'_> {
    /// Whether they are prepared while the one before is trained on.
    pub(super) fn are_ahead(&self) -> bool {
        matches!(self, Self::Ahead(_))
    }
}

/// Images on their way to a device. Those that it doesn't take stay here: the step, which needs it, tells why it stopped.
fn sent(images: Images, device: &Device) -> Images {
    let send = || on_a_device(0, || images.clone().on_device(device));
    catch_unwind(AssertUnwindSafe(send)).unwrap_or(images)
}

impl Iterator for Batches<'_> {
    type Item = Result<Prepared, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Here(batches, preparation) => {
                let batch = batches.next()?;
                Some(batch.map(|batch| preparation.prepare(batch)))
            }
            Self::Ahead(batches) => batches.recv().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;
    #[cfg(feature = "cpu")]
    use clip_model::{ClipConfig, loss::ContrastiveLoss};

    use super::*;
    #[cfg(feature = "cpu")]
    use crate::{ContrastiveStep, run::ContrastiveLearner};

    /// Three batches of two pairs, then an error.
    struct Three;

    struct Given(usize);

    impl DataLoader<ImageTextBatch> for Three {
        fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageTextBatch> + 'a> {
            Box::new(Given(0))
        }

        fn num_items(&self) -> usize {
            6
        }

        fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<ImageTextBatch>> {
            Arc::new(Self)
        }

        fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<ImageTextBatch>> {
            Arc::new(Self)
        }
    }

    impl Iterator for Given {
        type Item = Result<ImageTextBatch, DatasetError>;

        fn next(&mut self) -> Option<Self::Item> {
            self.0 += 1;
            let at = self.0;
            Some(if at > 3 {
                Err(DatasetError::new(io::Error::other("the source stalls")))
            } else {
                Ok(ImageTextBatch {
                    images: (0..24).map(|byte| (byte * at) as u8).collect(),
                    image_size: 2,
                    tokens: vec![at as i32; 4],
                    image_ids: vec![1, 2],
                    batch: 2,
                    tokens_per_caption: 2,
                    cursor: Cursor {
                        drawn: 2 * at as u64,
                        ..Cursor::default()
                    },
                })
            })
        }
    }

    impl DataLoaderIterator<ImageTextBatch> for Given {
        fn progress(&self) -> Progress {
            Progress::new(self.0, 4, None)
        }
    }

    #[test]
    fn batches_ahead_are_those_made_here_and_so_is_the_error_that_ends_them() {
        let device = Device::flex().autodiff();
        let loader: Arc<dyn DataLoader<ImageTextBatch>> = Arc::new(Three);
        let preparation = || Preparation {
            norm: ImageNorm::default(),
            patch_dropout: None,
            stochastic_depth: None,
            duplicates: Duplicates::Negatives,
        };
        let seen = |to| {
            let mut batches = Batches::new(&loader, preparation(), to).unwrap();
            let mut seen = Vec::new();
            loop {
                match batches.next().unwrap() {
                    Ok(Prepared { pairs, cursor }) => {
                        let rows: Vec<_> = pairs.captions.rows().map(<[i32]>::to_vec).collect();
                        let [whole, part] =
                            [0..2, 1..2].map(|rows| pairs.images.rows(rows, &device).into_data());
                        assert_eq!(pairs.images.count(), 2);
                        seen.push((cursor.drawn, rows, whole, part));
                    }
                    Err(error) => return (seen, error.to_string()),
                }
            }
        };
        let here = seen(None);
        assert_eq!((here.0.len(), here.0[2].0), (3, 6));
        assert_eq!(seen(Some(device.clone())), here);
    }

    /// It would take the next step within the time of the one before.
    #[cfg(feature = "cpu")]
    #[test]
    fn a_processor_is_brought_nothing_ahead() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8,
            "patch_size": 4}, "text_cfg": {"width": 16, "heads": 2, "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let clip = config.init(0, &Device::flex().autodiff());
        let step = ContrastiveStep::new(ContrastiveLoss::default(), 2);
        assert!(step.is_one_chunk(2));
        let learner = ContrastiveLearner::new(clip, step, ImageNorm::default());
        let loader: Arc<dyn DataLoader<ImageTextBatch>> = Arc::new(Three);
        assert!(!learner.batches(&loader, 2).unwrap().are_ahead());
    }
}
