use burn::{
    data::dataloader::{DataLoader, DataLoaderIterator, Progress},
    data::dataset::DatasetError,
    module::Module,
    tensor::{Device, Tensor, Transaction},
    train::{InferenceStep, TrainOutput, TrainStep},
};
use clip_data::ImageTextBatch;
use clip_model::{Clip, ImageNorm};
use std::{
    any::Any,
    fmt::Display,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::ahead::{Batches, Preparation};
use crate::{
    ContrastiveStep, Optimizer, PairBatch, PatchDropout, StepGradients, StochasticDepth,
    config::Duplicates,
    progress::{EvalOutput, StepOutput},
    step::{Stopped, innermost_cause, on_a_device, reason},
};

/// A device, and what its user calls it.
#[derive(Clone, Debug)]
pub struct NamedDevice {
    /// As in `cuda:1`.
    pub name: String,
    /// Without autodiff.
    pub device: Device,
}

/// CLIP as Burn's learner trains it: batches of bytes in, gradients of the whole batch's loss out.
#[derive(Module, Debug)]
pub(crate) struct ContrastiveLearner {
    /// The model, which is away during the optimizer's step alone: with nobody else to hold its numbers, they change in place.
    clip: Option<Clip>,
    #[module(skip)]
    step: ContrastiveStep,
    #[module(skip)]
    preparation: Preparation,
    /// Those of the step, if any.
    #[module(skip)]
    devices: Vec<NamedDevice>,
}

/// The device that stopped computing in a step, and why.
pub(super) struct StoppedDevice {
    /// Its place among the learner's; `None` if it is the model's own.
    place: Option<usize>,
    pub(super) name: String,
    /// What Burn said.
    pub(super) reason: String,
}

impl StoppedDevice {
    pub(super) fn has_model(&self) -> bool {
        self.place.is_none()
    }
}

impl ContrastiveLearner {
    /// `clip` is on a device with autodiff. Whole images, each of which matches its own caption alone.
    pub(crate) fn new(clip: Clip, step: ContrastiveStep, norm: ImageNorm) -> Self {
        Self {
            clip: Some(clip),
            step,
            preparation: Preparation {
                norm,
                patch_dropout: None,
                stochastic_depth: None,
                duplicates: Duplicates::Negatives,
            },
            devices: Vec::new(),
        }
    }

    /// The model.
    pub(crate) fn clip(&self) -> &Clip {
        self.clip.as_ref().expect("invariant: put back")
    }

    /// Whether a decoder's loss, and whether a teacher's, stands beside the contrastive one.
    pub(super) fn other_losses(&self) -> (bool, bool) {
        let has_decoder = self.clip().text_decoder.is_some();
        (has_decoder, self.step.has_teacher())
    }

    /// Goes on with another.
    pub(super) fn replace(&mut self, clip: Clip) {
        self.clip = Some(clip);
    }

    /// Encodes on all of these devices, of which the model's may be one.
    pub(crate) fn with_devices(mut self, devices: Vec<NamedDevice>) -> Self {
        let handles = devices.iter().map(|device| device.device.clone());
        self.step = self.step.with_devices(handles.collect());
        self.devices = devices;
        self
    }

    /// Encodes some of each image's patches.
    pub(crate) fn with_patch_dropout(mut self, patch_dropout: Option<PatchDropout>) -> Self {
        self.preparation.patch_dropout = patch_dropout;
        self
    }

    /// Skips residual paths of the image encoder.
    pub(crate) fn with_stochastic_depth(
        mut self,
        stochastic_depth: Option<StochasticDepth>,
    ) -> Self {
        self.preparation.stochastic_depth = stochastic_depth;
        self
    }

    /// Sets what equal captions and images of a batch are to each other.
    pub(crate) fn with_duplicates(mut self, duplicates: Duplicates) -> Self {
        self.preparation.duplicates = duplicates;
        self
    }

    /// Goes on without a device; `false` if it can't, because the device has the model, or because no other is left.
    pub(super) fn leave_out(&mut self, stopped: &StoppedDevice) -> bool {
        let Some(place) = stopped.place.filter(|_| self.devices.len() > 1) else {
            return false;
        };
        let mut devices = std::mem::take(&mut self.devices);
        devices.remove(place);
        *self = self.clone().with_devices(devices);
        true
    }

    /// The gradients of a batch. Burn's operations can only panic when a device stops, which here becomes an error.
    pub(super) fn gradients(&self, batch: &PairBatch) -> Result<StepGradients, StoppedDevice> {
        let gradients = || {
            let found = self.step.gradients(self.clip(), batch);
            if self.devices.iter().any(|device| self.is_elsewhere(device)) {
                // Whichever stops has to be known before anything is changed.
                let synced = self.clip().device().sync();
                synced.unwrap_or_else(|error| panic!("{error}"));
            }
            found
        };
        catch_unwind(AssertUnwindSafe(gradients)).map_err(|panic| self.stopped(&*panic))
    }

    /// Whether a device is another than the model's.
    fn is_elsewhere(&self, device: &NamedDevice) -> bool {
        device.device.clone().inner() != self.clip().device().inner()
    }

    /// What the user calls the model's device.
    pub(super) fn own_device(&self) -> String {
        let mut devices = self.devices.iter();
        let own = devices.find(|device| !self.is_elsewhere(device));
        own.map_or_else(|| "of the model".to_owned(), |device| device.name.clone())
    }

    fn stopped(&self, panic: &(dyn Any + Send)) -> StoppedDevice {
        let (place, reason) = match panic.downcast_ref::<Stopped>() {
            Some(stopped) => (Some(stopped.device), stopped.reason.clone()),
            // Between the parts of a step it is the model's that computes.
            None => (None, reason(panic)),
        };
        let at = |place: usize| self.devices.get(place);
        let name = match place.and_then(at) {
            Some(device) => device.name.clone(),
            None => self.own_device(),
        };
        let elsewhere = |place: &usize| at(*place).is_some_and(|device| self.is_elsewhere(device));
        StoppedDevice {
            place: place.filter(elsewhere),
            name,
            reason,
        }
    }

    /// The batches of a loader as the step takes them, brought to the device ahead of it where it computes on a whole
    /// batch of so many pairs at once, on that device alone, and meanwhile.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn batches<'a>(
        &self,
        loader: &'a Arc<dyn DataLoader<ImageTextBatch>>,
        pairs: usize,
    ) -> io::Result<Batches<'a>> {
        let alone = self.devices.iter().all(|device| !self.is_elsewhere(device));
        let ahead = alone && self.step.is_one_chunk(pairs) && computes_meanwhile(self.clip());
        let to = ahead.then(|| self.clip().device());
        Batches::new(loader, self.preparation.clone(), to)
    }

    /// Takes one optimizer step. Doesn't wait for the device.
    pub(super) fn update(
        &mut self,
        optimizer: &mut Optimizer,
        lr: f64,
        found: StepGradients,
    ) -> Numbers {
        // Put back below: a step that panics has no model to give back.
        let clip = self.clip.take().expect("invariant: put back");
        clip.visual.update_running_statistics(&found.statistics);
        let (clip, grad_norm) = optimizer.step(lr, clip, found.grads);
        self.clip = Some(clip);
        Numbers {
            loss: found.loss,
            distill: found.distill,
            caption: found.caption,
            temperature_factor: found.temperature_factor,
            grad_norm,
        }
    }

    /// Has the device begin with all that it was asked for: otherwise what another thread reads would part what Burn makes
    /// one kernel of, here or there.
    pub(super) fn submit(&self) {
        // A device that stopped says so to whoever reads.
        let _ = self.clip().device().flush();
    }
}

/// Whether a model's device computes while this program goes on. A processor is done when it has been asked: there, to
/// ask for the next step would be to take it within the time of the one before.
#[cfg(feature = "cpu")]
fn computes_meanwhile(clip: &Clip) -> bool {
    !clip_kernels::computes_on(&clip.logit_scale.val().inner())
}

#[cfg(not(feature = "cpu"))]
fn computes_meanwhile(_clip: &Clip) -> bool {
    true
}

/// What a step is to tell, on the device: `[1]` each.
pub(super) struct Numbers {
    loss: Tensor<1>,
    temperature_factor: Tensor<1>,
    grad_norm: Tensor<1>,
    distill: Option<Tensor<1>>,
    caption: Option<Tensor<1>>,
}

/// What a step tells of itself.
pub(super) struct StepNumbers {
    /// Nats.
    pub(super) loss: f64,
    /// The temperature's inverse, as it multiplies the similarities.
    pub(super) logit_scale: f64,
    /// Before clipping.
    pub(super) grad_norm: f64,
    /// A teacher's part of the loss.
    pub(super) distill_loss: Option<f64>,
    /// A decoder's part of the loss.
    pub(super) caption_loss: Option<f64>,
}

impl Numbers {
    /// Waits for the device.
    ///
    /// # Errors
    /// Why the device stopped, which may have been long before: whoever waits is told.
    pub(super) fn read(self) -> Result<StepNumbers, String> {
        let (teaches, captions) = (self.distill.is_some(), self.caption.is_some());
        let always = [self.loss, self.temperature_factor, self.grad_norm];
        let asked = always.into_iter().chain(self.distill).chain(self.caption);
        // In one reading.
        let asked = asked.fold(Transaction::default(), Transaction::register);
        let found = waited_for(|| asked.try_execute())?;
        let mut found = found.iter().flat_map(|number| number.iter::<f64>());
        let mut next = || {
            found
                .next()
                .ok_or("the device gave fewer numbers than it was asked for")
        };
        Ok(StepNumbers {
            loss: next()?,
            logit_scale: next()?,
            grad_norm: next()?,
            distill_loss: teaches.then(&mut next).transpose()?,
            caption_loss: captions.then(&mut next).transpose()?,
        })
    }
}

/// What a device gave, or why it stopped: Burn tells that by an error or by a panic.
fn waited_for<T, E: Display>(wait: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(|| on_a_device(0, wait))) {
        Ok(given) => given.map_err(|error| innermost_cause(&error.to_string()).to_owned()),
        Err(panic) => Err(panic
            .downcast::<Stopped>()
            .map_or_else(|panic| reason(&*panic), |stopped| stopped.reason)),
    }
}

impl TrainStep for ContrastiveLearner {
    type Input = ImageTextBatch;
    type Output = StepOutput;

    fn step(&self, _batch: ImageTextBatch) -> TrainOutput<StepOutput> {
        unreachable!("invariant: a run's strategy takes its steps, not Burn's loops")
    }
}

/// An evaluation works on a whole set, not on batches, so what it found passes through.
impl InferenceStep for ContrastiveLearner {
    type Input = EvalOutput;
    type Output = EvalOutput;

    fn step(&self, found: EvalOutput) -> EvalOutput {
        found
    }
}

/// The validation loader that Burn asks for: evaluations don't come from one.
pub(super) struct NoBatches;

impl DataLoader<EvalOutput> for NoBatches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<EvalOutput> + 'a> {
        Box::new(Self)
    }

    fn num_items(&self) -> usize {
        0
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<EvalOutput>> {
        Arc::new(Self)
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<EvalOutput>> {
        Arc::new(Self)
    }
}

impl Iterator for NoBatches {
    type Item = Result<EvalOutput, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl DataLoaderIterator<EvalOutput> for NoBatches {
    fn progress(&self) -> Progress {
        Progress::new(0, 0, None)
    }
}

#[cfg(test)]
mod tests {
    use clip_model::{ClipConfig, loss::ContrastiveLoss, weights::weights_bytes};

    use super::*;
    use crate::{Captions, Images, OptimizerConfig};

    #[test]
    fn what_is_asked_for_ahead_leaves_the_model_of_the_step_before() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8,
            "head_width": 16, "patch_size": null}, "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 16,
            "heads": 2, "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let device = Device::flex().autodiff();
        let batch = |at: usize| {
            let pixels = (0..4 * 3 * 32 * 32).map(|byte| (byte * (at + 7) % 251) as u8);
            let rows = (0..4).flat_map(|row| [1, 2 + row, 19]);
            let images = Images::new(pixels.collect(), 32, ImageNorm::default());
            PairBatch::new(images, Captions::new(rows.collect(), 3))
        };
        let begun = || {
            let clip = config.init(3, &device);
            let optimizer = Optimizer::new(&OptimizerConfig::default(), &clip);
            let step = ContrastiveStep::new(ContrastiveLoss::default(), 4);
            let learner = ContrastiveLearner::new(clip, step, ImageNorm::default());
            (learner, optimizer)
        };
        let found = |learner: &ContrastiveLearner, at| {
            let found = learner.gradients(&batch(at));
            found.unwrap_or_else(|stopped| panic!("{}", stopped.reason))
        };
        let (mut learner, mut optimizer) = begun();
        let after: Vec<Vec<u8>> = (0..3)
            .map(|at| {
                let found = found(&learner, at);
                learner.update(&mut optimizer, 1e-3, found);
                weights_bytes(learner.clip())
            })
            .collect();

        let (mut learner, mut optimizer) = begun();
        let mut next = found(&learner, 0);
        for (at, expected) in after.iter().enumerate() {
            learner.update(&mut optimizer, 1e-3, next);
            next = found(&learner, at + 1);
            assert!(weights_bytes(learner.clip()) == *expected, "after {at}");
        }
    }

    #[test]
    fn a_device_that_stops_is_told_by_what_it_comes_of() {
        let said = "An error happened during execution\nCaused by:\n  An out-of-memory error happened\nCaused by:\n  \
                    no room for 8 GiB\nBacktrace\nnone";
        let failed = || -> Result<(), _> { Err(said) };
        assert_eq!(waited_for(failed).unwrap_err(), "no room for 8 GiB");
        let panicking = || -> Result<(), String> { panic!("{said}") };
        assert_eq!(waited_for(panicking).unwrap_err(), "no room for 8 GiB");
        assert_eq!(waited_for(|| Ok::<_, String>(7)), Ok(7));
    }
}
