use std::{
    collections::BTreeMap,
    fs, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread::{self, ScopedJoinHandle},
};

use clip_data::{Cursor, FaultReport};
use clip_files::{
    sha256::{self, FileHash},
    sync_file, sync_folder, write_synced,
};
use clip_model::weights::HostWeights;
use serde::{Deserialize, Serialize};

use crate::{HostAdapters, OptimizerState, TrainError};

/// Raised when a reader of the old form would misunderstand the new one.
const FORMAT: u32 = 2;
pub(super) const STATE: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.bpk";
pub(super) const EMA: &str = "ema.safetensors";
const ADAPTERS: &str = "adapters.safetensors";

/// Where a run stands, beside its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: u64,
    /// Pairs trained on.
    pub samples: u64,
    /// The position in the training data after the last step.
    pub cursor: Cursor,
    /// Samples of an epoch, by which other shards are told from those that the run began with.
    pub samples_per_epoch: u64,
    /// Samples that couldn't be used so far.
    pub faults: FaultReport,
    /// Wall time of all parts of the run, in seconds.
    pub seconds: f64,
    /// The most memory that a process of the run has had at once, in bytes, where the system tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// The evaluation that `checkpoint.best` found highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// How often the run went back after it diverged.
    #[serde(default)]
    pub rollbacks: u32,
}

impl RunState {
    pub(super) fn progress(&self) -> Progress {
        Progress {
            rollbacks: self.rollbacks,
            step: self.step,
        }
    }
}

/// How far a run has come, in the order in which it comes there: having gone back, it is behind by steps alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Progress {
    #[serde(default)]
    pub(super) rollbacks: u32,
    pub(super) step: u64,
}

/// The highest value of a run's evaluations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What was compared, such as `i2t_r1`.
    pub key: String,
    /// Optimizer steps done then; its checkpoint is kept.
    pub step: u64,
    /// How high it was.
    pub value: f64,
}

/// What a checkpoint holds beside where the run stands: copies, which training no longer changes.
pub struct Contents {
    /// The weights.
    pub weights: Part,
    /// The optimizer's state.
    pub optimizer: Part,
    /// Whose state that is, by [`OptimizerState::of`].
    pub optimizer_of: String,
    /// The averaged weights, in a run that has them.
    pub ema: Option<Part>,
    /// Low-rank adapters and the weights that they stand on, in a run that has them.
    pub adapters: Option<Part>,
}

impl Contents {
    /// Of a run's copies; `ema` are its averaged weights, if it has them.
    pub fn new(
        weights: HostWeights,
        mut optimizer: OptimizerState,
        ema: Option<HostWeights>,
    ) -> Self {
        Self {
            adapters: optimizer.take_adapters().map(Part::from),
            weights: weights.into(),
            optimizer_of: optimizer.of().to_owned(),
            optimizer: optimizer.into(),
            ema: ema.map(Part::from),
        }
    }
}

/// A file of a checkpoint, written from a copy that is never in memory a second time.
pub struct Part(Box<Write>);

type Write = dyn FnOnce(&Path) -> Result<(), TrainError> + Send;

impl From<HostWeights> for Part {
    fn from(weights: HostWeights) -> Self {
        Self(Box::new(move |path| {
            Ok(weights.write(path).map_err(clip_files::io("write", path))?)
        }))
    }
}

impl From<OptimizerState> for Part {
    fn from(state: OptimizerState) -> Self {
        Self(Box::new(move |path| state.write(path)))
    }
}

impl From<HostAdapters> for Part {
    fn from(adapters: HostAdapters) -> Self {
        Self(Box::new(move |path| adapters.write(path)))
    }
}

#[cfg(test)]
impl Part {
    /// Whatever `write` writes.
    pub(super) fn of(write: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> Self {
        Self(Box::new(move |path| {
            Ok(write(path).map_err(clip_files::io("write", path))?)
        }))
    }
}

#[cfg(test)]
impl From<Vec<u8>> for Part {
    fn from(bytes: Vec<u8>) -> Self {
        Self::of(move |path| fs::write(path, bytes))
    }
}

/// Little, and of no model.
#[cfg(test)]
pub(super) fn test_contents() -> Contents {
    Contents {
        weights: b"weights".to_vec().into(),
        optimizer: b"moments".to_vec().into(),
        optimizer_of: "a model".to_owned(),
        ema: None,
        adapters: None,
    }
}

/// A whole checkpoint, read and verified.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub state: RunState,
    /// The file of weights, as [`clip_model::weights::load_weights`] reads it.
    pub weights: PathBuf,
    /// The file of the optimizer's state, as [`OptimizerState::read`] reads it.
    pub optimizer: PathBuf,
    /// Whose state that is.
    pub optimizer_of: String,
    /// The file of averaged weights, if the run has them.
    pub ema: Option<PathBuf>,
    /// The file of low-rank adapters, if the run has them.
    pub adapters: Option<PathBuf>,
}

/// What every form of [`StateFile`] has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What tells a checkpoint's [`STATE`] from another program's file of that name.
#[derive(Deserialize)]
struct Mark {
    #[serde(rename = "format")]
    _format: u32,
    #[serde(rename = "step")]
    _step: u64,
}

/// The folder and the weights that are meant by a checkpoint's folder, or by a file of weights in one; `None` of any other
/// path.
pub(crate) fn weights_of(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let (folder, weights) = if path.is_dir() {
        (path.to_owned(), path.join(WEIGHTS))
    } else {
        let name = path.file_name()?;
        let known = name == WEIGHTS || name == EMA;
        known.then(|| Some((path.parent()?.to_owned(), path.to_owned())))??
    };
    let state = fs::read(folder.join(STATE)).ok()?;
    serde_json::from_slice::<Mark>(&state).ok()?;
    weights.is_file().then_some((folder, weights))
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    #[serde(flatten)]
    state: RunState,
    optimizer_of: String,
    files: BTreeMap<String, FileSum>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileSum {
    bytes: u64,
    sha256: String,
}

impl FileSum {
    fn of(path: &Path) -> io::Result<Self> {
        let FileHash { bytes, sha256 } = sha256::of_file(path)?;
        Ok(Self { bytes, sha256 })
    }
}

/// Writes a checkpoint's files into an empty folder, and makes sure that they are on the disk.
pub(super) fn write(folder: &Path, state: &RunState, contents: Contents) -> Result<(), TrainError> {
    let parts = [(WEIGHTS, contents.weights), (OPTIMIZER, contents.optimizer)];
    let ema = contents.ema.map(|ema| (EMA, ema));
    let adapters = contents.adapters.map(|adapters| (ADAPTERS, adapters));
    let files = thread::scope(|scope| {
        let mut written = Vec::new();
        for (name, Part(write)) in parts.into_iter().chain(ema).chain(adapters) {
            let path = folder.join(name);
            write(&path)?;
            // What is summed is what another process would read, while the disk takes it in and the next file is written.
            let synced = scope.spawn({
                let path = path.clone();
                move || sync_file(&path)
            });
            let sum = scope.spawn({
                let path = path.clone();
                move || FileSum::of(&path)
            });
            written.push((name, path, synced, sum));
        }
        let files = written.into_iter().map(|(name, path, synced, sum)| {
            let sum = joined(synced).and(joined(sum));
            let sum = sum.map_err(clip_files::io("write", path))?;
            Ok((name.to_owned(), sum))
        });
        files.collect::<Result<BTreeMap<_, _>, TrainError>>()
    })?;
    let state = StateFile {
        format: FORMAT,
        state: state.clone(),
        optimizer_of: contents.optimizer_of,
        files,
    };
    // invariant: plain values under string keys.
    let json = serde_json::to_vec_pretty(&state).expect("invariant: plain values");
    let path = folder.join(STATE);
    write_synced(&path, &json).map_err(clip_files::io("write", &path))?;
    sync_folder(folder);
    Ok(())
}

/// What a thread came to.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Samples of an epoch by a checkpoint's [`STATE`], whatever became of its other files.
pub(super) fn samples_per_epoch(folder: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct Told {
        samples_per_epoch: u64,
    }

    let state = fs::read(folder.join(STATE)).ok()?;
    let told: Told = serde_json::from_slice(&state).ok()?;
    Some(told.samples_per_epoch)
}

/// How far a run had come by a checkpoint's [`STATE`], if that can be read.
pub(super) fn progress_of(state: &[u8]) -> Option<Progress> {
    serde_json::from_slice(state).ok()
}

/// Reads where a run stood, and compares every byte of its checkpoint with the checksums.
///
/// # Errors
/// [`TrainError::DamagedCheckpoint`], or [`TrainError::UnreadableCheckpoint`] where the system refuses to read it.
pub(super) fn read(folder: &Path) -> Result<Checkpoint, TrainError> {
    let damaged = |reason: String| TrainError::DamagedCheckpoint {
        path: folder.to_owned(),
        reason,
    };
    // What isn't there is damage. What another try may read is not: the checkpoint must not be given up for it.
    let unread = |name: &str, source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => damaged(format!("{name} is missing")),
        _ => TrainError::UnreadableCheckpoint {
            path: folder.join(name),
            source,
        },
    };
    let state = fs::read(folder.join(STATE)).map_err(|error| unread(STATE, error))?;
    let syntax = |error| damaged(format!("{STATE}: {error}"));
    let Format { format } = serde_json::from_slice(&state).map_err(syntax)?;
    if format != FORMAT {
        return Err(damaged(format!(
            "its format is {format}, and this program reads {FORMAT}"
        )));
    }
    let state: StateFile = serde_json::from_slice(&state).map_err(syntax)?;
    for name in [WEIGHTS, OPTIMIZER] {
        if !state.files.contains_key(name) {
            return Err(damaged(format!("{STATE} doesn't tell of {name}")));
        }
    }
    let names = state.files.keys();
    let found: Vec<io::Result<FileSum>> = thread::scope(|scope| {
        let sums = names.map(|name| folder.join(name));
        let sums = sums.map(|path| scope.spawn(move || FileSum::of(&path)));
        let sums: Vec<_> = sums.collect();
        sums.into_iter().map(joined).collect()
    });
    for ((name, sum), found) in state.files.iter().zip(found) {
        let found = found.map_err(|error| unread(name, error))?;
        if *sum != found {
            return Err(damaged(format!(
                "{name} has not the size and checksum that {STATE} tells"
            )));
        }
    }
    Ok(Checkpoint {
        state: state.state,
        weights: folder.join(WEIGHTS),
        optimizer: folder.join(OPTIMIZER),
        optimizer_of: state.optimizer_of,
        ema: state.files.contains_key(EMA).then(|| folder.join(EMA)),
        adapters: (state.files.contains_key(ADAPTERS)).then(|| folder.join(ADAPTERS)),
    })
}
