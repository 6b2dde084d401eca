use super::{LinearProbe, LogisticRegression, Samples};
use crate::ZeroShotError;

/// Steps between the weakest penalty, 1e-6, and the strongest, 1e6: eight a decade.
pub const STEPS: usize = 96;

/// The strength, λ, of a step between 0 and [`STEPS`].
pub fn strength(step: usize) -> f64 {
    10f64.powf(step as f64 / 8.0 - 6.0)
}

/// A strength that was tried, and how well it did.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Visit {
    /// Between 0 and [`STEPS`].
    pub step: usize,
    /// The strength, λ.
    pub strength: f64,
    /// Accuracy on the validation split.
    pub accuracy: f64,
}

/// The paper's parametric binary search for the strength of the penalty.
///
/// It tries λ = 1e-6, 1e-4, ..., 1e6, and then halves the interval around the peak until it is one step of an
/// eighth of a decade: at most 15 fits instead of 97. Of equal accuracies the strongest penalty wins.
///
/// # References
/// Radford et al. 2021, appendix A.3.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StrengthSearch {
    /// The strengths tried, in order.
    pub visits: Vec<Visit>,
}

impl StrengthSearch {
    /// Searches with any measure of a strength, higher being better.
    ///
    /// # Errors
    /// The measure's.
    pub fn run<E>(mut measure: impl FnMut(f64) -> Result<f64, E>) -> Result<Self, E> {
        let mut search = Self::default();
        let mut visit = |search: &mut Self, step: usize| {
            let strength = strength(step);
            let accuracy = measure(strength)?;
            search.visits.push(Visit {
                step,
                strength,
                accuracy,
            });
            Ok(())
        };
        let mut interval = STEPS / 6;
        for step in (0..=STEPS).step_by(interval) {
            visit(&mut search, step)?;
        }
        while interval > 1 {
            interval /= 2;
            let peak = search.best().map_or(0, |best| best.step);
            for step in [peak.checked_sub(interval), Some(peak + interval)] {
                if let Some(step) = step.filter(|step| *step <= STEPS) {
                    visit(&mut search, step)?;
                }
            }
        }
        Ok(search)
    }

    /// The best strength tried; nothing before the first.
    pub fn best(&self) -> Option<Visit> {
        let better =
            |a: &&Visit, b: &&Visit| a.accuracy.total_cmp(&b.accuracy).then(a.step.cmp(&b.step));
        self.visits.iter().max_by(better).copied()
    }
}

/// The paper's linear probe: the strength that does best on the validation split, fitted once more to both
/// splits. Returns the probe and how its strength was found.
///
/// # Errors
/// [`ZeroShotError::Probe`] when the splits don't fit each other, or fewer than two classes have samples.
pub fn fit_probe(
    train: &Samples,
    validation: &Samples,
) -> Result<(LinearProbe, StrengthSearch), ZeroShotError> {
    let both = train.and(validation)?;
    let search = StrengthSearch::run(|strength| {
        LogisticRegression::new(strength)
            .fit(train)?
            .accuracy(validation)
    })?;
    let best = search.best().map_or(1.0, |best| best.strength);
    Ok((LogisticRegression::new(best).fit(&both)?, search))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use burn::tensor::Device;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::features::from_host;

    fn steps(measure: impl Fn(f64) -> f64) -> (Vec<usize>, usize) {
        let Ok(search) = StrengthSearch::run(|strength| Ok::<_, Infallible>(measure(strength)));
        let steps = search.visits.iter().map(|visit| visit.step).collect();
        (steps, search.best().unwrap().step)
    }

    #[test]
    fn it_visits_what_the_papers_procedure_visits() {
        // The peak is at 10^2.3, between the steps 66 (10^2.25) and 67 (10^2.375).
        let (visited, best) = steps(|strength| -(strength.log10() - 2.3).abs());
        let coarse = [0, 16, 32, 48, 64, 80, 96];
        assert_eq!(visited[..7], coarse);
        assert_eq!(visited[7..], [56, 72, 60, 68, 66, 70, 65, 67]);
        assert_eq!(best, 66);
        assert!((strength(0) - 1e-6).abs() < 1e-12 && (strength(96) - 1e6).abs() < 1e-3);
    }

    #[test]
    fn it_stays_inside_the_range_and_prefers_the_strongest_of_equals() {
        let (visited, best) = steps(|strength| -strength);
        assert_eq!(visited[7..], [8, 4, 2, 1]);
        assert_eq!(best, 0);
        let (visited, best) = steps(|_| 0.5);
        assert_eq!(visited[7..], [88, 92, 94, 95]);
        assert_eq!(best, 96);
    }

    #[test]
    fn a_probe_finds_the_classes_that_features_hold() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut split = |samples: usize| {
            let labels: Vec<u32> = (0..samples as u32).map(|at| at % 3).collect();
            let features = labels.iter().flat_map(|&label| {
                let at: Vec<f32> = (0..6)
                    .map(|axis| f32::from(u8::from(axis == label)) + rng.random_range(-0.9..0.9))
                    .collect();
                at
            });
            let features = from_host(features.collect(), [samples, 6], &Device::flex());
            Samples::new(features, &labels, 3).unwrap()
        };
        let (train, validation, test) = (split(120), split(60), split(300));
        let (probe, search) = fit_probe(&train, &validation).unwrap();
        assert!(search.visits.len() <= 15);
        let accuracy = probe.accuracy(&test).unwrap();
        assert!(accuracy > 0.75, "{accuracy}");
        let again = fit_probe(&train, &validation).unwrap().0;
        assert_eq!(
            probe.weights().into_data(),
            again.weights().into_data(),
            "a fit depends on its samples alone"
        );
    }
}
