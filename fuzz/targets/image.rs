//! An image of any bytes, decoded and cropped as for training and evaluation. The library catches its decoders' panics.

#![no_main]

use clip_data::{CropBox, ImageResizer, decode};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 16;

fuzz_target!(init: clip_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let Ok(image) = decode(bytes) else { return };
    assert_eq!(image.pixels.len(), image.width * image.height * 3);
    let mut resizer = ImageResizer::new(SIZE);
    let whole = CropBox {
        left: 0,
        top: 0,
        width: image.width,
        height: image.height,
    };
    assert_eq!(resizer.crop(&image, whole).len(), SIZE * SIZE * 3);
    assert_eq!(resizer.center_crop(&image).len(), SIZE * SIZE * 3);
});
