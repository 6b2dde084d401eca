use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use burn::{tensor::Tensor, train::Interrupter};
use clip_data::{EvalLoader, EvalNeeds, LoaderConfig, ShardSet, Tokenizer};
use clip_model::{Clip, ClipConfig, Preprocess};
use clip_train::{
    Evaluate, EvaluateError, EvaluationStopped, NotFinite, checkpoint::RunState, config::RunConfig,
    progress::EvalOutput,
};
use clip_zeroshot::{
    Bootstrap, ClassNames, Classifier, ClassifierHead, ClipEncoders, LabelSource, PROMPT_BATCH,
    RetrievalReport, ShardFeatures, Templates, ZeroShotError, ZeroShotReport, encode_all,
    evaluate_zeroshot, resize, retrieve,
};

use super::{report::Page, val_loss::ValLoss};
use crate::classes;

/// The keys of what retrieval gives.
const RETRIEVAL_KEYS: [&str; 8] = [
    "i2t_r1",
    "i2t_r5",
    "i2t_r10",
    "t2i_r1",
    "t2i_r5",
    "t2i_r10",
    "i2t_median_rank",
    "t2i_median_rank",
];

/// What a run is evaluated on, read once and used at each evaluation.
pub(super) struct Validation {
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: Arc<Tokenizer>,
    retrieval: Option<EvalLoader>,
    labelled: Vec<Labelled>,
    loss: ValLoss,
    latest: Latest,
    page: Arc<Mutex<Page>>,
    /// Ends an evaluation where someone asks the run to stop.
    interrupter: Interrupter,
}

/// A labelled set with the names of its classes.
struct Labelled {
    name: String,
    loader: EvalLoader,
    classes: ClassNames,
    templates: Templates,
}

impl Labelled {
    /// Whether the same prompts name the same classes, whatever the images are.
    fn asks_as(&self, other: &Self) -> bool {
        self.classes == other.classes && self.templates == other.templates
    }
}

/// What the last evaluation found, for the report.
#[derive(Default)]
pub(super) struct Found {
    /// The factor between cosines and logits, `exp(logit_scale)`.
    pub(super) temperature_factor: f32,
    pub(super) retrieval: Option<FoundRetrieval>,
    pub(super) zeroshot: Vec<FoundZeroShot>,
}

pub(super) struct FoundRetrieval {
    pub(super) report: RetrievalReport,
    /// The run's loss on these pairs, in nats.
    pub(super) loss: f64,
    pub(super) shards: ShardFeatures,
    /// `[captions, embed_dim]`, not normalised.
    pub(super) captions: Tensor<2>,
}

pub(super) struct FoundZeroShot {
    pub(super) name: String,
    pub(super) classes: usize,
    pub(super) templates: usize,
    pub(super) report: ZeroShotReport,
}

/// The last evaluation, which outlives the run's loop.
#[derive(Clone, Default)]
pub(super) struct Latest(Arc<Mutex<Found>>);

impl Latest {
    pub(super) fn get(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Validation {
    /// Opens the shards and files that the run is evaluated on, of which there may be none; `page` is written after
    /// each evaluation.
    pub(super) fn open(
        run: &RunConfig,
        config: &ClipConfig,
        preprocess: Preprocess,
        tokenizer: &Arc<Tokenizer>,
        page: Arc<Mutex<Page>>,
    ) -> anyhow::Result<Self> {
        let loader = |set: &str, shards: &str, needs| -> anyhow::Result<EvalLoader> {
            let loading = LoaderConfig {
                resize: resize(&preprocess),
                ..run.eval_loader(config)
            };
            let loader = EvalLoader::new(ShardSet::parse(shards)?, needs, loading)?;
            // It would end the run at its first evaluation.
            loader.require_usable().with_context(|| {
                let needed = match needs {
                    EvalNeeds::Classes => "a class (`KEY.cls`)",
                    _ => "a caption",
                };
                format!(
                    "{set} ({shards}) has no image with {needed}: see `clip data doctor`, and give other shards or leave \
                     the set out"
                )
            })?;
            Ok(loader)
        };
        let retrieval = match run.data.val.as_str() {
            "" => None,
            shards => Some(loader("`data.val`", shards, EvalNeeds::Captions)?),
        };
        let labelled = run.data.zeroshot.iter().map(|set| {
            let named = format!("`data.zeroshot` {:?}", set.name);
            Ok(Labelled {
                name: set.name.clone(),
                loader: loader(&named, &set.shards, EvalNeeds::Classes)?,
                classes: classes::read_names(&set.classes, set.allow_duplicates)?,
                templates: Templates::from_file(&set.templates)?,
            })
        });
        let labelled = labelled.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            config: config.clone(),
            preprocess,
            tokenizer: Arc::clone(tokenizer),
            retrieval,
            labelled,
            loss: ValLoss::new(run),
            latest: Latest::default(),
            page,
            interrupter: Interrupter::new(),
        })
    }

    /// Lets evaluations end where a training is interrupted.
    pub(super) fn interrupted_by(self, interrupter: Interrupter) -> Self {
        Self {
            interrupter,
            ..self
        }
    }

    /// Where the last evaluation can be read, during and after the run.
    pub(super) fn latest(&self) -> Latest {
        self.latest.clone()
    }

    /// The loader of the retrieval set, if there is one.
    pub(super) fn retrieval_loader(&self) -> Option<EvalLoader> {
        self.retrieval.clone()
    }

    /// Some keys of the retrieval set, and those of all labelled sets.
    fn with_zeroshot(&self, retrieval: impl Iterator<Item = &'static str>) -> Vec<String> {
        let zeroshot = self
            .labelled
            .iter()
            .map(|set| format!("zeroshot_{}", top1(&set.name)));
        retrieval.map(str::to_owned).chain(zeroshot).collect()
    }

    fn find(&self, model: &Clip) -> Result<Found, ZeroShotError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let interrupter = self.interrupter.clone();
        let encoders = ClipEncoders::new(&self.config, model, tokenizer, self.preprocess)?
            .stopping_when(move || interrupter.should_stop());
        let mut found = Found {
            temperature_factor: encoders.temperature_factor(),
            ..Found::default()
        };
        if let Some(loader) = &self.retrieval {
            let shards = encoders.encode_shards(loader)?;
            let captions = encode_all(&encoders, &shards.captions, PROMPT_BATCH)?;
            let images = shards.images.clone();
            let report = retrieve(images, captions.clone(), &shards.image_of_caption)?.report;
            let loss = self.loss.of(model, &shards, &captions);
            found.retrieval = Some(FoundRetrieval {
                report,
                loss,
                shards,
                captions,
            });
        }
        let mut heads: Vec<ClassifierHead> = Vec::with_capacity(self.labelled.len());
        for set in &self.labelled {
            let alike = self.labelled.iter().position(|other| other.asks_as(set));
            let head = match alike.and_then(|at| heads.get(at)) {
                Some(head) => head.clone(),
                None => ClassifierHead::build(&encoders, &set.classes, &set.templates)?,
            };
            heads.push(head.clone());
            let classifier = Classifier::new(head, encoders.temperature_factor());
            let shards = encoders.encode_shards(&set.loader)?;
            let source = LabelSource::Class;
            let evaluator = evaluate_zeroshot(&shards, &classifier, source, Bootstrap::default())?;
            found.zeroshot.push(FoundZeroShot {
                name: set.name.clone(),
                classes: set.classes.len(),
                templates: set.templates.len(),
                report: evaluator.report()?,
            });
        }
        Ok(found)
    }
}

impl Evaluate for Validation {
    fn keys(&self) -> Vec<String> {
        let keys = || iter::once("val_loss").chain(RETRIEVAL_KEYS);
        self.with_zeroshot(self.retrieval.iter().flat_map(|_| keys()))
    }

    fn main_keys(&self) -> Vec<String> {
        let main = ["i2t_r1", "i2t_r10", "t2i_r10"];
        self.with_zeroshot(self.retrieval.iter().flat_map(|_| main))
    }

    fn evaluate(&mut self, model: &Clip) -> Result<EvalOutput, EvaluateError> {
        let found = self.find(model).map_err(|error| match error {
            ZeroShotError::NotFinite { .. } => NotFinite(error.to_string()).into(),
            ZeroShotError::Stopped => EvaluationStopped.into(),
            other => EvaluateError::from(other),
        })?;
        let output = found.output();
        *self.latest.get() = found;
        Ok(output)
    }

    fn recorded(&mut self, state: &RunState) -> Result<(), EvaluateError> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        page.write(state, &self.latest.get(), self.retrieval.as_ref())?;
        Ok(())
    }
}

impl Found {
    /// The numbers, under the keys of `metrics.jsonl`.
    pub(super) fn output(&self) -> EvalOutput {
        let report = self.retrieval.as_ref().map(|found| &found.report);
        let retrieval = report.map(|report| {
            RETRIEVAL_KEYS.into_iter().zip([
                report.i2t_r1,
                report.i2t_r5,
                report.i2t_r10,
                report.t2i_r1,
                report.t2i_r5,
                report.t2i_r10,
                report.i2t_median_rank,
                report.t2i_median_rank,
            ])
        });
        let retrieval = retrieval.into_iter().flatten();
        EvalOutput {
            loss: self.retrieval.as_ref().map(|found| found.loss),
            retrieval: retrieval
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            zeroshot: self
                .zeroshot
                .iter()
                .map(|set| (top1(&set.name), set.report.top1))
                .collect(),
            ..EvalOutput::default()
        }
    }
}

/// The key of a set's accuracy: `top1_seen`, or `top1` for a set without a name.
fn top1(name: &str) -> String {
    if name.is_empty() {
        "top1".to_owned()
    } else {
        format!("top1_{name}")
    }
}
