use std::ops::Range;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use clip_model::{Clip, ImageNorm, Precision};

use super::batch::PairBatch;

/// A model whose similarities another learns from, beside the captions. It sees the same images and token ids.
#[derive(Clone, Debug)]
pub struct Teacher {
    /// Off the graph.
    clip: Clip,
    norm: ImageNorm,
}

impl Teacher {
    /// Of a model on a device without autodiff, which sees images so normalised.
    pub fn new(clip: Clip, norm: ImageNorm) -> Self {
        Self { clip, norm }
    }

    /// The same on another device, or where it is, encoding in this precision.
    pub(super) fn placed(&self, device: Option<&Device>, precision: Precision) -> Self {
        let clip = self.clip.clone();
        let clip = match device {
            Some(device) => clip.to_device(device),
            None => clip,
        };
        Self {
            clip: precision.copy(&clip),
            norm: self.norm,
        }
    }

    /// `[1]`: logarithm of the factor between its cosines and logits.
    pub(super) fn logit_scale(&self) -> Tensor<1> {
        self.clip.logit_scale.val()
    }

    /// Features of some images and captions of a batch, given what the student makes of the images on `device`.
    ///
    /// # Shapes
    /// - images: `[rows, 3, size, size]`, normalised for the student
    /// - returns `[rows, embed_dim]` each, not normalised
    pub(super) fn encode(
        &self,
        batch: &PairBatch,
        rows: Range<usize>,
        images: &Tensor<4>,
        buckets: usize,
    ) -> [Tensor<2>; 2] {
        let device = images.device();
        let images = if batch.images.norm() == self.norm {
            images.clone()
        } else {
            batch.images.rows_for(self.norm, rows.clone(), &device)
        };
        let captions = batch.captions.of(&self.clip.text, rows, buckets, &device);
        let text = captions
            .inner()
            .encode(|tokens| self.clip.encode_text(tokens.clone()));
        [self.clip.encode_image(images.inner()), text]
    }
}
