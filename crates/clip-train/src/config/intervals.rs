use serde::{Deserialize, Serialize};

use super::RunConfig;

/// When the model is tried on the validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps from one evaluation to the next. 0: a tenth of the run. The last step is always evaluated.
    pub steps: u64,
    /// Passes over the training data from one evaluation to the next, such as 1 or 0.5, instead of `steps`, to the nearest
    /// step. 0: by `steps`.
    pub epochs: f64,
    /// Images or texts encoded at once. 256.
    pub batch: usize,
}

/// When the run's state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps from one checkpoint to the next. 0: a tenth of the run and at most 1,000. The last step is always saved.
    pub steps: u64,
    /// Passes over the training data from one checkpoint to the next, such as 1 or 0.5, instead of `steps`, to the nearest
    /// step. 0: by `steps`.
    pub epochs: f64,
    /// Minutes after which a checkpoint is due whatever the steps. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// A folder, or an address at `s3://`, `gs://` or `az://`, where checkpoints and all that a run goes on with are kept a second
    /// time. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Newest checkpoints kept; 0: all of them, as `OpenCLIP` keeps those of its epochs. 2: the second is there when the
    /// newest turns out damaged.
    pub keep: usize,
    /// The key of an evaluation, such as `i2t_r1`: the checkpoint at which it was highest is kept too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<String>,
    /// How often a run that diverges goes back to its last checkpoint and on with the data after the bad batch. 0: it
    /// stops.
    pub rollbacks: u32,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 0.0,
            batch: 256,
        }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 0.0,
            minutes: None,
            mirror: None,
            keep: 2,
            best: None,
            rollbacks: 0,
        }
    }
}

impl CheckpointConfig {
    /// The most checkpoints that stay, beside the best.
    pub fn kept(&self) -> usize {
        match self.keep {
            0 => usize::MAX,
            keep => keep,
        }
    }
}

impl RunConfig {
    /// Steps from one evaluation to the next, over `samples` samples an epoch.
    pub fn eval_every(&self, samples: u64) -> u64 {
        let EvalConfig { steps, epochs, .. } = self.eval;
        self.interval(steps, epochs, samples)
            .unwrap_or_else(|| self.total_steps(samples).div_ceil(10))
    }

    /// Steps from one checkpoint to the next, over `samples` samples an epoch.
    pub fn checkpoint_every(&self, samples: u64) -> u64 {
        let CheckpointConfig { steps, epochs, .. } = self.checkpoint;
        self.interval(steps, epochs, samples)
            .unwrap_or_else(|| self.total_steps(samples).div_ceil(10).min(1_000))
    }

    /// Steps from one time to the next, as steps or epochs say it; `None` where neither does.
    fn interval(&self, steps: u64, epochs: f64, samples: u64) -> Option<u64> {
        if epochs > 0.0 {
            let nearest = (epochs * samples as f64 / self.batch as f64).round();
            return Some((nearest as u64).max(1));
        }
        (steps > 0).then_some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_and_checkpoints_come_by_steps_or_by_epochs() {
        let mut config = RunConfig::default();
        config.eval.steps = 7;
        config.checkpoint.steps = 9;
        assert_eq!(
            (config.eval_every(6_000), config.checkpoint_every(6_000)),
            (7, 9)
        );
        // 6,000 samples are 23.4 steps of 256.
        config.eval = EvalConfig {
            epochs: 1.0,
            ..EvalConfig::default()
        };
        config.checkpoint = CheckpointConfig {
            epochs: 2.5,
            ..CheckpointConfig::default()
        };
        assert_eq!(
            (config.eval_every(6_000), config.checkpoint_every(6_000)),
            (23, 59)
        );
        config.eval.epochs = 1e-9;
        assert_eq!(config.eval_every(6_000), 1);
    }
}
