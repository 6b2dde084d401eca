use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::{DataError, FaultKind, jpeg};

/// Most pixels an image may have; the reference's loader has the same limit for photographs off the web.
pub const MAX_PIXELS: u64 = 25_000_000;

/// Most pixels of an image that is named by hand, beyond which Pillow takes an image for an attack: twice its
/// `MAX_IMAGE_PIXELS`. Such an image takes 3 GB while it is decoded, and one is decoded at a time.
pub const MAX_NAMED_PIXELS: u64 = 178_956_970;

/// Longest side an image may have, which is a JPEG's limit. Resizing brings one side to the model's size before the other,
/// so that the memory it takes grows by the longer side, however narrow the image is.
pub(crate) const MAX_SIDE: usize = 65_535;

/// An image of 8-bit red, green and blue, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, channels innermost.
    pub pixels: Vec<u8>,
}

/// Reads and decodes an image file of at most [`MAX_NAMED_PIXELS`].
///
/// # Errors
/// [`DataError::Io`] if it can't be read, [`DataError::BadImage`] if it is no usable image.
pub fn read_image(path: &Path) -> Result<RgbImage, DataError> {
    let bytes = std::fs::read(path).map_err(clip_files::io("read", path))?;
    decode_within(&bytes, MAX_NAMED_PIXELS).map_err(|kind| DataError::BadImage {
        path: path.to_owned(),
        kind,
    })
}

/// Decodes a JPEG, PNG, WebP, GIF (its first picture) or BMP of at most [`MAX_PIXELS`]: transparency on white, grey and
/// palettes to colour, 16 bits to 8. What it is, its bytes tell, whatever it is called.
///
/// EXIF orientation is ignored, as `Image.convert` of Pillow does. A JPEG is decoded whole: its halves, which libjpeg
/// decodes faster, give other pictures than training elsewhere sees (`docs/benchmarks.md`).
///
/// # Errors
/// [`FaultKind::TooLarge`] by the header's size, before any pixel is allocated;
/// [`FaultKind::Undecodable`] otherwise, for a file that is cut off too.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, FaultKind> {
    decode_within(bytes, MAX_PIXELS)
}

/// Decodes an image of at most `max_pixels`, else as [`decode`] does.
///
/// # Errors
/// [`FaultKind::TooLarge`] by the header's size, before any pixel is allocated;
/// [`FaultKind::Undecodable`] otherwise, for a file that is cut off too.
pub fn decode_within(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, FaultKind> {
    // A decoder that panics on hostile bytes costs that sample, not the run.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let format = image::guess_format(bytes).map_err(undecodable)?;
        if format == ImageFormat::Jpeg {
            decode_jpeg(bytes, max_pixels)
        } else {
            decode_other(bytes, format, max_pixels)
        }
    }));
    decoded.unwrap_or(Err(FaultKind::Undecodable))
}

/// By the decoder behind `image`, which would copy the file, read its header and make its tables twice, and return grey
/// that is to become colour.
fn decode_jpeg(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, FaultKind> {
    if !jpeg::is_whole(bytes) {
        return Err(FaultKind::Undecodable);
    }
    // Its own limit, 16,384, would refuse a long panorama. What counts is the product, below.
    let side = max_pixels as usize;
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(false)
        .set_max_width(side)
        .set_max_height(side);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(undecodable)?;
    let (width, height) = decoder.dimensions().ok_or(FaultKind::Undecodable)?;
    check_size(width, height, max_pixels)?;
    let mut pixels = vec![0; width * height * 3];
    decoder.decode_into(&mut pixels).map_err(undecodable)?;
    Ok(RgbImage {
        width,
        height,
        pixels,
    })
}

fn decode_other(bytes: &[u8], format: ImageFormat, max_pixels: u64) -> Result<RgbImage, FaultKind> {
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, max_pixels)?;
    let mut limits = Limits::default();
    // Of a large image by its own size, so that its metadata can't ask for what the largest may.
    let pixels = (width as u64 * height as u64).max(MAX_PIXELS);
    limits.max_alloc = Some(pixels * 16);
    decoder.set_limits(limits).map_err(undecodable)?;
    let image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    Ok(RgbImage {
        width,
        height,
        pixels: to_rgb(image),
    })
}

fn check_size(width: usize, height: usize, max_pixels: u64) -> Result<(), FaultKind> {
    if width as u64 * height as u64 > max_pixels || width.max(height) > MAX_SIDE {
        return Err(FaultKind::TooLarge);
    }
    if width == 0 || height == 0 {
        return Err(FaultKind::Undecodable);
    }
    Ok(())
}

/// Why a file can't be decoded differs from decoder to decoder, and doesn't help to mend it.
fn undecodable<E>(_: E) -> FaultKind {
    FaultKind::Undecodable
}

/// The values of Pillow's `convert("RGB")`, but for transparency, which it ignores.
fn to_rgb(image: DynamicImage) -> Vec<u8> {
    // Of channels of 16 bits Pillow reads the upper 8.
    let upper = |channel: &u16| (channel >> 8) as u8;
    match image {
        // Grey of 16 bits, Pillow's mode `I;16`, is no light but numbers to it: those beyond 255 are cut off there.
        DynamicImage::ImageLuma16(grey) => {
            let level = |channel: &u16| [(*channel).min(255) as u8; 3];
            grey.as_raw().iter().flat_map(level).collect()
        }
        DynamicImage::ImageRgb16(deep) => deep.as_raw().iter().map(upper).collect(),
        DynamicImage::ImageLumaA16(deep) => {
            let pixels = deep.as_raw().chunks_exact(2);
            let rgba =
                pixels.flat_map(|p| [upper(&p[0]), upper(&p[0]), upper(&p[0]), upper(&p[1])]);
            on_white(&rgba.collect::<Vec<u8>>())
        }
        DynamicImage::ImageRgba16(deep) => {
            on_white(&deep.as_raw().iter().map(upper).collect::<Vec<u8>>())
        }
        image if image.color().has_alpha() => on_white(&image.into_rgba8().into_raw()),
        image => image.into_rgb8().into_raw(),
    }
}

fn on_white(rgba: &[u8]) -> Vec<u8> {
    let blend = |channel: u8, alpha: u8| {
        let (channel, alpha) = (u32::from(channel), u32::from(alpha));
        ((channel * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    rgba.chunks_exact(4)
        .flat_map(|p| [blend(p[0], p[3]), blend(p[1], p[3]), blend(p[2], p[3])])
        .collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb, RgbaImage};

    use super::*;

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn transparency_lies_on_white() {
        let image = RgbaImage::from_raw(2, 1, vec![10, 20, 30, 0, 255, 0, 0, 128]).unwrap();
        let decoded = decode(&encoded(image, ImageFormat::Png)).unwrap();
        assert_eq!(decoded.pixels, [255, 255, 255, 255, 127, 127]);
    }

    #[test]
    fn grey_and_deep_images_become_colour() {
        let grey = GrayImage::from_pixel(3, 2, Luma([77]));
        assert_eq!(
            decode(&encoded(grey, ImageFormat::Png)).unwrap().pixels,
            [77; 18]
        );
        // The values of Pillow 13.0.0 for the same files.
        let deep = image::ImageBuffer::from_pixel(1, 1, Rgb([255_u16, 32_768, 65_535]));
        assert_eq!(
            decode(&encoded(deep, ImageFormat::Png)).unwrap().pixels,
            [0, 128, 255]
        );
        let numbers = image::ImageBuffer::from_fn(2, 1, |x, _| Luma([200 + x as u16 * 800]));
        assert_eq!(
            decode(&encoded(numbers, ImageFormat::Png)).unwrap().pixels,
            [200, 200, 200, 255, 255, 255]
        );
        let opaque = image::ImageBuffer::from_pixel(1, 1, image::LumaA([1000_u16, 65_535]));
        assert_eq!(
            decode(&encoded(opaque, ImageFormat::Png)).unwrap().pixels,
            [3; 3]
        );
        let lossless = image::RgbImage::from_pixel(2, 2, Rgb([1, 2, 3]));
        assert_eq!(
            decode(&encoded(lossless, ImageFormat::WebP))
                .unwrap()
                .pixels[..3],
            [1, 2, 3]
        );
    }

    #[test]
    fn of_an_animation_the_first_picture_is_taken() {
        // A pixel of the palette's first colour, and one of its second.
        let gif = b"GIF89a\x01\0\x01\0\x80\0\0\xff\x07\0\0\0\xff\
            ,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\
            ,\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0;";
        assert_eq!(decode(gif).unwrap().pixels, [255, 7, 0]);
        let exact = image::RgbImage::from_pixel(3, 2, Rgb([1, 2, 3]));
        assert_eq!(
            decode(&encoded(exact, ImageFormat::Bmp)).unwrap().pixels,
            [1, 2, 3].repeat(6)
        );
    }

    #[test]
    fn broken_images_are_undecodable_wherever_they_break() {
        let image = image::RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 8, y as u8 * 8, 9]));
        for format in [
            ImageFormat::Png,
            ImageFormat::WebP,
            ImageFormat::Jpeg,
            ImageFormat::Gif,
            ImageFormat::Bmp,
        ] {
            let bytes = encoded(image.clone(), format);
            for cut in [0, 5, 20, bytes.len() / 2, bytes.len() - 20] {
                assert_eq!(
                    decode(&bytes[..cut]),
                    Err(FaultKind::Undecodable),
                    "{format:?} {cut}"
                );
            }
        }
        assert_eq!(
            decode(b"<html>not found</html>"),
            Err(FaultKind::Undecodable)
        );
    }

    #[test]
    fn a_picture_with_a_video_behind_it_is_decoded() {
        let image = image::RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 8, y as u8 * 8, 9]));
        let bytes = encoded(image, ImageFormat::Jpeg);
        let video = [&b"\0\0\0\x18ftypmp42"[..], &[0xff, 0xda, 0, 8, 1, 2]].concat();
        assert_eq!(decode(&[&bytes[..], &video].concat()), decode(&bytes));
        assert!(decode(&bytes).is_ok());
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        assert_eq!(decode(&claiming(60_000, 60_000)), Err(FaultKind::TooLarge));
    }

    #[test]
    fn a_sliver_is_refused_by_its_header_and_a_long_panorama_is_not() {
        for (width, height) in [(1, 65_536), (65_536, 1), (1, 25_000_000)] {
            let refused = decode(&claiming(width, height));
            assert_eq!(refused, Err(FaultKind::TooLarge), "{width} by {height}");
        }
        let panorama = encoded(GrayImage::new(65_535, 2), ImageFormat::Png);
        assert_eq!(decode(&panorama).unwrap().width, 65_535);
    }

    #[test]
    fn a_named_image_may_be_larger_than_one_of_a_shard() {
        let large = encoded(GrayImage::new(5_001, 5_000), ImageFormat::Png);
        assert_eq!(decode(&large), Err(FaultKind::TooLarge));
        let dir = tempfile::tempdir().unwrap();
        let path = crate::testing::write(&dir, "large.png", &large);
        assert_eq!(read_image(&path).unwrap().width, 5_001);
        let path = crate::testing::write(&dir, "huge.png", &claiming(13_400, 13_400));
        let error = read_image(&path).unwrap_err().to_string();
        assert!(
            error.contains("178956970 pixels") && error.contains("reduce it"),
            "{error}"
        );
    }

    /// A PNG whose header claims so many pixels, its checksum right.
    fn claiming(width: u32, height: u32) -> Vec<u8> {
        let mut png = encoded(GrayImage::new(1, 1), ImageFormat::Png);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = png[12..29].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
            })
        });
        png[29..33].copy_from_slice(&(!crc).to_be_bytes());
        png
    }
}
