use std::collections::VecDeque;

use super::line_search::{LineSearch, Place};

/// Trials of one line search before it gives up: scikit-learn's limit. A good direction needs one or two.
const TRIALS: usize = 50;

/// Limited-memory BFGS: minimises a smooth function from its values and gradients.
///
/// # References
/// Nocedal and Wright 2006, Numerical Optimization, algorithm 7.5; L-BFGS-B 3.0 for the tolerances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lbfgs {
    /// Steps whose curvature is remembered: 10, as in `SciPy`.
    pub history: usize,
    /// Steps at most: 1,000 in the paper.
    pub max_iterations: usize,
    /// It is done when no component of the gradient is larger: 1e-4, scikit-learn's default.
    pub gradient_tolerance: f64,
    /// It is done when a step lowers the value by less than this share of it: `SciPy`'s 64 units of rounding.
    pub value_tolerance: f64,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Self {
            history: 10,
            max_iterations: 1000,
            gradient_tolerance: 1e-4,
            value_tolerance: 64.0 * f64::EPSILON,
        }
    }
}

/// Where a minimisation ended.
#[derive(Clone, Debug)]
pub(crate) struct Minimum {
    pub(crate) point: Vec<f64>,
    pub(crate) iterations: usize,
    /// Whether a tolerance was met, rather than the limit of iterations.
    pub(crate) converged: bool,
}

/// A point, and what the function is there.
struct Point {
    at: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

impl Lbfgs {
    /// Minimises from a start; `objective` returns value and gradient at a point.
    pub(crate) fn minimize<E>(
        &self,
        start: Vec<f64>,
        mut objective: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), E>,
    ) -> Result<Minimum, E> {
        let mut evaluate = |at: Vec<f64>| -> Result<Point, E> {
            let (value, gradient) = objective(&at)?;
            Ok(Point {
                at,
                value,
                gradient,
            })
        };
        let mut here = evaluate(start)?;
        let mut history: VecDeque<Curvature> = VecDeque::new();
        let mut iterations = 0;
        let converged = loop {
            let largest = here
                .gradient
                .iter()
                .fold(0.0, |max: f64, g| max.max(g.abs()));
            if largest <= self.gradient_tolerance {
                break true;
            }
            if iterations == self.max_iterations {
                break false;
            }
            let direction = descend(&here.gradient, &history);
            // Without curvature the gradient's length says nothing about the distance.
            let first = if history.is_empty() {
                1.0 / dot(&direction, &direction).sqrt()
            } else {
                1.0
            };
            let Some(next) = search_line(&here, &direction, first, &mut evaluate)? else {
                if history.is_empty() {
                    // Not even along the gradient is there a lower value.
                    break false;
                }
                // Rounding has spoilt the curvature.
                history.clear();
                continue;
            };
            iterations += 1;
            if let Some(curvature) = Curvature::between(&here, &next) {
                if history.len() == self.history.max(1) {
                    history.pop_front();
                }
                history.push_back(curvature);
            }
            let scale = here.value.abs().max(next.value.abs()).max(1.0);
            let gained = here.value - next.value;
            here = next;
            if gained <= self.value_tolerance * scale {
                break true;
            }
        };
        Ok(Minimum {
            point: here.at,
            iterations,
            converged,
        })
    }
}

/// How the gradient changed over one step.
struct Curvature {
    step: Vec<f64>,
    change: Vec<f64>,
    product: f64,
}

impl Curvature {
    fn between(from: &Point, to: &Point) -> Option<Self> {
        let step = subtract(&to.at, &from.at);
        let change = subtract(&to.gradient, &from.gradient);
        let product = dot(&step, &change);
        (product > f64::EPSILON * dot(&change, &change)).then_some(Self {
            step,
            change,
            product,
        })
    }
}

/// Minus the inverse curvature times the gradient: the two-loop recursion.
fn descend(gradient: &[f64], history: &VecDeque<Curvature>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let factor = dot(&pair.step, &direction) / pair.product;
        add(&mut direction, -factor, &pair.change);
        factors.push(factor);
    }
    if let Some(last) = history.back() {
        let scale = last.product / dot(&last.change, &last.change);
        for value in &mut direction {
            *value *= scale;
        }
    }
    for (pair, factor) in history.iter().zip(factors.into_iter().rev()) {
        let correction = factor - dot(&pair.change, &direction) / pair.product;
        add(&mut direction, correction, &pair.step);
    }
    direction
}

/// A better point along the direction; nothing when the direction leads nowhere lower.
fn search_line<E>(
    start: &Point,
    direction: &[f64],
    first: f64,
    evaluate: &mut impl FnMut(Vec<f64>) -> Result<Point, E>,
) -> Result<Option<Point>, E> {
    let slope = dot(&start.gradient, direction);
    if slope >= 0.0 {
        return Ok(None);
    }
    let place = |step: f64, point: &Point| Place {
        step,
        value: point.value,
        slope: dot(&point.gradient, direction),
    };
    let mut search = LineSearch::new(place(0.0, start), first);
    let mut step = first;
    for _ in 0..TRIALS {
        let mut at = start.at.clone();
        add(&mut at, step, direction);
        let trial = evaluate(at)?;
        if !trial.value.is_finite() {
            return Ok(None);
        }
        match search.next(place(step, &trial)) {
            Some(next) => step = next,
            None => return Ok((trial.value <= start.value).then_some(trial)),
        }
    }
    Ok(None)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

fn subtract(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn strict() -> Lbfgs {
        Lbfgs {
            gradient_tolerance: 1e-9,
            value_tolerance: 0.0,
            ..Lbfgs::default()
        }
    }

    fn minimize(
        options: Lbfgs,
        start: Vec<f64>,
        mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>),
    ) -> Minimum {
        let Ok(minimum) = options.minimize(start, |x| Ok::<_, Infallible>(f(x)));
        minimum
    }

    #[test]
    fn rosenbrocks_valley_is_followed_to_its_end() {
        let mut evaluations = 0;
        let minimum = minimize(strict(), vec![-1.2, 1.0, -1.2, 1.0], |x| {
            evaluations += 1;
            let mut value = 0.0;
            let mut gradient = vec![0.0; 4];
            for pair in 0..2 {
                let (a, b) = (x[2 * pair], x[2 * pair + 1]);
                value += 100.0 * (b - a * a).powi(2) + (1.0 - a).powi(2);
                gradient[2 * pair] = -400.0 * a * (b - a * a) - 2.0 * (1.0 - a);
                gradient[2 * pair + 1] = 200.0 * (b - a * a);
            }
            (value, gradient)
        });
        assert!(minimum.converged);
        assert!(
            minimum.point.iter().all(|x| (x - 1.0).abs() < 1e-7),
            "{minimum:?}"
        );
        // SciPy's takes about 50.
        assert!(evaluations < 100, "{evaluations} evaluations");
    }

    #[test]
    fn a_badly_scaled_bowl_is_no_obstacle() {
        let scales: Vec<f64> = (0..20).map(|at| 10f64.powf(f64::from(at) / 5.0)).collect();
        let minimum = minimize(strict(), vec![1.0; 20], |x| {
            let value = x.iter().zip(&scales).map(|(x, s)| 0.5 * s * x * x).sum();
            (value, x.iter().zip(&scales).map(|(x, s)| s * x).collect())
        });
        assert!(minimum.converged);
        assert!(minimum.point.iter().all(|x| x.abs() < 1e-8), "{minimum:?}");
    }

    #[test]
    fn it_stops_at_the_limit_and_at_the_limit_of_precision() {
        let slow = Lbfgs {
            max_iterations: 2,
            ..strict()
        };
        let quartic = |x: &[f64]| (x[0].powi(4), vec![4.0 * x[0].powi(3)]);
        let minimum = minimize(slow, vec![3.0], quartic);
        assert!(!minimum.converged);
        assert_eq!(minimum.iterations, 2);
        // A value that is rounded to three digits cannot satisfy a tolerance of 1e-9 on the gradient.
        let rough = |x: &[f64]| {
            let value = ((x[0] - 0.3).powi(2) * 1e3).round() / 1e3;
            (value, vec![2.0 * (x[0] - 0.3) + 1e-6])
        };
        let minimum = minimize(strict(), vec![5.0], rough);
        assert!((minimum.point[0] - 0.3).abs() < 0.05, "{minimum:?}");
    }
}
