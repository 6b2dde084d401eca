use serde::{Deserialize, Serialize};

/// The learning rate over a run: linear warm-up, then a decay.
///
/// # References
/// OpenCLIP, `open_clip_train/scheduler.py`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate, reached at the end of the warm-up.
    pub lr: f64,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps of the run, warm-up included.
    pub total_steps: u64,
    /// What comes after the warm-up.
    pub decay: Decay,
}

/// How the learning rate goes on after the warm-up.
// Variants without fields have braces all the same: serde refuses unknown keys in those alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// Half a cosine down to zero: CLIP, section 2.5, from Loshchilov & Hutter 2016.
    Cosine {},
    /// None: for runs whose end isn't known.
    Constant {},
    /// Constant until `steps` before the end, then down to `lr_end` with `(1 - share done)^power`.
    ConstantCooldown {
        /// Optimizer steps of the cool-down.
        steps: u64,
        /// 1 is a straight line, as in the reference.
        #[serde(default = "straight")]
        power: f64,
        /// The last learning rate.
        #[serde(default)]
        lr_end: f64,
    },
}

impl Default for Decay {
    fn default() -> Self {
        Self::Cosine {}
    }
}

fn straight() -> f64 {
    1.0
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Cosine {} => {
                let done = share(step, self.warmup_steps, self.total_steps);
                0.5 * (1.0 + (std::f64::consts::PI * done).cos()) * self.lr
            }
            Decay::Constant {} => self.lr,
            Decay::ConstantCooldown {
                steps,
                power,
                lr_end,
            } => {
                let start = self.total_steps.saturating_sub(steps);
                let left = 1.0 - share(step, start, self.total_steps);
                lr_end + (self.lr - lr_end) * left.powf(power)
            }
        }
    }
}

/// How much of the way from `start` to `end` is done at `step`, in `[0, 1]`.
fn share(step: u64, start: u64, end: u64) -> f64 {
    let length = end.saturating_sub(start).max(1) as f64;
    (step.saturating_sub(start) as f64 / length).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> Schedule {
        Schedule {
            lr: 1e-3,
            warmup_steps: 10,
            total_steps: 110,
            decay,
        }
    }

    #[track_caller]
    fn assert_at(schedule: Schedule, expected: &[(u64, f64)]) {
        for (step, lr) in expected {
            let got = schedule.at(*step);
            assert!((got - lr).abs() < 1e-12, "step {step}: {got}, not {lr}");
        }
    }

    #[test]
    fn a_cosine_rises_linearly_and_falls_to_zero() {
        let expected = [(0, 1e-4), (9, 1e-3), (60, 5e-4), (110, 0.0), (1_000, 0.0)];
        assert_at(schedule(Decay::Cosine {}), &expected);
    }

    #[test]
    fn a_constant_stays_until_its_cooldown() {
        assert_at(
            schedule(Decay::Constant {}),
            &[(4, 5e-4), (10, 1e-3), (109, 1e-3)],
        );
        let cooldown = |power| Decay::ConstantCooldown {
            steps: 40,
            power,
            lr_end: 2e-4,
        };
        let straight = [(69, 1e-3), (70, 1e-3), (90, 6e-4), (110, 2e-4)];
        assert_at(schedule(cooldown(1.0)), &straight);
        assert_at(schedule(cooldown(2.0)), &[(90, 4e-4), (110, 2e-4)]);
    }

    #[test]
    fn a_key_that_a_kind_does_not_have_is_refused() {
        let read = |toml: &str| toml::from_str::<Decay>(toml);
        assert_eq!(read("kind = 'cosine'").unwrap(), Decay::default());
        assert_eq!(read("kind = 'constant'").unwrap(), Decay::Constant {});
        let written = toml::to_string(&Decay::default()).unwrap();
        assert_eq!(read(&written).unwrap(), Decay::default());
        let error = read("kind = 'cosine'\nlr_end = 1e-5").unwrap_err();
        assert!(error.to_string().contains("lr_end"), "{error}");
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_all_warm_up() {
        let schedule = Schedule {
            lr: 1.0,
            warmup_steps: 8,
            total_steps: 4,
            decay: Decay::Cosine {},
        };
        assert_at(schedule, &[(3, 0.5)]);
    }
}
