use serde::{Deserialize, Serialize};

use crate::DataError;

/// What a dataset of shapes is made of. Two equal configurations give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShapesConfig {
    /// Decides every scene and caption, but not which pairs are held out. 0.
    pub seed: u64,
    /// Images to train on. 60,000, in 300 MB: with a third of them, seen four times as often, a run of the same length
    /// knew unseen pairs less well by a tenth.
    pub train: usize,
    /// Images with captions to measure retrieval on. 1,000, as the test set of Flickr30k.
    pub val: usize,
    /// Images of each of the two zero-shot sets. 1,200: 15 for each seen pair and 60 for each unseen one.
    pub zeroshot: usize,
    /// Side of the images in pixels. 64, which the smallest preset reads.
    pub image_size: usize,
    /// Different captions for each image. 5, as in Flickr8k and COCO.
    pub captions: usize,
}

impl Default for ShapesConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 60_000,
            val: 1_000,
            zeroshot: 1_200,
            image_size: 64,
            captions: 5,
        }
    }
}

/// So that a slip of the keyboard doesn't fill the disk: 100 GB of images at most.
const MAX_IMAGES: usize = 10_000_000;

impl ShapesConfig {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// [`DataError::BadSetting`] with the first that isn't.
    pub fn validate(&self) -> Result<(), DataError> {
        let counts = "must be between 1 and 10,000,000 images";
        let images = 1..=MAX_IMAGES;
        let checks = [
            ("train", self.train, images.clone(), counts),
            ("val", self.val, images.clone(), counts),
            ("zeroshot", self.zeroshot, images, counts),
            (
                "image_size",
                self.image_size,
                // Below, three shapes can't be told apart; above, rendering takes minutes.
                32..=512,
                "must be between 32 and 512 pixels",
            ),
            (
                "captions",
                self.captions,
                // The plainest scenes have hardly more.
                1..=10,
                "must be between 1 and 10 captions an image",
            ),
        ];
        for (name, value, range, reason) in checks {
            if !range.contains(&value) {
                return Err(DataError::setting(name, value, reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        ShapesConfig::default().validate().unwrap();
        let small = ShapesConfig {
            image_size: 8,
            ..ShapesConfig::default()
        };
        let error = small.validate().unwrap_err().to_string();
        assert_eq!(error, "image_size = 8: must be between 32 and 512 pixels");
        let none = ShapesConfig {
            val: 0,
            ..ShapesConfig::default()
        };
        assert!(
            none.validate()
                .unwrap_err()
                .to_string()
                .starts_with("val = 0")
        );
    }

    #[test]
    fn unknown_settings_are_refused() {
        let error = serde_json::from_str::<ShapesConfig>(r#"{"images": 3}"#).unwrap_err();
        assert!(error.to_string().contains("images"), "{error}");
    }
}
