use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clip_files::PathLock;
use clip_model::ClipConfig;

use super::RunLog;
use crate::{
    TrainError,
    checkpoint::{CHECKPOINTS, Checkpoints},
    config::{Changes, ConfigLayers, RunConfig, differences},
    progress::last_step,
};

/// The settings, by which a directory is a run's.
pub(crate) const CONFIG: &str = "config.toml";
/// The architecture that the run began with.
pub(super) const PRESET: &str = "preset.json";
/// There once a checkpoint is: without it, a run that has none has lost none.
pub(crate) const CHECKPOINTED: &str = "checkpointed.txt";
pub(super) const LOCK: &str = ".lock";
pub(super) const MODEL: &str = "model";

/// How long [`Standing::of`](super::Standing::of) may hold a run's lock.
const GLANCE: Duration = Duration::from_millis(50);

/// The directory of a run, held by this process alone, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The system lets go of it when the process ends, however it ends.
    lock: Arc<PathLock>,
}

impl RunDir {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// [`TrainError::RunExists`], [`TrainError::StrayCheckpoints`] which it would go on from, [`TrainError::RunLocked`], or
    /// [`TrainError::Io`] where it can't be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let stray = Checkpoints::new(path.join(CHECKPOINTS), 1).newest()?;
        if stray.is_some() && !Self::holds_run(path) {
            return Err(TrainError::StrayCheckpoints {
                path: path.to_owned(),
                missing: CONFIG.to_owned(),
            });
        }
        let run = Self::create_to_bring(path)?;
        // Of a run that was here before.
        let record = path.join(CHECKPOINTED);
        clip_files::remove(&record).map_err(clip_files::io("remove", record))?;
        Ok(run)
    }

    /// As [`create`](Self::create), for a run that is brought here: checkpoints of an attempt that was cut off may be there.
    pub(crate) fn create_to_bring(path: &Path) -> Result<Self, TrainError> {
        if Self::holds_run(path) {
            return Err(TrainError::RunExists {
                path: path.to_owned(),
            });
        }
        fs::create_dir_all(path).map_err(clip_files::io("create", path))?;
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
        let file = path.join(LOCK);
        let take = || PathLock::try_take(&file).map_err(clip_files::io("lock", &file));
        let mut lock = take()?;
        if lock.is_none() {
            // Who only looks whether a run goes on has it for less than that.
            std::thread::sleep(GLANCE);
            lock = take()?;
        }
        let lock = lock.ok_or_else(|| TrainError::RunLocked {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            lock: Arc::new(lock.leave_file()),
        })
    }

    /// The architecture that the run began with, which its settings name: a file that they name may be gone by now. What
    /// they name is loaded in a run that hasn't begun.
    ///
    /// # Errors
    /// [`TrainError::ChangedConfig`] if the name stands for another architecture by now, or what [`ClipConfig::load`]
    /// refuses.
    pub fn preset(&self, config: &RunConfig) -> Result<ClipConfig, TrainError> {
        let file = self.path.join(PRESET);
        let named = ClipConfig::load(&config.preset);
        if !file.exists() {
            return Ok(named?);
        }
        let json = fs::read_to_string(&file).map_err(clip_files::io("read", &file))?;
        let began = ClipConfig::from_json(&json, &file.display().to_string())?;
        let Ok(named) = named else {
            return Ok(began);
        };
        let [old, new] = [&began, &named].map(|config| {
            // invariant: a configuration is a tree of plain values under string keys.
            serde_json::to_value(config).expect("invariant: plain values")
        });
        let mut changes = Vec::new();
        differences("", &old, &new, &mut |_, change| changes.push(change));
        if changes.is_empty() {
            return Ok(began);
        }
        Err(TrainError::ChangedConfig {
            path: self.path.clone(),
            changes: format!("{} of preset {}", changes.join(", "), config.preset),
        })
    }

    /// Writes the architecture that [`preset`](Self::preset) gives back.
    ///
    /// # Errors
    /// [`TrainError::Io`] where the file can't be written.
    pub fn save_preset(&self, preset: &ClipConfig) -> Result<(), TrainError> {
        // invariant: a configuration is a tree of plain values under string keys.
        let json = serde_json::to_string_pretty(preset).expect("invariant: plain values");
        let json = format!("{json}\n");
        Ok(clip_files::replace(
            &self.path.join(PRESET),
            json.as_bytes(),
        )?)
    }

    /// Writes the resolved settings. Of a run that began earlier, only settings may differ that leave its state's
    /// meaning; they are returned.
    ///
    /// # Errors
    /// [`TrainError::ChangedConfig`], or [`TrainError::Io`] where the file can't be written.
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
        clip_files::replace(&self.path.join(CONFIG), config.to_toml()?.as_bytes())?;
        Ok(changes)
    }

    /// Refuses to begin again what has had a checkpoint and has none now. A run that ended before its first was whole,
    /// however many steps it had done by then, has lost nothing.
    ///
    /// # Errors
    /// [`TrainError::LostCheckpoints`], [`TrainError::Io`] if the metrics can't be read.
    pub fn refuse_lost_checkpoints(&self) -> Result<(), TrainError> {
        if !self.path.join(CHECKPOINTED).exists() {
            return Ok(());
        }
        Err(TrainError::LostCheckpoints {
            path: self.path.clone(),
            steps: last_step(&self.metrics())?,
        })
    }

    /// Leaves a record that there is a checkpoint, which must be on the disk by now, unless an earlier one left it.
    pub(crate) fn record_checkpoint(&self, step: u64) -> Result<(), TrainError> {
        let record = self.path.join(CHECKPOINTED);
        if !record.exists() {
            clip_files::replace(&record, format!("checkpoint of step {step}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Refuses to go on where the path no longer leads to this directory: what is written there may be another run's. That
    /// isn't told outside of Unix, where an open file keeps its folder from being moved.
    ///
    /// # Errors
    /// [`TrainError::RunMoved`].
    pub fn check_in_place(&self) -> Result<(), TrainError> {
        let file = self.path.join(LOCK);
        if self
            .lock
            .is_in_place()
            .map_err(clip_files::io("read", file))?
        {
            return Ok(());
        }
        Err(TrainError::RunMoved {
            path: self.path.clone(),
        })
    }

    /// Where the run, which begins or goes on now, says what it does.
    ///
    /// # Errors
    /// [`TrainError::Io`] where it can't be written.
    pub fn log(&self) -> Result<RunLog, TrainError> {
        RunLog::open(&self.path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trained model's directory.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
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
        Checkpoints::new(self.path.join(CHECKPOINTS), keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_what_it_was_when_the_run_began() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("small.json");
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8,
            "patch_size": 4}, "text_cfg": {"width": 16, "heads": 2, "layers": 1}}"#;
        fs::write(&file, json).unwrap();
        let config = RunConfig {
            preset: file.display().to_string(),
            ..RunConfig::default()
        };
        let run = RunDir::create(&dir.path().join("run")).unwrap();
        let preset = run.preset(&config).unwrap();
        run.save_preset(&preset).unwrap();
        assert_eq!(run.preset(&config).unwrap(), preset);

        // As many weights of the same shapes, and another model.
        fs::write(&file, json.replace("\"heads\": 2", "\"heads\": 4")).unwrap();
        let error = run.preset(&config).unwrap_err().to_string();
        assert!(error.contains("text_cfg.heads: 2 -> 4"), "{error}");
        fs::remove_file(&file).unwrap();
        assert_eq!(run.preset(&config).unwrap(), preset);
    }

    #[test]
    fn checkpoints_without_settings_are_not_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(CHECKPOINTS).join("step-00000020")).unwrap();
        let error = RunDir::create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("whose config.toml is gone"), "{error}");
        RunDir::create_to_bring(dir.path()).unwrap();
        let begun = Checkpoints::new(dir.path().join(CHECKPOINTS), 1);
        fs::rename(begun.path(20), begun.path(20).with_extension("partial")).unwrap();
        RunDir::create(dir.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_is_moved_or_replaced_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let [path, elsewhere] = ["run", "elsewhere"].map(|name| dir.path().join(name));
        let run = RunDir::create(&path).unwrap();
        run.check_in_place().unwrap();
        fs::rename(&path, &elsewhere).unwrap();
        let moved = || matches!(run.check_in_place(), Err(TrainError::RunMoved { .. }));
        assert!(moved());
        let other = RunDir::create(&path).unwrap();
        other.check_in_place().unwrap();
        assert!(moved());
        drop(other);
        fs::remove_dir_all(&path).unwrap();
        fs::rename(&elsewhere, &path).unwrap();
        run.check_in_place().unwrap();
    }

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
