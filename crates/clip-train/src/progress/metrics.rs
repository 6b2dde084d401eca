use std::{marker::PhantomData, sync::Arc};

use burn::{
    tensor::TensorReadError,
    train::metric::{
        Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
        NumericEntry, SerializedEntry, state::NumericMetricState,
    },
};
use clip_metrics::{Kind, Measured, label_of, significant};

/// Digits shown of each value: enough to see a loss move, few enough for a narrow panel.
const DIGITS: usize = 4;

/// A number that each training step reports, and how it is shown.
pub(crate) trait Quantity: Clone + Send + Sync + 'static {
    /// The name on the dashboard's tab.
    const NAME: &'static str;
    /// The unit after the number, if it has one.
    const UNIT: Option<&'static str> = None;
    /// Whether more is better: which way "best" points in a summary.
    const HIGHER_IS_BETTER: bool;
    /// Whether the mean over an epoch says anything; of a schedule's value it doesn't.
    const MEAN_IS_MEANINGFUL: bool = true;
}

/// The quantities of a training step.
pub(crate) mod quantity {
    use super::Quantity;

    macro_rules! quantity {
        ($(#[$doc:meta])* $type:ident { $($body:tt)* }) => {
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $type;
            impl Quantity for $type { $($body)* }
        };
    }

    quantity!(
        /// The contrastive loss, in nats.
        Loss {
            const NAME: &'static str = "Loss";
            const HIGHER_IS_BETTER: bool = false;
        }
    );
    quantity!(
        /// What a CoCa model's decoder loses of each token, in nats.
        CaptionLoss {
            const NAME: &'static str = "Caption loss";
            const HIGHER_IS_BETTER: bool = false;
        }
    );
    quantity!(
        /// What similarities lose that should be a teacher's, in nats.
        DistillLoss {
            const NAME: &'static str = "Distillation loss";
            const HIGHER_IS_BETTER: bool = false;
        }
    );
    quantity!(
        /// The multiplier of the similarities, CLIP section 2.5.
        LogitScale {
            const NAME: &'static str = "Logit scale";
            const HIGHER_IS_BETTER: bool = true;
            const MEAN_IS_MEANINGFUL: bool = false;
        }
    );
    quantity!(
        /// The learning rate of the schedule.
        LearningRate {
            const NAME: &'static str = "Learning rate";
            const HIGHER_IS_BETTER: bool = false;
            const MEAN_IS_MEANINGFUL: bool = false;
        }
    );
    quantity!(
        /// Training throughput.
        ImagesPerSecond {
            const NAME: &'static str = "Throughput";
            const UNIT: Option<&'static str> = Some("images/s");
            const HIGHER_IS_BETTER: bool = true;
        }
    );
    quantity!(
        /// The share of a step spent waiting for data, in percent.
        DataWait {
            const NAME: &'static str = "Data wait";
            const UNIT: Option<&'static str> = Some("%");
            const HIGHER_IS_BETTER: bool = false;
        }
    );
    quantity!(
        /// The global norm of the gradient, before clipping.
        GradNorm {
            const NAME: &'static str = "Gradient norm";
            const HIGHER_IS_BETTER: bool = false;
        }
    );
}

/// The loss of each batch. (Burn's own `LossMetric` wants a tensor.)
pub(crate) type BatchLossMetric = QuantityMetric<quantity::Loss>;
/// A decoder's loss of each batch.
pub(crate) type CaptionLossMetric = QuantityMetric<quantity::CaptionLoss>;
/// A teacher's loss of each batch.
pub(crate) type DistillLossMetric = QuantityMetric<quantity::DistillLoss>;
/// The multiplier of the similarities.
pub(crate) type LogitScaleMetric = QuantityMetric<quantity::LogitScale>;
/// The learning rate that the step used.
pub(crate) type LearningRateMetric = QuantityMetric<quantity::LearningRate>;
/// Training throughput.
pub(crate) type ImagesPerSecondMetric = QuantityMetric<quantity::ImagesPerSecond>;
/// Time lost waiting for data.
pub(crate) type DataWaitMetric = QuantityMetric<quantity::DataWait>;
/// The gradient's norm before clipping.
pub(crate) type GradNormMetric = QuantityMetric<quantity::GradNorm>;

/// One value of a [`Quantity`], averaged over `weight` units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<Q> {
    value: f64,
    weight: usize,
    quantity: PhantomData<Q>,
}

impl<Q> Reading<Q> {
    /// A value that counts as `weight` in means over an epoch.
    pub(crate) fn new(value: f64, weight: usize) -> Self {
        Self {
            value,
            weight,
            quantity: PhantomData,
        }
    }
}

/// A Burn metric of one [`Quantity`].
#[derive(Clone)]
pub(crate) struct QuantityMetric<Q> {
    name: MetricName,
    state: NumericMetricState,
    latest: f64,
    quantity: PhantomData<Q>,
}

impl<Q: Quantity> Default for QuantityMetric<Q> {
    fn default() -> Self {
        Self {
            name: Arc::new(Q::NAME.to_string()),
            state: NumericMetricState::new(),
            latest: f64::NAN,
            quantity: PhantomData,
        }
    }
}

impl<Q: Quantity> QuantityMetric<Q> {
    /// The metric, with nothing seen yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn entry(&self, numeric: &NumericEntry) -> SerializedEntry {
        let unit = Q::UNIT.map_or(String::new(), |unit| format!(" {unit}"));
        let latest = significant(self.latest, DIGITS);
        let formatted = if Q::MEAN_IS_MEANINGFUL {
            let mean = significant(self.state.running_value().current(), DIGITS);
            format!("epoch {mean}{unit} - batch {latest}{unit}")
        } else {
            format!("{latest}{unit}")
        };
        SerializedEntry::new(formatted, numeric.serialize())
    }
}

impl<Q: Quantity> Metric for QuantityMetric<Q> {
    type Input = Reading<Q>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Q::UNIT.map(str::to_string),
            higher_is_better: Q::HIGHER_IS_BETTER,
        }
        .into()
    }

    fn update(
        &mut self,
        reading: &Self::Input,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.latest = reading.value;
        self.state.update(reading.value, reading.weight);
        Ok(self.entry(&self.state.current_value()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(&self.final_value()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl<Q: Quantity> Numeric for QuantityMetric<Q> {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        if Q::MEAN_IS_MEANINGFUL {
            self.state.final_value()
        } else {
            NumericEntry::Final(self.latest)
        }
    }
}

/// The numbers of one evaluation.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedValues(pub Vec<Measured>);

/// A Burn metric of one number of an evaluation, such as `i2t_r1`: an evaluation computes it
/// once over the whole set, so there is nothing to average.
#[derive(Clone)]
pub(crate) struct NamedMetric {
    key: String,
    name: MetricName,
    kind: Kind,
    latest: Option<f64>,
}

impl NamedMetric {
    /// The metric of `key`, a key of [`EvalOutput::named`](super::EvalOutput::named).
    ///
    /// Shares are shown in percent, losses and ranks as they are.
    pub(crate) fn new(key: impl Into<String>, kind: Kind) -> Self {
        let key = key.into();
        Self {
            name: Arc::new(label_of(&key)),
            kind,
            latest: None,
            key,
        }
    }

    fn is_share(&self) -> bool {
        self.kind == Kind::Share
    }

    fn shown(&self) -> Option<f64> {
        let factor = if self.is_share() { 100.0 } else { 1.0 };
        self.latest.map(|value| factor * value)
    }

    fn unit(&self) -> Option<&'static str> {
        self.is_share().then_some("%")
    }

    fn entry(&self, numeric: impl FnOnce(f64) -> NumericEntry) -> SerializedEntry {
        let Some(value) = self.shown() else {
            return SerializedEntry::not_available(self.unit());
        };
        let formatted = match self.unit() {
            Some(unit) => format!("{value:.1} {unit}"),
            None => significant(value, DIGITS),
        };
        SerializedEntry::new(formatted, numeric(value).serialize())
    }
}

impl Metric for NamedMetric {
    type Input = NamedValues;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: self.unit().map(str::to_string),
            higher_is_better: self.is_share(),
        }
        .into()
    }

    fn update(
        &mut self,
        values: &Self::Input,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        if let Some(found) = values.0.iter().find(|found| found.key == self.key) {
            self.latest = Some(found.value);
        }
        Ok(self.entry(NumericEntry::Value))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(NumericEntry::Final))
    }

    fn clear(&mut self) {
        self.latest = None;
    }
}

impl Numeric for NamedMetric {
    fn value(&self) -> Option<NumericEntry> {
        self.shown().map(NumericEntry::Value)
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.shown().unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataloader::Progress;

    fn metadata() -> MetricMetadata {
        MetricMetadata {
            progress: Progress::new(1, 1, None),
            iteration: Some(1),
            lr: None,
        }
    }

    #[test]
    fn the_loss_of_an_epoch_weighs_batches_by_their_pairs() {
        let mut metric = BatchLossMetric::new();
        metric.update(&Reading::new(4.0, 3), &metadata()).unwrap();
        let entry = metric.update(&Reading::new(2.0, 1), &metadata()).unwrap();
        assert_eq!(entry.formatted, "epoch 3.500 - batch 2.000");
        assert!((metric.final_value().current() - 3.5).abs() < 1e-12);
    }

    #[test]
    fn a_schedule_ends_an_epoch_at_its_last_value() {
        let mut metric = LearningRateMetric::new();
        metric.update(&Reading::new(1e-3, 1), &metadata()).unwrap();
        let entry = metric.update(&Reading::new(5e-4, 1), &metadata()).unwrap();
        assert_eq!(entry.formatted, "5.000e-4");
        assert_eq!(metric.compute().unwrap().serialized, "0.0005,final");
    }

    #[test]
    fn a_recall_is_shown_in_percent_and_absent_until_evaluated() {
        let mut metric = NamedMetric::new("i2t_r10", Kind::Share);
        assert_eq!(metric.name().as_str(), "image→text R@10");
        assert!(metric.value().is_none());
        let values = NamedValues(vec![
            Measured::new("i2t_r1", Kind::Share, 0.5),
            Measured::new("i2t_r10", Kind::Share, 0.088),
        ]);
        let entry = metric.update(&values, &metadata()).unwrap();
        assert_eq!(entry.formatted, "8.8 %");
        metric.clear();
        assert!(metric.value().is_none());
    }
}
