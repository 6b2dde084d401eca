//! Weights by any of their names, with all that is known of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clip_model::weights::{
    CONFIG_FILE, Described, ImportedWeights, ReadOptions, without_local_dir,
};
use clip_train::{CheckpointModel, RunDir};
use clip_zeroshot::ClipEncoders;

use super::{
    source::{config_of_tag, locate, preprocess_of_tag},
    tokenizer,
};

/// Reads the weights that a file, a folder, a checkpoint of a run or a name of the Hugging Face hub means; what the source says of
/// its architecture and preprocessing is added to the options.
///
/// # Errors
/// As [`locate`] and [`ImportedWeights::read`]; if it is a run's directory, or a checkpoint without its run.
pub(crate) fn read(
    source: &str,
    mut options: ReadOptions,
    device: &Device,
) -> Result<ImportedWeights> {
    let mut path = locate(source)?;
    refuse_run(&path)?;
    if let Some(model) = CheckpointModel::open(&path)? {
        options.described = Some(Described {
            config: model.config,
            preprocess: model.preprocess,
            folder: model.run,
        });
        path = model.weights;
    } else {
        options.preprocess = preprocess_of_tag(source)?;
        if options.config.is_none() {
            options.config = config_of_tag(source, &path)?;
        }
    }
    Ok(ImportedWeights::read(&path, &options, device)?)
}

/// Loads a model for use, by what [`ClipEncoders::load`] takes or a checkpoint of a run.
///
/// # Errors
/// As that, and as [`read`].
pub(crate) fn encoders(name: &str, device: &Device) -> Result<ClipEncoders> {
    let path = Path::new(without_local_dir(name));
    refuse_run(path)?;
    if CheckpointModel::open(path)?.is_none() {
        return Ok(ClipEncoders::load(name, device)?);
    }
    let weights = read(name, ReadOptions::default(), device)?;
    let tokenizer = tokenizer::of(&weights)?.with_context(|| {
        format!(
            "{name} has no tokenizer: put the tokenizer.json of its run into {}",
            weights.folder.display()
        )
    })?;
    let model = weights.model(&device.clone().without_autodiff());
    let encoders = ClipEncoders::new(&weights.config, &model, tokenizer, weights.preprocess);
    encoders.with_context(|| format!("cannot use {name}"))
}

/// Refuses a run's directory, which has several models.
fn refuse_run(path: &Path) -> Result<()> {
    let run = path.display();
    ensure!(
        !RunDir::holds_run(path) || path.join(CONFIG_FILE).is_file(),
        "{run} is a run's directory: name {}, the model of its last step, or {}, that of a checkpoint",
        path.join("model").display(),
        path.join("checkpoints/step-N").display()
    );
    Ok(())
}
