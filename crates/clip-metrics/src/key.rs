/// The key of the loss on validation pairs.
pub const VAL_LOSS: &str = "val_loss";
/// The K of the recalls R@K that an evaluation gives.
pub const RECALLED_AT: [usize; 3] = [1, 5, 10];

/// What the keys of averaged weights begin with.
const AVERAGED: &str = "ema_";
/// What the keys of labelled sets begin with.
const ZEROSHOT: &str = "zeroshot_";

/// Which way retrieval asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// For each image, its captions among all captions.
    ImageToText,
    /// For each caption, its image among all images.
    TextToImage,
}

impl Direction {
    /// Images first, as in files and tables.
    pub const BOTH: [Self; 2] = [Self::ImageToText, Self::TextToImage];

    /// The key of R@K, the share of queries with a right answer among the first K: `i2t_r5`.
    pub fn recall(self, k: usize) -> String {
        format!("{}r{k}", self.prefix())
    }

    /// That of retrieval's keys, other than of averaged weights.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        Self::BOTH
            .into_iter()
            .find(|direction| key.starts_with(direction.prefix()))
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::ImageToText => "i2t_",
            Self::TextToImage => "t2i_",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::ImageToText => "image→text",
            Self::TextToImage => "text→image",
        }
    }
}

/// The key of a number of a labelled set: `zeroshot_top1` of `top1`.
pub fn zeroshot_key(name: &str) -> String {
    format!("{ZEROSHOT}{name}")
}

/// Whether a key is of a labelled set.
pub fn is_zeroshot(key: &str) -> bool {
    key.starts_with(ZEROSHOT)
}

/// The key of what averaged weights give: `ema_i2t_r1` of `i2t_r1`.
pub fn averaged_key(key: &str) -> String {
    format!("{AVERAGED}{key}")
}

/// The key without the mark of averaged weights.
pub(crate) fn of_own_weights(key: &str) -> &str {
    key.strip_prefix(AVERAGED).unwrap_or(key)
}

/// A key of an evaluation in words: `i2t_r5` is `image→text R@5`.
pub fn label_of(key: &str) -> String {
    if let Some(key) = key.strip_prefix(AVERAGED) {
        return format!("{}, averaged weights", label_of(key));
    }
    if let Some(direction) = Direction::of_key(key)
        && let Some(k) = key[direction.prefix().len()..].strip_prefix('r')
        && k.parse::<u32>().is_ok()
    {
        return format!("{} R@{k}", direction.label());
    }
    if let Some(rest) = key.strip_prefix(ZEROSHOT) {
        let rest = rest.replace("top1", "top-1").replace("top5", "top-5");
        return format!("zero-shot {}", rest.replace('_', " "));
    }
    if key == VAL_LOSS {
        return "Loss".to_string();
    }
    key.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_words() {
        assert_eq!(label_of("ema_i2t_r5"), "image→text R@5, averaged weights");
        assert_eq!(
            label_of(&Direction::TextToImage.recall(10)),
            "text→image R@10"
        );
        assert_eq!(label_of("zeroshot_top1_unseen"), "zero-shot top-1 unseen");
        assert_eq!(label_of("i2t_median_rank"), "i2t median rank");
        assert_eq!(label_of("val_loss"), "Loss");
    }
}
