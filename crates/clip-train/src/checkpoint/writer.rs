use std::{path::PathBuf, sync::Arc, thread};

use clip_files::IoError;

use super::{Checkpoints, Contents, Copier, RunState};
use crate::{RunDir, TrainError};

/// Writes checkpoints on a thread of its own, one at a time: a step waits for the copy, not for the disk.
#[derive(Debug)]
pub(crate) struct Writer {
    run: RunDir,
    checkpoints: Checkpoints,
    copier: Option<Arc<Copier>>,
    writing: Option<thread::JoinHandle<Result<PathBuf, TrainError>>>,
}

impl Writer {
    /// Of `run`, of whose checkpoints `keep` stay.
    pub(crate) fn new(run: RunDir, keep: usize, copier: Option<Arc<Copier>>) -> Self {
        Self {
            checkpoints: run.checkpoints(keep),
            run,
            copier,
            writing: None,
        }
    }

    /// Begins to write a checkpoint, when the one before is on the disk. Before it come the metrics, which tell of the
    /// same steps: `sync_metrics` waits until they are on the disk.
    ///
    /// # Errors
    /// What the one before failed with, and [`TrainError::RunMoved`].
    pub(crate) fn begin(
        &mut self,
        state: RunState,
        contents: Contents,
        sync_metrics: impl FnOnce() -> Result<(), IoError> + Send + 'static,
    ) -> Result<(), TrainError> {
        self.finish()?;
        self.run.check_in_place()?;
        let (run, checkpoints, copier) = (
            self.run.clone(),
            self.checkpoints.clone(),
            self.copier.clone(),
        );
        self.writing = Some(thread::spawn(move || {
            sync_metrics().map_err(TrainError::Record)?;
            let saved = checkpoints.save(&state, contents);
            let saved = saved.and_then(|path| run.record_checkpoint(state.step).map(|()| path));
            // What fails in a directory that is moved meanwhile fails by that.
            let path = saved.map_err(|error| run.check_in_place().err().unwrap_or(error))?;
            if let Some(copier) = copier {
                copier.offer(&path, &state);
            }
            Ok(path)
        }));
        Ok(())
    }

    /// Tells of a failure as soon as there is one, without waiting.
    ///
    /// # Errors
    /// What the last checkpoint failed with.
    pub(crate) fn check(&mut self) -> Result<(), TrainError> {
        match &self.writing {
            Some(thread) if thread.is_finished() => self.finish().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Waits for the checkpoint being written, and says where it is.
    ///
    /// # Errors
    /// What it failed with.
    pub(crate) fn finish(&mut self) -> Result<Option<PathBuf>, TrainError> {
        let Some(thread) = self.writing.take() else {
            return Ok(None);
        };
        let written = thread.join();
        written
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map(Some)
    }

    /// The directory of the run.
    pub(crate) fn run(&self) -> &RunDir {
        &self.run
    }

    /// The checkpoints, when none is being written.
    ///
    /// # Errors
    /// What the last one failed with, and [`TrainError::RunMoved`].
    pub(crate) fn checkpoints(&mut self) -> Result<&Checkpoints, TrainError> {
        self.finish()?;
        self.run.check_in_place()?;
        Ok(&self.checkpoints)
    }
}

impl Drop for Writer {
    /// A run that fails must not lose the checkpoint it was writing.
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            log::error!("{}", clip_files::one_line(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::checkpoint::{Part, unit::test_contents as contents};

    fn state(step: u64) -> RunState {
        RunState {
            step,
            ..RunState::default()
        }
    }

    #[test]
    fn every_checkpoint_begun_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let checkpoints = run.checkpoints(9);
        let mut writer = Writer::new(run, 9, None);
        for step in 1..5 {
            writer.begin(state(step), contents(), || Ok(())).unwrap();
        }
        drop(writer);
        assert_eq!(checkpoints.latest().unwrap().unwrap().0.state.step, 4);
    }

    #[test]
    fn a_failure_is_told_and_the_earlier_checkpoint_stands() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints");
        let mut writer = Writer::new(RunDir::create(dir.path()).unwrap(), 2, None);
        writer.begin(state(1), contents(), || Ok(())).unwrap();
        writer.finish().unwrap();
        let full = Contents {
            optimizer: Part::of(|_| Err(ErrorKind::StorageFull.into())),
            ..contents()
        };
        writer.begin(state(2), full, || Ok(())).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("step-00000002"), "{error}");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
        let latest = writer.checkpoints().unwrap().latest().unwrap().unwrap();
        assert_eq!(latest.0.state.step, 1);
    }

    #[test]
    fn only_a_run_that_has_had_a_checkpoint_can_lose_them() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let mut writer = Writer::new(run.clone(), 2, None);
        let full = Contents {
            optimizer: Part::of(|_| Err(ErrorKind::StorageFull.into())),
            ..contents()
        };
        writer.begin(state(1), full, || Ok(())).unwrap();
        writer.finish().unwrap_err();
        run.refuse_lost_checkpoints().unwrap();
        writer.begin(state(2), contents(), || Ok(())).unwrap();
        writer.finish().unwrap();
        let error = run.refuse_lost_checkpoints().unwrap_err();
        assert!(
            matches!(error, TrainError::LostCheckpoints { .. }),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_where_the_directory_was() {
        let dir = tempfile::tempdir().unwrap();
        let [path, elsewhere] = ["run", "elsewhere"].map(|name| dir.path().join(name));
        let mut writer = Writer::new(RunDir::create(&path).unwrap(), 2, None);
        let moved = Contents {
            optimizer: Part::of({
                let (path, elsewhere) = (path.clone(), elsewhere.clone());
                move |_| std::fs::rename(path, elsewhere)
            }),
            ..contents()
        };
        writer.begin(state(1), moved, || Ok(())).unwrap();
        let told = [
            writer.finish().map(drop),
            writer.begin(state(2), contents(), || Ok(())),
            writer.checkpoints().map(drop),
        ];
        for told in told {
            assert!(matches!(told, Err(TrainError::RunMoved { .. })), "{told:?}");
        }
        assert!(!path.exists());
    }
}
