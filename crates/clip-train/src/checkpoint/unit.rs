use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clip_data::{Cursor, FaultReport};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    TrainError,
    progress::{sync_folder, write_synced},
};

/// Raised when a reader of the old form would misunderstand the new one.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.bin";
const EMA: &str = "ema.safetensors";

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
    /// The evaluation that `checkpoint.best` found highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// How often the run went back after it diverged.
    #[serde(default)]
    pub rollbacks: u32,
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
#[derive(Debug, Default)]
pub struct Contents {
    /// As [`clip_model::weights::weights_bytes`] makes them.
    pub weights: Vec<u8>,
    /// As [`Optimizer::to_bytes`](crate::Optimizer::to_bytes) makes it.
    pub optimizer: Vec<u8>,
    /// The averaged weights, in a run that has them.
    pub ema: Option<Vec<u8>>,
}

impl Contents {
    fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let ema = self.ema.iter().map(|ema| (EMA, &ema[..]));
        [(WEIGHTS, &self.weights[..]), (OPTIMIZER, &self.optimizer)]
            .into_iter()
            .chain(ema)
    }
}

/// A whole checkpoint, read and verified.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub state: RunState,
    /// The file of weights, as [`clip_model::weights::load_weights`] reads it.
    pub weights: PathBuf,
    /// The optimizer's state, as [`Optimizer::load_bytes`](crate::Optimizer::load_bytes) reads it.
    pub optimizer: Vec<u8>,
    /// The file of averaged weights, if the run has them.
    pub ema: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    #[serde(flatten)]
    state: RunState,
    files: BTreeMap<String, FileSum>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileSum {
    bytes: u64,
    sha256: String,
}

impl FileSum {
    fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: format!("{:x}", Sha256::digest(bytes)),
        }
    }
}

/// Writes a checkpoint's files into a new folder, and makes sure that they are on the disk.
pub(super) fn write(
    folder: &Path,
    state: &RunState,
    contents: &Contents,
) -> Result<(), TrainError> {
    fs::create_dir(folder).map_err(TrainError::io("create", folder))?;
    let write_file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_synced(&path, bytes).map_err(TrainError::io("write", path))
    };
    let mut files = BTreeMap::new();
    for (name, bytes) in contents.files() {
        write_file(name, bytes)?;
        files.insert(name.to_owned(), FileSum::of(bytes));
    }
    let state = StateFile {
        format: FORMAT,
        state: state.clone(),
        files,
    };
    // invariant: plain values under string keys.
    let json = serde_json::to_vec_pretty(&state).expect("invariant: plain values");
    write_file(STATE, &json)?;
    sync_folder(folder);
    Ok(())
}

/// Reads a checkpoint and compares every byte with its checksums.
pub(super) fn read(folder: &Path) -> Result<Checkpoint, TrainError> {
    let damaged = |reason: String| TrainError::DamagedCheckpoint {
        path: folder.to_owned(),
        reason,
    };
    let read = |name: &str| {
        fs::read(folder.join(name)).map_err(|error| damaged(format!("cannot read {name}: {error}")))
    };
    let state: StateFile = serde_json::from_slice(&read(STATE)?)
        .map_err(|error| damaged(format!("{STATE}: {error}")))?;
    if state.format != FORMAT {
        return Err(damaged(format!(
            "its format is {}, and this program reads {FORMAT}",
            state.format
        )));
    }
    for name in [WEIGHTS, OPTIMIZER] {
        if !state.files.contains_key(name) {
            return Err(damaged(format!("{STATE} doesn't tell of {name}")));
        }
    }
    let mut optimizer = Vec::new();
    for (name, sum) in &state.files {
        let bytes = read(name)?;
        if *sum != FileSum::of(&bytes) {
            return Err(damaged(format!(
                "{name} has not the size and checksum that {STATE} tells"
            )));
        }
        if name == OPTIMIZER {
            optimizer = bytes;
        }
    }
    Ok(Checkpoint {
        state: state.state,
        weights: folder.join(WEIGHTS),
        optimizer,
        ema: state.files.contains_key(EMA).then(|| folder.join(EMA)),
    })
}
