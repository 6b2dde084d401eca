use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};

use crate::RgbImage;

/// The whole image in other dimensions: `height * width * 3` bytes, row by row.
pub(crate) fn resize(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: FilterType,
    resizer: &mut Resizer,
) -> Vec<u8> {
    let (old_width, old_height) = (image.width as u32, image.height as u32);
    // With the type of pixel given, the resizer's kernels are compiled for it alone.
    let source = TypedImageRef::<U8x3>::from_buffer(old_width, old_height, &image.pixels)
        .expect("invariant: a decoded image has all its pixels");
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels)
        .expect("invariant: the rows are whole");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    resizer
        .resize_typed(&source, &mut target, &options)
        .expect("invariant: there is no window that could lie outside");
    pixels
}
