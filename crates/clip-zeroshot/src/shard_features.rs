use burn::{data::dataloader::DataLoader, tensor::Tensor};
use clip_data::{EvalLoader, FaultReport};

use crate::{ClipEncoders, Corruption, ZeroShotError};

/// What an evaluation needs to know of shards: each image's feature, and what is known about the image.
#[derive(Clone, Debug)]
pub struct ShardFeatures {
    /// `[images, embed_dim]`, not normalised.
    pub images: Tensor<2>,
    /// `[images, width]`, the features before the projection, where [`ImagePass`] asks for them.
    pub unprojected: Option<Tensor<2>>,
    /// Each image's key in its shard.
    pub keys: Vec<String>,
    /// All captions, those of one image together.
    pub captions: Vec<String>,
    /// For each caption the row of its image.
    pub image_of_caption: Vec<usize>,
    /// Each image's class, if it has one.
    pub classes: Vec<Option<usize>>,
    /// Samples read and samples skipped, in this pass.
    pub faults: FaultReport,
}

impl ShardFeatures {
    /// The first caption of an image.
    pub fn first_caption(&self, image: usize) -> Option<&str> {
        let at = self
            .image_of_caption
            .partition_point(|&owner| owner < image);
        (self.image_of_caption.get(at) == Some(&image)).then(|| self.captions[at].as_str())
    }
}

/// What a pass over images does beside encoding them: nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImagePass {
    /// Keeps the features before the projection too.
    pub unprojected: bool,
    /// Damages the images first.
    pub corruption: Option<Corruption>,
}

impl ClipEncoders {
    /// Encodes every image of a loader, batch by batch; only the features stay.
    ///
    /// # Errors
    /// [`ZeroShotError::Loader`] when the shards can't be read or too many samples are bad,
    /// [`ZeroShotError::NoSamples`] when they hold none, and [`ZeroShotError::Stopped`].
    ///
    /// # Panics
    /// If the loader's images have another size than the model's; see [`loader`](Self::loader).
    pub fn encode_shards(&self, loader: &EvalLoader) -> Result<ShardFeatures, ZeroShotError> {
        self.encode_shards_in(loader, ImagePass::default())
    }

    /// Encodes every image of a loader, batch by batch, with what a pass asks for beside the features.
    ///
    /// # Errors
    /// [`ZeroShotError::Loader`] when the shards can't be read or too many samples are bad,
    /// [`ZeroShotError::NoSamples`] when they hold none, and [`ZeroShotError::Stopped`].
    ///
    /// # Panics
    /// If the loader's images have another size than the model's; see [`loader`](Self::loader).
    pub fn encode_shards_in(
        &self,
        loader: &EvalLoader,
        pass: ImagePass,
    ) -> Result<ShardFeatures, ZeroShotError> {
        let before = loader.faults();
        let (mut projected, mut unprojected) = (Vec::new(), Vec::new());
        let (mut keys, mut captions, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        let mut image_of_caption = Vec::new();
        for batch in loader.iter() {
            self.goes_on()?;
            let mut batch = batch?;
            assert_eq!(batch.image_size, self.image_size(), "side of the images");
            if let Some(corruption) = pass.corruption {
                corruption.apply(&mut batch.images, batch.image_size, keys.len());
            }
            if pass.unprojected {
                let [before, after] = self.encode_images_twofold(batch.images);
                unprojected.push(before);
                projected.push(after);
            } else {
                projected.push(self.encode_images(batch.images));
            }
            for (image, own) in (keys.len()..).zip(batch.captions) {
                image_of_caption.extend(own.iter().map(|_| image));
                captions.extend(own);
            }
            keys.extend(batch.keys);
            classes.extend(batch.classes);
            log::debug!("{} images encoded", keys.len());
        }
        if projected.is_empty() {
            return Err(ZeroShotError::NoSamples);
        }
        Ok(ShardFeatures {
            images: Tensor::cat(projected, 0),
            unprojected: pass.unprojected.then(|| Tensor::cat(unprojected, 0)),
            keys,
            captions,
            image_of_caption,
            classes,
            faults: loader.faults().since(&before),
        })
    }
}
