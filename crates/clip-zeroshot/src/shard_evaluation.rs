use std::collections::HashMap;

use burn::tensor::DType;
use clip_model::l2_normalize;

use crate::{
    Bootstrap, Classifier, ClipEncoders, PROMPT_BATCH, Retrieval, ShardFeatures, ZeroShotError,
    ZeroShotEvaluator, encode_all, retrieve,
};

/// Images whose logits are on the host at once: of 1,000 classes, 4 MB.
const LOGIT_ROWS: usize = 1024;

/// Where the class of a sample is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelSource {
    /// In its class number, the shards' `cls`: a position in the class names.
    #[default]
    Class,
    /// In its first caption, which is a class name.
    Caption,
}

/// Ranks all captions of some shards for each image, and all images for each caption, with the features held in a
/// precision: f16 halves the memory of f32, and may let candidates that are nearly equal change places.
///
/// # Errors
/// Those of [`retrieve`] and of the text encoder. Load the shards with
/// [`EvalNeeds::Captions`](clip_data::EvalNeeds::Captions), so that images without a caption are counted faults.
pub fn evaluate_retrieval(
    encoders: &ClipEncoders,
    shards: &ShardFeatures,
    precision: DType,
) -> Result<Retrieval, ZeroShotError> {
    let truncated = encoders.count_truncated(&shards.captions);
    if truncated > 0 {
        log::warn!(
            "{truncated} of {} captions are longer than {} tokens: the model does not see their ends",
            shards.captions.len(),
            encoders.context_length()
        );
    }
    let texts = encode_all(encoders, &shards.captions, PROMPT_BATCH)?;
    // Normalised before they are rounded: f16 has no room for large numbers.
    let held = |features| l2_normalize(features).cast(precision);
    let images = held(shards.images.clone());
    retrieve(images, held(texts), &shards.image_of_caption)
}

/// Classifies the images of some shards and compares with their labels. The evaluator that comes back has the
/// report and the confusions.
///
/// # Errors
/// [`ZeroShotError::Unlabelled`], [`ZeroShotError::UnnamedClass`] or [`ZeroShotError::UnknownCaption`] naming the
/// sample, and those of [`ZeroShotEvaluator::add`].
pub fn evaluate_zeroshot(
    shards: &ShardFeatures,
    classifier: &Classifier,
    labels: LabelSource,
    bootstrap: Bootstrap,
) -> Result<ZeroShotEvaluator, ZeroShotError> {
    let names = classifier.head().names();
    let labels = shards.labels(names, labels)?;
    let mut evaluator = ZeroShotEvaluator::new(names, bootstrap);
    for start in (0..labels.len()).step_by(LOGIT_ROWS) {
        let end = labels.len().min(start + LOGIT_ROWS);
        let images = shards.images.clone().slice(start..end);
        evaluator.add(classifier.logits(images)?, &labels[start..end])?;
    }
    Ok(evaluator)
}

impl ShardFeatures {
    /// The distinct first captions, sorted: the classes of shards whose captions are names.
    pub fn distinct_captions(&self) -> Vec<String> {
        let firsts = (0..self.keys.len()).filter_map(|image| self.first_caption(image));
        let mut names: Vec<String> = firsts.map(|name| name.trim().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Each image's label, a position in `names`.
    ///
    /// # Errors
    /// [`ZeroShotError::Unlabelled`], [`ZeroShotError::UnnamedClass`] or [`ZeroShotError::UnknownCaption`] naming the
    /// sample.
    pub fn labels(&self, names: &[String], source: LabelSource) -> Result<Vec<u32>, ZeroShotError> {
        let mut places = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            // Of two classes with one name the first counts, as it does among equal logits.
            places.entry(name.as_str()).or_insert(at);
        }
        let label = |(image, key): (usize, &String)| {
            let unlabelled = |what| ZeroShotError::Unlabelled {
                key: key.clone(),
                what,
            };
            let label = match source {
                LabelSource::Class => {
                    let class = self.classes[image];
                    let class = class
                        .ok_or_else(|| unlabelled("class (a `.cls` file, or a class folder)"))?;
                    if class >= names.len() {
                        return Err(ZeroShotError::UnnamedClass {
                            key: key.clone(),
                            class,
                            classes: names.len(),
                        });
                    }
                    class
                }
                LabelSource::Caption => {
                    let caption = self.first_caption(image);
                    let caption = caption.ok_or_else(|| unlabelled("caption"))?.trim();
                    *places
                        .get(caption)
                        .ok_or_else(|| ZeroShotError::UnknownCaption {
                            key: key.clone(),
                            caption: caption.to_owned(),
                            classes: names.len(),
                        })?
                }
            };
            Ok(label as u32)
        };
        self.keys.iter().enumerate().map(label).collect()
    }
}
