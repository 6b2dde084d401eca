use crate::Cursor;

/// Images and one caption each, to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageTextBatch {
    /// `[batch, image_size, image_size, 3]`, red, green and blue from 0 to 255.
    pub images: Vec<u8>,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// `[batch, tokens_per_caption]`: start, words, end, then padding.
    pub tokens: Vec<i32>,
    /// A number for each image, equal for equal files whatever part of them was cut out: tells images that are twice in
    /// a batch.
    pub image_ids: Vec<u64>,
    /// Images, and captions.
    pub batch: usize,
    /// Length of the batch's longest caption: positions after it change nothing in a causal text tower. The context's
    /// where the tokenizer's padding is something else than zero.
    pub tokens_per_caption: usize,
    /// The position after this batch: a stream that starts there continues with the next.
    pub cursor: Cursor,
}

/// Images with all that is known about them, to evaluate on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvalBatch {
    /// `[batch, image_size, image_size, 3]`, red, green and blue from 0 to 255.
    pub images: Vec<u8>,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Images; the last batch may have fewer than the others.
    pub batch: usize,
    /// Each image's key in its shard.
    pub keys: Vec<String>,
    /// Each image's captions, maybe none.
    pub captions: Vec<Vec<String>>,
    /// Each image's class, if it has one.
    pub classes: Vec<Option<usize>>,
    /// Each pair's [number](crate::RawSample::pair_id), where [`EvalNeeds::Pairs`](crate::EvalNeeds::Pairs) asks for them.
    pub pair_ids: Vec<u64>,
}

/// What the iterator needs to know about a batch.
pub(super) trait Batch: Send + 'static {
    fn samples(&self) -> usize;
    fn cursor(&self) -> Option<Cursor>;
}

impl Batch for ImageTextBatch {
    fn samples(&self) -> usize {
        self.batch
    }

    fn cursor(&self) -> Option<Cursor> {
        Some(self.cursor)
    }
}

impl Batch for EvalBatch {
    fn samples(&self) -> usize {
        self.batch
    }

    fn cursor(&self) -> Option<Cursor> {
        None
    }
}
