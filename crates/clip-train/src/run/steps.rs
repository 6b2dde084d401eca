use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use burn::{
    data::dataloader::DataLoader,
    module::Module,
    train::{Interrupter, LearnerEvent, SupervisedTrainingEventProcessor},
};
use clip_data::{Cursor, ImageTextBatch, TrainLoader};
use clip_metrics::Measured;

use super::{
    ContrastiveLearner, EvaluateError, EvaluationStopped, NotFinite,
    ahead::Prepared,
    learner::{Numbers, StepNumbers},
    plan::Plan,
    strategy::Work,
};
use crate::{
    Aside, PairBatch, Pending, StepGradients, TrainError,
    checkpoint::{Best, RunState},
    progress::{EvalOutput, Notes, StepOutput},
};

/// The steps of a run, with everything they touch.
pub(super) struct Steps<'a> {
    pub(super) plan: &'a Plan,
    pub(super) work: Work,
    pub(super) loader: &'a TrainLoader,
    pub(super) notes: &'a Notes,
    pub(super) interrupter: Interrupter,
    pub(super) processor: SupervisedTrainingEventProcessor<ContrastiveLearner>,
    pub(super) evaluation: Option<EvalOutput>,
    /// The step whose numbers are still to be read. On a device that computes while this program goes on, it has the next
    /// step's gradients to compute before these are waited for.
    pub(super) begun: Option<Begun>,
    /// Reads a step's numbers while this thread asks for the next step, where batches are brought to the device ahead.
    pub(super) reader: Option<Aside>,
    /// When the step before was done, and all that was due after it.
    pub(super) ready: Instant,
    /// For batches since then, of which the last may be the next step's.
    pub(super) waited: Duration,
    /// When `work.state.seconds` was brought up to date.
    pub(super) since: Instant,
    /// When the last checkpoint was begun.
    pub(super) saved: Instant,
    /// The step of the last checkpoint begun.
    pub(super) saved_step: Option<u64>,
    /// The checkpoint that the run went back to last: if it diverges again in the first steps from there, that may hold
    /// the cause.
    pub(super) suspect: Option<u64>,
}

/// A step that has been asked of the device: the model is the one after it.
pub(super) struct Begun {
    numbers: Reading,
    lr: f64,
    images: usize,
    /// The position after its batch.
    cursor: Cursor,
}

/// A step's numbers, and who reads them.
#[allow(clippy::large_enum_variant, reason = "there is one a run")]
enum Reading {
    Here(Numbers),
    Aside(Pending<Result<StepNumbers, String>>),
}

impl Steps<'_> {
    /// Trains until the last step, or until someone asks to stop, which is `true`. What ends it early but leaves the
    /// model as it was costs no step.
    pub(super) fn run(
        &mut self,
        model: &mut ContrastiveLearner,
        loader: &Arc<dyn DataLoader<ImageTextBatch>>,
    ) -> Result<bool, TrainError> {
        let ended = self.train(model, loader);
        if ended.as_ref().is_err_and(TrainError::leaves_model)
            && let Err(error) = self.keep(model)
        {
            // The error that ended the run matters more.
            self.notes.say(format!(
                "no checkpoint was written then: {}",
                clip_files::one_line(&error)
            ));
        }
        ended
    }

    fn train(
        &mut self,
        model: &mut ContrastiveLearner,
        loader: &Arc<dyn DataLoader<ImageTextBatch>>,
    ) -> Result<bool, TrainError> {
        let batches = model.batches(loader, self.plan.batch as usize);
        let no_thread = |name| clip_files::io("start the thread", name);
        let mut batches = batches.map_err(no_thread("batches"))?;
        let reader = batches.are_ahead().then(|| Aside::new("numbers"));
        self.reader = reader.transpose().map_err(no_thread("numbers"))?;
        self.start_split();
        self.evaluate_what_is_owed(model)?;
        self.ready = Instant::now();
        let mut stop = self.interrupter.should_stop();
        while !stop && !self.plan.is_done(self.begun_step()) {
            let asked = Instant::now();
            let Some(batch) = batches.next() else {
                return Err(TrainError::Learner(
                    "the training data ended, which has no end; please report this".to_owned(),
                ));
            };
            let Prepared { pairs, cursor } = batch.map_err(TrainError::Batches)?;
            self.waited += asked.elapsed();
            let mut found = self.gradients(model, &pairs)?;
            if self.begun.is_some() {
                let rollbacks = self.work.state.rollbacks;
                stop = self.finish(model)?;
                if stop {
                    break;
                }
                if self.work.state.rollbacks > rollbacks {
                    // The model is another.
                    found = self.gradients(model, &pairs)?;
                }
            }
            self.begin(model, found, pairs.images.count(), cursor);
            if !batches.are_ahead()
                || self.is_due(self.begun_step())
                || self.interrupter.should_stop()
            {
                stop = self.finish(model)?;
            }
        }
        let written = self.work.writer.finish()?;
        self.end_split();
        if let Some(error) = self.interrupter.error() {
            return Err(TrainError::Learner(error.to_string()));
        }
        let mut interrupted =
            !self.plan.is_done(self.work.state.step) || (stop && self.owes_evaluation());
        if interrupted && let Some(path) = written {
            self.notes
                .say(format!("stopped; checkpoint {}", path.display()));
        }
        if self.evaluation.is_none() && !interrupted {
            // Everything was trained before this start, and told.
            self.evaluation = self.found(model)?;
            interrupted = self.evaluation.is_none() && self.interrupter.should_stop();
        }
        Ok(interrupted)
    }

    /// Takes the optimizer's step, without waiting for the device.
    fn begin(
        &mut self,
        model: &mut ContrastiveLearner,
        found: StepGradients,
        images: usize,
        cursor: Cursor,
    ) {
        let lr = self.plan.schedule.at(self.work.state.step);
        let numbers = model.update(&mut self.work.optimizer, lr, found);
        let numbers = match &self.reader {
            Some(reader) => {
                model.submit();
                Reading::Aside(reader.run(move || numbers.read()))
            }
            None => Reading::Here(numbers),
        };
        self.begun = Some(Begun {
            numbers,
            lr,
            images,
            cursor,
        });
    }

    /// Waits for the step that was begun, and does what is due after it; whether someone asked to stop. One that diverged
    /// is taken back, as often as the run allows.
    pub(super) fn finish(&mut self, model: &mut ContrastiveLearner) -> Result<bool, TrainError> {
        let Some(begun) = self.begun.take() else {
            return Ok(false);
        };
        let cursor = begun.cursor;
        let read = self.read(model, begun);
        let finished = match read.and_then(|output| self.follow_up(model, output)) {
            Err(error @ TrainError::Diverged { .. }) => {
                self.roll_back(model, cursor, error).map(|()| false)
            }
            finished => finished,
        };
        self.ready = Instant::now();
        finished
    }

    /// Tells a step's numbers, and evaluates and saves if that is due after it; whether someone asked to stop.
    fn follow_up(
        &mut self,
        model: &ContrastiveLearner,
        output: StepOutput,
    ) -> Result<bool, TrainError> {
        self.record(output)?;
        self.work.writer.check()?;

        let step = self.work.state.step;
        let limit = self.plan.checkpoint_after;
        let mut save = self.plan.is_due(self.plan.checkpoint_every, step)
            || limit.is_some_and(|limit| self.saved.elapsed() >= limit);
        // Who asks to stop doesn't wait for an evaluation, which is owed then.
        if !self.interrupter.should_stop() && self.plan.is_due(self.plan.eval_every, step) {
            save |= self.evaluate(model)?;
        }
        let stop = self.interrupter.should_stop();
        if save || stop {
            self.save(model)?;
        }
        Ok(stop)
    }

    /// Waits for a step's numbers, with which a device tells of all that went wrong in it; if they are finite, the step
    /// counts.
    fn read(&mut self, model: &ContrastiveLearner, begun: Begun) -> Result<StepOutput, TrainError> {
        let Begun {
            numbers,
            lr,
            images,
            cursor,
        } = begun;
        let step = self.work.state.step + 1;
        let read = match numbers {
            Reading::Here(numbers) => numbers.read(),
            Reading::Aside(numbers) => numbers.wait(),
        };
        let read = read.map_err(|reason| TrainError::DeviceStopped {
            device: model.own_device(),
            step,
            reason,
            has_model: true,
        })?;
        let seconds = self.ready.elapsed().as_secs_f64();
        let output = StepOutput {
            loss: read.loss,
            distill_loss: read.distill_loss,
            caption_loss: read.caption_loss,
            logit_scale: read.logit_scale,
            lr,
            images_per_s: images as f64 / seconds,
            data_wait: mem::take(&mut self.waited).as_secs_f64() / seconds,
            grad_norm: read.grad_norm,
            batch: images,
        };
        for (what, value) in [("loss", output.loss), ("gradient norm", output.grad_norm)] {
            if !value.is_finite() {
                return Err(TrainError::Diverged { what, step, value });
            }
        }
        let before = self.work.state.cursor.epoch;
        self.work.state.step = step;
        self.work.state.samples += images as u64;
        self.work.state.cursor = cursor;
        if let Some(ema) = &mut self.work.ema {
            ema.update(model.clip().valid(), step);
        }
        if cursor.epoch > before {
            self.end_split();
            self.tell(LearnerEvent::EndEpoch(cursor.epoch as usize));
            self.start_split();
        }
        Ok(output)
    }

    /// The last step that was begun.
    fn begun_step(&self) -> u64 {
        self.work.state.step + u64::from(self.begun.is_some())
    }

    /// Whether an evaluation, a checkpoint or the end comes after a step.
    fn is_due(&self, step: u64) -> bool {
        let plan = self.plan;
        let evaluates = self.work.evaluator.is_some() && plan.is_due(plan.eval_every, step);
        evaluates || plan.is_due(plan.checkpoint_every, step)
    }

    /// The gradients of a batch. An elastic run takes them again from the devices that are left when one stops; a step
    /// changes nothing before all its gradients are there, so it is as if that device had not been in this one.
    fn gradients(
        &self,
        model: &mut ContrastiveLearner,
        batch: &PairBatch,
    ) -> Result<StepGradients, TrainError> {
        loop {
            let stopped = match model.gradients(batch) {
                Ok(found) => return Ok(found),
                Err(stopped) => stopped,
            };
            let step = self.begun_step() + 1;
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

    /// Evaluates after the step that the run goes on from if that is due and didn't happen: who asked to stop didn't wait
    /// for it.
    fn evaluate_what_is_owed(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        if self.owes_evaluation() && self.evaluate(model)? {
            self.save(model)?;
        }
        Ok(())
    }

    fn owes_evaluation(&self) -> bool {
        let step = self.work.state.step;
        let is_due = step > 0 && self.plan.is_due(self.plan.eval_every, step);
        is_due && self.work.evaluator.is_some() && self.work.records.evaluated != Some(step)
    }

    /// What the model gives; `None` where nothing is evaluated, or someone asked to stop.
    fn found(&mut self, model: &ContrastiveLearner) -> Result<Option<EvalOutput>, TrainError> {
        let Some(evaluator) = &mut self.work.evaluator else {
            return Ok(None);
        };
        let step = self.work.state.step;
        // The averaged weights first: what the evaluator keeps of its last call is the model's own.
        let averaged = self.work.ema.as_ref();
        let averaged = averaged.map(|ema| evaluator.evaluate(ema.model()));
        let found = averaged.transpose().and_then(|averaged| {
            let mut found = evaluator.evaluate(&model.clip().valid())?;
            if let Some(averaged) = averaged {
                found.averaged = averaged.named().collect();
            }
            Ok(found)
        });
        match found {
            Err(error) if error.is::<EvaluationStopped>() => Ok(None),
            found => found
                .map(Some)
                .map_err(|error| evaluation_failed(step, error)),
        }
    }

    /// Tries the model; whether its checkpoint must be kept as the best so far.
    fn evaluate(&mut self, model: &ContrastiveLearner) -> Result<bool, TrainError> {
        let Some(found) = self.found(model)? else {
            return Ok(false);
        };
        let RunState { step, samples, .. } = self.work.state;
        let is_best = self.is_best(step, &found)?;
        if found.named().next().is_some() {
            let epochs = self.epochs();
            let records = &mut self.work.records;
            let written = records.metrics.append_eval(step, samples, epochs, &found);
            let written = written.and_then(|()| records.events.eval(step, &found));
            written.map_err(TrainError::Record)?;
            records.evaluated = Some(step);
            self.show(step, &found);
        }
        self.bring_up_to_date();
        self.work.writer.run().check_in_place()?;
        if let Some(evaluator) = &mut self.work.evaluator {
            let recorded = evaluator.recorded(&self.work.state);
            recorded.map_err(|source| evaluation_failed(step, source))?;
        }
        self.evaluation = Some(found);
        Ok(is_best)
    }

    /// Takes note of the highest value of what `checkpoint.best` names.
    fn is_best(&mut self, step: u64, found: &EvalOutput) -> Result<bool, TrainError> {
        let Some(key) = &self.plan.best else {
            return Ok(false);
        };
        let Some(Measured { value, .. }) = found.named().find(|found| found.key == *key) else {
            let keys: Vec<String> = found.named().map(|found| found.key).collect();
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
}

fn evaluation_failed(step: u64, source: EvaluateError) -> TrainError {
    if source.is::<NotFinite>() {
        let (what, value) = ("evaluation", f64::NAN);
        return TrainError::Diverged { what, step, value };
    }
    TrainError::Evaluation { step, source }
}
