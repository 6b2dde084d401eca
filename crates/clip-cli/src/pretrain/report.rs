use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::activation::softmax;
use clip_data::{EvalLoader, FaultReport};
use clip_model::{ClipConfig, MAX_LOGIT_SCALE, l2_normalize};
use clip_report::{BadShard, Candidate, Picture, Pictured, Report, RetrievalSet};
use clip_train::{RunDir, checkpoint::RunState, config::RunConfig, peak_memory};

use super::validation::{Found, FoundRetrieval};
use crate::pages::{at_places, spread, zeroshot_set};

/// Images shown with what the model says of them.
const SHOWN: usize = 16;
/// Captions shown for each.
const CANDIDATES: usize = 5;

/// The run's page, written after each evaluation and at the end.
pub(super) struct Page {
    metrics: PathBuf,
    path: PathBuf,
    model_dir: PathBuf,
    config: RunConfig,
    parameters: u64,
    total_steps: u64,
    device: String,
    /// The images shown, decoded once.
    pictures: Option<Vec<Picture>>,
}

impl Page {
    pub(super) fn new(
        run: &RunDir,
        config: &RunConfig,
        model: &ClipConfig,
        total_steps: u64,
        device: String,
    ) -> Self {
        Self {
            metrics: run.metrics(),
            path: run.report(),
            model_dir: run.model(),
            config: config.clone(),
            parameters: model.num_params() as u64,
            total_steps,
            device,
            pictures: None,
        }
    }

    /// Writes the page, from the run's metrics and what its last evaluation found; returns what it shows.
    pub(super) fn write(
        &mut self,
        state: &RunState,
        found: &Found,
        loader: Option<&EvalLoader>,
    ) -> Result<Report> {
        let mut report = Report::from_metrics_jsonl(&self.metrics)?;
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (config, facts) = (&self.config, &mut report.facts);
        facts.preset = Some(config.preset.clone());
        facts.parameters = Some(self.parameters);
        facts.init.clone_from(&config.init);
        facts.teacher.clone_from(&config.distill);
        facts.train_data = given(&config.data.train);
        facts.val_data = given(&config.data.val);
        facts.samples_read = Some(state.faults.samples);
        facts.truncated_captions = Some(state.faults.truncated_captions);
        facts.seed = Some(config.seed);
        facts.loss_of_guessing = facts.batch.and_then(|batch| config.loss.of_guessing(batch));
        facts.max_logit_scale = Some(f64::from(MAX_LOGIT_SCALE.exp()));
        facts.total_steps = Some(self.total_steps);
        facts.backend = Some(self.device.clone());
        facts.wall_s = Some(state.seconds);
        facts.peak_memory = state.peak_memory.max(peak_memory());
        facts.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        report.retrieval = found
            .retrieval
            .iter()
            .map(|retrieval| RetrievalSet {
                dataset: config.data.val.clone(),
                images: retrieval.report.images,
                captions: retrieval.report.captions,
                values: retrieval.report.named(),
            })
            .collect();
        let sets = found.zeroshot.iter();
        let sets = sets.map(|set| zeroshot_set(&set.name, set.templates, &set.report));
        report.zeroshot = sets.collect();
        report.bad_samples = bad_shards(&state.faults);
        report.config = Some(config.to_toml()?);
        report.model_dir = Some(self.model_dir.display().to_string());
        if let (Some(retrieval), Some(loader)) = (&found.retrieval, loader) {
            report.predictions = self.predictions(retrieval, loader, found.temperature_factor)?;
        }
        report.write(&self.path)?;
        Ok(report)
    }

    /// Images from all over the validation set, with the captions of the whole set that the model finds likeliest.
    fn predictions(
        &mut self,
        found: &FoundRetrieval,
        loader: &EvalLoader,
        factor: f32,
    ) -> Result<Vec<Pictured>> {
        let shown = spread(SHOWN, found.shards.keys.len());
        let pictures = match self.pictures.take() {
            Some(pictures) => pictures,
            None => at_places(loader, &shown)?,
        };
        let predictions = predictions(found, &shown, &pictures, factor);
        self.pictures = Some(pictures);
        predictions
    }
}

fn predictions(
    found: &FoundRetrieval,
    shown: &[usize],
    pictures: &[Picture],
    factor: f32,
) -> Result<Vec<Pictured>> {
    let captions = l2_normalize(found.captions.clone()).transpose();
    let mut predictions = Vec::with_capacity(shown.len());
    for (&image, picture) in shown.iter().zip(pictures) {
        let feature = found.shards.images.clone().narrow(0, image, 1);
        let logits = l2_normalize(feature).matmul(captions.clone()) * factor;
        let probabilities = softmax(logits, 1).try_into_vec_as::<f32>()?;
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let right = |caption: usize| found.shards.image_of_caption[caption] == image;
        let candidates: Vec<Candidate> = order
            .iter()
            .take(CANDIDATES)
            .map(|&caption| Candidate {
                text: found.shards.captions[caption].clone(),
                probability: f64::from(probabilities[caption]),
                right: right(caption),
            })
            .collect();
        let truth = found.shards.first_caption(image).map(str::to_owned);
        predictions.push(Pictured {
            key: found.shards.keys[image].clone(),
            image: picture.clone(),
            truth: truth.filter(|_| !candidates.iter().any(|candidate| candidate.right)),
            candidates,
            rank: order
                .iter()
                .position(|&caption| right(caption))
                .map(|place| place + 1),
            among: Some(order.len()),
        });
    }
    Ok(predictions)
}

fn bad_shards(faults: &FaultReport) -> Vec<BadShard> {
    let shards = faults.shards.iter();
    let shards = shards.map(|(shard, kinds)| BadShard {
        shard: shard.clone(),
        bad: kinds.values().sum(),
        kinds: kinds
            .iter()
            .map(|(kind, count)| (kind.to_string(), *count))
            .collect(),
        examples: faults.examples.get(shard).cloned().unwrap_or_default(),
    });
    shards.collect()
}
