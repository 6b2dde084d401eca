use std::ops::Range;

use burn::tensor::{Bytes, Device, Tensor};
use clip_model::{ImageNorm, loss::Groups};

use super::{Captions, KeptPatches};

/// Images with a caption each, and what a step makes of them. They stay on the host until they are encoded.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// Decoded images.
    pub images: Images,
    /// As many as images.
    pub captions: Captions,
    /// The patches of each image that are encoded; all by default.
    pub patches: Option<KeptPatches>,
    /// Which pairs match each other; none by default.
    pub groups: Option<Groups>,
}

impl PairBatch {
    /// Whole images, each of which matches its own caption alone.
    pub fn new(images: Images, captions: Captions) -> Self {
        Self {
            images,
            captions,
            patches: None,
            groups: None,
        }
    }
}

/// Decoded images: their bytes travel to the device that encodes them, which normalises them.
#[derive(Clone, Debug)]
pub struct Images {
    /// `[images, size, size, 3]`; its clones and parts share them.
    pixels: Bytes,
    size: usize,
    norm: ImageNorm,
}

impl Images {
    /// # Panics
    /// If the pixels aren't whole images of `size` by `size`, in three colours.
    pub fn new(pixels: Vec<u8>, size: usize, norm: ImageNorm) -> Self {
        assert!(
            size > 0 && pixels.len().is_multiple_of(size * size * 3),
            "{} bytes are no whole images of {size} by {size}",
            pixels.len()
        );
        let pixels = Bytes::from_bytes_vec(pixels).shared();
        Self { pixels, size, norm }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pixels.len() / self.bytes()
    }

    /// Some of them on a device, normalised.
    ///
    /// # Shapes
    /// - returns `[rows, 3, size, size]`
    pub(super) fn rows(&self, rows: Range<usize>, device: &Device) -> Tensor<4> {
        let (start, end) = (rows.start * self.bytes(), rows.end * self.bytes());
        // invariant: they are shared, and the rows are those of a chunk of them.
        let pixels = self.pixels.view(start, end);
        let pixels = pixels.expect("invariant: rows of shared bytes");
        self.norm.bytes_to_tensor(pixels, self.size, device)
    }

    /// Of one image.
    fn bytes(&self) -> usize {
        self.size * self.size * 3
    }
}
