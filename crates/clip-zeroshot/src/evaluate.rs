use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::{Bootstrap, TiedRank, ZeroShotError, features::finite_rows};

/// How well the samples of one class are classified.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ClassAccuracy {
    /// The class's name.
    pub name: String,
    /// Top-1 accuracy over its samples; nothing when it has none.
    pub accuracy: Option<f64>,
    /// How many samples have this label.
    pub samples: usize,
}

/// The figures of a zero-shot evaluation. All are fractions between 0 and 1.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ZeroShotReport {
    /// Share of samples whose class has the highest logit.
    pub top1: f64,
    /// Share of samples whose class is among the five highest.
    pub top5: f64,
    /// Mean of the per-class accuracies, over the classes with samples.
    pub mean_per_class: f64,
    /// 95% bootstrap interval of `top1`: low, high.
    pub ci95: [f64; 2],
    /// 95% bootstrap interval of `top5`: low, high.
    pub top5_ci95: [f64; 2],
    /// 95% bootstrap interval of `mean_per_class`: low, high.
    pub mean_per_class_ci95: [f64; 2],
    /// How many samples were evaluated.
    pub samples: usize,
    /// Accuracy of each class, in the order of the labels.
    pub per_class: Vec<ClassAccuracy>,
}

/// How often samples of one class were taken for another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfusionMatrix {
    // Most of a large matrix is empty.
    counts: BTreeMap<(u32, u32), usize>,
}

impl ConfusionMatrix {
    /// How many samples with a label had their highest logit at a class (the first, of equal ones).
    pub fn count(&self, label: usize, predicted: usize) -> usize {
        let key = (label as u32, predicted as u32);
        self.counts.get(&key).copied().unwrap_or(0)
    }

    /// The counts that are not zero, as (label, predicted, count), in the order of labels.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.counts
            .iter()
            .map(|(&(label, predicted), &count)| (label as usize, predicted as usize, count))
    }

    /// The confusions, as (label, predicted, count), the most frequent first.
    pub fn worst(&self) -> Vec<(usize, usize, usize)> {
        let mut worst: Vec<_> = self
            .entries()
            .filter(|(label, predicted, _)| label != predicted)
            .collect();
        worst.sort_by_key(|&(.., count)| std::cmp::Reverse(count));
        worst
    }
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    label: u32,
    /// 0 or 1 but for ties, where it is the chance of a right guess.
    top1: f32,
    top5: f32,
}

/// Collects what a classifier says about labelled samples, batch by batch, in twelve bytes a sample.
///
/// Ties neither help nor hurt: see [`TiedRank`].
#[derive(Clone, Debug)]
pub struct ZeroShotEvaluator {
    names: Vec<String>,
    outcomes: Vec<Outcome>,
    confusion: ConfusionMatrix,
    bootstrap: Bootstrap,
}

impl ZeroShotEvaluator {
    /// An evaluator of a classifier with these classes.
    pub fn new(names: &[String], bootstrap: Bootstrap) -> Self {
        Self {
            names: names.to_vec(),
            outcomes: Vec::new(),
            confusion: ConfusionMatrix::default(),
            bootstrap,
        }
    }

    /// Adds a batch.
    ///
    /// # Shapes
    /// - `logits`: `[batch, classes]`; only their order within a row counts
    /// - `labels`: `batch` of them
    ///
    /// # Errors
    /// [`ZeroShotError::LabelOutOfRange`], [`ZeroShotError::NotFinite`] or [`ZeroShotError::Shape`]; the
    /// batch is then left out as a whole.
    pub fn add(&mut self, logits: Tensor<2>, labels: &[u32]) -> Result<(), ZeroShotError> {
        let classes = self.names.len();
        let expected = [labels.len(), classes];
        if logits.dims() != expected {
            return Err(ZeroShotError::Shape {
                what: "logits of a labelled batch".to_owned(),
                expected,
                got: logits.dims(),
            });
        }
        let seen = self.outcomes.len();
        if let Some(at) = labels.iter().position(|&label| label as usize >= classes) {
            return Err(ZeroShotError::LabelOutOfRange {
                position: seen + at,
                label: labels[at],
                classes,
            });
        }
        let rows = finite_rows(logits, |row| format!("a logit of sample {}", seen + row))?;
        for (row, &label) in rows.chunks_exact(classes).zip(labels) {
            let own = row[label as usize];
            let mut rank = TiedRank {
                better: 0,
                tied: 0,
                relevant: 1,
            };
            let mut predicted = 0;
            for (class, &logit) in row.iter().enumerate() {
                rank.better += usize::from(logit > own);
                rank.tied += usize::from(logit >= own);
                if logit > row[predicted] {
                    predicted = class;
                }
            }
            rank.tied -= rank.better;
            let key = (label, predicted as u32);
            *self.confusion.counts.entry(key).or_default() += 1;
            self.outcomes.push(Outcome {
                label,
                top1: rank.recall_at(1) as f32,
                top5: rank.recall_at(5) as f32,
            });
        }
        Ok(())
    }

    /// Which classes were taken for which.
    pub fn confusion(&self) -> &ConfusionMatrix {
        &self.confusion
    }

    /// The figures of all samples added.
    ///
    /// # Errors
    /// [`ZeroShotError::NoSamples`].
    pub fn report(&self) -> Result<ZeroShotReport, ZeroShotError> {
        if self.outcomes.is_empty() {
            return Err(ZeroShotError::NoSamples);
        }
        let samples = self.outcomes.len();
        let everyone: Vec<u32> = (0..samples as u32).collect();
        let mut classes = vec![(0.0, 0usize); self.names.len()];
        let [top1, top5, mean_per_class] = self.statistics(&everyone, &mut classes);
        let per_class = self
            .names
            .iter()
            .zip(&classes)
            .map(|(name, &(hits, samples))| ClassAccuracy {
                name: name.clone(),
                accuracy: (samples > 0).then(|| hits / samples as f64),
                samples,
            })
            .collect();
        let [ci95, top5_ci95, mean_per_class_ci95] = self
            .bootstrap
            .intervals(samples, |drawn| self.statistics(drawn, &mut classes));
        Ok(ZeroShotReport {
            top1,
            top5,
            mean_per_class,
            ci95,
            top5_ci95,
            mean_per_class_ci95,
            samples,
            per_class,
        })
    }

    /// Top-1, top-5 and mean per-class accuracy of some samples; `classes` takes each class's hits and count.
    fn statistics(&self, positions: &[u32], classes: &mut [(f64, usize)]) -> [f64; 3] {
        classes.fill((0.0, 0));
        let mut top5 = 0.0;
        for &position in positions {
            let outcome = self.outcomes[position as usize];
            let class = &mut classes[outcome.label as usize];
            class.0 += f64::from(outcome.top1);
            class.1 += 1;
            top5 += f64::from(outcome.top5);
        }
        let top1: f64 = classes.iter().map(|(hits, _)| hits).sum();
        let present = classes.iter().filter(|(_, samples)| *samples > 0);
        let accuracies = present
            .clone()
            .map(|&(hits, samples)| hits / samples as f64);
        let mean_per_class = accuracies.sum::<f64>() / present.count().max(1) as f64;
        let samples = positions.len().max(1) as f64;
        [top1 / samples, top5 / samples, mean_per_class]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::features::from_host;

    fn evaluator(classes: usize) -> ZeroShotEvaluator {
        let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
        ZeroShotEvaluator::new(&names, Bootstrap::default())
    }

    fn logits(rows: &[&[f32]]) -> Tensor<2> {
        from_host(rows.concat(), [rows.len(), rows[0].len()], &Device::flex())
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        let mut evaluator = evaluator(6);
        evaluator
            .add(
                logits(&[
                    &[9.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                    &[1.0, 9.0, 2.0, 3.0, 4.0, 5.0],
                ]),
                &[0, 0],
            )
            .unwrap();
        evaluator
            .add(logits(&[&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0]]), &[5])
            .unwrap();
        let report = evaluator.report().unwrap();
        // Label 0 is first and last, label 5 second.
        assert!((report.top1 - 1.0 / 3.0).abs() < 1e-9);
        assert!((report.top5 - 2.0 / 3.0).abs() < 1e-9);
        assert!((report.mean_per_class - 0.25).abs() < 1e-9);
        assert_eq!(report.samples, 3);
        assert_eq!(report.per_class[0].accuracy, Some(0.5));
        assert_eq!(report.per_class[5].accuracy, Some(0.0));
        assert_eq!(report.per_class[1].accuracy, None);
        assert!(report.ci95[0] <= report.top1 && report.top1 <= report.ci95[1]);
        assert_eq!(evaluator.confusion().count(0, 1), 1);
        assert_eq!(evaluator.confusion().worst(), [(0, 1, 1), (5, 0, 1)]);
    }

    #[test]
    fn a_classifier_that_knows_nothing_scores_chance() {
        let mut evaluator = evaluator(20);
        let row: &[f32] = &[0.5; 20];
        let batch = logits(&[row; 8]);
        evaluator.add(batch, &[0, 0, 0, 0, 0, 19, 3, 7]).unwrap();
        let report = evaluator.report().unwrap();
        assert!((report.top1 - 0.05).abs() < 1e-6, "{}", report.top1);
        assert!((report.top5 - 0.25).abs() < 1e-6, "{}", report.top5);
    }

    #[test]
    fn batches_do_not_matter_and_scripts_find_their_keys() {
        let rows: Vec<Vec<f32>> = (0..30)
            .map(|row| {
                (0..7)
                    .map(|class| ((row * 7 + class * 5) % 11) as f32)
                    .collect()
            })
            .collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let labels: Vec<u32> = (0..30).map(|row| row % 7).collect();
        let mut whole = evaluator(7);
        whole.add(logits(&rows), &labels).unwrap();
        let mut parts = evaluator(7);
        for (rows, labels) in rows.chunks(4).zip(labels.chunks(4)) {
            parts.add(logits(rows), labels).unwrap();
        }
        let report = whole.report().unwrap();
        assert_eq!(report, parts.report().unwrap());
        let json = serde_json::to_value(report).unwrap();
        for key in [
            "top1",
            "top5",
            "per_class",
            "mean_per_class",
            "ci95",
            "samples",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_scored_is_refused_and_leaves_no_trace() {
        let mut evaluator = evaluator(2);
        assert!(matches!(evaluator.report(), Err(ZeroShotError::NoSamples)));
        evaluator.add(logits(&[&[1.0, 0.0]]), &[0]).unwrap();
        let batch = || logits(&[&[1.0, 0.0], &[0.0, 1.0]]);
        let error = evaluator.add(batch(), &[1, 2]).unwrap_err().to_string();
        assert!(
            error.contains("sample 2 has label 2, but there are only 2 classes"),
            "{error}"
        );
        let bad = logits(&[&[1.0, 0.0], &[0.0, f32::INFINITY]]);
        let error = evaluator.add(bad, &[0, 1]).unwrap_err().to_string();
        assert!(error.contains("logit of sample 2"), "{error}");
        assert!(evaluator.add(batch(), &[1]).is_err());
        assert_eq!(evaluator.report().unwrap().samples, 1);
    }
}
