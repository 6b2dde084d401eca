use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use burn::{tensor::Tensor, train::Interrupter};
use clip_data::{EvalLoader, EvalNeeds, LoaderConfig, ShardSet, Tokenizer};
use clip_metrics::{Direction, Kind, Measured, VAL_LOSS, zeroshot_key};
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
use crate::{classes, model::LabelsFrom};

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
        let loader = |set: &str, list: &str, shards, needs| -> anyhow::Result<EvalLoader> {
            let loading = LoaderConfig {
                resize: resize(&preprocess),
                ..run.eval_loader(config)
            };
            let loader = EvalLoader::new(shards, needs, loading)?;
            // It would end the run at its first evaluation.
            loader.require_usable().with_context(|| {
                let needed = match needs {
                    EvalNeeds::Classes => "a class (`KEY.cls`, or class folders of images without texts)",
                    _ => "a caption",
                };
                format!(
                    "{set} ({list}) has no image with {needed}: see `clip data doctor`, and give other shards or leave \
                     the set out"
                )
            })?;
            Ok(loader)
        };
        let retrieval = match run.data.val.as_str() {
            "" => None,
            list => {
                let shards = ShardSet::parse(list)?;
                Some(loader("`data.val`", list, shards, EvalNeeds::Captions)?)
            }
        };
        let labelled = run.data.zeroshot.iter().map(|set| {
            let named = format!("`data.zeroshot` {:?}", set.name);
            let classes = classes::read_names(&set.classes, set.allow_duplicates)?;
            let shards = LabelsFrom::Cls.numbered(ShardSet::parse(&set.shards)?, Some(&classes))?;
            Ok(Labelled {
                name: set.name.clone(),
                loader: loader(&named, &set.shards, shards, EvalNeeds::Classes)?,
                classes,
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

    /// The keys of the retrieval set, if there is one, and what each is.
    fn retrieval_keys(&self) -> Vec<(String, Kind)> {
        if self.retrieval.is_none() {
            return Vec::new();
        }
        iter::once((VAL_LOSS, Kind::Loss))
            .chain(RetrievalReport::keys())
            .map(|(key, kind)| (key.to_owned(), kind))
            .collect()
    }

    /// Those of all labelled sets.
    fn zeroshot_keys(&self) -> impl Iterator<Item = (String, Kind)> {
        let sets = self.labelled.iter();
        sets.map(|set| (zeroshot_key(&top1(&set.name)), Kind::Share))
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
    fn keys(&self) -> Vec<(String, Kind)> {
        let mut keys = self.retrieval_keys();
        keys.extend(self.zeroshot_keys());
        keys
    }

    fn main_keys(&self) -> Vec<(String, Kind)> {
        let main = [
            Direction::ImageToText.recall(1),
            Direction::ImageToText.recall(10),
            Direction::TextToImage.recall(10),
        ];
        let mut keys = self.retrieval_keys();
        keys.retain(|(key, _)| main.contains(key));
        keys.extend(self.zeroshot_keys());
        keys
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
        let retrieval = self.retrieval.as_ref();
        let zeroshot = self.zeroshot.iter();
        EvalOutput {
            loss: retrieval.map(|found| found.loss),
            retrieval: retrieval.map_or_else(Vec::new, |found| found.report.named()),
            zeroshot: zeroshot
                .map(|set| Measured::new(top1(&set.name), Kind::Share, set.report.top1))
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
