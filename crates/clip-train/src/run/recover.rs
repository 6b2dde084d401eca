//! Checkpoints of a run as it goes on, and the way back to them.

use std::time::Instant;

use clip_data::Cursor;
use clip_model::weights::HostWeights;

use super::{ContrastiveLearner, steps::Steps};
use crate::{
    TrainError,
    checkpoint::{Contents, RunState},
    peak_memory,
};

/// Steps from a checkpoint within which a divergence is laid to it.
const SUSPECT_STEPS: u64 = 2;

impl Steps<'_> {
    /// Writes a checkpoint of the steps done, to stop at.
    pub(super) fn keep(&mut self, model: &mut ContrastiveLearner) -> Result<(), TrainError> {
        self.finish(model)?;
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
    pub(super) fn roll_back(
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
            model.clip().clone(),
            self.work.optimizer.clone(),
            self.work.ema.take(),
        )?;
        model.replace(clip);
        self.work.optimizer = optimizer;
        self.work.ema = ema;
        let state = &mut self.work.state;
        *state = RunState {
            cursor,
            faults: state.faults.clone(),
            seconds: state.seconds,
            peak_memory: state.peak_memory,
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

    /// Begins to write a checkpoint of copies.
    pub(super) fn save(&mut self, model: &ContrastiveLearner) -> Result<(), TrainError> {
        self.bring_up_to_date();
        self.saved = self.since;
        self.saved_step = Some(self.work.state.step);
        let work = &mut self.work;
        // Not two copies at a time, however slow the disk.
        work.writer.finish()?;
        let contents = Contents::new(
            HostWeights::of(model.clip()),
            work.optimizer.state(),
            work.ema.as_ref().map(|ema| HostWeights::of(ema.model())),
        );
        // Lines of steps that the checkpoint has must not be lost with the machine.
        let metrics = work.records.metrics.sync().map_err(TrainError::Record)?;
        work.writer.begin(work.state.clone(), contents, metrics)
    }

    /// Time, memory and faults so far.
    pub(super) fn bring_up_to_date(&mut self) {
        let now = Instant::now();
        self.work.state.seconds += (now - self.since).as_secs_f64();
        self.since = now;
        self.work.state.peak_memory = self.work.state.peak_memory.max(peak_memory());
        let mut faults = self.work.earlier_faults.clone();
        faults.merge(&self.loader.faults());
        self.work.state.faults = faults;
    }
}
