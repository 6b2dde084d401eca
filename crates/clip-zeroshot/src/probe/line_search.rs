/// Sufficient decrease, curvature and relative width of the interval at which a search ends: L-BFGS-B's.
const DECREASE: f64 = 1e-3;
const CURVATURE: f64 = 0.9;
const WIDTH: f64 = 0.1;

/// A step is never longer: L-BFGS-B's bound.
const LONGEST: f64 = 1e10;

/// A place on the line: how far, the value there, and its derivative along the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) step: f64,
    pub(super) value: f64,
    pub(super) slope: f64,
}

impl Place {
    /// As seen after a line of that slope through the start is taken away.
    fn tilted(self, slope: f64) -> Self {
        Self {
            step: self.step,
            value: self.value - self.step * slope,
            slope: self.slope - slope,
        }
    }
}

/// Moré and Thuente's search for a step that meets the strong Wolfe conditions.
///
/// `SciPy`'s L-BFGS uses this very search. scikit-learn stops early, some ten steps from the start on easy
/// data, so another search would end elsewhere, and its accuracies would differ by whole points.
///
/// # References
/// Moré and Thuente 1994, Line search algorithms with guaranteed sufficient decrease; MINPACK-2's `dcsrch`
/// and `dcstep`, whose constants these are.
pub(super) struct LineSearch {
    start: Place,
    /// The place with the lowest value, and the other end of the interval once the minimum is between them.
    best: Place,
    other: Place,
    bracketed: bool,
    first_stage: bool,
    /// Where the next step may be.
    range: [f64; 2],
    width: f64,
    width_before: f64,
}

impl LineSearch {
    /// A search from a place at step 0, whose first step will be `first`.
    pub(super) fn new(start: Place, first: f64) -> Self {
        Self {
            start,
            best: start,
            other: start,
            bracketed: false,
            first_stage: true,
            range: [0.0, 5.0 * first],
            width: LONGEST,
            width_before: 2.0 * LONGEST,
        }
    }

    /// The next step to try after a trial; nothing when the trial will do.
    pub(super) fn next(&mut self, trial: Place) -> Option<f64> {
        let test_slope = DECREASE * self.start.slope;
        let enough = self.start.value + trial.step * test_slope;
        if self.first_stage && trial.value <= enough && trial.slope >= 0.0 {
            self.first_stage = false;
        }
        let met = trial.value <= enough && trial.slope.abs() <= CURVATURE * -self.start.slope;
        let longest = trial.step >= LONGEST && trial.value <= enough && trial.slope <= test_slope;
        if met || longest || self.is_exhausted(trial.step) {
            return None;
        }

        let step = if self.first_stage && trial.value <= self.best.value && trial.value > enough {
            // Nothing low enough was seen yet: bracket the minimum of the function less the line that is
            // to be got under.
            self.best = self.best.tilted(test_slope);
            self.other = self.other.tilted(test_slope);
            let step = self.update(trial.tilted(test_slope));
            self.best = self.best.tilted(-test_slope);
            self.other = self.other.tilted(-test_slope);
            step
        } else {
            self.update(trial)
        };
        Some(self.safeguard(step))
    }

    fn is_exhausted(&self, step: f64) -> bool {
        let [low, high] = self.range;
        self.bracketed && (step <= low || step >= high || high - low <= WIDTH * high)
    }

    /// Keeps the interval shrinking, and the step inside it.
    fn safeguard(&mut self, mut step: f64) -> f64 {
        let (best, other) = (self.best.step, self.other.step);
        if self.bracketed {
            if (other - best).abs() >= 0.66 * self.width_before {
                step = best + 0.5 * (other - best);
            }
            self.width_before = self.width;
            self.width = (other - best).abs();
            self.range = [best.min(other), best.max(other)];
        } else {
            self.range = [step + 1.1 * (step - best), step + 4.0 * (step - best)];
        }
        step = step.clamp(0.0, LONGEST);
        if self.is_exhausted(step) { best } else { step }
    }

    /// Takes a trial into the interval, and returns the step that interpolation suggests.
    fn update(&mut self, trial: Place) -> f64 {
        let Self { best, other, .. } = *self;
        let turned = trial.slope * best.slope.signum() < 0.0;
        let secant =
            trial.step + trial.slope / (trial.slope - best.slope) * (best.step - trial.step);
        let from_trial = |step: f64| (step - trial.step).abs();
        let next = if trial.value > best.value {
            // Higher: the minimum is between. The cubic's, or between it and the parabola's.
            self.bracketed = true;
            let cubic = cubic_minimum(best, trial, false).unwrap_or(trial.step);
            let width = trial.step - best.step;
            let chord = (best.value - trial.value) / width + best.slope;
            let parabola = best.step + best.slope / chord / 2.0 * width;
            if (cubic - best.step).abs() < (parabola - best.step).abs() {
                cubic
            } else {
                cubic + (parabola - cubic) / 2.0
            }
        } else if turned {
            // Lower, and rising again: the minimum is between. The step farther from the trial.
            self.bracketed = true;
            let cubic = cubic_minimum(trial, best, false).unwrap_or(secant);
            if from_trial(cubic) > from_trial(secant) {
                cubic
            } else {
                secant
            }
        } else if trial.slope.abs() < best.slope.abs() {
            // Lower, and less steep: the minimum is beyond.
            let bound = self.range[usize::from(trial.step > best.step)];
            let cubic = cubic_minimum(trial, best, true).unwrap_or(bound);
            if self.bracketed {
                let next = if from_trial(cubic) < from_trial(secant) {
                    cubic
                } else {
                    secant
                };
                let limit = trial.step + 0.66 * (other.step - trial.step);
                if trial.step > best.step {
                    next.min(limit)
                } else {
                    next.max(limit)
                }
            } else {
                let next = if from_trial(cubic) > from_trial(secant) {
                    cubic
                } else {
                    secant
                };
                next.max(self.range[0]).min(self.range[1])
            }
        } else if self.bracketed {
            // Lower, and no less steep.
            cubic_minimum(trial, other, false).unwrap_or(other.step)
        } else {
            self.range[usize::from(trial.step > best.step)]
        };

        if trial.value > best.value {
            self.other = trial;
        } else {
            if turned {
                self.other = best;
            }
            self.best = trial;
        }
        next
    }
}

/// Where the cubic through two places has its minimum, as seen from the first. With `beyond`, nothing when
/// that is not on the first's far side from the second.
fn cubic_minimum(from: Place, to: Place, beyond: bool) -> Option<f64> {
    let width = to.step - from.step;
    let theta = 3.0 * (from.value - to.value) / width + from.slope + to.slope;
    let scale = theta.abs().max(from.slope.abs()).max(to.slope.abs());
    let square = (theta / scale).powi(2) - (from.slope / scale) * (to.slope / scale);
    let gamma = (scale * square.max(0.0).sqrt()).copysign(width);
    let share = (gamma - from.slope + theta) / (2.0 * gamma - from.slope + to.slope);
    let usable = share.is_finite() && (!beyond || (share < 0.0 && gamma != 0.0));
    usable.then_some(from.step + share * width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(first: f64, function: impl Fn(f64) -> (f64, f64)) -> Vec<f64> {
        let place = |step| {
            let (value, slope) = function(step);
            Place { step, value, slope }
        };
        let mut search = LineSearch::new(place(0.0), first);
        let mut steps = vec![first];
        while let Some(step) = search.next(place(steps[steps.len() - 1])) {
            steps.push(step);
            assert!(steps.len() < 30, "{steps:?}");
        }
        steps
    }

    fn assert_steps(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (got / expected - 1.0).abs() < 1e-6,
                "{got}, expected {expected}"
            );
        }
    }

    // Expected steps are those of SciPy 1.17.1's `scipy.optimize._dcsrch.DCSRCH` with the constants above.

    #[test]
    fn a_far_minimum_is_approached_in_growing_steps() {
        let bowl = |a: f64| ((a - 30.0).powi(2), 2.0 * (a - 30.0));
        assert_steps(&steps(0.1, bowl), &[0.1, 0.5, 2.1, 8.5]);
        assert_steps(&steps(10.0, bowl), &[10.0]);
    }

    #[test]
    fn a_wall_and_a_wave_are_bracketed() {
        let wall = |a: f64| {
            let wall = 1e-3 * (5.0 * a).min(600.0).exp();
            (wall - a, 5.0 * wall - 1.0)
        };
        assert_steps(&steps(10.0, wall), &[10.0, 3.263_888_89, 1.012_218]);
        let growing = [0.001, 0.005, 0.021, 0.085, 0.341, 1.365];
        let ending = [0.558_650_55, 1.037_528_4];
        assert_steps(&steps(1e-3, wall), &[&growing[..], &ending].concat());
        let wave = |a: f64| {
            let angle = 3.0 * a + 2.5;
            (
                angle.sin() + 0.1 * (a - 2.0).powi(2),
                3.0 * angle.cos() + 0.2 * (a - 2.0),
            )
        };
        let expected = [10.0, 3.573_489_06, 1.808_066, 2.993_442_91];
        assert_steps(&steps(10.0, wave), &expected);
    }

    #[test]
    fn a_flat_start_ends_where_the_interval_is_narrow() {
        let fifth = |a: f64| {
            let b = a + 0.004;
            (
                b.powi(5) - 2.0 * b.powi(4),
                5.0 * b.powi(4) - 8.0 * b.powi(3),
            )
        };
        let expected = [
            1.0,
            5.0,
            1.811_448_36,
            1.258_652_75,
            1.591_576_73,
            1.596_129_6,
            1.596_129_6,
        ];
        assert_steps(&steps(1.0, fifth), &expected);
        let expected = [
            10.0,
            2.306_989_96,
            0.687_286_713,
            1.566_141_35,
            1.612_373_81,
            1.612_373_81,
        ];
        assert_steps(&steps(10.0, fifth), &expected);
    }
}
