//! Signed distances from a point to a shape's edge: negative within. A shape fills the unit circle or nearly so.
//!
//! # References
//! Formulas of polygon and heart: <https://iquilezles.org/articles/distfunctions2d/>.

use std::f32::consts::{PI, TAU};

use super::vocabulary::Shape;

type Point = [f32; 2];

/// A shape ready to be measured against many points.
pub(super) enum Outline {
    Disc,
    Ring,
    Crescent,
    Heart,
    Polygon(Vec<Point>),
}

impl Outline {
    pub(super) fn new(shape: Shape) -> Self {
        match shape {
            Shape::Circle => Self::Disc,
            Shape::Ring => Self::Ring,
            Shape::Crescent => Self::Crescent,
            Shape::Heart => Self::Heart,
            Shape::Square => Self::Polygon(regular(4, &[1.1], PI / 4.0)),
            Shape::Triangle => Self::Polygon(regular(3, &[1.08], -PI / 2.0)),
            Shape::Star => Self::Polygon(regular(10, &[1.1, 0.46], -PI / 2.0)),
            Shape::Diamond => {
                Self::Polygon(vec![[0.0, -1.1], [0.62, 0.0], [0.0, 1.1], [-0.62, 0.0]])
            }
            Shape::Cross => Self::Polygon(cross(1.0, 0.34)),
            Shape::Arrow => Self::Polygon(vec![
                [-1.0, -0.27],
                [0.1, -0.27],
                [0.1, -0.78],
                [1.05, 0.0],
                [0.1, 0.78],
                [0.1, 0.27],
                [-1.0, 0.27],
            ]),
        }
    }

    /// Distance of `point` from the edge, in radii; `y` grows downwards.
    pub(super) fn distance(&self, point: Point) -> f32 {
        match self {
            Self::Disc => length(point) - 0.95,
            Self::Ring => (length(point) - 0.76).abs() - 0.22,
            // A disc without a second one beside it.
            Self::Crescent => {
                let bite = length([point[0] - 0.52, point[1]]) - 0.78;
                (length(point) - 1.0).max(-bite)
            }
            Self::Heart => heart(point),
            Self::Polygon(corners) => polygon(corners, point),
        }
    }
}

/// Corners on a circle, at radii that repeat.
fn regular(corners: usize, radii: &[f32], first: f32) -> Vec<Point> {
    (0..corners)
        .map(|at| {
            let angle = first + TAU * at as f32 / corners as f32;
            let radius = radii[at % radii.len()];
            [radius * angle.cos(), radius * angle.sin()]
        })
        .collect()
}

fn cross(arm: f32, half: f32) -> Vec<Point> {
    let quarter = [[half, -arm], [half, -half], [arm, -half]];
    (0..4)
        .flat_map(|turn| {
            quarter.map(|[x, y]| match turn {
                0 => [x, y],
                1 => [-y, x],
                2 => [-x, -y],
                _ => [y, -x],
            })
        })
        .collect()
}

fn length([x, y]: Point) -> f32 {
    (x * x + y * y).sqrt()
}

fn polygon(corners: &[Point], [x, y]: Point) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let edge = [previous[0] - corner[0], previous[1] - corner[1]];
        let to = [x - corner[0], y - corner[1]];
        let along = (to[0] * edge[0] + to[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        let off = [to[0] - edge[0] * along, to[1] - edge[1] * along];
        nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
        let crosses = (corner[1] > y) != (previous[1] > y);
        if crosses && x < edge[0] * (y - corner[1]) / edge[1] + corner[0] {
            inside = !inside;
        }
        previous = corner;
    }
    if inside {
        -nearest.sqrt()
    } else {
        nearest.sqrt()
    }
}

fn heart([x, y]: Point) -> f32 {
    // The formula's heart stands on the origin, its tip down, one unit high.
    const SCALE: f32 = 1.62;
    let (x, y) = (x.abs() / SCALE, 0.56 - y / SCALE);
    let distance = if x + y > 1.0 {
        length([x - 0.25, y - 0.75]) - 2f32.sqrt() / 4.0
    } else {
        let diagonal = 0.5 * (x + y).max(0.0);
        let nearest = length([x, y - 1.0]).min(length([x - diagonal, y - diagonal]));
        if x > y { nearest } else { -nearest }
    };
    distance * SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of the square from -1.2 to 1.2 that a shape covers, times the square's area.
    fn area(shape: Shape) -> f32 {
        const STEPS: usize = 240;
        let outline = Outline::new(shape);
        let at = |step: usize| -1.2 + 2.4 * (step as f32 + 0.5) / STEPS as f32;
        let points = (0..STEPS).flat_map(|x| (0..STEPS).map(move |y| [at(x), at(y)]));
        let within = points
            .filter(|&point| outline.distance(point) < 0.0)
            .count();
        within as f32 * (2.4 / STEPS as f32).powi(2)
    }

    #[test]
    fn shapes_have_the_area_of_their_formula() {
        for (shape, expected) in [
            (Shape::Circle, PI * 0.95 * 0.95),
            (Shape::Square, 2.0 * 1.1 * 1.1),
            (Shape::Diamond, 2.0 * 1.1 * 0.62),
            (Shape::Cross, 4.0 * 0.34 * 2.0 - 4.0 * 0.34 * 0.34),
            (Shape::Ring, PI * (0.98 * 0.98 - 0.54 * 0.54)),
        ] {
            let area = area(shape);
            assert!(
                (area - expected).abs() < 0.02 * expected,
                "{shape:?}: {area}, not {expected}"
            );
        }
    }

    #[test]
    fn every_shape_has_a_fair_size_and_stays_near_the_unit_circle() {
        for shape in Shape::ALL {
            assert!(area(shape) > 0.9, "{shape:?}: {}", area(shape));
            let outline = Outline::new(shape);
            for step in 0..360 {
                let (sin, cos) = (step as f32).to_radians().sin_cos();
                assert!(
                    outline.distance([1.12 * cos, 1.12 * sin]) > 0.0,
                    "{shape:?} at {step}"
                );
            }
        }
    }
}
