//! CLIP's evaluations: what a pretrained model does without training, and what its features hold.
//!
//! | the paper's term | here |
//! |---|---|
//! | prompt templates, prompt ensembling (3.1.4) | [`Templates`], [`ClassNames`], [`Prompts`] |
//! | zero-shot classifier (3.1.2) | [`ClassifierHead`], [`Classifier`] |
//! | zero-shot accuracy (3.1.5) | [`ZeroShotEvaluator`], [`TemplateAblation`] |
//! | zero-shot retrieval (table 13) | [`retrieve`] |
//! | linear probe (3.2, A.3) | [`probe`] |
//!
//! The statistics know no model: a text encoder comes in through [`EncodeTexts`], images come in as features.
//! [`ClipEncoders`] is the bridge to them from a model and from shards ([`ShardFeatures`],
//! [`evaluate_retrieval`], [`evaluate_zeroshot`]); [`ImageIndex`] and [`ApproximateIndex`] search a folder, and
//! [`score_shards`] says how well captions fit. Fractions (accuracies, recalls, interval bounds) are between 0 and 1.
//!
//! # References
//! Radford et al. 2021, [Learning Transferable Visual Models From Natural Language
//! Supervision](https://arxiv.org/abs/2103.00020).

#![forbid(unsafe_code)]

mod ablation;
mod approximate_index;
mod bootstrap;
mod calibration;
mod classify;
mod clip_encoders;
mod codes;
mod corruption;
mod encoder;
mod error;
mod evaluate;
mod feature_cache;
mod features;
mod head;
mod head_file;
mod hierarchy;
mod image_index;
mod model_source;
mod nearest;
mod pair_scores;
pub mod probe;
mod prompts;
mod ranking;
mod retrieval;
mod robustness;
mod shard_evaluation;
mod shard_features;
mod tensor_file;

pub use ablation::{AblationReport, TemplateAblation, TemplateScore};
pub use approximate_index::ApproximateIndex;
pub use bootstrap::Bootstrap;
pub use calibration::{Calibration, CalibrationReport, ConfidenceBin};
pub use classify::{Classifier, Prediction};
pub use clip_encoders::{ClipEncoders, check_tokenizer, resize};
pub use corruption::{Corruption, CorruptionKind, SEVERITIES};
pub use encoder::{EncodeTexts, PROMPT_BATCH, encode_all};
pub use error::ZeroShotError;
pub use evaluate::{ClassAccuracy, ConfusionMatrix, ZeroShotEvaluator, ZeroShotReport};
pub use feature_cache::FeatureCache;
pub use head::{ClassifierHead, HeadKey};
pub use hierarchy::{GroupReport, GroupVotes, Level};
pub use image_index::{ImageIndex, IndexChanges, IndexedImage};
pub use nearest::Found;
pub use pair_scores::{PairScores, ScoreConfig, ScoredShard, least_of_best, score_shards};
pub use prompts::{ClassNames, DuplicateNames, Prompts, Template, Templates};
pub use ranking::TiedRank;
pub use retrieval::{Retrieval, RetrievalReport, retrieve};
pub use robustness::ReferenceLine;
pub use shard_evaluation::{LabelSource, evaluate_retrieval, evaluate_zeroshot};
pub use shard_features::{ImagePass, ShardFeatures};
