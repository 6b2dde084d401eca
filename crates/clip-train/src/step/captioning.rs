use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_model::{
    encoder::coca::{COCA_PADDING, MultimodalTransformer},
    loss::caption_loss,
};

use super::captions::Captions;

/// What the losses of a CoCa model are multiplied by before they are added up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CocaWeights {
    /// The contrastive loss. 1: `OpenCLIP`'s.
    pub contrastive: f64,
    /// The mean over the batch's tokens of what the decoder loses. 2: `OpenCLIP`'s.
    pub caption: f64,
}

impl Default for CocaWeights {
    fn default() -> Self {
        Self {
            contrastive: 1.0,
            caption: 2.0,
        }
    }
}

/// Tokens that a decoder is to tell, of all captions: those that follow another and aren't padding.
pub(super) fn told(captions: &Captions) -> usize {
    let told = |ids: &[i32]| ids.iter().skip(1).filter(|id| **id != COCA_PADDING).count();
    captions.rows().map(told).sum()
}

/// What a decoder loses of some captions, added up over their tokens; none if they have none that follows another.
///
/// # Shapes
/// - `image`: `[captions, image tokens, width]`
/// - `text`: `[captions, tokens, width]`, at least as many tokens as `ids` has for each
/// - `ids`: `[captions, length]`
/// - returns `[1]`
pub(super) fn lost(
    decoder: &MultimodalTransformer,
    image: &Tensor<3>,
    text: Tensor<3>,
    ids: &[i32],
) -> Option<Tensor<1>> {
    let [captions, _, width] = text.dims();
    let length = ids.len() / captions;
    let before = length - 1;
    let rows = ids.chunks(length).enumerate().flat_map(|(caption, ids)| {
        let labels = ids.iter().skip(1).enumerate();
        let labels = labels.filter(|(_, id)| **id != COCA_PADDING);
        labels.map(move |(at, id)| ((caption * before + at) as i32, *id))
    });
    let (rows, labels): (Vec<i32>, Vec<i32>) = rows.unzip();
    if rows.is_empty() {
        return None;
    }
    let x = decoder.forward(image, text.narrow(1, 0, before));
    let device = x.device();
    let x = x.reshape([captions * before, width]);
    let x = x.select(0, on_device(rows, &device));
    Some(caption_loss(decoder.logits(x), on_device(labels, &device)))
}

pub(super) fn on_device(ids: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let shape = [ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}
