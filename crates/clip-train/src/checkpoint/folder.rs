use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use clip_files::{UnfinishedFolder, sync_folder};

use super::{
    Best, Checkpoint, Contents, RunState,
    unit::{EMA, read, samples_per_epoch, write},
};
use crate::TrainError;

const PREFIX: &str = "step-";
/// Being written.
pub(super) const PARTIAL: &str = "partial";
/// Being removed.
const DISCARDED: &str = "discarded";

/// The checkpoints of a run, of which the newest few are kept, and the best.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which need not exist, but what it lies in must; `keep` of them stay when a newer one is
    /// written.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep }
    }

    /// Writes a checkpoint, then removes those that are too old, and those of later steps: a run that comes by here
    /// again could not use them. Until the new one is whole and on the disk, the old ones stand.
    ///
    /// # Errors
    /// [`TrainError::Io`], for example when the disk is full; nothing half-written is left then.
    pub fn save(&self, state: &RunState, contents: Contents) -> Result<PathBuf, TrainError> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(clip_files::io("create", &self.folder)(error).into());
            }
            _ => {}
        }
        self.sweep()?;
        let path = self.path(state.step);
        let partial = path.with_extension(PARTIAL);
        // Removed if anything fails.
        let unfinished =
            UnfinishedFolder::create(&partial).map_err(clip_files::io("create", &partial))?;
        write(&partial, state, contents)?;
        let replaced = unfinished.finish(|| -> Result<_, TrainError> {
            // The same step again: it was damaged, or is about to be replaced by what equals it.
            let replaced = set_aside(&path)?;
            fs::rename(&partial, &path).map_err(clip_files::io("write", &path))?;
            Ok(replaced)
        })?;
        if let Some(replaced) = replaced {
            remove(&replaced)?;
        }
        sync_folder(&self.folder);
        let best = state.best.as_ref().map(|best| best.step);
        let steps = self.steps()?;
        let (until_here, later) = steps.split_at(steps.partition_point(|step| *step <= state.step));
        let old = until_here.iter().rev().skip(self.keep);
        for step in later.iter().chain(old.filter(|step| best != Some(**step))) {
            discard(&self.path(*step))?;
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole, and what is wrong with newer ones. `None` if there is none at all.
    ///
    /// # Errors
    /// [`TrainError::NoUsableCheckpoint`] if all are damaged, [`TrainError::UnreadableCheckpoint`] or
    /// [`TrainError::Io`] if the system refuses to read one, or the folder.
    pub fn latest(&self) -> Result<Option<(Checkpoint, Vec<TrainError>)>, TrainError> {
        self.latest_before(u64::MAX)
    }

    /// As [`latest`](Self::latest), of the checkpoints of earlier steps than `step`.
    ///
    /// # Errors
    /// As [`latest`](Self::latest).
    pub fn latest_before(
        &self,
        step: u64,
    ) -> Result<Option<(Checkpoint, Vec<TrainError>)>, TrainError> {
        let mut damaged = Vec::new();
        let steps = self.steps()?.into_iter().rev();
        for step in steps.filter(|earlier| *earlier < step) {
            match read(&self.path(step)) {
                Ok(checkpoint) => return Ok(Some((checkpoint, damaged))),
                Err(error @ TrainError::DamagedCheckpoint { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        Err(TrainError::NoUsableCheckpoint {
            path: self.folder.clone(),
            damaged: damaged.join("; "),
        })
    }

    /// The step of the newest, whole or not; `None` if there is none.
    ///
    /// # Errors
    /// [`TrainError::Io`] if the folder can't be read.
    pub fn newest(&self) -> Result<Option<u64>, TrainError> {
        Ok(self.steps()?.pop())
    }

    /// Samples of an epoch, by the newest; `None` if there is none, or it can't be read.
    pub fn samples_per_epoch(&self) -> Option<u64> {
        let newest = self.newest().ok().flatten()?;
        samples_per_epoch(&self.path(newest))
    }

    /// Where the checkpoint after `step` is, if it was kept.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }

    /// The model that was best, if its checkpoint was kept: the checkpoint, or its averaged weights where those were.
    pub fn best_model(&self, best: &Best) -> Option<PathBuf> {
        let checkpoint = self.path(best.step);
        let model = if best.key.starts_with("ema_") {
            checkpoint.join(EMA)
        } else {
            checkpoint
        };
        model.exists().then_some(model)
    }

    /// Steps with a checkpoint, rising.
    fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes what a killed process left half-written or half-removed: it is no checkpoint.
    fn sweep(&self) -> Result<(), TrainError> {
        for name in self.names()? {
            let remains = Path::new(&name).extension();
            if name.starts_with(PREFIX)
                && remains.is_some_and(|kind| kind == PARTIAL || kind == DISCARDED)
            {
                remove(&self.folder.join(&name))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(clip_files::io("read", &self.folder)(error).into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(clip_files::io("read", &self.folder))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

/// The folder of the checkpoint after `step`.
pub(super) fn name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// The step whose checkpoint is in the folder of that name.
pub(super) fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Removes a checkpoint under another name: a process killed meanwhile leaves no half of one.
fn discard(checkpoint: &Path) -> Result<(), TrainError> {
    set_aside(checkpoint)?.map_or(Ok(()), |discarded| remove(&discarded))
}

/// Gives a checkpoint, if it is there, a name under which it is none.
fn set_aside(checkpoint: &Path) -> Result<Option<PathBuf>, TrainError> {
    let discarded = checkpoint.with_extension(DISCARDED);
    match fs::rename(checkpoint, &discarded) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(clip_files::io("remove", checkpoint)(error).into()),
        Ok(()) => Ok(Some(discarded)),
    }
}

pub(super) fn remove(folder: &Path) -> Result<(), TrainError> {
    Ok(clip_files::remove(folder).map_err(clip_files::io("remove", folder))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Best, Part, unit::test_contents as contents};

    fn state(step: u64) -> RunState {
        RunState {
            step,
            samples: 256 * step,
            ..RunState::default()
        }
    }

    fn checkpoints(keep: usize) -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path().join("checkpoints"), keep);
        (dir, checkpoints)
    }

    #[test]
    fn the_newest_are_kept_and_the_last_is_found() {
        let (_dir, checkpoints) = checkpoints(2);
        assert!(checkpoints.latest().unwrap().is_none());
        for step in [9, 10, 100] {
            checkpoints.save(&state(step), contents()).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [10, 100]);
        let (found, damaged) = checkpoints.latest().unwrap().unwrap();
        assert_eq!(found.state, state(100));
        assert_eq!(fs::read(found.weights).unwrap(), b"weights");
        assert_eq!(fs::read(found.optimizer).unwrap(), b"moments");
        assert_eq!(found.optimizer_of, "a model");
        assert!(damaged.is_empty());
    }

    #[test]
    fn all_are_kept_where_no_number_is_too_many() {
        let keep = crate::config::CheckpointConfig {
            keep: 0,
            ..Default::default()
        };
        let (_dir, checkpoints) = checkpoints(keep.kept());
        for step in 1..=5 {
            checkpoints.save(&state(step), contents()).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_best_stays_until_a_better_one() {
        let (_dir, checkpoints) = checkpoints(1);
        let best = |step| {
            Some(Best {
                key: "i2t_r1".to_owned(),
                step,
                value: 0.5,
            })
        };
        for (step, best_step) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
            let state = RunState {
                best: best(best_step),
                ..state(step)
            };
            checkpoints.save(&state, contents()).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [2, 4]);
        let state = RunState {
            best: best(5),
            ..state(5)
        };
        checkpoints.save(&state, contents()).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [5]);
    }

    #[test]
    fn averaged_weights_are_checked_like_the_others() {
        let (_dir, checkpoints) = checkpoints(1);
        let contents = Contents {
            ema: Some(b"average".to_vec().into()),
            ..contents()
        };
        let path = checkpoints.save(&state(1), contents).unwrap();
        let (found, _) = checkpoints.latest().unwrap().unwrap();
        assert_eq!(fs::read(found.ema.unwrap()).unwrap(), b"average");
        fs::remove_file(path.join("ema.safetensors")).unwrap();
        let error = checkpoints.latest().unwrap_err().to_string();
        assert!(error.contains("ema.safetensors"), "{error}");
    }

    #[test]
    fn whatever_is_torn_the_one_before_is_used() {
        for file in ["model.safetensors", "optimizer.bpk", "state.json"] {
            for length in [0, 4] {
                let (_dir, checkpoints) = checkpoints(2);
                checkpoints.save(&state(1), contents()).unwrap();
                let newest = checkpoints.save(&state(2), contents()).unwrap();
                let torn = fs::read(newest.join(file)).unwrap()[..length].to_vec();
                fs::write(newest.join(file), torn).unwrap();
                let (found, damaged) = checkpoints.latest().unwrap().unwrap();
                assert_eq!(found.state.step, 1, "{file} cut to {length}");
                assert!(damaged[0].to_string().contains(file), "{damaged:?}");
            }
        }
    }

    #[test]
    fn a_checkpoint_of_another_format_is_told_by_its_number() {
        let (_dir, checkpoints) = checkpoints(2);
        let path = checkpoints.save(&state(1), contents()).unwrap();
        // All that the first form had in common with this one.
        fs::write(path.join("state.json"), r#"{"format": 1, "step": 1}"#).unwrap();
        let error = checkpoints.latest().unwrap_err().to_string();
        assert!(error.contains("its format is 1"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_not_given_up() {
        let (_dir, checkpoints) = checkpoints(2);
        checkpoints.save(&state(1), contents()).unwrap();
        let newest = checkpoints.save(&state(2), contents()).unwrap();
        let weights = newest.join("model.safetensors");
        // A folder opens and can't be read, whoever asks.
        fs::remove_file(&weights).unwrap();
        fs::create_dir(&weights).unwrap();
        let error = checkpoints.latest().unwrap_err();
        assert!(
            matches!(&error, TrainError::UnreadableCheckpoint { path, .. } if *path == weights),
            "{error}"
        );
        let (before, _) = checkpoints.latest_before(2).unwrap().unwrap();
        assert_eq!(before.state.step, 1);
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let (_dir, checkpoints) = checkpoints(2);
        let path = checkpoints.save(&state(1), contents()).unwrap();
        fs::write(path.join("model.safetensors"), b"weightr").unwrap();
        let error = checkpoints.latest().unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }

    #[test]
    fn a_killed_processs_remains_are_no_checkpoint() {
        let (_dir, checkpoints) = checkpoints(2);
        checkpoints.save(&state(1), contents()).unwrap();
        let remains = ["step-00000002.partial", "step-00000000.discarded"];
        let remains = remains.map(|name| checkpoints.folder.join(name));
        for remains in &remains {
            fs::create_dir(remains).unwrap();
            fs::write(remains.join("model.safetensors"), b"wei").unwrap();
        }
        assert_eq!(checkpoints.latest().unwrap().unwrap().0.state.step, 1);
        checkpoints.save(&state(2), contents()).unwrap();
        assert_eq!(checkpoints.latest().unwrap().unwrap().0.state.step, 2);
        assert!(!remains.iter().any(|remains| remains.exists()));
    }

    #[test]
    fn the_best_model_is_a_checkpoint_or_its_averaged_weights() {
        let (_dir, checkpoints) = checkpoints(1);
        let best = |key: &str, step| Best {
            key: key.to_owned(),
            step,
            value: 0.5,
        };
        let folder = checkpoints.save(&state(1), contents()).unwrap();
        let found = checkpoints.best_model(&best("i2t_r1", 1));
        assert_eq!(found.as_deref(), Some(folder.as_path()));
        assert_eq!(checkpoints.best_model(&best("i2t_r1", 2)), None);
        fs::write(folder.join(EMA), b"").unwrap();
        let averaged = checkpoints.best_model(&best("ema_i2t_r1", 1));
        assert_eq!(averaged, Some(folder.join(EMA)));
    }

    /// Alone in a process, for nothing can be written there after it was asked to end.
    #[test]
    fn a_process_that_is_asked_to_end_leaves_no_half_of_a_checkpoint() {
        const FOLDER: &str = "CLIP_TEST_CHECKPOINTS";
        const ENDED: i32 = 7;
        if let Some(folder) = std::env::var_os(FOLDER) {
            let asked_to_end = |path: &Path| -> std::io::Result<()> {
                fs::write(path, b"mom")?;
                clip_files::abandon();
                std::process::exit(ENDED)
            };
            let contents = Contents {
                optimizer: Part::of(asked_to_end),
                ..contents()
            };
            let saved = Checkpoints::new(folder.into(), 2).save(&state(2), contents);
            panic!("saved: {saved:?}");
        }
        let (_dir, checkpoints) = checkpoints(2);
        checkpoints.save(&state(1), contents()).unwrap();
        let name = "checkpoint::folder::tests::a_process_that_is_asked_to_end_leaves_no_half_of_a_checkpoint";
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .env(FOLDER, &checkpoints.folder)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(ENDED), "{ended:?}");
        assert_eq!(checkpoints.names().unwrap(), ["step-00000001"]);
    }

    #[test]
    fn a_damaged_one_of_a_later_step_costs_no_whole_one() {
        let (_dir, checkpoints) = checkpoints(1);
        let newest = checkpoints.save(&state(6), contents()).unwrap();
        fs::write(newest.join("optimizer.bpk"), b"mom").unwrap();
        // The run went on from an earlier one, and comes to its next checkpoint before step 6.
        checkpoints.save(&state(4), contents()).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [4]);
        let (found, damaged) = checkpoints.latest().unwrap().unwrap();
        assert_eq!((found.state.step, damaged.len()), (4, 0));
    }
}
