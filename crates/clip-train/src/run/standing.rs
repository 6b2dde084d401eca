use std::{
    fmt,
    fs::{File, TryLockError},
    path::Path,
};

use super::{
    dir::{LOCK, MODEL},
    log::failure,
};
use crate::{
    checkpoint::{CHECKPOINTS, Checkpoints},
    config::RunConfig,
};

/// Whether a run goes on, or came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// A process trains in its directory.
    Running,
    /// It has done its last step and written its model.
    Finished,
    /// An error ended it, which this tells.
    Failed(String),
    /// None of these: it was interrupted, or killed.
    #[default]
    Stopped,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed(_) => "failed",
            Self::Stopped => "stopped",
        })
    }
}

impl Standing {
    /// That of the run in `path` after `steps` steps, and how many it has in all. The last is `None` of a run by epochs
    /// without a checkpoint: until then its files don't tell how many samples an epoch has.
    pub fn of(path: &Path, config: &RunConfig, steps: u64) -> (Self, Option<u64>) {
        let samples = || Checkpoints::new(path.join(CHECKPOINTS), 1).samples_per_epoch();
        let total_steps = match config.steps {
            Some(steps) => Some(steps),
            None => samples().map(|samples| config.total_steps(samples)),
        };
        let is_done = total_steps.is_some_and(|total| steps >= total);
        let standing = if is_held(&path.join(LOCK)) {
            Self::Running
        } else if is_done && path.join(MODEL).is_dir() {
            Self::Finished
        } else {
            failure(path).map_or(Self::Stopped, Self::Failed)
        };
        (standing, total_steps)
    }
}

fn is_held(lock: &Path) -> bool {
    let file = File::open(lock);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::RunDir;

    #[test]
    fn a_run_goes_on_while_it_is_held_and_ends_with_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let config = RunConfig {
            batch: 8,
            epochs: 2.0,
            ..RunConfig::default()
        };
        let run = RunDir::create(dir.path()).unwrap();
        let standing = |steps| Standing::of(dir.path(), &config, steps);
        assert_eq!(standing(0), (Standing::Running, None));
        let log = run.log().unwrap();
        drop(run);
        assert_eq!(standing(0), (Standing::Stopped, None));
        log.fail(&["error: no space".to_owned()]);
        let failed = Standing::Failed("error: no space".to_owned());
        assert_eq!(standing(0), (failed, None));
        RunDir::create(dir.path()).unwrap().log().unwrap();
        let checkpoint = dir.path().join(CHECKPOINTS).join("step-00000004");
        fs::create_dir_all(&checkpoint).unwrap();
        fs::write(
            checkpoint.join("state.json"),
            r#"{"samples_per_epoch": 80}"#,
        )
        .unwrap();
        assert_eq!(standing(20), (Standing::Stopped, Some(20)));
        // Of a run that was made longer since.
        fs::create_dir(dir.path().join(MODEL)).unwrap();
        assert_eq!(standing(19), (Standing::Stopped, Some(20)));
        assert_eq!(standing(20), (Standing::Finished, Some(20)));
    }
}
