use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImage, TypedImage, TypedImageRef},
    pixels::U8x3,
};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{RgbImage, order};

/// Tries to place a crop before the centre is taken, as TorchVision counts them.
const TRIES: usize = 10;

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A random part of the image, resized to a square: the only augmentation of CLIP's training.
///
/// # References
/// Radford et al. 2021, section 2.4; `RandomResizedCrop` of TorchVision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomResizedCrop {
    /// Share of the image's area. 0.9 to 1, as in `OpenCLIP`: a caption describes the whole picture.
    pub scale: (f32, f32),
    /// Width over height, drawn evenly on a logarithmic scale. TorchVision's 3/4 to 4/3.
    pub ratio: (f32, f32),
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self {
            scale: (0.9, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
        }
    }
}

/// Where the random numbers of a crop come from.
pub trait CropDraws {
    /// A number in `[low, high)`.
    fn uniform(&mut self, low: f32, high: f32) -> f32;
    /// A whole number below `bound`.
    fn below(&mut self, bound: usize) -> usize;
}

impl CropDraws for ChaCha8Rng {
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        order::uniform(self, low, high)
    }

    fn below(&mut self, bound: usize) -> usize {
        order::below(self, bound as u64) as usize
    }
}

impl RandomResizedCrop {
    /// Draws the part of a `width` by `height` image.
    pub fn draw(&self, width: usize, height: usize, draws: &mut impl CropDraws) -> CropBox {
        let area = (width * height) as f64;
        let (low, high) = (self.ratio.0.ln(), self.ratio.1.ln());
        for _ in 0..TRIES {
            let target = area * f64::from(draws.uniform(self.scale.0, self.scale.1));
            let aspect = f64::from(draws.uniform(low, high).exp());
            let w = (target * aspect).sqrt().round_ties_even() as usize;
            let h = (target / aspect).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = draws.below(height - h + 1);
                let left = draws.below(width - w + 1);
                return CropBox {
                    left,
                    top,
                    width: w,
                    height: h,
                };
            }
        }
        let own = width as f64 / height as f64;
        let (least, most) = (f64::from(self.ratio.0), f64::from(self.ratio.1));
        let (w, h) = if own < least {
            (width, (width as f64 / least).round_ties_even() as usize)
        } else if own > most {
            ((height as f64 * most).round_ties_even() as usize, height)
        } else {
            (width, height)
        };
        // A picture one pixel wide would otherwise round to more, or to nothing.
        let (w, h) = (w.clamp(1, width), h.clamp(1, height));
        CropBox {
            left: (width - w) / 2,
            top: (height - h) / 2,
            width: w,
            height: h,
        }
    }
}

/// How an image becomes a square where it is used, instead of by a random crop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resize {
    /// Resizes both sides, whatever the image's shape, instead of the shortest one before the centre is cut out.
    pub squash: bool,
    /// Weighs pixels linearly instead of by a cubic.
    pub bilinear: bool,
}

/// Resizing with Pillow's values: its filters, its antialiasing, columns before rows with 8 bits between.
#[derive(Clone, Debug)]
pub struct ImageResizer {
    size: usize,
    squash: bool,
    resizer: Resizer,
    options: ResizeOptions,
    /// Rows between both passes, kept for the next image: fresh memory costs as much as filling it.
    narrow: Vec<u8>,
}

impl ImageResizer {
    /// Resizes to `size` by `size` pixels, as the paper does.
    pub fn new(size: usize) -> Self {
        Self::with(size, Resize::default())
    }

    /// Resizes to `size` by `size` pixels.
    pub fn with(size: usize, resize: Resize) -> Self {
        let filter = if resize.bilinear {
            FilterType::Bilinear
        } else {
            // Keys' cubic with a = -0.5, Pillow's `BICUBIC`.
            FilterType::CatmullRom
        };
        Self {
            size,
            squash: resize.squash,
            resizer: Resizer::new(),
            options: ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)),
            narrow: Vec::new(),
        }
    }

    /// The whole image or its centre: `size * size * 3` bytes, row by row.
    pub fn square(&mut self, image: &RgbImage) -> Vec<u8> {
        if !self.squash {
            return self.center_crop(image);
        }
        let whole = CropBox {
            left: 0,
            top: 0,
            width: image.width,
            height: image.height,
        };
        self.crop(image, whole)
    }

    /// Cuts the part out and resizes it: `size * size * 3` bytes, row by row.
    ///
    /// # Panics
    /// If the part doesn't lie within the image.
    pub fn crop(&mut self, image: &RgbImage, part: CropBox) -> Vec<u8> {
        let columns = (0.0, part.width as f64);
        self.resize(image, part, columns, (0.0, part.height as f64))
    }

    /// Resizes the shortest side to `size` and cuts out the centre: how CLIP sees an image when it is used.
    ///
    /// Only what the centre needs is computed, so that a picture of one row and a million columns costs nothing.
    pub fn center_crop(&mut self, image: &RgbImage) -> Vec<u8> {
        let (width, height, size) = (image.width, image.height, self.size);
        let shortest = width.min(height);
        let long = |side: usize| {
            if side == shortest {
                size
            } else {
                (size as u128 * side as u128 / shortest as u128) as usize
            }
        };
        let columns = center(width, long(width), size);
        let rows = center(height, long(height), size);
        let part = CropBox {
            left: columns.first,
            top: rows.first,
            width: columns.count,
            height: rows.count,
        };
        self.resize(image, part, columns.window, rows.window)
    }

    /// Resizes a window of fractions of pixels, given from the part's corner, to the square.
    /// Pixels of the part outside the window take part in the filter; those outside the part don't.
    fn resize(
        &mut self,
        image: &RgbImage,
        part: CropBox,
        columns: (f64, f64),
        rows: (f64, f64),
    ) -> Vec<u8> {
        let size = self.size;
        let narrow_part = CropBox {
            left: 0,
            top: 0,
            width: size,
            height: part.height,
        };
        let all_rows = (0.0, part.height as f64);
        let mut narrow = std::mem::take(&mut self.narrow);
        narrow.resize(size * part.height * 3, 0);
        self.resample(
            (&image.pixels, image.width, image.height),
            part,
            (columns, all_rows),
            &mut narrow,
        );
        let mut out = vec![0; size * size * 3];
        self.resample(
            (&narrow, size, part.height),
            narrow_part,
            ((0.0, size as f64), rows),
            &mut out,
        );
        self.narrow = narrow;
        out
    }

    /// Resamples a window of a part of an image, given as its bytes, width and height, to rows of `size` pixels.
    ///
    /// The resizer's own choice of a pixel type at run time would compile its kernels for thirteen of them.
    fn resample(
        &mut self,
        (pixels, width, height): (&[u8], usize, usize),
        part: CropBox,
        (columns, rows): ((f64, f64), (f64, f64)),
        out: &mut [u8],
    ) {
        let image = TypedImageRef::<U8x3>::from_buffer(width as u32, height as u32, pixels)
            .expect("invariant: an image has all its pixels");
        let [left, top, part_width, part_height] =
            [part.left, part.top, part.width, part.height].map(|side| side as u32);
        let source = TypedCroppedImage::new(image, left, top, part_width, part_height)
            .expect("invariant: the caller's part lies within the image");
        let out_rows = out.len() / 3 / self.size;
        let mut out = TypedImage::from_buffer(self.size as u32, out_rows as u32, out)
            .expect("invariant: the rows are whole");
        let options = self.options.crop(columns.0, rows.0, columns.1, rows.1);
        self.resizer
            .resize_typed(&source, &mut out, &options)
            .expect("invariant: the window lies within the part");
    }
}

/// The source pixels that the centre of a resized side is made of.
struct Center {
    first: usize,
    count: usize,
    /// Start and length from `first` on.
    window: (f64, f64),
}

fn center(side: usize, resized: usize, size: usize) -> Center {
    let offset = ((resized - size) as f64 / 2.0).round_ties_even();
    let scale = side as f64 / resized as f64;
    // Twice the filter's half-width of two pixels, and one for rounding.
    let margin = 2.0 * scale.max(1.0) + 1.0;
    let start = offset * scale;
    let length = size as f64 * scale;
    let first = (start - margin).floor().max(0.0) as usize;
    let last = ((start + length + margin).ceil() as usize).min(side);
    let start = start - first as f64;
    let count = last - first;
    Center {
        first,
        count,
        window: (start, length.min(count as f64 - start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Purpose, stream};

    #[test]
    fn crops_lie_within_any_image() {
        let mut rng = stream(1, 0, Purpose::Crop, 0);
        for (width, height) in [(1, 1), (1, 900), (900, 1), (2, 3), (500, 375), (4000, 30)] {
            for _ in 0..200 {
                let part = RandomResizedCrop::default().draw(width, height, &mut rng);
                assert!(
                    part.width > 0 && part.left + part.width <= width,
                    "{part:?}"
                );
                assert!(
                    part.height > 0 && part.top + part.height <= height,
                    "{part:?}"
                );
            }
        }
    }

    #[test]
    fn crops_cover_nine_tenths_and_move() {
        let mut rng = stream(2, 0, Purpose::Crop, 0);
        let parts: Vec<CropBox> = (0..500)
            .map(|_| RandomResizedCrop::default().draw(500, 500, &mut rng))
            .collect();
        // Rounding of the sides moves the area by less than a half per cent.
        assert!(parts.iter().all(|part| part.width * part.height >= 223_900));
        assert!(
            parts.iter().any(|part| part.left > 10) && parts.iter().any(|part| part.width < 480)
        );
    }

    #[test]
    fn the_centre_of_any_size_stays_within_the_image() {
        for width in 1..48 {
            for height in 1..48 {
                let image = RgbImage {
                    width,
                    height,
                    pixels: vec![200; width * height * 3],
                };
                for size in [1, 7, 16] {
                    let out = ImageResizer::new(size).center_crop(&image);
                    assert!(out.len() == size * size * 3 && out.iter().all(|value| *value == 200));
                }
            }
        }
    }

    #[test]
    fn a_sliver_is_resized_without_its_length() {
        let image = RgbImage {
            width: 1,
            height: 2_000_000,
            pixels: vec![9; 6_000_000],
        };
        let mut resizer = ImageResizer::new(224);
        assert!(resizer.center_crop(&image).iter().all(|value| *value == 9));
        assert!(resizer.resizer.size_of_internal_buffers() < 1 << 20);
    }

    #[test]
    fn an_image_of_the_size_stays_as_it_is() {
        let pixels: Vec<u8> = (0..16 * 16 * 3).map(|value| (value * 7) as u8).collect();
        let image = RgbImage {
            width: 16,
            height: 16,
            pixels,
        };
        assert_eq!(ImageResizer::new(16).center_crop(&image), image.pixels);
    }
}
