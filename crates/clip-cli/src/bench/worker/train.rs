use anyhow::{Result, ensure};
use clip_data::Tokenizer;
use clip_model::{Clip, loss::ContrastiveLoss, weights::ModelDir};
use clip_train::{
    Aside, Captions, ContrastiveStep, Images, Optimizer, OptimizerConfig, PairBatch, Pending,
};

use super::{Place, Task, noise, tokenizer};

/// So small that noise doesn't teach the model anything, nor spoils its numbers.
const LEARNING_RATE: f64 = 1e-6;

/// Training steps as `clip pretrain` does them, from bytes on the host: a GPU has the next step's gradients to compute before
/// a step's numbers are read.
pub(super) struct Step {
    place: Place,
    chunks: ContrastiveStep,
    model: Option<Clip>,
    optimizer: Optimizer,
    images: Images,
    /// The next step's, which `clip pretrain` brings to a GPU while it computes.
    ahead: Option<Pending<Images>>,
    sender: Aside,
    captions: Captions,
    /// The gradient's norm in a step that may not be done yet.
    unread: Option<Pending<f32>>,
    reader: Aside,
    flop: Option<f64>,
}

/// The model as it is trained, and its optimizer.
pub(super) fn load(place: &Place, preset: &str) -> Result<(Clip, ModelDir, Optimizer)> {
    let dir = ModelDir::open(&place.model(preset))?;
    let model = dir.load(&place.started.device.clone().autodiff())?;
    let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
    Ok((model, dir, optimizer))
}

/// The one place that knows how a step is configured.
pub(super) fn step(place: &Place, batch: usize) -> Result<ContrastiveStep> {
    Ok(ContrastiveStep::new(ContrastiveLoss::default(), batch)
        .with_precision(place.setup.precision)
        .with_threads(place.threads())?
        .with_text_buckets(place.started.text_buckets()))
}

impl Step {
    pub(super) fn new(place: Place, preset: &str, batch: usize) -> Result<Self> {
        let (model, dir, optimizer) = load(&place, preset)?;
        let tokenizer = tokenizer(&place.model(preset))?;
        let texts = place.captions(batch)?;
        let (captions, lengths) = tokenize(&tokenizer, &texts, dir.config.text_cfg.context_length);
        let flop = lengths
            .iter()
            .map(|&tokens| dir.config.training_flops(tokens));
        let flop = flop.sum::<Option<f64>>().map(|flop| flop / batch as f64);
        let size = dir.config.vision_cfg.image_size;
        let images = Images::new(noise(batch * size * size * 3), size, dir.preprocess.norm());
        Ok(Self {
            chunks: step(&place, batch)?,
            place,
            model: Some(model),
            optimizer,
            images,
            ahead: None,
            sender: Aside::new("images")?,
            captions,
            unread: None,
            reader: Aside::new("numbers")?,
            flop,
        })
    }

    /// Waits for the step before, if it is still to be waited for.
    fn read(&mut self) -> Result<()> {
        let Some(norm) = self.unread.take() else {
            return Ok(());
        };
        let norm = norm.wait();
        ensure!(
            norm > 0.0 && norm.is_finite(),
            "the gradient's norm is {norm}: nothing was trained"
        );
        Ok(())
    }
}

/// As a loader does it: padded to the longest. And each caption's own length.
fn tokenize(
    tokenizer: &Tokenizer,
    texts: &[String],
    context_length: usize,
) -> (Captions, Vec<usize>) {
    let ids: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.encode(text, context_length).ids)
        .collect();
    let (rows, longest) = tokenizer.pad(ids.iter().map(Vec::as_slice), context_length);
    let lengths = ids.iter().map(Vec::len).collect();
    (Captions::new(rows, longest), lengths)
}

impl Task for Step {
    fn run(&mut self) -> Result<u64> {
        // invariant: it is put back below, and a step that fails is the last.
        let model = self.model.take().expect("invariant: put back");
        let count = self.images.count();
        let images = match self.ahead.take() {
            Some(images) => images.wait(),
            None => self.images.clone(),
        };
        if self.chunks.is_one_chunk(count) {
            let (images, device) = (self.images.clone(), model.device());
            self.ahead = Some(self.sender.run(move || images.on_device(&device)));
        }
        let batch = PairBatch::new(images, self.captions.clone());
        let found = self.chunks.gradients(&model, &batch);
        self.read()?;
        model.visual.update_running_statistics(&found.statistics);
        let (model, norm) = self.optimizer.step(LEARNING_RATE, model, found.grads);
        model.device().flush()?;
        self.unread = Some(self.reader.run(move || norm.into_scalar::<f32>()));
        self.model = Some(model);
        Ok(count as u64)
    }

    fn wait(&mut self) -> Result<()> {
        self.read()?;
        self.place.sync()
    }

    fn flop(&self) -> Option<f64> {
        self.flop
    }
}
