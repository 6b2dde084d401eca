use std::collections::VecDeque;

use clip_model::MAX_LOGIT_SCALE;

use crate::{config::Loss, progress::StepOutput};

/// Steps that a sign must hold for: one batch says nothing.
const WINDOW: usize = 50;
/// The share of what guessing loses that a loss must have lost by the end of the warm-up to count as moving.
const STUCK: f64 = 0.01;
/// Steps after the warm-up at which a loss that never moved is called stuck.
const PATIENCE: u64 = 200;
/// The share of the time spent waiting for data above which the loader is too slow.
const STARVED: f64 = 0.5;

/// Watches steps for the usual ways in which contrastive training goes wrong without an error. Each is told once.
#[derive(Debug)]
pub(crate) struct Guards {
    warmup_steps: u64,
    loss: Loss,
    losses: VecDeque<f64>,
    pinned: usize,
    waits: VecDeque<f64>,
    told: Vec<Sign>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Stuck,
    Pinned,
    Starved,
}

impl Guards {
    pub(crate) fn new(warmup_steps: u64, loss: Loss) -> Self {
        Self {
            warmup_steps,
            loss,
            losses: VecDeque::with_capacity(WINDOW),
            pinned: 0,
            waits: VecDeque::with_capacity(WINDOW),
            told: Vec::new(),
        }
    }

    /// Takes in a step, counted from 1; what it shows for the first time comes back, with its likely cause.
    pub(crate) fn observe(&mut self, step: u64, output: &StepOutput) -> Option<String> {
        let loss = mean_of_last(&mut self.losses, output.loss);
        let wait = mean_of_last(&mut self.waits, output.data_wait);
        let limit = f64::from(MAX_LOGIT_SCALE.exp()) * (1.0 - 1e-4);
        self.pinned = if output.logit_scale >= limit {
            self.pinned + 1
        } else {
            0
        };
        if step >= self.warmup_steps + PATIENCE
            && let Some(guessing) = self.loss.of_guessing(output.batch)
            && loss.is_some_and(|loss| loss > (1.0 - STUCK) * guessing)
        {
            return self.tell(Sign::Stuck, || {
                format!(
                    "after {step} steps the loss is still that of guessing, {guessing:.2}: do captions belong to their \
                     images, and differ from each other? If so, try a lower `lr` or a longer `warmup_steps`"
                )
            });
        }
        if self.pinned >= WINDOW {
            return self.tell(Sign::Pinned, || {
                format!(
                    "`logit_scale` has been at its limit of 100 for {WINDOW} steps: the model is sure of nearly every \
                     pair. Usual with little data seen often; more data or fewer epochs, or a lower `lr`"
                )
            });
        }
        if let Some(wait) = wait.filter(|wait| *wait > STARVED) {
            return self.tell(Sign::Starved, || {
                format!(
                    "{:.0}% of the last {WINDOW} steps went into waiting for data: more `data.workers`, shards on a \
                     faster disk, or images packed at a smaller size",
                    100.0 * wait
                )
            });
        }
        None
    }

    fn tell(&mut self, sign: Sign, text: impl FnOnce() -> String) -> Option<String> {
        if self.told.contains(&sign) {
            return None;
        }
        self.told.push(sign);
        Some(text())
    }
}

/// The mean of the last [`WINDOW`] values, once there are as many.
fn mean_of_last(values: &mut VecDeque<f64>, value: f64) -> Option<f64> {
    if values.len() == WINDOW {
        values.pop_front();
    }
    values.push_back(value);
    (values.len() == WINDOW).then(|| values.iter().sum::<f64>() / WINDOW as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(loss: f64, logit_scale: f64, data_wait: f64) -> StepOutput {
        StepOutput {
            loss,
            distill_loss: None,
            caption_loss: None,
            logit_scale,
            lr: 1e-3,
            images_per_s: 100.0,
            data_wait,
            grad_norm: 1.0,
            batch: 256,
        }
    }

    /// Everything told over `steps` steps.
    fn told(steps: u64, of: impl Fn(u64) -> StepOutput) -> Vec<String> {
        let mut guards = Guards::new(100, Loss::InfoNce);
        (1..=steps)
            .filter_map(|step| guards.observe(step, &of(step)))
            .collect()
    }

    #[test]
    fn a_run_that_learns_hears_nothing() {
        let learning = |step| output(5.5 - 0.01 * step as f64, 20.0, 0.02);
        assert!(told(400, learning).is_empty());
    }

    #[test]
    fn a_loss_of_guessing_is_told_once_after_the_warm_up() {
        let guessing = |_| output(5.54, 14.3, 0.0);
        assert!(told(299, guessing).is_empty());
        let told = told(1_000, guessing);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("guessing, 5.55"), "{told:?}");
    }

    #[test]
    fn a_pinned_temperature_and_a_starved_step_are_told() {
        let pinned = told(100, |_| output(1.0, 100.0, 0.0));
        assert!(
            pinned.len() == 1 && pinned[0].contains("logit_scale"),
            "{pinned:?}"
        );
        // One slow batch in ten is no stall.
        assert!(
            told(100, |step| output(
                1.0,
                20.0,
                f64::from(u8::from(step % 10 == 0))
            ))
            .is_empty()
        );
        let starved = told(100, |_| output(1.0, 20.0, 0.8));
        assert!(
            starved.len() == 1 && starved[0].contains("80%"),
            "{starved:?}"
        );
    }
}
