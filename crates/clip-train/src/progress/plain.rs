use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use burn::train::{
    LearnerSummary,
    logger::{EvaluationProgressLogger, TrainingProgressLogger},
    metric::{MetricDefinition, MetricId, NumericEntry},
    renderer::{
        EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
        MetricsRendererTraining,
    },
};
use clip_metrics::{human_duration, significant};

use super::{
    Notes, RunPlan,
    metrics::{Quantity, quantity},
};

/// Burn's event for every processed batch, which says nothing that `update_split` doesn't.
const BURN_ITERATION: &str = "Iteration";

/// A run as lines for a log file or a pipe.
///
/// ```text
/// step 120/470  epoch 5.1/20.0  loss 3.912  lr 9.8e-4  scale 17.2  84 img/s  data 1%  ETA 12m03s
/// ```
pub(crate) struct PlainRenderer {
    plan: RunPlan,
    notes: Notes,
    names: HashMap<MetricId, String>,
    train: Vec<(String, f64)>,
    /// Names, text as the metric formats it.
    valid: Vec<(String, String)>,
    split: Split,
    /// The step recorded last.
    step: u64,
    /// Steps of this program, those included that a rollback has undone.
    taken: u64,
    /// When the last line came, and after how many of them.
    last_line: Option<(Instant, u64)>,
    /// When the first of them ended. It isn't timed: kernels are compiled and workers started in it.
    pace_from: Option<Instant>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    Train,
    Valid,
}

impl PlainRenderer {
    /// Lines of the run `plan`, said by `notes`.
    pub(crate) fn new(plan: RunPlan, notes: Notes) -> Self {
        Self {
            plan,
            notes,
            names: HashMap::new(),
            train: Vec::new(),
            valid: Vec::new(),
            split: Split::Train,
            step: plan.steps_done,
            taken: 0,
            last_line: None,
            pace_from: None,
            clock: Box::new(Instant::now),
        }
    }

    fn after_step(&mut self) {
        self.step = self.notes.next_step().unwrap_or(self.step + 1);
        self.taken += 1;
        let now = (self.clock)();
        let since = *self.pace_from.get_or_insert(now);
        let due = self.last_line.is_none_or(|(at, taken)| {
            now.duration_since(at) >= self.plan.line_interval
                && self.taken - taken >= self.plan.line_steps
        });
        if !due && self.step != self.plan.total_steps {
            return;
        }
        self.last_line = Some((now, self.taken));
        let line = self.line(now.duration_since(since), self.taken - 1);
        self.notes.say(line);
    }

    /// `elapsed` is the time that the last `steps` steps took, evaluations between them included.
    fn line(&self, elapsed: Duration, steps: u64) -> String {
        let RunPlan {
            total_steps,
            steps_per_epoch,
            ..
        } = self.plan;
        let epoch = self.step as f64 / steps_per_epoch;
        let epochs = total_steps as f64 / steps_per_epoch;
        let mut parts = vec![
            format!("step {}/{total_steps}", self.step),
            format!("epoch {epoch:.1}/{epochs:.1}"),
        ];
        let value = |name: &str| {
            self.train
                .iter()
                .find_map(|(known, value)| (known == name).then_some(*value))
        };
        parts.extend(
            value(quantity::Loss::NAME).map(|loss| format!("loss {}", significant(loss, 4))),
        );
        for (name, of) in [
            (quantity::CaptionLoss::NAME, "caption"),
            (quantity::DistillLoss::NAME, "distill"),
        ] {
            parts.extend(value(name).map(|loss| format!("{of} {}", significant(loss, 4))));
        }
        parts.extend(value(quantity::LearningRate::NAME).map(|lr| format!("lr {lr:.1e}")));
        parts.extend(value(quantity::LogitScale::NAME).map(|scale| format!("scale {scale:.1}")));
        parts.extend(value(quantity::ImagesPerSecond::NAME).map(|rate| {
            let rate = if rate < 10.0 {
                format!("{rate:.1}")
            } else {
                format!("{rate:.0}")
            };
            format!("{rate} img/s")
        }));
        parts.extend(value(quantity::DataWait::NAME).map(|wait| format!("data {wait:.0}%")));
        let remaining = total_steps.saturating_sub(self.step);
        if remaining > 0 && steps > 0 {
            let left = elapsed.as_secs_f64() / steps as f64 * remaining as f64;
            parts.push(format!("ETA {}", human_duration(left)));
        }
        parts.join("  ")
    }

    fn name_of(&self, id: &MetricId) -> Option<&String> {
        self.names.get(id)
    }
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        // The mean of an epoch comes after its last step and would pass for the next step's value.
        let MetricState::Numeric(entry, Some(value)) = state else {
            return;
        };
        if matches!(value, NumericEntry::Final(_)) {
            return;
        }
        if let Some(name) = self.name_of(&entry.metric_id).cloned() {
            put(&mut self.train, name, value.current());
        }
    }

    fn update_valid(&mut self, state: MetricState) {
        let (MetricState::Generic(entry) | MetricState::Numeric(entry, _)) = state;
        if entry.serialized_entry.is_not_available() {
            return;
        }
        if let Some(name) = self.name_of(&entry.metric_id).cloned() {
            put(&mut self.valid, name, entry.serialized_entry.formatted);
        }
    }

    fn on_train_end(
        &mut self,
        summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        // Burn's default prints to stdout, which is for results.
        if let Some(summary) = summary {
            self.notes.say(summary.to_string());
        }
        Ok(())
    }
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(
        &mut self,
        _total_epochs: usize,
        _starting_epoch: usize,
        _total_items: Option<usize>,
        _label: Option<&str>,
    ) {
    }

    fn update_epoch(&mut self, _epoch: usize) {}

    fn start_split(&mut self, split: &str, _total_items: usize) {
        self.split = if split == "train" {
            Split::Train
        } else {
            Split::Valid
        };
        self.valid.clear();
    }

    fn update_split(&mut self, _items_processed: usize) {
        if self.split == Split::Train {
            self.after_step();
        }
    }

    fn end_split(&mut self) {
        if self.split == Split::Valid && !self.valid.is_empty() {
            let values = self
                .valid
                .iter()
                .map(|(name, text)| format!("{name} {text}"));
            let values = values.collect::<Vec<_>>().join("  ").replace(" %", "%");
            self.notes.say(format!("eval step {}  {values}", self.step));
        }
        self.split = Split::Train;
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, event: String) {
        if event != BURN_ITERATION {
            self.notes.say(event);
        }
    }
}

impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _name: EvaluationName, state: MetricState) {
        self.update_valid(state);
    }

    fn on_test_end(
        &mut self,
        summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        self.on_train_end(summary)
    }
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _total_tests: usize) {}

    fn start_test(&mut self, name: &str, total_items: usize) {
        self.start_split(name, total_items);
        self.split = Split::Valid;
    }

    fn update_test_progress(&mut self, _items_processed: usize) {}

    fn end_test(&mut self) {
        self.end_split();
    }

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, event: String) {
        self.log_event_training(event);
    }
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }
}

fn put<T>(values: &mut Vec<(String, T)>, name: String, value: T) {
    match values.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => values.push((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{
        BatchLossMetric, DataWaitMetric, EvalOutput, ImagesPerSecondMetric, LearningRateMetric,
        LogitScaleMetric, NamedMetric, StepOutput, display::tests::Captured,
    };
    use burn::{
        data::dataloader::Progress,
        train::metric::{Adaptor, Metric, MetricEntry, MetricMetadata, Numeric},
    };
    use clip_metrics::{Kind, Measured};
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    /// A renderer whose clock the test turns, in milliseconds.
    fn renderer(plan: RunPlan) -> (PlainRenderer, Captured, Arc<AtomicU64>) {
        let captured = Captured::default();
        let time = Arc::new(AtomicU64::new(0));
        let mut renderer = PlainRenderer::new(plan, Notes::new(captured.output(), None, None));
        let (start, now) = (Instant::now(), time.clone());
        renderer.clock =
            Box::new(move || start + Duration::from_millis(now.load(Ordering::Relaxed)));
        (renderer, captured, time)
    }

    fn metadata() -> MetricMetadata {
        MetricMetadata {
            progress: Progress::new(1, 1, None),
            iteration: Some(1),
            lr: None,
        }
    }

    /// What Burn's event processor does with a metric and an item.
    fn state<M, T>(renderer: &mut PlainRenderer, mut metric: M, item: &T) -> MetricState
    where
        M: Metric + Numeric,
        T: Adaptor<M::Input>,
    {
        let id = MetricId::new(metric.name());
        renderer.register_metric(MetricDefinition::new(id.clone(), &metric));
        let entry = metric.update(&item.adapt(), &metadata()).unwrap();
        MetricState::Numeric(MetricEntry::new(id, entry), metric.value())
    }

    fn train_step(renderer: &mut PlainRenderer) {
        let output = StepOutput {
            loss: 3.912_4,
            distill_loss: None,
            caption_loss: None,
            logit_scale: 17.24,
            lr: 9.8e-4,
            images_per_s: 84.2,
            data_wait: 0.011,
            grad_norm: 1.0,
            batch: 256,
        };
        let states = [
            state(renderer, BatchLossMetric::new(), &output),
            state(renderer, LearningRateMetric::new(), &output),
            state(renderer, LogitScaleMetric::new(), &output),
            state(renderer, ImagesPerSecondMetric::new(), &output),
            state(renderer, DataWaitMetric::new(), &output),
        ];
        for state in states {
            renderer.update_train(state);
        }
        renderer.update_split(256);
        renderer.log_event_training(BURN_ITERATION.to_string());
    }

    #[test]
    fn a_line_says_where_the_run_is_and_when_it_ends() {
        let mut plan = RunPlan::new(470, 23.5);
        plan.steps_done = 118;
        let (mut renderer, captured, time) = renderer(plan);
        renderer.start_split("train", 6000);
        train_step(&mut renderer);
        time.store(10_000, Ordering::Relaxed);
        train_step(&mut renderer);
        assert_eq!(
            captured.lines(),
            [
                "step 119/470  epoch 5.1/20.0  loss 3.912  lr 9.8e-4  scale 17.2  84 img/s  data 1%",
                "step 120/470  epoch 5.1/20.0  loss 3.912  lr 9.8e-4  scale 17.2  84 img/s  data 1%  ETA 58m20s",
            ]
        );
    }

    #[test]
    fn lines_keep_their_distance_but_the_last_step_is_said() {
        let (mut renderer, captured, time) = renderer(RunPlan::new(100, 10.0));
        renderer.start_split("train", 10);
        for step in 0..100 {
            time.store(500 * step, Ordering::Relaxed);
            train_step(&mut renderer);
        }
        let lines = captured.lines();
        let steps: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        assert_eq!(
            steps,
            ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
        );
    }

    #[test]
    fn a_run_that_is_rolled_back_counts_its_steps_again() {
        let (mut renderer, captured, time) = renderer(RunPlan::new(4, 10.0));
        renderer.start_split("train", 10);
        for (at, step) in [1, 2, 3, 2, 3, 4].into_iter().enumerate() {
            time.store(10_000 * at as u64, Ordering::Relaxed);
            renderer.notes.recorded(step);
            train_step(&mut renderer);
            if step == 3 {
                let output = EvalOutput {
                    loss: Some(3.5),
                    ..EvalOutput::default()
                };
                renderer.start_split("valid", 1);
                let state = state(
                    &mut renderer,
                    NamedMetric::new("val_loss", Kind::Loss),
                    &output,
                );
                renderer.update_valid(state);
                renderer.end_split();
            }
        }
        let lines = captured.lines();
        let ends = |line: &String| {
            let (first, last) = (line.split("  ").next(), line.split("  ").last());
            format!("{} {}", first.unwrap_or_default(), last.unwrap_or_default())
        };
        // A step takes ten seconds, whether it is undone or not.
        assert_eq!(
            lines.iter().map(ends).collect::<Vec<_>>(),
            [
                "step 1/4 data 1%",
                "step 2/4 ETA 20s",
                "step 3/4 ETA 10s",
                "eval step 3 Loss 3.500",
                "step 2/4 ETA 20s",
                "step 3/4 ETA 10s",
                "eval step 3 Loss 3.500",
                "step 4/4 data 1%",
            ]
        );
    }

    #[test]
    fn evaluations_and_checkpoints_have_their_lines() {
        let (mut renderer, captured, _) = renderer(RunPlan::new(10, 5.0));
        let output = EvalOutput {
            loss: Some(3.5),
            retrieval: vec![Measured::new("i2t_r1", Kind::Share, 0.016)],
            zeroshot: Vec::new(),
            ..EvalOutput::default()
        };
        renderer.start_split("valid", 1);
        for (key, kind) in [
            ("val_loss", Kind::Loss),
            ("i2t_r1", Kind::Share),
            ("zeroshot_top1", Kind::Share),
        ] {
            let state = state(&mut renderer, NamedMetric::new(key, kind), &output);
            renderer.update_valid(state);
        }
        renderer.update_split(1);
        renderer.end_split();
        renderer.log_event_training("checkpoint checkpoints/step-000005".to_string());
        assert_eq!(
            captured.lines(),
            [
                "eval step 0  Loss 3.500  image→text R@1 1.6%",
                "checkpoint checkpoints/step-000005"
            ]
        );
    }
}
