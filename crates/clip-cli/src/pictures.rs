//! Image files to pixels of the model's size.

use std::path::Path;

use clip_data::{DataError, ImageResizer, read_image};

/// Images encoded at once: past it a processor gets no faster.
pub(crate) const BATCH: usize = 64;

/// Reads image files as an evaluation reads a shard's: the shortest side resized, the centre cut out.
pub(crate) struct Pictures {
    resizer: ImageResizer,
}

impl Pictures {
    pub(crate) fn new(image_size: usize) -> Self {
        Self {
            resizer: ImageResizer::new(image_size),
        }
    }

    /// `image_size * image_size * 3` bytes.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, DataError> {
        Ok(self.resizer.center_crop(&read_image(path)?))
    }
}
