/// More points than this share pixels, and would make the page megabytes.
const MOST_POINTS: usize = 400;

/// Lowest and highest value, apart even where there is only one.
pub(crate) fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if !low.is_finite() {
        return (0.0, 1.0);
    }
    if high - low > 1e-9 * high.abs() {
        return (low, high);
    }
    let margin = if low == 0.0 { 1.0 } else { 0.5 * low.abs() };
    (low - margin, high + margin)
}

/// About `count` round numbers from `low` to `high`, at least two.
pub(crate) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let gap = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|gap| *gap >= rough)
        .unwrap_or(10.0 * magnitude);
    let (first, last) = ((low / gap).ceil() as i64, (high / gap).floor() as i64);
    (first..=last.max(first + 1))
        .map(|tick| tick as f64 * gap)
        .collect()
}

/// A tick of an axis whose ticks are `gap` apart.
pub(crate) fn tick_label(tick: f64, gap: f64) -> String {
    if tick.abs() < 1e-9 * gap {
        return "0".to_string();
    }
    if tick.abs() >= 10_000.0 {
        let decimals = usize::from(gap < 1_000.0);
        return format!("{:.decimals$}k", tick / 1_000.0);
    }
    if gap < 1e-3 {
        return format!("{tick:.1e}").replace(".0e", "e");
    }
    let decimals = (-gap.log10().floor()).max(0.0) as usize;
    format!("{tick:.decimals$}")
}

/// At most [`MOST_POINTS`] points: means of neighbours.
pub(crate) fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let bucket = points.len().div_ceil(MOST_POINTS).max(1);
    points.chunks(bucket).map(mean).collect()
}

/// Each point moved onto the straight line through its neighbours: unlike their mean, it neither
/// lags nor bends at the ends.
pub(crate) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = (points.len() / 25).max(5).min(points.len());
    (0..points.len())
        .map(|place| {
            let start = place.saturating_sub(window / 2).min(points.len() - window);
            let neighbours = &points[start..start + window];
            let (step, value) = mean(neighbours);
            let (product, square) = neighbours.iter().fold((0.0, 0.0), |(product, square), at| {
                let along = at.0 - step;
                (product + along * (at.1 - value), square + along * along)
            });
            let slope = if square > 0.0 { product / square } else { 0.0 };
            (points[place].0, value + slope * (points[place].0 - step))
        })
        .collect()
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let sum = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_middle() {
        assert_eq!(ticks(0.0, 470.0, 5), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(ticks(3.6, 5.6, 4), [4.0, 4.5, 5.0, 5.5]);
        assert_eq!(tick_label(6.000_000_1e-4, 2e-4), "6e-4");
        assert_eq!(tick_label(12_500.0, 500.0), "12.5k");
        assert_eq!(tick_label(4.5, 0.5), "4.5");
    }

    #[test]
    fn smoothing_keeps_a_slope() {
        let slope: Vec<_> = (0..200)
            .map(|x| (f64::from(x), 2.0 * f64::from(x)))
            .collect();
        for (x, y) in smoothed(&slope) {
            assert!((y - 2.0 * x).abs() < 1e-9);
        }
    }
}
