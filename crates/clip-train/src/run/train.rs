use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use burn::{
    module::Module,
    optim::AdamWConfig,
    tensor::Device,
    train::{
        Interrupter, Learner, SupervisedTraining, TrainingStrategy, renderer::MetricsRenderer,
    },
};
use clip_data::{FaultReport, TrainLoader};
use clip_metrics::Kind;
use clip_model::{Clip, ClipConfig, ImageNorm, weights::ImportedWeights};

use super::{
    ContrastiveLearner, NamedDevice, RunDir, RunLog,
    learner::NoBatches,
    plan::Plan,
    records::Records,
    strategy::{ContrastiveStrategy, Work},
    unlogged::Unlogged,
};
use crate::{
    ContrastiveStep, Ema, Optimizer, PatchDropout, StochasticDepth, Teacher, TrainError,
    checkpoint::{Checkpoints, Copier, RunState, Writer},
    config::RunConfig,
    guard::Guards,
    progress::{
        BatchLossMetric, CaptionLossMetric, DataWaitMetric, Display, DistillLossMetric, EvalOutput,
        GradNormMetric, ImagesPerSecondMetric, LearningRateMetric, LogitScaleMetric, NamedMetric,
        RunPlan, renderer_for_run,
    },
};

/// Tries a half-trained model on validation data.
pub trait Evaluate: Send {
    /// The keys of all that [`evaluate`](Self::evaluate) will find, as [`EvalOutput::named`] gives them, and what each is.
    fn keys(&self) -> Vec<(String, Kind)>;

    /// Those of them that say most: a dashboard has room for few.
    fn main_keys(&self) -> Vec<(String, Kind)>;

    /// Evaluates `model`, which is on a device without autodiff.
    ///
    /// # Errors
    /// [`NotFinite`] where the model gives no numbers, which counts as divergence; [`EvaluationStopped`] where someone
    /// asked to stop, and the run owes the evaluation; whatever else stops the evaluation stops the run.
    fn evaluate(&mut self, model: &Clip) -> Result<EvalOutput, EvaluateError>;

    /// Told after an evaluation, when the run's metrics have it.
    ///
    /// # Errors
    /// Whatever should stop the run.
    fn recorded(&mut self, state: &RunState) -> Result<(), EvaluateError>;
}

/// An evaluation found that the model gives no numbers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFinite(pub String);

/// An evaluation was ended because someone asked the run to stop.
#[derive(Debug, thiserror::Error)]
#[error("the evaluation was stopped")]
pub struct EvaluationStopped;

/// Why an evaluation failed.
pub type EvaluateError = Box<dyn std::error::Error + Send + Sync>;

/// A run about to start or to go on.
pub struct Training<'a> {
    /// Its settings.
    pub config: &'a RunConfig,
    /// The model's architecture.
    pub model: &'a ClipConfig,
    /// Weights of that architecture to begin with, instead of random ones.
    pub initial: Option<ImportedWeights>,
    /// A model to learn from beside the captions, on `device`.
    pub teacher: Option<Teacher>,
    /// How images are normalised.
    pub norm: ImageNorm,
    /// Where the model, its optimizer and the loss are; without autodiff.
    pub device: Device,
    /// All that encode, of which `device` may be one. At least one.
    pub devices: Vec<NamedDevice>,
    /// Whether the run goes on with the other devices when one that hasn't the model stops.
    pub elastic: bool,
    /// Where everything goes.
    pub run: &'a RunDir,
    /// Where it says what it does, if that is to stay.
    pub log: Option<RunLog>,
    /// Copies its checkpoints, if they are to be elsewhere too.
    pub copier: Option<Arc<Copier>>,
    /// The training data, at its beginning.
    pub loader: TrainLoader,
    /// What is tried during the run, if anything.
    pub evaluator: Option<Box<dyn Evaluate>>,
    /// How progress is shown.
    pub display: Display,
    /// Stops the run after the step at hand, with a checkpoint.
    pub interrupter: Interrupter,
}

/// A run that ended, by itself or because it was asked to.
#[derive(Debug)]
pub struct Trained {
    /// The model, on the device without autodiff.
    pub model: Clip,
    /// The averaged weights, in a run that has them; on the same device.
    pub ema: Option<Clip>,
    /// Where the run stands.
    pub state: RunState,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Whether it was stopped before its last step; a checkpoint is there to go on from.
    pub interrupted: bool,
    /// What the last evaluation found.
    pub evaluation: Option<EvalOutput>,
}

/// The step of the settings, with the teacher.
fn step_of(config: &RunConfig, teacher: Option<Teacher>) -> Result<ContrastiveStep, TrainError> {
    let chunk = match config.chunk {
        0 => config.batch,
        chunk => chunk,
    };
    let step = ContrastiveStep::new(config.loss.into(), chunk)
        .with_threads(config.threads.max(1))?
        .with_text_buckets(config.text_buckets.max(1))
        .with_precision(config.precision)
        .with_recomputed_blocks(config.grad_checkpointing)
        .with_coca_weights(config.coca_weights())
        .with_teacher(teacher);
    Ok(step)
}

impl Training<'_> {
    /// Trains to the end of the run, from its newest whole checkpoint if it has one.
    ///
    /// # Errors
    /// What the data, the disk or an evaluation refuses, and [`TrainError::Diverged`]. The checkpoints stay.
    pub fn train(mut self) -> Result<Trained, TrainError> {
        self.config.validate()?;
        let keys = self.evaluator.as_ref().map(|evaluator| evaluator.keys());
        self.config.validate_best(&keys.unwrap_or_default())?;
        self.supports_precision()?;
        let samples_per_epoch = self.loader.samples_per_epoch();
        let total_steps = self.config.total_steps(samples_per_epoch);
        let checkpoints = self.run.checkpoints(self.config.checkpoint.kept());
        let resumed = self.resume(&checkpoints, samples_per_epoch)?;
        let resume_step = resumed.from_checkpoint.then_some(resumed.state.step);
        if let (Some(step), Some(copier)) = (resume_step, &self.copier) {
            copier.offer_resumed(&checkpoints.path(step), &resumed.state);
        }

        let folder = self.run.path().to_owned();
        let records = Records::open(folder, self.run.metrics(), resume_step)?;
        let plan = RunPlan {
            steps_done: resumed.state.step,
            ..RunPlan::new(
                total_steps,
                samples_per_epoch as f64 / self.config.batch as f64,
            )
        };
        let loader = self.loader.starting_at(resumed.state.cursor)?;
        let step = step_of(self.config, self.teacher.take())?;
        // From here to the release of its notes nothing fails: lines would wait for that.
        let (renderer, notes) = renderer_for_run(
            self.display,
            plan,
            self.log.take(),
            self.interrupter.clone(),
        );
        for note in &resumed.notes {
            notes.say(note);
        }
        let learner = ContrastiveLearner::new(resumed.model, step, self.norm)
            .with_patch_dropout(PatchDropout::new(&self.model.vision_cfg, self.config.seed))
            .with_stochastic_depth(StochasticDepth::new(
                &self.model.vision_cfg,
                self.config.seed,
            ))
            .with_duplicates(self.config.duplicates)
            .with_devices(std::mem::take(&mut self.devices));
        let keys = self
            .evaluator
            .as_ref()
            .map_or(Vec::new(), |evaluator| evaluator.main_keys());
        let schedule = self.config.schedule(total_steps);
        let minutes = self.config.checkpoint.minutes;
        let strategy = Arc::new(ContrastiveStrategy {
            plan: Plan {
                total_steps,
                schedule,
                checkpoint_after: minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
                best: self.config.checkpoint.best.clone(),
                rollbacks: self.config.checkpoint.rollbacks,
                elastic: self.elastic,
                eval_every: self.config.eval_every(samples_per_epoch),
                checkpoint_every: self.config.checkpoint_every(samples_per_epoch),
                samples_per_epoch,
                batch: self.config.batch as u64,
            },
            loader: loader.clone(),
            notes: notes.clone(),
            resumed_from: resume_step,
            work: Mutex::new(Some(Work {
                state: resumed.state,
                earlier_faults: resumed.faults,
                optimizer: resumed.optimizer,
                ema: resumed.ema,
                evaluator: self.evaluator,
                writer: Writer::new(
                    self.run.clone(),
                    self.config.checkpoint.kept(),
                    self.copier.take(),
                ),
                guards: Guards::new(schedule.warmup_steps, self.config.loss),
                records,
            })),
            outcome: Mutex::new(None),
        });
        let interrupter = self.interrupter.clone();
        launch(
            self.run,
            learner,
            loader,
            keys,
            renderer,
            strategy.clone(),
            interrupter,
        );
        notes.release();
        strategy.outcome()
    }

    /// Refuses a precision before anything is computed in it.
    fn supports_precision(&self) -> Result<(), TrainError> {
        let precision = self.config.precision;
        let encoding = self.devices.iter();
        let encoding = encoding.map(|device| (device.name.as_str(), &device.device));
        let mut devices = encoding.chain([("with the model", &self.device)]);
        match devices.find(|(_, device)| !precision.is_supported(device)) {
            None => Ok(()),
            Some((name, _)) => Err(TrainError::Unsupported {
                key: "precision",
                value: precision.to_string(),
                reason: format!(
                    "device {name} doesn't compute in it; take another precision (f32 works everywhere) or another device"
                ),
            }),
        }
    }

    fn resume(
        &mut self,
        checkpoints: &Checkpoints,
        samples_per_epoch: u64,
    ) -> Result<Resumed, TrainError> {
        let device = self.device.clone().autodiff();
        let Some((found, damaged)) = checkpoints.latest()? else {
            let is_begun = self.initial.is_some();
            let model = match self.initial.take() {
                Some(weights) => weights.model(&device),
                None => self.model.init(self.config.seed, &device),
            };
            let model = self.config.lock(model)?;
            let optimizer = self.optimizer(&model);
            return Ok(Resumed {
                notes: self.notes_of_adapters(&model, &optimizer, is_begun),
                state: RunState {
                    samples_per_epoch,
                    ..RunState::default()
                },
                optimizer,
                ema: self.ema(&model),
                model,
                faults: FaultReport::default(),
                from_checkpoint: false,
            });
        };
        if found.state.samples_per_epoch != samples_per_epoch {
            return Err(TrainError::ChangedData {
                expected: found.state.samples_per_epoch,
                got: samples_per_epoch,
            });
        }
        let mut notes: Vec<String> = damaged
            .iter()
            .map(|error| format!("{error}; using the one before"))
            .collect();
        notes.push(format!(
            "resuming after step {} ({} samples, {:.0} s)",
            found.state.step, found.state.samples, found.state.seconds
        ));
        let model = self.config.lock(self.model.init_blank(&device))?;
        let optimizer = self.optimizer(&model);
        let ema = self.ema(&model);
        let (model, optimizer, ema) = found.restore(model, optimizer, ema)?;
        Ok(Resumed {
            model,
            optimizer,
            ema,
            faults: found.state.faults.clone(),
            state: found.state,
            from_checkpoint: true,
            notes,
        })
    }

    fn optimizer(&self, model: &Clip) -> Optimizer {
        let config = &self.config.optimizer;
        match &self.config.lora {
            Some(lora) => Optimizer::with_lora(config, lora, self.config.seed, model),
            None => Optimizer::new(config, model),
        }
    }

    /// What a run should know that begins with adapters.
    fn notes_of_adapters(
        &self,
        model: &Clip,
        optimizer: &Optimizer,
        is_begun: bool,
    ) -> Vec<String> {
        if self.config.lora.is_none() {
            return Vec::new();
        }
        let (trained, of_adapters) = optimizer.num_trained(model);
        let mut notes = vec![format!(
            "LoRA: {trained} parameters are trained, {of_adapters} of them adapters', beside {} of the model",
            self.model.num_params()
        )];
        if !is_begun {
            notes.push(
                "`lora` adapts random weights, which stay as they are: give `init` (`--init`) the model to fine-tune"
                    .to_owned(),
            );
        }
        notes
    }

    fn ema(&self, model: &Clip) -> Option<Ema> {
        self.config.ema.map(|decay| Ema::new(model.valid(), decay))
    }
}

/// A run as it stands before its next step.
struct Resumed {
    state: RunState,
    model: Clip,
    optimizer: Optimizer,
    ema: Option<Ema>,
    faults: FaultReport,
    from_checkpoint: bool,
    notes: Vec<String>,
}

/// Hands everything to Burn's training, which shows metrics and comes back when the strategy is done.
fn launch(
    run: &RunDir,
    learner: ContrastiveLearner,
    loader: TrainLoader,
    keys: Vec<(String, Kind)>,
    renderer: Box<dyn MetricsRenderer>,
    strategy: Arc<ContrastiveStrategy>,
    interrupter: Interrupter,
) {
    let epochs = strategy.plan.epochs();
    let (has_decoder, has_teacher) = learner.other_losses();
    let mut training = SupervisedTraining::<ContrastiveLearner>::new(
        run.path(),
        Arc::new(loader),
        Arc::new(NoBatches),
    )
    .with_application_logger(None)
    .with_metric_logger(Unlogged)
    .with_interrupter(interrupter)
    .renderer(renderer)
    .num_epochs(epochs)
    .metric_train_numeric(BatchLossMetric::new())
    .metric_train_numeric(LogitScaleMetric::new())
    .metric_train_numeric(LearningRateMetric::new())
    .metric_train_numeric(ImagesPerSecondMetric::new())
    .metric_train_numeric(DataWaitMetric::new())
    .metric_train_numeric(GradNormMetric::new())
    .with_training_strategy(TrainingStrategy::Custom(strategy));
    if has_decoder {
        training = training.metric_train_numeric(CaptionLossMetric::new());
    }
    if has_teacher {
        training = training.metric_train_numeric(DistillLossMetric::new());
    }
    for (key, kind) in keys {
        training = training.metric_valid_numeric(NamedMetric::new(key, kind));
    }
    // Burn's learner carries an optimizer and a schedule for its own loops; the strategy has CLIP's.
    let optimizer = AdamWConfig::new().init();
    training.launch(Learner::new(learner, optimizer, 0.0));
}
