use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use burn::{
    data::dataloader::Progress,
    module::Module,
    train::{
        EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
        SupervisedTrainingEventProcessor, TrainLoader as BurnTrainLoader, TrainStep,
        TrainingComponents, TrainingItem, ValidLoader,
    },
};
use clip_data::{FaultReport, ImageTextBatch, TrainLoader};
use clip_model::weights::weights_bytes;

use super::{ContrastiveLearner, Evaluate, Trained};
use crate::{
    CosineSchedule, Optimizer, TrainError,
    checkpoint::{Checkpoints, RunState},
    progress::{EvalOutput, MetricsLog, Notes, StepOutput},
    tensorboard::EventWriter,
};

/// When things happen in a run, in steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) total_steps: u64,
    pub(super) schedule: CosineSchedule,
    pub(super) eval_every: u64,
    pub(super) checkpoint_every: u64,
    pub(super) samples_per_epoch: u64,
    /// Samples of a step.
    pub(super) batch: u64,
}

impl Plan {
    /// Passes over the data that the run begins.
    pub(super) fn epochs(&self) -> usize {
        let samples = self.total_steps * self.batch;
        samples.div_ceil(self.samples_per_epoch.max(1)) as usize
    }

    fn is_done(&self, step: u64) -> bool {
        step >= self.total_steps
    }

    fn is_due(&self, every: u64, step: u64) -> bool {
        step.is_multiple_of(every) || self.is_done(step)
    }
}

/// What the loop changes as it goes.
pub(super) struct Work {
    pub(super) state: RunState,
    /// Bad samples of the parts of the run before this one.
    pub(super) earlier_faults: FaultReport,
    pub(super) optimizer: Optimizer,
    pub(super) evaluator: Option<Box<dyn Evaluate>>,
    pub(super) checkpoints: Checkpoints,
    pub(super) metrics: MetricsLog,
    pub(super) events: EventWriter,
}

/// The loop over steps, in place of Burn's over epochs.
pub(super) struct ContrastiveStrategy {
    pub(super) plan: Plan,
    /// Tells position and faults of the batches that Burn's trait object gives.
    pub(super) loader: TrainLoader,
    pub(super) notes: Notes,
    /// Taken by the one call of `fit`, which has no `&mut self`.
    pub(super) work: Mutex<Option<Work>>,
    pub(super) outcome: Mutex<Option<Result<Trained, TrainError>>>,
}

impl ContrastiveStrategy {
    /// What became of the run.
    pub(super) fn outcome(&self) -> Result<Trained, TrainError> {
        let outcome = self
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        outcome.unwrap_or_else(|| {
            Err(TrainError::Learner(
                "Burn's training ended without running the loop; please report this".to_owned(),
            ))
        })
    }
}

impl SupervisedLearningStrategy<ContrastiveLearner> for ContrastiveStrategy {
    fn fit(
        &self,
        components: TrainingComponents<ContrastiveLearner>,
        learner: Learner<ContrastiveLearner>,
        batches: BurnTrainLoader<ContrastiveLearner>,
        _validation: ValidLoader<ContrastiveLearner>,
        _starting_epoch: usize,
    ) -> (
        ContrastiveLearner,
        SupervisedTrainingEventProcessor<ContrastiveLearner>,
    ) {
        let mut model = learner.model();
        // Its copy of the weights would keep every step's old ones in memory.
        drop(learner);
        let work = self
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(work) = work else {
            return (model, components.event_processor);
        };
        let mut steps = Steps {
            plan: self.plan,
            work,
            loader: &self.loader,
            notes: &self.notes,
            interrupter: components.interrupter,
            processor: components.event_processor,
            evaluation: None,
            since: Instant::now(),
        };
        let ended = steps.run(&mut model, &*batches);
        let outcome = ended.map(|interrupted| Trained {
            model: model.valid().clip,
            state: steps.work.state.clone(),
            total_steps: self.plan.total_steps,
            interrupted,
            evaluation: steps.evaluation.take(),
        });
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        (model, steps.processor)
    }
}

/// The steps of a run, with everything they touch.
struct Steps<'a> {
    plan: Plan,
    work: Work,
    loader: &'a TrainLoader,
    notes: &'a Notes,
    interrupter: Interrupter,
    processor: SupervisedTrainingEventProcessor<ContrastiveLearner>,
    evaluation: Option<EvalOutput>,
    /// When `work.state.seconds` was brought up to date.
    since: Instant,
}

impl Steps<'_> {
    /// Trains until the last step, or until someone asks to stop, which is `true`.
    fn run(
        &mut self,
        model: &mut ContrastiveLearner,
        batches: &dyn burn::data::dataloader::DataLoader<ImageTextBatch>,
    ) -> Result<bool, TrainError> {
        let mut batches = batches.iter();
        self.start_split();
        while !self.plan.is_done(self.work.state.step) {
            let began = Instant::now();
            let Some(batch) = batches.next() else {
                return Err(TrainError::Learner(
                    "the training data ended, which has no end; please report this".to_owned(),
                ));
            };
            let batch = batch.map_err(TrainError::Batches)?;
            let waited = began.elapsed().as_secs_f64();
            let mut output = self.step(model, batch)?;
            let seconds = began.elapsed().as_secs_f64();
            output.images_per_s = output.batch as f64 / seconds;
            output.data_wait = waited / seconds;
            self.record(output)?;

            let step = self.work.state.step;
            let stop = self.interrupter.should_stop();
            if self.plan.is_due(self.plan.eval_every, step) && !stop {
                self.evaluate(model)?;
            }
            if self.plan.is_due(self.plan.checkpoint_every, step) || stop {
                self.save(model)?;
            }
            if stop {
                break;
            }
        }
        self.end_split();
        if let Some(error) = self.interrupter.error() {
            return Err(TrainError::Learner(error.to_string()));
        }
        let interrupted = !self.plan.is_done(self.work.state.step);
        if self.evaluation.is_none() && !interrupted {
            // Everything was trained before this start.
            self.evaluate(model)?;
        }
        Ok(interrupted)
    }

    /// One optimizer step.
    fn step(
        &mut self,
        model: &mut ContrastiveLearner,
        batch: ImageTextBatch,
    ) -> Result<StepOutput, TrainError> {
        let state = &self.work.state;
        let (next, cursor) = (state.step + 1, batch.cursor);
        let lr = self.plan.schedule.at(state.step);
        let found = TrainStep::step(model, batch);
        let mut output = found.item;
        let diverged = |what, value| TrainError::Diverged {
            what,
            step: next,
            value,
        };
        if !output.loss.is_finite() {
            return Err(diverged("loss", output.loss));
        }
        output.lr = lr;
        output.grad_norm = model.update(&mut self.work.optimizer, lr, found.grads);
        if !output.grad_norm.is_finite() {
            return Err(diverged("gradient norm", output.grad_norm));
        }
        let before = self.work.state.cursor.epoch;
        self.work.state.step = next;
        self.work.state.samples += output.batch as u64;
        self.work.state.cursor = cursor;
        if cursor.epoch > before {
            self.end_split();
            self.tell(LearnerEvent::EndEpoch(cursor.epoch as usize));
            self.start_split();
        }
        Ok(output)
    }

    fn record(&mut self, output: StepOutput) -> Result<(), TrainError> {
        let RunState {
            step,
            samples,
            cursor,
            ..
        } = self.work.state;
        self.work
            .metrics
            .append_step(step, samples, self.epochs(), &output)?;
        self.work.events.step(step, &output)?;
        let progress = self.progress(cursor.drawn);
        let item = TrainingItem::new(output, progress, Some(step as usize), None);
        self.tell(LearnerEvent::ProcessedItem(item));
        Ok(())
    }

    fn evaluate(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        let Some(evaluator) = &mut self.work.evaluator else {
            return Ok(());
        };
        let RunState { step, samples, .. } = self.work.state;
        let found = evaluator.evaluate(&model.valid().clip);
        let found = found.map_err(|source| TrainError::Evaluation { step, source })?;
        self.work
            .metrics
            .append_eval(step, samples, self.epochs(), &found)?;
        self.work.events.eval(step, &found)?;
        self.end_split();
        let epoch_number = self.epoch();
        self.tell_valid(LearnerEvent::StartSplit {
            epoch_number,
            total_items: 1,
        });
        let progress = Progress::new(1, 1, Some("sets".to_owned()));
        let item = TrainingItem::new(found.clone(), progress, Some(step as usize), None);
        self.tell_valid(LearnerEvent::ProcessedItem(item));
        self.tell_valid(LearnerEvent::EndSplit(epoch_number));
        self.start_split();
        self.evaluation = Some(found);
        Ok(())
    }

    fn save(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        let now = Instant::now();
        self.work.state.seconds += (now - self.since).as_secs_f64();
        self.since = now;
        let mut faults = self.work.earlier_faults.clone();
        faults.merge(&self.loader.faults());
        self.work.state.faults = faults;
        // Lines of steps that the checkpoint has must not be lost with the machine.
        self.work.metrics.sync()?;
        let weights = weights_bytes(&model.clip);
        let optimizer = self.work.optimizer.to_bytes()?;
        let path = self
            .work
            .checkpoints
            .save(&self.work.state, &weights, &optimizer)?;
        log::debug!("checkpoint {}", path.display());
        if self.interrupter.should_stop() {
            self.notes
                .say(format!("stopped; checkpoint {}", path.display()));
        }
        Ok(())
    }

    /// Passes over the data so far, as a fraction.
    fn epochs(&self) -> f64 {
        let cursor = self.work.state.cursor;
        cursor.epoch as f64 + cursor.drawn as f64 / self.plan.samples_per_epoch.max(1) as f64
    }

    /// The pass at hand, counted from 1 as Burn does.
    fn epoch(&self) -> usize {
        self.work.state.cursor.epoch as usize + 1
    }

    fn progress(&self, drawn: u64) -> Progress {
        let total = self.plan.samples_per_epoch as usize;
        Progress::new(drawn as usize, total, Some("images".to_owned()))
    }

    fn start_split(&mut self) {
        let epoch_number = self.epoch();
        self.tell(LearnerEvent::StartSplit {
            epoch_number,
            total_items: self.plan.samples_per_epoch as usize,
        });
    }

    fn end_split(&mut self) {
        let epoch = self.epoch();
        self.tell(LearnerEvent::EndSplit(epoch));
    }

    fn tell(&mut self, event: LearnerEvent<StepOutput>) {
        let told = self.processor.process_train(event);
        self.interrupter.fail_on_error(told);
    }

    fn tell_valid(&mut self, event: LearnerEvent<EvalOutput>) {
        let told = self.processor.process_valid(event);
        self.interrupter.fail_on_error(told);
    }
}
