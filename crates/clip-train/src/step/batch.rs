use std::ops::Range;

use burn::tensor::{Bytes, Device, Tensor};
use clip_model::{ImageNorm, SentPixels, loss::Groups};

use super::{Captions, KeptPatches, KeptPaths};

/// Images with a caption each, and what a step makes of them. They stay on the host until they are encoded, or until
/// they are brought to a device ahead of it.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// Decoded images.
    pub images: Images,
    /// As many as images.
    pub captions: Captions,
    /// The patches of each image that are encoded; all by default.
    pub patches: Option<KeptPatches>,
    /// The residual paths of the image encoder that each image takes; all by default.
    pub paths: Option<KeptPaths>,
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
            paths: None,
            groups: None,
        }
    }
}

/// Decoded images: their bytes travel to the device that encodes them, which normalises them.
#[derive(Clone, Debug)]
pub struct Images {
    /// `[images, size, size, 3]`.
    pixels: Pixels,
    count: usize,
    size: usize,
    norm: ImageNorm,
}

#[derive(Clone, Debug)]
enum Pixels {
    /// Clones and parts share them.
    Here(Bytes),
    Sent(Box<SentPixels>),
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
        Self {
            count: pixels.len() / (size * size * 3),
            pixels: Pixels::Here(Bytes::from_bytes_vec(pixels).shared()),
            size,
            norm,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How the model that is trained sees them.
    pub(crate) fn norm(&self) -> ImageNorm {
        self.norm
    }

    /// The same on the device that will encode them, or on their way there: a GPU takes them while it computes.
    pub fn on_device(self, device: &Device) -> Self {
        let pixels = match self.pixels {
            Pixels::Here(pixels) => Box::new(SentPixels::while_it_computes(pixels, device)),
            Pixels::Sent(sent) => sent,
        };
        Self {
            pixels: Pixels::Sent(pixels),
            ..self
        }
    }

    /// Some of them on a device, normalised.
    ///
    /// # Shapes
    /// - returns `[rows, 3, size, size]`
    ///
    /// # Panics
    /// If they are on another device.
    pub(crate) fn rows(&self, rows: Range<usize>, device: &Device) -> Tensor<4> {
        self.rows_for(self.norm, rows, device)
    }

    /// As [`rows`](Self::rows), normalised as another model was trained.
    ///
    /// # Panics
    /// As there.
    pub(crate) fn rows_for(
        &self,
        norm: ImageNorm,
        rows: Range<usize>,
        device: &Device,
    ) -> Tensor<4> {
        // Of one image.
        let bytes = self.size * self.size * 3;
        let (start, end) = (rows.start * bytes, rows.end * bytes);
        match &self.pixels {
            Pixels::Here(pixels) => {
                // invariant: they are shared, and the rows are those of a chunk of them.
                let pixels = pixels.view(start, end);
                let pixels = pixels.expect("invariant: rows of shared bytes");
                norm.bytes_to_tensor(pixels, self.size, device)
            }
            Pixels::Sent(sent) => {
                assert_eq!(sent.device(), *device, "images were sent elsewhere");
                norm.normalise(sent.part(start..end), self.size)
            }
        }
    }
}
