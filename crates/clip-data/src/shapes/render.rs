use super::distance::Outline;
use super::palette::{Rgb, Tone};
use super::scene::{Background, Object, Scene};
use super::vocabulary::Pattern;

/// Draws a scene as `side` x `side` RGB pixels, anti-aliased.
pub(super) fn render(scene: &Scene, side: usize) -> Vec<u8> {
    let mut pixels = background(&scene.background, side);
    for object in &scene.objects {
        draw(object, side, &mut pixels);
    }
    // Half a level of rounding is all that is between a colour and its byte.
    pixels
        .iter()
        .flatten()
        .map(|&channel| (channel * 255.0 + 0.5).clamp(0.0, 255.0) as u8)
        .collect()
}

fn background(background: &Background, side: usize) -> Vec<Rgb> {
    let [first, second] = background.colours;
    let (sin, cos) = background.angle.sin_cos();
    let pixel = 1.0 / side as f32;
    let mut noise = background.noise | 1;
    let mut pixels = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            let [x, y] = [column, row].map(|at| (at as f32 + 0.5) * pixel - 0.5);
            let along = x * cos + y * sin;
            let across = y * cos - x * sin;
            let share = match background.pattern {
                Pattern::Plain => 0.0,
                // Twice the step between the two colours, so that it shows on a small image.
                Pattern::Gradient => (along / 1.2 + 0.5) * 2.0,
                Pattern::Striped => band(along, background.period, pixel),
                Pattern::Checkered => {
                    let [a, b] = [along, across].map(|at| band(at, background.period, pixel));
                    a + b - 2.0 * a * b
                }
                Pattern::Speckled => {
                    noise = xorshift(noise);
                    // Mostly grain, now and then a speck.
                    let grain = (noise >> 40) as f32 / (1u64 << 24) as f32;
                    if noise.is_multiple_of(7) {
                        1.5
                    } else {
                        0.7 * grain
                    }
                }
            };
            pixels.push(mix(first, second, share));
        }
    }
    pixels
}

/// 0 and 1 in turn along an axis, with edges one pixel wide.
fn band(at: f32, period: f32, pixel: f32) -> f32 {
    let phase = (at / (2.0 * period)).rem_euclid(1.0);
    // Distance to the nearer edge, which lie at phases 0 and a half.
    let into = (0.5 - phase)
        .min(phase)
        .abs()
        .min((phase - 0.5).abs().min(1.0 - phase))
        * 2.0
        * period;
    let side = (into / pixel).min(0.5);
    if phase < 0.5 { 0.5 + side } else { 0.5 - side }
}

fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

fn draw(object: &Object, side: usize, pixels: &mut [Rgb]) {
    let outline = Outline::new(object.shape);
    let scale = side as f32;
    let radius = object.radius * scale;
    let [cx, cy] = object.centre.map(|at| at * scale);
    let (sin, cos) = object.turn.sin_cos();
    let range = |centre: f32| {
        let reach = radius * 1.15 + 1.0;
        let first = (centre - reach).max(0.0) as usize;
        first..((centre + reach).ceil().max(0.0) as usize).min(side)
    };
    for row in range(cy) {
        for column in range(cx) {
            let x = (column as f32 + 0.5 - cx) / radius;
            let y = (row as f32 + 0.5 - cy) / radius;
            let distance = outline.distance([x * cos + y * sin, y * cos - x * sin]) * radius;
            let cover = (0.5 - distance).clamp(0.0, 1.0);
            if cover > 0.0 {
                // Light from above, so that no object is one flat colour.
                let lit = object
                    .rgb
                    .map(|channel| (channel * (1.0 - 0.06 * y)).clamp(0.0, 1.0));
                let pixel = &mut pixels[row * side + column];
                *pixel = mix(*pixel, lit, cover);
            }
        }
    }
}

fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    [0, 1, 2].map(|at| a[at] + (b[at] - a[at]) * share)
}

impl Tone {
    /// The word for it, where there is one.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Light => Some("light"),
            Self::Middle => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Draw;
    use super::super::vocabulary::{Colour, Shape};
    use super::*;

    #[test]
    fn an_object_has_its_colour_at_its_place() {
        for shape in [Shape::Circle, Shape::Square, Shape::Heart, Shape::Cross] {
            let mut draw = Draw::new(1, 0, shape as u64);
            let mut scene = Scene::new(&[(Colour::Red, shape)], &mut draw);
            scene.background.pattern = Pattern::Plain;
            let pixels = render(&scene, 64);
            let object = &scene.objects[0];
            let [x, y] = object.centre.map(|at| (at * 64.0) as usize);
            let at = (y * 64 + x) * 3;
            assert!(
                pixels[at] > 170 && pixels[at + 1] < 90 && pixels[at + 2] < 90,
                "{shape:?}"
            );
            // The corner farthest from it is background.
            let corner = |at: usize| if at < 32 { 63 } else { 0 };
            let at = (corner(y) * 64 + corner(x)) * 3;
            let expected = scene.background.colours[0].map(|channel| (channel * 255.0 + 0.5) as u8);
            assert_eq!(pixels[at..at + 3], expected, "{shape:?}");
        }
    }

    #[test]
    fn bands_alternate_with_soft_edges() {
        let pixel = 1.0 / 64.0;
        assert!((band(0.05, 0.1, pixel) - 1.0).abs() < 1e-6);
        assert!(band(0.15, 0.1, pixel).abs() < 1e-6);
        for edge in [0.0, 0.1, 0.2, -0.1] {
            assert!((band(edge, 0.1, pixel) - 0.5).abs() < 1e-3, "{edge}");
        }
    }
}
