use std::path::{Path, PathBuf};

use clip_model::{ClipConfig, Preprocess};

use super::{RunDir, dir::PRESET};
use crate::{
    TrainError,
    checkpoint::{CHECKPOINTS, weights_of},
};

/// The model of a run's checkpoint: its weights, and what the run's directory says of them.
#[derive(Clone, Debug)]
pub struct CheckpointModel {
    /// The file of weights.
    pub weights: PathBuf,
    /// The run's directory, which has the tokenizer.
    pub run: PathBuf,
    /// What the run's architecture began as: the run's own file of it, or what its settings name.
    pub preset: String,
    /// The architecture.
    pub config: ClipConfig,
    /// How images are resized and normalised.
    pub preprocess: Preprocess,
}

impl CheckpointModel {
    /// The model of a checkpoint's folder, or of a file of weights in one, which may be the averaged ones; `None` of any other
    /// path.
    ///
    /// # Errors
    /// [`TrainError::LoneCheckpoint`] if the checkpoint isn't in a run's directory; what is wrong with the run's settings or
    /// its architecture.
    pub fn open(path: &Path) -> Result<Option<Self>, TrainError> {
        let Some((folder, weights)) = weights_of(path) else {
            return Ok(None);
        };
        let run = run_of(&folder)?;
        if !RunDir::holds_run(&run) {
            return Err(TrainError::LoneCheckpoint { path: folder });
        }
        let settings = RunDir::config_layers(&run)?.resolve()?;
        let file = run.join(PRESET);
        let preset = if file.is_file() {
            file.display().to_string()
        } else {
            settings.preset.clone()
        };
        Ok(Some(Self {
            weights,
            run,
            config: settings.model_of(ClipConfig::load(&preset)?)?,
            preset,
            preprocess: settings.preprocess.unwrap_or_default(),
        }))
    }
}

/// The directory that a checkpoint's folder is two below, by its name or, of one such as `.`, by where it lies.
fn run_of(folder: &Path) -> Result<PathBuf, TrainError> {
    let of = |folder: &Path| {
        let checkpoints = folder.parent()?;
        checkpoints
            .ends_with(CHECKPOINTS)
            .then(|| checkpoints.parent().map(Path::to_owned))?
    };
    if let Some(run) = of(folder).filter(|run| run.file_name().is_some()) {
        return Ok(run);
    }
    // The folder of a bare file name has none, and a run that one stands in no name.
    let place = folder
        .join(".")
        .canonicalize()
        .map_err(clip_files::io("read", folder))?;
    of(&place).ok_or_else(|| TrainError::LoneCheckpoint {
        path: folder.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::RunConfig;

    /// A run's directory with a checkpoint of no more than its names.
    fn run(dir: &Path, settings: &RunConfig) -> PathBuf {
        let run = RunDir::create(&dir.join("run")).unwrap();
        run.save_preset(&ClipConfig::load(&settings.preset).unwrap())
            .unwrap();
        run.save_config(settings).unwrap();
        let checkpoint = run.path().join("checkpoints/step-00000004");
        fs::create_dir_all(&checkpoint).unwrap();
        for (file, bytes) in [
            ("state.json", r#"{"format": 2, "step": 4}"#),
            ("model.safetensors", ""),
            ("ema.safetensors", ""),
        ] {
            fs::write(checkpoint.join(file), bytes).unwrap();
        }
        checkpoint
    }

    #[test]
    fn a_checkpoint_is_of_its_runs_architecture_and_preprocessing() {
        let dir = tempfile::tempdir().unwrap();
        let preprocess = Preprocess {
            mean: [0.5; 3],
            ..Preprocess::default()
        };
        let settings = RunConfig {
            loss: crate::config::Loss::SigLip,
            preprocess: Some(preprocess),
            ..RunConfig::default()
        };
        let checkpoint = run(dir.path(), &settings);
        let averaged = checkpoint.join("ema.safetensors");
        for (path, weights) in [
            (&checkpoint, checkpoint.join("model.safetensors")),
            (&averaged, averaged.clone()),
        ] {
            let model = CheckpointModel::open(path).unwrap().unwrap();
            assert_eq!(model.weights, weights);
            assert_eq!(model.run, dir.path().join("run"));
            assert_eq!(model.config, settings.model().unwrap());
            assert_eq!(model.preprocess, preprocess);
            let preset = ClipConfig::load(&model.preset).unwrap();
            assert_eq!(preset, ClipConfig::load(&settings.preset).unwrap());
        }
        let indirect = dir
            .path()
            .join("run/model/../checkpoints/step-00000004/../step-00000004/.");
        fs::create_dir(dir.path().join("run/model")).unwrap();
        assert!(CheckpointModel::open(&indirect).unwrap().is_some());
    }

    #[test]
    fn what_is_no_checkpoint_is_left_to_others_and_one_without_its_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = run(dir.path(), &RunConfig::default());
        let open = |path: &Path| CheckpointModel::open(path);
        for other in [
            dir.path().join("run"),
            dir.path().join("none"),
            checkpoint.join("adapters.safetensors"),
            checkpoint.join("state.json"),
        ] {
            assert!(open(&other).unwrap().is_none(), "{other:?}");
        }
        let moved = dir.path().join("moved");
        fs::rename(&checkpoint, &moved).unwrap();
        let error = open(&moved).unwrap_err().to_string();
        assert!(error.contains("moved is a checkpoint of a run"), "{error}");
        // Another program's.
        fs::write(moved.join("state.json"), r#"{"epoch": 3}"#).unwrap();
        assert!(open(&moved).unwrap().is_none());
    }
}
