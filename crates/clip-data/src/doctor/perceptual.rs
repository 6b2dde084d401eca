use std::{f32::consts::PI, sync::LazyLock};

use fast_image_resize::{FilterType, Resizer};

use crate::{RgbImage, resize::resize};

/// Side of the image that is looked at, in pixels.
const SIDE: usize = 32;
/// Frequencies of each direction that are compared.
const FREQUENCIES: usize = 8;
/// Below this, in levels of 255, an image's lowest frequencies are the noise of its coding: it is flat.
const FLAT: f32 = 1.0;

/// The first frequencies of the discrete cosine transform but for the constant one, `[frequency][position]`.
static COSINES: LazyLock<[[f32; SIDE]; FREQUENCIES]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|position| {
            let turn = (frequency + 1) as f32 * (2 * position + 1) as f32;
            (PI * turn / (2 * SIDE) as f32).cos() * 2.0 / SIDE as f32
        })
    })
});

/// 64 bits that stay nearly the same when an image is resized or encoded anew; `None` for a flat image, in which there
/// is nothing to compare.
///
/// # References
/// Zauner 2010, *Implementation and Benchmarking of Perceptual Image Hash Functions*, section 3.2: which of the 8 by 8
/// lowest frequencies lie above their median.
pub(super) fn perceptual_hash(image: &RgbImage, resizer: &mut Resizer) -> Option<u64> {
    // The filter covers every source pixel, so that a photograph and its thumbnail look the same.
    let side = SIDE as u32;
    let small = resize(image, side, side, FilterType::Bilinear, resizer);
    // ITU-R 601's brightness.
    let grey: Vec<f32> = small
        .chunks_exact(3)
        .map(|rgb| {
            0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2])
        })
        .collect();
    let mut rows = [[0.0; SIDE]; FREQUENCIES];
    for (row, cosines) in rows.iter_mut().zip(COSINES.iter()) {
        for (y, value) in row.iter_mut().enumerate() {
            let pixels = &grey[y * SIDE..(y + 1) * SIDE];
            *value = dot(pixels, cosines);
        }
    }
    let mut values = [0.0; FREQUENCIES * FREQUENCIES];
    for (at, value) in values.iter_mut().enumerate() {
        *value = dot(&rows[at % FREQUENCIES], &COSINES[at / FREQUENCIES]);
    }
    if values.iter().all(|value| value.abs() < FLAT) {
        return None;
    }
    let mut sorted = values;
    sorted.sort_unstable_by(f32::total_cmp);
    let median = f32::midpoint(sorted[31], sorted[32]);
    let bits = values.iter().enumerate();
    Some(bits.fold(0, |hash, (at, value)| {
        hash | u64::from(*value > median) << at
    }))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

    use super::*;
    use crate::decode;

    /// Blots of grey that differ with `seed`, in a picture of any size.
    fn picture(seed: u32, width: usize, height: usize) -> RgbImage {
        const BLOTS: usize = 7;
        let mut state = seed;
        let levels: Vec<f32> = (0..BLOTS * BLOTS)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as f32
            })
            .collect();
        let part = |at: usize, side: usize| {
            let exact = at as f32 / side as f32 * (BLOTS - 1) as f32;
            (exact as usize, exact.fract())
        };
        let mut pixels = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let ((column, right), (row, down)) = (part(x, width), part(y, height));
                let level = |row: usize, column: usize| levels[row * BLOTS + column];
                let mix = |row| level(row, column) * (1.0 - right) + level(row, column + 1) * right;
                let grey = (mix(row) * (1.0 - down) + mix(row + 1) * down) as u8;
                pixels.extend([grey; 3]);
            }
        }
        RgbImage {
            width,
            height,
            pixels,
        }
    }

    #[test]
    fn a_copy_of_another_size_and_quality_is_near_and_another_picture_is_not() {
        let mut resizer = Resizer::new();
        let mut hash = |image: &RgbImage| perceptual_hash(image, &mut resizer).unwrap();
        let hashes: Vec<u64> = (0..20)
            .map(|seed| {
                let whole = hash(&picture(seed, 200, 150));
                let small = picture(seed, 120, 90);
                let mut jpeg = Vec::new();
                JpegEncoder::new_with_quality(&mut jpeg, 70)
                    .encode(&small.pixels, 120, 90, ExtendedColorType::Rgb8)
                    .unwrap();
                let copy = hash(&decode(&jpeg).unwrap());
                let distance = (whole ^ copy).count_ones();
                assert!(
                    distance <= super::super::duplicates::NEAR,
                    "{seed}: {distance}"
                );
                whole
            })
            .collect();
        for (at, first) in hashes.iter().enumerate() {
            for second in &hashes[..at] {
                assert!((first ^ second).count_ones() > 8);
            }
        }
    }

    #[test]
    fn flat_images_have_no_hash() {
        let flat = RgbImage {
            width: 40,
            height: 30,
            pixels: vec![77; 3600],
        };
        assert_eq!(perceptual_hash(&flat, &mut Resizer::new()), None);
    }
}
