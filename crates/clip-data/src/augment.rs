use rand_chacha::{ChaCha8Rng, rand_core::Rng};
use serde::{Deserialize, Serialize};

use crate::order::{below, uniform};

/// Changes of a training image beside its crop, all off by default: the paper's only augmentation is the crop.
///
/// # References
/// `ColorJitter`, `RandomGrayscale` and `RandomHorizontalFlip` of TorchVision, as `OpenCLIP`'s options of these names
/// use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Most change of brightness, contrast, saturation (each a share of 1) and hue (a share of the circle, at most
    /// 0.5). `OpenCLIP`'s recipes use 0.32, 0.32, 0.32 and 0.08.
    pub color_jitter: [f32; 4],
    /// Share of images whose colours are changed.
    pub color_jitter_prob: f32,
    /// Share of images made grey.
    pub gray_scale_prob: f32,
    /// Share of images mirrored. Captions that say left and right then become wrong.
    pub flip_prob: f32,
}

impl Augment {
    /// The first number that can't be used, and its setting's name in a run.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, f32)> {
        let [brightness, contrast, saturation, hue] = self.color_jitter;
        let jitter = "data.augment.color_jitter";
        let shares = [
            (jitter, brightness, 1.0),
            (jitter, contrast, 1.0),
            (jitter, saturation, 1.0),
            (jitter, hue, 0.5),
            (
                "data.augment.color_jitter_prob",
                self.color_jitter_prob,
                1.0,
            ),
            ("data.augment.gray_scale_prob", self.gray_scale_prob, 1.0),
            ("data.augment.flip_prob", self.flip_prob, 1.0),
        ];
        let wrong = shares
            .into_iter()
            .find(|(_, share, most)| !(0.0..=*most).contains(share));
        wrong.map(|(name, share, _)| (name, share))
    }

    /// Whether images are to have their colours changed and nothing says how much, or how much and no image is to.
    pub(crate) fn jitters_by_halves(&self) -> bool {
        let amount = self.color_jitter.iter().any(|most| *most > 0.0);
        amount != (self.color_jitter_prob > 0.0)
    }

    /// Changes an image of `side` pixels a row, as the random stream says.
    pub(crate) fn apply(&self, pixels: &mut [u8], side: usize, rng: &mut ChaCha8Rng) {
        // Every draw is made whether it is used or not, so that one option doesn't move another's.
        let mut chance = |share: f32| uniform(rng, 0.0, 1.0) < share;
        let (jitter, grey, flip) = (
            chance(self.color_jitter_prob),
            chance(self.gray_scale_prob),
            chance(self.flip_prob),
        );
        if jitter {
            for adjustment in self.draw_jitter(rng) {
                adjustment.apply(pixels);
            }
        }
        if grey {
            Adjustment::Saturation(0.0).apply(pixels);
        }
        if flip {
            mirror(pixels, side);
        }
    }

    /// The four adjustments in random order.
    fn draw_jitter(&self, rng: &mut impl Rng) -> [Adjustment; 4] {
        let [brightness, contrast, saturation, hue] = self.color_jitter;
        let mut factor = |most: f32| uniform(rng, 1.0 - most, 1.0 + most);
        let mut adjustments = [
            Adjustment::Brightness(factor(brightness)),
            Adjustment::Contrast(factor(contrast)),
            Adjustment::Saturation(factor(saturation)),
            Adjustment::Hue(uniform(rng, -hue, hue)),
        ];
        for last in (1..4).rev() {
            adjustments.swap(last, below(rng, last as u64 + 1) as usize);
        }
        adjustments
    }
}

/// A change of colours, as TorchVision makes it of an image of Pillow's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjustment {
    /// Times this; 0 is black.
    Brightness(f32),
    /// Away from the mean grey; 0 is all grey.
    Contrast(f32),
    /// Away from each pixel's grey; 0 is a grey picture.
    Saturation(f32),
    /// Around the circle of colours by this share of it, from -0.5 to 0.5.
    Hue(f32),
}

impl Adjustment {
    /// Changes pixels of red, green and blue.
    pub fn apply(self, pixels: &mut [u8]) {
        let (pixels, _) = pixels.as_chunks_mut::<3>();
        match self {
            Self::Brightness(factor) => {
                for pixel in pixels {
                    *pixel = pixel.map(|channel| blend(0, channel, factor));
                }
            }
            Self::Contrast(factor) => {
                let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(*pixel))).sum();
                let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
                for pixel in pixels {
                    *pixel = pixel.map(|channel| blend(mean, channel, factor));
                }
            }
            Self::Saturation(factor) => {
                for pixel in pixels {
                    let grey = grey(*pixel);
                    *pixel = pixel.map(|channel| blend(grey, channel, factor));
                }
            }
            Self::Hue(shift) => {
                let shift = (shift * 255.0) as i32 as u8;
                for pixel in pixels {
                    let [hue, saturation, value] = to_hsv(*pixel);
                    *pixel = from_hsv([hue.wrapping_add(shift), saturation, value]);
                }
            }
        }
    }
}

/// Pillow's `Image.blend`, which cuts off where it doesn't extrapolate.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// Pillow's conversion to `L`: ITU-R 601-2 luma in 16 bits.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

/// Pillow's conversion to `HSV`.
fn to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let high = red.max(green).max(blue);
    let low = red.min(green).min(blue);
    if high == low {
        return [0, 0, high];
    }
    let spread = f32::from(high - low);
    let below = |channel: u8| f32::from(high - channel) / spread;
    let hue = if red == high {
        below(blue) - below(green)
    } else if green == high {
        2.0 + below(red) - below(blue)
    } else {
        4.0 + below(green) - below(red)
    };
    let hue = (f64::from(hue) / 6.0 + 1.0) % 1.0;
    let saturation = spread / f32::from(high);
    [(hue as f32 * 255.0) as u8, (saturation * 255.0) as u8, high]
}

/// Pillow's conversion from `HSV`.
fn from_hsv([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let saturation = f32::from(saturation) / 255.0;
    let sixths = f32::from(hue) * 6.0 / 255.0;
    let part = sixths - sixths.floor();
    let scaled = |share: f32| (f32::from(value) * share).round() as u8;
    let p = scaled(1.0 - saturation);
    let q = scaled(1.0 - saturation * part);
    let t = scaled(1.0 - saturation * (1.0 - part));
    match sixths as u8 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

fn mirror(pixels: &mut [u8], side: usize) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for row in pixels.chunks_mut(side.max(1)) {
        row.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Purpose, stream};

    #[test]
    fn shares_are_of_the_images() {
        let augment = Augment {
            flip_prob: 0.5,
            gray_scale_prob: 0.2,
            ..Augment::default()
        };
        let (mut flipped, mut grey) = (0, 0);
        for number in 0..2000 {
            let mut pixels = [255, 0, 0, 0, 0, 255];
            let mut rng = stream(3, 0, Purpose::Augment, number);
            augment.apply(&mut pixels, 2, &mut rng);
            // Red is lighter than blue.
            flipped += u32::from(pixels[0] < pixels[3] || pixels[2] == 255);
            grey += u32::from(pixels[0] == pixels[1] && pixels[1] == pixels[2]);
        }
        // Five standard deviations of a binomial count.
        assert!(flipped.abs_diff(1000) < 112, "{flipped}");
        assert!(grey.abs_diff(400) < 90, "{grey}");
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_none_is_none() {
        let augment = Augment {
            color_jitter: [0.4, 0.0, 0.0, 0.0],
            color_jitter_prob: 1.0,
            ..Augment::default()
        };
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let mut pixels = [100; 12];
            augment.apply(&mut pixels, 2, &mut stream(3, 0, Purpose::Augment, number));
            assert!((59..=140).contains(&pixels[0]), "{}", pixels[0]);
            seen.insert(pixels[0]);
            let mut same = [1, 2, 3, 4, 5, 6];
            let mut rng = stream(3, 0, Purpose::Augment, number);
            Augment::default().apply(&mut same, 2, &mut rng);
            assert_eq!(same, [1, 2, 3, 4, 5, 6]);
        }
        assert!(seen.len() > 50);
    }

    #[test]
    fn mirrors_rows_alone() {
        let mut pixels: Vec<u8> = (0..12).collect();
        mirror(&mut pixels, 2);
        assert_eq!(pixels, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
    }
}
