use std::{sync::Arc, time::Instant};

use burn::{
    data::dataloader::DataLoader,
    module::Module,
    train::{Interrupter, LearnerEvent, SupervisedTrainingEventProcessor},
};
use clip_data::{ImageTextBatch, TrainLoader};

use super::{
    ContrastiveLearner, EvaluateError, NotFinite, ahead::Prepared, plan::Plan, strategy::Work,
};
use crate::{
    PairBatch, StepGradients, TrainError,
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
            self.notes
                .say(format!("no checkpoint was written then: {error}"));
        }
        ended
    }

    fn train(
        &mut self,
        model: &mut ContrastiveLearner,
        loader: &Arc<dyn DataLoader<ImageTextBatch>>,
    ) -> Result<bool, TrainError> {
        let batches = model.batches(loader, self.plan.batch as usize);
        let mut batches = batches.map_err(|error| TrainError::Learner(error.to_string()))?;
        self.start_split();
        while !self.plan.is_done(self.work.state.step) {
            let began = Instant::now();
            let Some(batch) = batches.next() else {
                return Err(TrainError::Learner(
                    "the training data ended, which has no end; please report this".to_owned(),
                ));
            };
            let batch = batch.map_err(TrainError::Batches)?;
            let cursor = batch.cursor;
            match self.advance(model, batch, began) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error @ TrainError::Diverged { .. }) => {
                    self.roll_back(model, cursor, error)?;
                }
                Err(error) => return Err(error),
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

    /// A step and what is due after it; whether someone asked to stop. `began` is when its batch was asked for.
    fn advance(
        &mut self,
        model: &mut ContrastiveLearner,
        batch: Prepared,
        began: Instant,
    ) -> Result<bool, TrainError> {
        let waited = began.elapsed().as_secs_f64();
        let mut output = self.step(model, batch)?;
        let seconds = began.elapsed().as_secs_f64();
        output.images_per_s = output.batch as f64 / seconds;
        output.data_wait = waited / seconds;
        self.record(output)?;
        self.work.writer.check()?;

        let step = self.work.state.step;
        let stop = self.interrupter.should_stop();
        let limit = self.plan.checkpoint_after;
        let mut save = stop
            || self.plan.is_due(self.plan.checkpoint_every, step)
            || limit.is_some_and(|limit| self.saved.elapsed() >= limit);
        // Who asks to stop doesn't wait for an evaluation, but that of a run's end is its result.
        let evaluates = !stop || self.plan.is_done(step);
        if evaluates && self.plan.is_due(self.plan.eval_every, step) {
            save |= self.evaluate(model)?;
        }
        if save {
            self.save(model)?;
        }
        Ok(stop)
    }

    /// One optimizer step.
    fn step(
        &mut self,
        model: &mut ContrastiveLearner,
        Prepared { pairs, cursor }: Prepared,
    ) -> Result<StepOutput, TrainError> {
        let state = &self.work.state;
        let next = state.step + 1;
        let lr = self.plan.schedule.at(state.step);
        let count = pairs.images.count();
        let found = self.gradients(model, pairs)?;
        let mut output = model.update(&mut self.work.optimizer, lr, found, count);
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
        batch: PairBatch,
    ) -> Result<StepGradients, TrainError> {
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
}
