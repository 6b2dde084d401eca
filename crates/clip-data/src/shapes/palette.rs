use super::draw::Draw;
use super::vocabulary::Colour;

/// Red, green and blue, each 0 to 1, as stored in images (sRGB).
pub(super) type Rgb = [f32; 3];

/// Light, dark or in between: the backgrounds of a scene's tone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tone {
    Light,
    Middle,
}

/// Objects nearer to their background than this can hardly be told from it.
const MIN_CONTRAST: f32 = 0.36;
/// Backgrounds tried for enough contrast before the best of them is taken.
const ATTEMPTS: usize = 24;

/// A shade of a colour, different in each object.
pub(super) fn shade(colour: Colour, draw: &mut Draw) -> Rgb {
    let base: [u8; 3] = match colour {
        Colour::Red => [218, 36, 38],
        Colour::Orange => [247, 136, 22],
        Colour::Yellow => [250, 222, 40],
        Colour::Green => [44, 152, 56],
        Colour::Cyan => [40, 204, 214],
        Colour::Blue => [36, 74, 214],
        Colour::Purple => [124, 44, 178],
        Colour::Pink => [252, 128, 184],
        Colour::Black => [20, 20, 22],
        Colour::Brown => [124, 74, 34],
    };
    let brightness = draw.between(0.93, 1.07);
    base.map(|channel| {
        let jitter = draw.between(-0.035, 0.035);
        (f32::from(channel) / 255.0 * brightness + jitter).clamp(0.0, 1.0)
    })
}

/// Two related colours for a background, which every object stands out from.
pub(super) fn backdrop(objects: &[Rgb], draw: &mut Draw) -> (Tone, Rgb, Rgb) {
    let mut best: Option<(f32, Tone, Rgb, Rgb)> = None;
    for _ in 0..ATTEMPTS {
        let tone = draw.pick(&[Tone::Light, Tone::Light, Tone::Light, Tone::Middle]);
        let (saturation, value) = match tone {
            Tone::Light => (draw.between(0.03, 0.16), draw.between(0.88, 0.98)),
            Tone::Middle => (draw.between(0.05, 0.2), draw.between(0.7, 0.8)),
        };
        let hue = draw.between(0.0, 6.0);
        let first = from_hsv(hue, saturation, value);
        let second = from_hsv(
            hue + draw.between(-0.5, 0.5),
            saturation * 1.2,
            value - 0.07,
        );
        let contrast = objects
            .iter()
            .flat_map(|object| [distance(*object, first), distance(*object, second)])
            .fold(f32::INFINITY, f32::min);
        if best.is_none_or(|(most, ..)| contrast > most) {
            best = Some((contrast, tone, first, second));
        }
        if contrast >= MIN_CONTRAST {
            break;
        }
    }
    // The first attempt always sets it; a plain middle tone stands in for the impossible.
    best.map_or(
        (Tone::Middle, [0.5; 3], [0.6; 3]),
        |(_, tone, first, second)| (tone, first, second),
    )
}

/// Distance of two colours as the eye weighs the channels, roughly.
pub(super) fn distance(a: Rgb, b: Rgb) -> f32 {
    const WEIGHTS: Rgb = [0.9, 1.2, 0.7];
    let square = |at: usize| WEIGHTS[at] * (a[at] - b[at]) * (a[at] - b[at]);
    (square(0) + square(1) + square(2)).sqrt()
}

/// `hue` from 0 (red) over 2 (green) and 4 (blue) to 6.
fn from_hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + hue).rem_euclid(6.0);
        (value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_of_different_colours_never_meet() {
        let mut draw = Draw::new(5, 0, 0);
        let shades: Vec<(Colour, Rgb)> = (0..600)
            .map(|at| Colour::ALL[at % 10])
            .map(|colour| (colour, shade(colour, &mut draw)))
            .collect();
        for (at, (colour, a)) in shades.iter().enumerate() {
            for (other, b) in &shades[at + 1..] {
                assert!(
                    colour == other || distance(*a, *b) > 0.12,
                    "{colour:?} {a:?} {other:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn one_object_always_stands_out() {
        let mut draw = Draw::new(6, 0, 0);
        for at in 0..1200 {
            let object = shade(Colour::ALL[at % 10], &mut draw);
            let (_, first, second) = backdrop(&[object], &mut draw);
            assert!(distance(object, first).min(distance(object, second)) >= MIN_CONTRAST);
        }
    }
}
