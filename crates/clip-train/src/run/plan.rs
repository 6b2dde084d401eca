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

    /// Samples of a pass, of which a run may end within its first one. A last pass that the run doesn't finish counts as
    /// whole: Burn's dashboard takes all passes for equally long.
    pub(super) fn samples_of_pass(&self) -> usize {
        let samples = self.total_steps.saturating_mul(self.batch);
        self.samples_per_epoch.min(samples) as usize
    }

    pub(super) fn is_done(&self, step: u64) -> bool {
        step >= self.total_steps
    }

    pub(super) fn is_due(&self, every: u64, step: u64) -> bool {
        step.is_multiple_of(every) || self.is_done(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decay;

    #[test]
    fn a_run_may_end_within_its_first_pass() {
        let plan = |total_steps| Plan {
            total_steps,
            schedule: Schedule {
                lr: 1e-3,
                warmup_steps: 0,
                total_steps,
                decay: Decay::default(),
            },
            eval_every: 1,
            checkpoint_every: 1,
            checkpoint_after: None,
            best: None,
            rollbacks: 0,
            elastic: false,
            samples_per_epoch: 1_000,
            batch: 10,
        };
        let [short, long] = [plan(20), plan(150)];
        assert_eq!((short.epochs(), short.samples_of_pass()), (1, 200));
        assert_eq!((long.epochs(), long.samples_of_pass()), (2, 1_000));
    }
}
