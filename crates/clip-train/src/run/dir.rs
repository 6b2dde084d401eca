use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use crate::{
    TrainError,
    checkpoint::Checkpoints,
    config::{Changes, ConfigLayers, RunConfig},
    progress::replace_file,
};

const CONFIG: &str = "config.toml";

/// The directory of a run, held by this process alone.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl RunDir {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// [`TrainError::RunExists`], [`TrainError::RunLocked`], or [`TrainError::Io`] where it can't be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        if Self::holds_run(path) {
            return Err(TrainError::RunExists {
                path: path.to_owned(),
            });
        }
        fs::create_dir_all(path).map_err(TrainError::io("create", path))?;
        Self::lock(path)
    }

    /// Opens the directory of a run that began earlier.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::RunLocked`], [`TrainError::Io`].
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        if !Self::holds_run(path) {
            return Err(TrainError::NoRun {
                path: path.to_owned(),
                missing: CONFIG.to_owned(),
            });
        }
        Self::lock(path)
    }

    /// Whether a run began in this directory.
    pub fn holds_run(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    /// The settings of the run in `path`, as layers to lay others over.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], or what [`ConfigLayers::file`] refuses.
    pub fn config_layers(path: &Path) -> Result<ConfigLayers, TrainError> {
        if !Self::holds_run(path) {
            return Err(TrainError::NoRun {
                path: path.to_owned(),
                missing: CONFIG.to_owned(),
            });
        }
        ConfigLayers::default().file(&path.join(CONFIG))
    }

    fn lock(path: &Path) -> Result<Self, TrainError> {
        let file = path.join(".lock");
        let lock = File::create(&file).map_err(TrainError::io("write", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(TrainError::RunLocked {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &file)(error)),
        }
    }

    /// Writes the resolved settings. Of a run that began earlier, only settings may differ that leave its state's
    /// meaning; they are returned.
    ///
    /// # Errors
    /// [`TrainError::ChangedConfig`], or [`TrainError::Record`] where the file can't be written.
    pub fn save_config(&self, config: &RunConfig) -> Result<Changes, TrainError> {
        let mut changes = Changes::default();
        if Self::holds_run(&self.path) {
            let old = Self::config_layers(&self.path)?.resolve()?;
            changes = Changes::between(&old, config);
            if !changes.corrupting.is_empty() {
                return Err(TrainError::ChangedConfig {
                    path: self.path.clone(),
                    changes: changes.corrupting.join(", "),
                });
            }
        }
        replace_file(&self.path.join(CONFIG), config.to_toml()?.as_bytes())?;
        Ok(changes)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trained model's directory.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// The directory of the model with averaged weights, in a run that has them.
    pub fn ema_model(&self) -> PathBuf {
        self.path.join("model-ema")
    }

    /// The tokenizer of the run, there from its beginning.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// One object a step and evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The page that shows the run.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Its checkpoints, `keep` of which stay.
    pub fn checkpoints(&self, keep: usize) -> Checkpoints {
        Checkpoints::new(self.path.join("checkpoints"), keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_run_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/run");
        assert!(matches!(RunDir::open(&path), Err(TrainError::NoRun { .. })));
        let run = RunDir::create(&path).unwrap();
        assert!(matches!(
            RunDir::create(&path),
            Err(TrainError::RunLocked { .. })
        ));
        run.save_config(&RunConfig::default()).unwrap();
        drop(run);
        assert!(matches!(
            RunDir::create(&path),
            Err(TrainError::RunExists { .. })
        ));

        let run = RunDir::open(&path).unwrap();
        let longer = RunConfig {
            epochs: 64.0,
            ..RunConfig::default()
        };
        let changes = run.save_config(&longer).unwrap();
        assert_eq!(changes.harmless, ["epochs: 32.0 -> 64.0"]);
        let other = RunConfig { seed: 1, ..longer };
        let error = run.save_config(&other).unwrap_err().to_string();
        assert!(error.contains("seed: 0 -> 1"), "{error}");
    }
}
