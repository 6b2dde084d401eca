use std::path::PathBuf;

use clip_files::IoError;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The metrics or events of a run could not be read or written.
    #[error(transparent)]
    Record(IoError),
    /// A setting is unknown, of the wrong kind or out of range.
    #[error("{origin}: {reason}")]
    Config {
        /// The file or flag.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// The system gives a step fewer threads than it is to have.
    #[error(
        "cannot start {threads} threads for the step: set `threads` to fewer, or let this account have more (`ulimit -u`)"
    )]
    Threads {
        /// As many were asked for.
        threads: usize,
        /// The operating system's reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// A run can't be continued with settings that change what its state means.
    #[error(
        "{path} can't be resumed with other settings: {changes}; \
         start a new run in another directory, or leave these settings as they were"
    )]
    ChangedConfig {
        /// The run's directory.
        path: PathBuf,
        /// `key: old -> new`.
        changes: String,
    },
    /// The directory holds a run already.
    #[error(
        "{path} already holds a run; continue it with `--resume {path}`, or choose another `--out`"
    )]
    RunExists {
        /// The run's directory.
        path: PathBuf,
    },
    /// The directory holds checkpoints, and a new run would go on from them.
    #[error(
        "{path} holds checkpoints of another run, whose {missing} is gone; bring that back and go on with `--resume {path}`, \
         or choose another `--out`"
    )]
    StrayCheckpoints {
        /// The directory.
        path: PathBuf,
        /// The file by which a directory is a run's.
        missing: String,
    },
    /// The mirror holds another run already, or this one, which isn't resumed.
    #[error(
        "{place}, the `checkpoint.mirror`, already holds a run; go on with it by `--resume auto`, or name another place"
    )]
    MirrorTaken {
        /// The mirror.
        place: String,
    },
    /// Another run has written its settings into the mirror since this one began.
    #[error(
        "another run writes into {place}, the `checkpoint.mirror`, since this one began, so nothing more is copied there; \
         resume one of them with another mirror"
    )]
    SharedMirror {
        /// The mirror.
        place: String,
    },
    /// The mirror has steps of the run that its directory lacks, and would lose them.
    #[error(
        "{place}, the `checkpoint.mirror`, is ahead of {path}: the newest checkpoint there is of step {there}, and \
         here {}. Move {path} away, and `--resume auto` with the same mirror brings the run from there; to go on from \
         here all the same, name another mirror",
        .here.map_or_else(|| "is none".to_owned(), |step| format!("of step {step}"))
    )]
    MirrorAhead {
        /// The mirror.
        place: String,
        /// The run's directory.
        path: PathBuf,
        /// The step of the newest checkpoint in the mirror.
        there: u64,
        /// The step of the newest whole one in the directory, if it has one.
        here: Option<u64>,
    },
    /// There is no run to continue.
    #[error("{path} holds no run to resume ({missing} is missing); check the path, or start a run")]
    NoRun {
        /// The directory.
        path: PathBuf,
        /// The file that every run has.
        missing: String,
    },
    /// A checkpoint is away from the run's directory, which says what its weights mean.
    #[error(
        "{path} is a checkpoint of a run, but not in a run's directory, which says of what architecture its weights are and how \
         images are made ready: name it where it was written, RUN/checkpoints/step-N, or RUN/model, the last step's"
    )]
    LoneCheckpoint {
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// Another process trains in the directory.
    #[error("another process is training in {path}; wait for it, or choose another `--out`")]
    RunLocked {
        /// The run's directory.
        path: PathBuf,
    },
    /// The directory isn't where the run began any more.
    #[error(
        "{path} was moved, removed or replaced while a run trained in it ({path}/.lock isn't the run's own), and nothing more is \
         written there; the run goes on from its last checkpoint with `--resume` and the directory's new path"
    )]
    RunMoved {
        /// Where the run's directory was.
        path: PathBuf,
    },
    /// A checkpoint isn't what was written.
    #[error("checkpoint {path} is damaged: {reason}")]
    DamagedCheckpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint is there, and whether it is whole can't be told.
    #[error(
        "checkpoint {path} can't be read: try again, or remove it, and the run goes on from the one before"
    )]
    UnreadableCheckpoint {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No checkpoint of a run can be used.
    #[error(
        "no checkpoint in {path} can be used: {damaged}; \
         start a new run in another directory, with the model of one of them as you find it"
    )]
    NoUsableCheckpoint {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        damaged: String,
    },
    /// The checkpoints of a run are gone.
    #[error(
        "{path} tells of {steps} steps, and its checkpoints are gone; bring them back, or start a new run in another directory"
    )]
    LostCheckpoints {
        /// The run's directory.
        path: PathBuf,
        /// Steps that its metrics tell of.
        steps: u64,
    },
    /// An optimizer's saved state can't be written or taken up.
    #[error("optimizer state: {reason}; resume from another checkpoint, or start a new run")]
    OptimizerState {
        /// What is wrong with it.
        reason: String,
    },
    /// The shards aren't those that the run began with.
    #[error(
        "the training shards hold {got} samples, but the run began with {expected}; \
         resume with the shards that it began with"
    )]
    ChangedData {
        /// Samples of an epoch when the run began.
        expected: u64,
        /// Samples of an epoch now.
        got: u64,
    },
    /// Loss, gradient or what the model gives stopped being a number.
    #[error(
        "the {what} of step {step} is {value}: training has diverged; lower `lr` or lengthen `warmup_steps`, or set \
         `optimizer.grad_clip_norm = 1.0`, and go on from the last checkpoint with `--resume`"
    )]
    Diverged {
        /// Loss, gradient norm or evaluation.
        what: &'static str,
        /// The step, counted from 1.
        step: u64,
        /// The value.
        value: f64,
    },
    /// A device stopped computing, as one does whose machine is gone.
    #[error(
        "device {device} stopped in step {step}: {reason}. The last checkpoint is whole: see to the device (where its \
         memory is full, set a smaller `chunk`) and go on with `--resume`, or with other `--devices`, or with \
         `--elastic`, which goes on by itself when one of several devices stops"
    )]
    DeviceStopped {
        /// Its name.
        device: String,
        /// The step, counted from 1.
        step: u64,
        /// What Burn said.
        reason: String,
        /// Whether the model and its optimizer were there.
        has_model: bool,
    },
    /// A setting that training doesn't support here.
    #[error("`{key}` = {value} can't be trained with: {reason}")]
    Unsupported {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why, and what would work.
        reason: String,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] clip_model::ModelError),
    /// The data.
    #[error(transparent)]
    Data(#[from] clip_data::DataError),
    /// The loader gave no batch.
    #[error(transparent)]
    Batches(burn::data::dataset::DatasetError),
    /// An evaluation during the run failed.
    #[error("evaluation after step {step} failed")]
    Evaluation {
        /// Steps done.
        step: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Burn's training loop failed.
    #[error("{0}")]
    Learner(String),
}

impl TrainError {
    /// Whether it says nothing against the model as it was after the last step, which is worth a checkpoint then.
    pub(crate) fn leaves_model(&self) -> bool {
        match self {
            Self::DeviceStopped { has_model, .. } => !has_model,
            Self::Record(_)
            | Self::Config { .. }
            | Self::Data(_)
            | Self::Batches(_)
            | Self::Evaluation { .. }
            | Self::Learner(_) => true,
            _ => false,
        }
    }
}
