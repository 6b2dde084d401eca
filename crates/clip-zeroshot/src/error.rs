use std::path::PathBuf;

use burn::tensor::TensorReadError;
use clip_files::IoError;
use clip_model::weights::CONFIG_FILE;

/// What can go wrong between prompts and features on one side and an evaluation on the other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZeroShotError {
    /// Someone asked to stop.
    #[error("the work was stopped")]
    Stopped,
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A line of a class-name or template file can't be used.
    #[error("{origin}, line {line}: {reason}")]
    BadLine {
        /// The file, or where the text came from.
        origin: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// A class name that was given by hand can't be used.
    #[error("{origin}: {reason}")]
    BadName {
        /// Where it was given.
        origin: String,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// A class-name or template file holds nothing.
    #[error("{origin} holds no {what}: write one a line")]
    Nothing {
        /// The file, or where the text came from.
        origin: String,
        /// `class name` or `template`.
        what: &'static str,
    },
    /// The text encoder failed.
    #[error("cannot encode texts, the first of which is `{text}`")]
    Encoder {
        /// The first text of the batch.
        text: String,
        /// The encoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Features have another shape than what they are compared with.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Which tensor.
        what: String,
        /// `[rows, columns]` that fit.
        expected: [usize; 2],
        /// `[rows, columns]` that came.
        got: [usize; 2],
    },
    /// A model was asked for captions of images that writes none.
    #[error("the model can't write captions: {reason}")]
    NoCaptions {
        /// What is missing, and the remedy.
        reason: &'static str,
    },
    /// A feature or a logit is not a number or infinite, so no ranking means anything.
    #[error("{what} is not finite: the model's weights or its input are damaged")]
    NotFinite {
        /// Which one: an image by its position, a prompt by its text.
        what: String,
    },
    /// The device could not hand over a tensor's values.
    #[error("cannot read a tensor from its device")]
    Read(#[from] TensorReadError),
    /// A head file is damaged, or is not one.
    #[error("{path} is not a usable classifier head: {reason}; delete it and build it again")]
    CorruptHead {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A head file was made from something else than what is asked for.
    #[error(
        "{path} was built from other {what} (sha256 {got}, expected {expected}); build it again"
    )]
    StaleHead {
        /// The file.
        path: PathBuf,
        /// `model weights`, `class names` or `templates`.
        what: &'static str,
        /// Hash of what is asked for.
        expected: String,
        /// Hash in the file.
        got: String,
    },
    /// An index of images is damaged, or is not one.
    #[error(
        "{path} is not a usable index of images: {reason}; delete it and make it again with `clip search index`"
    )]
    CorruptIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Features can't be coded for an approximate search.
    #[error("cannot code the features for an approximate search: {reason}; keep the index exact")]
    Codes {
        /// Why.
        reason: String,
    },
    /// An index of images was made with another model.
    #[error(
        "{path} was made with another model ({model}): give that one, or make the index again with this one"
    )]
    StaleIndex {
        /// The file.
        path: PathBuf,
        /// The name of the index's model.
        model: String,
    },
    /// A sample's label names no class.
    #[error("sample {position} has label {label}, but there are only {classes} classes, from 0")]
    LabelOutOfRange {
        /// The sample's position among those evaluated, from 0.
        position: usize,
        /// Its label.
        label: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// A caption belongs to an image that isn't there.
    #[error(
        "caption {caption} belongs to image {image}, but there are only {images} images, from 0"
    )]
    CaptionOfNoImage {
        /// The caption's position, from 0.
        caption: usize,
        /// The image it names.
        image: usize,
        /// How many images there are.
        images: usize,
    },
    /// An image has no caption, so no text is right for it.
    #[error("image {image} has no caption: leave it out of the retrieval")]
    ImageWithoutCaption {
        /// The image's position, from 0.
        image: usize,
    },
    /// A model can't be read, or written as a whole.
    #[error(transparent)]
    Model(#[from] clip_model::ModelError),
    /// Shards, captions or a tokenizer can't be read.
    #[error(transparent)]
    Data(#[from] clip_data::DataError),
    /// A loader's thread failed.
    #[error(transparent)]
    Loader(#[from] burn::data::dataset::DatasetError),
    /// Nothing of that name is a model.
    #[error(
        "there is no model `{name}`: give a model directory (with {CONFIG_FILE}), a configuration file, or a preset, such as \
         {} (`clip weights list --presets` has all)",
        nearest.join(", ")
    )]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The names of presets that are most like it.
        nearest: Vec<&'static str>,
    },
    /// A model is named that is on the Hugging Face hub.
    #[error(
        "`{name}` is on the Hugging Face hub, and a model is used from a folder: `clip weights import {import} --out DIR` brings \
         it into one; then give DIR"
    )]
    OnHub {
        /// The name asked for.
        name: String,
        /// The name that an import takes.
        import: String,
    },
    /// A configuration without weights asks for a vocabulary that is made by training.
    #[error(
        "`{name}` has no vocabulary yet: its {vocab_size} tokens are learned from the captions that it is trained on. \
         Train it with `clip pretrain` and give the model directory, or a preset with CLIP's own vocabulary"
    )]
    NoVocabulary {
        /// The preset or configuration file.
        name: String,
        /// Tokens that it asks for.
        vocab_size: usize,
    },
    /// A configuration without weights has a text encoder whose tokenizer comes with weights.
    #[error(
        "`{name}` has no tokenizer: its text encoder {encoder} has one of its own, which comes with weights. Import some (`clip \
         weights list {name}`) and give the model directory"
    )]
    OwnTokenizer {
        /// The preset or configuration file.
        name: String,
        /// Hugging Face's name of the text encoder.
        encoder: String,
    },
    /// A model directory lacks a file.
    #[error("{path} is no whole model directory, it has no {file}: {remedy}")]
    IncompleteModel {
        /// The directory.
        path: PathBuf,
        /// The file that it lacks.
        file: &'static str,
        /// Where to get it.
        remedy: String,
    },
    /// A model and a tokenizer don't belong together.
    #[error(
        "the tokenizer of {origin} has {tokenizer} tokens, but the model's `text_cfg.vocab_size` is {model}: \
         give the model the tokenizer that it was trained with"
    )]
    WrongTokenizer {
        /// The model.
        origin: String,
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the model's token embedding.
        model: usize,
    },
    /// A tokenizer pads with other than what a text encoder leaves out.
    #[error(
        "the tokenizer of {origin} pads with id {tokenizer}, but the model's text encoder leaves out id {model}: \
         give the model the tokenizer that it was trained with"
    )]
    WrongPadding {
        /// The model.
        origin: String,
        /// What the tokenizer pads with.
        tokenizer: u32,
        /// What the model takes for padding.
        model: i32,
    },
    /// A sample of a shard has no label.
    #[error("sample `{key}` has no {what}: leave it out, or take the labels from elsewhere")]
    Unlabelled {
        /// The sample's key.
        key: String,
        /// `class`, with where it would be, or `caption`.
        what: &'static str,
    },
    /// A sample's class number has no name.
    #[error(
        "sample `{key}` has class {class}, but there are only {classes} class names, from 0: give the names that \
         belong to these shards"
    )]
    UnnamedClass {
        /// The sample's key.
        key: String,
        /// Its class.
        class: usize,
        /// How many names there are.
        classes: usize,
    },
    /// A sample's caption is none of the class names.
    #[error(
        "sample `{key}` has the caption `{caption}`, which is none of the {classes} class names: add it to them"
    )]
    UnknownCaption {
        /// The sample's key.
        key: String,
        /// Its first caption.
        caption: String,
        /// How many names there are.
        classes: usize,
    },
    /// Nothing was evaluated.
    #[error("no samples to evaluate: are the shards empty, or without labels?")]
    NoSamples,
    /// Features of shards that may change unnoticed can't be kept.
    #[error(
        "cannot keep the features of {name}: only of a tar on this machine it can be told whether it has changed; \
         leave out --feature-cache, or make tars of it with `clip data pack`"
    )]
    NotKept {
        /// The shard.
        name: String,
    },
    /// A folder has scores of something else.
    #[error(
        "{} holds scores {how}: give another folder",
        folder.display()
    )]
    OtherScores {
        /// The folder.
        folder: PathBuf,
        /// How they differ, such as `by another model`.
        how: &'static str,
    },
    /// A file of scores is damaged, or is not one.
    #[error("{path} is not a usable file of scores: {reason}; run `clip data score` again")]
    CorruptScores {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder has no scores.
    #[error("there are no scores in {}: make them with `clip data score`", folder.display())]
    Unscored {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder that scores were to go into has something else.
    #[error("{} holds files but no scores: give a new or empty folder", folder.display())]
    NoScoreFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process makes scores into a folder.
    #[error(
        "another process scores into {}: wait for it, or give this part of the shards a folder of its own",
        folder.display()
    )]
    ScoresBusy {
        /// The folder.
        folder: PathBuf,
    },
    /// Shards could not be read to their ends.
    #[error(
        "could not read {} to the end, so there are no scores of it: run this again, which takes the others as they are",
        shards.join(", ")
    )]
    Unread {
        /// Their names.
        shards: Vec<String>,
    },
    /// A pass over shards was interrupted.
    #[error(
        "{path} is missing: `clip data score` was interrupted, and goes on when it is run again as before"
    )]
    UnfinishedScores {
        /// The file that would have the next shard's scores.
        path: PathBuf,
    },
    /// A linear probe can't be fitted to these samples.
    #[error("cannot fit a linear probe: {reason}")]
    Probe {
        /// Why, and the remedy.
        reason: String,
    },
}
