use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use burn::{
    data::dataloader::Progress,
    module::Module,
    train::{
        EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
        SupervisedTrainingEventProcessor, TrainLoader as BurnTrainLoader, TrainingComponents,
        TrainingItem, ValidLoader,
    },
};
use clip_data::{Cursor, FaultReport, ImageTextBatch, TrainLoader};
use clip_model::weights::HostWeights;

use super::{
    ContrastiveLearner, Evaluate, EvaluateError, NotFinite, Trained, plan::Plan, records::Records,
};
use crate::{
    Ema, Optimizer, StepGradients, TrainError,
    checkpoint::{Best, Contents, RunState, Writer},
    guard::Guards,
    progress::{EvalOutput, Notes, StepOutput},
};

/// What the loop changes as it goes.
pub(super) struct Work {
    pub(super) state: RunState,
    /// Bad samples of the parts of the run before this one.
    pub(super) earlier_faults: FaultReport,
    pub(super) optimizer: Optimizer,
    pub(super) ema: Option<Ema>,
    pub(super) evaluator: Option<Box<dyn Evaluate>>,
    pub(super) writer: Writer,
    pub(super) guards: Guards,
    pub(super) records: Records,
}

/// The loop over steps, in place of Burn's over epochs.
pub(super) struct ContrastiveStrategy {
    pub(super) plan: Plan,
    /// Tells position and faults of the batches that Burn's trait object gives.
    pub(super) loader: TrainLoader,
    pub(super) notes: Notes,
    /// The step of the checkpoint that the run goes on from.
    pub(super) resumed_from: Option<u64>,
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
        let now = Instant::now();
        let mut steps = Steps {
            plan: &self.plan,
            work,
            loader: &self.loader,
            notes: &self.notes,
            interrupter: components.interrupter,
            processor: components.event_processor,
            evaluation: None,
            since: now,
            saved: now,
            saved_step: self.resumed_from,
            suspect: None,
        };
        let ended = steps.run(&mut model, &*batches);
        let outcome = ended.map(|interrupted| Trained {
            model: model.valid().clip,
            ema: steps.work.ema.take().map(Ema::into_model),
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
    plan: &'a Plan,
    work: Work,
    loader: &'a TrainLoader,
    notes: &'a Notes,
    interrupter: Interrupter,
    processor: SupervisedTrainingEventProcessor<ContrastiveLearner>,
    evaluation: Option<EvalOutput>,
    /// When `work.state.seconds` was brought up to date.
    since: Instant,
    /// When the last checkpoint was begun.
    saved: Instant,
    /// The step of the last checkpoint begun.
    saved_step: Option<u64>,
    /// The checkpoint that the run went back to last: if it diverges again in the first steps from there, that may hold
    /// the cause.
    suspect: Option<u64>,
}

/// Steps from a checkpoint within which a divergence is laid to it.
const SUSPECT_STEPS: u64 = 2;

impl Steps<'_> {
    /// Trains until the last step, or until someone asks to stop, which is `true`. What ends it early but leaves the
    /// model as it was costs no step.
    fn run(
        &mut self,
        model: &mut ContrastiveLearner,
        batches: &dyn burn::data::dataloader::DataLoader<ImageTextBatch>,
    ) -> Result<bool, TrainError> {
        let ended = self.train(model, batches);
        if ended.as_ref().is_err_and(TrainError::leaves_model)
            && let Err(error) = self.keep(model)
        {
            // The error that ended the run matters more.
            self.notes
                .say(format!("no checkpoint was written then: {error}"));
        }
        ended
    }

    fn train(
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
            let cursor = batch.cursor;
            let mut output = match self.step(model, batch) {
                Err(error @ TrainError::Diverged { .. }) => {
                    self.roll_back(model, cursor, error)?;
                    continue;
                }
                other => other?,
            };
            let seconds = began.elapsed().as_secs_f64();
            output.images_per_s = output.batch as f64 / seconds;
            output.data_wait = waited / seconds;
            self.record(output)?;
            self.work.writer.check()?;

            let step = self.work.state.step;
            let stop = self.interrupter.should_stop();
            let mut due = stop || self.plan.is_due(self.plan.checkpoint_every, step);
            due |= self
                .plan
                .checkpoint_after
                .is_some_and(|limit| self.saved.elapsed() >= limit);
            // Who asks to stop doesn't wait for an evaluation, but that of a run's end is its result.
            let evaluates = !stop || self.plan.is_done(step);
            if evaluates && self.plan.is_due(self.plan.eval_every, step) {
                match self.evaluate(model) {
                    Err(error @ TrainError::Diverged { .. }) => {
                        self.roll_back(model, cursor, error)?;
                        continue;
                    }
                    found => due |= found?,
                }
            }
            if due {
                self.save(model)?;
            }
            if stop {
                break;
            }
        }
        let written = self.work.writer.finish()?;
        self.end_split();
        if let Some(error) = self.interrupter.error() {
            return Err(TrainError::Learner(error.to_string()));
        }
        let interrupted = !self.plan.is_done(self.work.state.step);
        if interrupted && let Some(path) = written {
            self.notes
                .say(format!("stopped; checkpoint {}", path.display()));
        }
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
        let pairs = batch.batch;
        let found = self.gradients(model, batch)?;
        let mut output = model.update(&mut self.work.optimizer, lr, found, pairs);
        output.lr = lr;
        for (what, value) in [("loss", output.loss), ("gradient norm", output.grad_norm)] {
            if !value.is_finite() {
                let step = next;
                return Err(TrainError::Diverged { what, step, value });
            }
        }
        let before = self.work.state.cursor.epoch;
        self.work.state.step = next;
        self.work.state.samples += output.batch as u64;
        self.work.state.cursor = cursor;
        if let Some(ema) = &mut self.work.ema {
            ema.update(model.valid().clip, next);
        }
        if cursor.epoch > before {
            self.end_split();
            self.tell(LearnerEvent::EndEpoch(cursor.epoch as usize));
            self.start_split();
        }
        Ok(output)
    }

    /// The gradients of a batch. An elastic run takes them again from the devices that are left when one stops; a step
    /// changes nothing before all its gradients are there, so it is as if that device had not been in this one.
    fn gradients(
        &self,
        model: &mut ContrastiveLearner,
        batch: ImageTextBatch,
    ) -> Result<StepGradients, TrainError> {
        let batch = model.pairs(batch);
        loop {
            let stopped = match model.gradients(&batch) {
                Ok(found) => return Ok(found),
                Err(stopped) => stopped,
            };
            let step = self.work.state.step + 1;
            if !(self.plan.elastic && model.leave_out(&stopped)) {
                return Err(TrainError::DeviceStopped {
                    has_model: stopped.has_model(),
                    device: stopped.name,
                    step,
                    reason: stopped.reason,
                });
            }
            self.notes.say(format!(
                "device {} stopped in step {step}: {}. The step is done again and the run goes on without it",
                stopped.name, stopped.reason
            ));
        }
    }

    /// Writes a checkpoint of the steps done, to stop at.
    fn keep(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        let step = self.work.state.step;
        if step > 0 && self.saved_step != Some(step) {
            self.save(model)?;
        }
        if let Some(path) = self.work.writer.finish()? {
            self.notes
                .say(format!("stopped; checkpoint {}", path.display()));
        }
        Ok(())
    }

    /// Goes back to the last checkpoint, and on with the data after `cursor`: `PaLM`'s way past a batch that a model
    /// can't take (Chowdhery et al. 2022, section 5.1). If it diverges again at once, to the one before, if there is one: a
    /// step of finite numbers can leave weights that no later one survives, and be saved.
    fn roll_back(
        &mut self,
        model: &mut ContrastiveLearner,
        cursor: Cursor,
        error: TrainError,
    ) -> Result<(), TrainError> {
        if self.work.state.rollbacks >= self.plan.rollbacks {
            return Err(error);
        }
        let checkpoints = self.work.writer.checkpoints()?;
        let suspect = self
            .suspect
            .filter(|suspect| self.work.state.step < suspect + SUSPECT_STEPS);
        let before = match suspect {
            Some(suspect) => checkpoints.latest_before(suspect)?,
            None => None,
        };
        let found = match before {
            Some(found) => Some(found),
            None => checkpoints.latest()?,
        };
        let Some((found, _)) = found else {
            return Err(error);
        };
        let (clip, optimizer, ema) = found.restore(
            model.clip.clone(),
            self.work.optimizer.clone(),
            self.work.ema.take(),
        )?;
        model.clip = clip;
        self.work.optimizer = optimizer;
        self.work.ema = ema;
        let state = &mut self.work.state;
        *state = RunState {
            cursor,
            faults: state.faults.clone(),
            seconds: state.seconds,
            rollbacks: state.rollbacks + 1,
            ..found.state
        };
        let step = state.step;
        self.suspect = Some(step);
        self.saved_step = None;
        self.work.records.rewind(step)?;
        self.notes.say(format!(
            "{error}. Rolled back to step {step}, and on with the data after the bad batch"
        ));
        Ok(())
    }

    fn record(&mut self, output: StepOutput) -> Result<(), TrainError> {
        let RunState {
            step,
            samples,
            cursor,
            ..
        } = self.work.state;
        let epochs = self.epochs();
        let records = &mut self.work.records;
        records
            .metrics
            .append_step(step, samples, epochs, &output)?;
        records.events.step(step, &output)?;
        if let Some(sign) = self.work.guards.observe(step, &output) {
            self.notes.say(sign);
        }
        let progress = self.progress(cursor.drawn);
        let item = TrainingItem::new(output, progress, Some(step as usize), None);
        self.tell(LearnerEvent::ProcessedItem(item));
        Ok(())
    }

    /// Tries the model; whether its checkpoint must be kept as the best so far.
    fn evaluate(&mut self, model: &ContrastiveLearner) -> Result<bool, TrainError> {
        let Some(evaluator) = &mut self.work.evaluator else {
            return Ok(false);
        };
        let RunState { step, samples, .. } = self.work.state;
        let failed = |source: EvaluateError| {
            if source.is::<NotFinite>() {
                let (what, value) = ("evaluation", f64::NAN);
                return TrainError::Diverged { what, step, value };
            }
            TrainError::Evaluation { step, source }
        };
        // The averaged weights first: what the evaluator keeps of its last call is the model's own.
        let averaged = match &self.work.ema {
            Some(ema) => Some(evaluator.evaluate(ema.model()).map_err(failed)?),
            None => None,
        };
        let mut found = evaluator.evaluate(&model.valid().clip).map_err(failed)?;
        if let Some(averaged) = averaged {
            found.averaged = averaged.named().collect();
        }
        let is_best = self.is_best(step, &found)?;
        if found.named().next().is_some() {
            let epochs = self.epochs();
            let records = &mut self.work.records;
            records.metrics.append_eval(step, samples, epochs, &found)?;
            records.events.eval(step, &found)?;
            self.show(step, &found);
        }
        self.bring_up_to_date();
        if let Some(evaluator) = &mut self.work.evaluator {
            evaluator.recorded(&self.work.state).map_err(failed)?;
        }
        self.evaluation = Some(found);
        Ok(is_best)
    }

    /// Takes note of the highest value of what `checkpoint.best` names.
    fn is_best(&mut self, step: u64, found: &EvalOutput) -> Result<bool, TrainError> {
        let Some(key) = &self.plan.best else {
            return Ok(false);
        };
        let Some((_, value)) = found.named().find(|(found, _)| found == key) else {
            let keys: Vec<String> = found.named().map(|(key, _)| key).collect();
            return Err(TrainError::Config {
                origin: "`checkpoint.best`".to_owned(),
                reason: format!(
                    "no evaluation gives {key:?}; these are there: {}",
                    keys.join(", ")
                ),
            });
        };
        let best = &mut self.work.state.best;
        if best
            .as_ref()
            .is_some_and(|best| best.key == *key && best.value >= value)
        {
            return Ok(false);
        }
        *best = Some(Best {
            key: key.clone(),
            step,
            value,
        });
        Ok(true)
    }

    fn show(&mut self, step: u64, found: &EvalOutput) {
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
    }

    /// Begins to write a checkpoint of copies.
    fn save(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        self.bring_up_to_date();
        self.saved = self.since;
        self.saved_step = Some(self.work.state.step);
        let work = &mut self.work;
        // Not two copies at a time, however slow the disk.
        work.writer.finish()?;
        let contents = Contents::new(
            HostWeights::of(&model.clip),
            work.optimizer.state(),
            work.ema.as_ref().map(|ema| HostWeights::of(ema.model())),
        );
        // Lines of steps that the checkpoint has must not be lost with the machine.
        let metrics = work.records.metrics.handle()?;
        work.writer.begin(work.state.clone(), contents, metrics)
    }

    /// Time and faults so far.
    fn bring_up_to_date(&mut self) {
        let now = Instant::now();
        self.work.state.seconds += (now - self.since).as_secs_f64();
        self.since = now;
        let mut faults = self.work.earlier_faults.clone();
        faults.merge(&self.loader.faults());
        self.work.state.faults = faults;
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
