use std::time::Duration;

use crate::Schedule;

/// When things happen in a run, in steps.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) total_steps: u64,
    pub(super) schedule: Schedule,
    pub(super) eval_every: u64,
    pub(super) checkpoint_every: u64,
    pub(super) checkpoint_after: Option<Duration>,
    /// The evaluation whose highest value has its checkpoint kept.
    pub(super) best: Option<String>,
    pub(super) rollbacks: u32,
    /// Whether the run goes on without a device that stops.
    pub(super) elastic: bool,
    pub(super) samples_per_epoch: u64,
    /// Samples of a step.
    pub(super) batch: u64,
}

impl Plan {
    /// Passes over the data that the run begins.
    pub(super) fn epochs(&self) -> usize {
        let samples = self.total_steps.saturating_mul(self.batch);
        samples.div_ceil(self.samples_per_epoch.max(1)) as usize
    }

    pub(super) fn is_done(&self, step: u64) -> bool {
        step >= self.total_steps
    }

    pub(super) fn is_due(&self, every: u64, step: u64) -> bool {
        step.is_multiple_of(every) || self.is_done(step)
    }
}
