use std::path::PathBuf;

use crate::{TrainError, progress::MetricsLog, tensorboard::EventWriter};

/// What is written of every step and evaluation.
pub(super) struct Records {
    /// The run's directory.
    folder: PathBuf,
    path: PathBuf,
    pub(super) metrics: MetricsLog,
    pub(super) events: EventWriter,
    /// The last step that was evaluated.
    pub(super) evaluated: Option<u64>,
}

impl Records {
    /// Opens the records of a run, from which those after `resume_step` vanish.
    pub(super) fn open(
        folder: PathBuf,
        path: PathBuf,
        resume_step: Option<u64>,
    ) -> Result<Self, TrainError> {
        let (metrics, resumed) =
            MetricsLog::open(&path, resume_step).map_err(TrainError::Record)?;
        let events = EventWriter::create(&folder, resume_step).map_err(TrainError::Record)?;
        Ok(Self {
            folder,
            path,
            metrics,
            events,
            evaluated: resumed.evaluated,
        })
    }

    /// Forgets what comes after a step.
    pub(super) fn rewind(&mut self, step: u64) -> Result<(), TrainError> {
        *self = Self::open(self.folder.clone(), self.path.clone(), Some(step))?;
        Ok(())
    }
}
