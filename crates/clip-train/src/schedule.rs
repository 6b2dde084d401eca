use serde::{Deserialize, Serialize};

/// Linear warm-up, then half a cosine down to zero.
///
/// # References
/// Loshchilov & Hutter 2016; OpenCLIP, `open_clip_train/scheduler.py`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CosineSchedule {
    /// The highest learning rate, reached at the end of the warm-up.
    pub lr: f64,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps of the run, warm-up included.
    pub total_steps: u64,
}

impl CosineSchedule {
    /// The learning rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let done = (step - self.warmup_steps) as f64;
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        0.5 * (1.0 + (std::f64::consts::PI * (done / rest).min(1.0)).cos()) * self.lr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_linearly_and_falls_to_zero() {
        let schedule = CosineSchedule {
            lr: 1e-3,
            warmup_steps: 10,
            total_steps: 110,
        };
        assert!((schedule.at(0) - 1e-4).abs() < 1e-12);
        assert!((schedule.at(9) - 1e-3).abs() < 1e-12);
        assert!((schedule.at(60) - 5e-4).abs() < 1e-12);
        assert!(schedule.at(110) < 1e-12);
        assert!(schedule.at(1_000) < 1e-12);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_all_warm_up() {
        let schedule = CosineSchedule {
            lr: 1.0,
            warmup_steps: 8,
            total_steps: 4,
        };
        assert!((schedule.at(3) - 0.5).abs() < 1e-12);
    }
}
