use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clip_data::{
    Corpus, ShardSet, Tokenizer,
    shapes::{ShapesConfig, generate},
};
use clip_metrics::human_count;
use clip_model::{
    ClipConfig, ModelError,
    presets::CLIP_VOCAB_SIZE,
    weights::{ImportedWeights, ReadOptions, WeightsFile, without_local_dir},
};
use clip_train::{
    RunDir, RunLog,
    config::{LabelledSet, RunConfig},
};
use clip_zeroshot::check_tokenizer;

use super::{args::Choice, teacher::RunTeacher};
use crate::{logger, weights};

/// Captions that a vocabulary is learned from at most: word frequencies don't change after that many.
const TOKENIZER_CAPTIONS: usize = 1_000_000;

/// The weights that `init` names, in the shapes of `model`; images are seen as by them, where the run doesn't say otherwise.
pub(super) fn initial(
    config: &mut RunConfig,
    model: &ClipConfig,
    choice: &Choice,
    device: &Device,
) -> Result<Option<ImportedWeights>> {
    let Some(source) = &config.init else {
        tell_of_architecture_alone(config);
        return Ok(None);
    };
    let options = ReadOptions {
        config: Some(model.clone()),
        any_objective: true,
        ..ReadOptions::default()
    };
    let weights = weights::read(source, options, device).map_err(|error| {
        let about = format!("cannot begin with the weights of {source}");
        let mismatch = matches!(
            error.downcast_ref(),
            Some(ModelError::WeightsMismatch { .. } | ModelError::InvalidConfig { .. })
        );
        error.context(match (mismatch, choice.preset_is_given) {
            (false, _) => about,
            (true, true) => format!(
                "{about}: the preset must be of their architecture (without `--preset`, that of a model directory, of a run's \
                 checkpoint, or of a model of the hub in OpenCLIP's layout, is taken)"
            ),
            (true, false) => format!(
                "{about}: no `--preset` was given, so {} was taken; name theirs",
                config.preset
            ),
        })
    })?;
    if let Some(told) = &weights.told {
        let off: Vec<_> = told
            .differences(model)
            .into_iter()
            .filter(|found| !found.is_fitted())
            .map(|found| {
                let [there, here] = found.shown();
                format!("`{}` is {there} there and {here} here", found.key)
            })
            .collect();
        ensure!(
            off.is_empty(),
            "{source} is another model than the preset: {}; name the preset that it was trained with, or none",
            off.join("; ")
        );
    }
    if let Some((tensor, number)) = weights.not_finite() {
        bail!(
            "a number of {tensor} in {source} is {number}, so that no step could be taken: give weights without, or put \
             numbers in its place"
        );
    }
    for note in &weights.notes {
        log::info!("{note}");
    }
    config.preprocess.get_or_insert(weights.preprocess);
    Ok(Some(weights))
}

/// Says that of a preset that is a model directory no weights are taken.
fn tell_of_architecture_alone(config: &RunConfig) {
    let preset = without_local_dir(&config.preset);
    let path = Path::new(preset);
    if path.is_dir() && WeightsFile::open(path).is_ok() {
        log::info!(
            "of the preset {preset}, its architecture only, weights are new: `--init {preset}` begins with those in it"
        );
    }
}

/// The step of the newest checkpoint of a run that is resumed.
pub(super) fn done(resumed: Option<&RunDir>, config: &RunConfig) -> Result<Option<u64>> {
    let Some(run) = resumed else {
        return Ok(None);
    };
    Ok(run.checkpoints(config.checkpoint.kept()).newest()?)
}

/// Refuses to go on with a run that has done more than is wanted, or whose checkpoints are gone; `done` is the step of the
/// newest.
pub(super) fn goes_on(resumed: Option<&RunDir>, done: Option<u64>, total_steps: u64) -> Result<()> {
    let Some(run) = resumed else {
        return Ok(());
    };
    let path = run.path().display();
    let Some(done) = done else {
        run.refuse_lost_checkpoints()?;
        log::info!("{path} has no checkpoint yet: it begins with its first step");
        return Ok(());
    };
    ensure!(
        done <= total_steps,
        "{path} has done {done} steps already, and is to end after {total_steps}: give it more, or use its model as it is"
    );
    Ok(())
}

/// Writes the architecture and the settings, and says which of a resumed run changed. From then on its directory keeps what is
/// said.
pub(super) fn begin(run: &RunDir, preset: &ClipConfig, config: &RunConfig) -> Result<RunLog> {
    run.save_preset(preset)?;
    let changes = run.save_config(config)?;
    let log = run.log()?;
    logger::keep(&log);
    for change in changes.harmless {
        log::info!("changed since the run began: {change}");
    }
    Ok(log)
}

/// The run's tokenizer: the one it began with, that of its first weights or of its teacher, CLIP's own for models of its
/// vocabulary, or one learned from the captions of the training shards, which come with how they are named.
pub(super) fn tokenizer(
    resumed: Option<&RunDir>,
    model: &ClipConfig,
    (initial, teacher): (Option<&ImportedWeights>, Option<&RunTeacher>),
    (named, shards): (&str, &ShardSet),
) -> Result<Arc<Tokenizer>> {
    let text = &model.text_cfg;
    // What else lies in the directory of a run that hasn't begun is another's.
    let begun_with = resumed.map(RunDir::tokenizer).filter(|path| path.exists());
    let tokenizer = match (begun_with, initial, teacher) {
        (Some(path), _, _) => Tokenizer::load_with(&path, text.tokenizer_kwargs.as_ref())?.into(),
        (None, Some(weights), _) => weights::tokenizer::of(weights)?
            .with_context(|| {
                format!(
                    "put the tokenizer.json of {} beside it",
                    weights.path.display()
                )
            })?
            .into(),
        (None, None, Some(of_run)) => Arc::clone(&of_run.tokenizer),
        (None, None, None) if text.vocab_size == CLIP_VOCAB_SIZE => {
            Tokenizer::refuse_kwargs(text.tokenizer_kwargs.as_ref(), "the preset")?;
            Tokenizer::clip().into()
        }
        (None, None, None) => {
            // It leaves out id 1, which is a letter in a vocabulary learned here.
            if let Some(name) = &text.hf_model_name {
                bail!(
                    "the text encoder {name} has a tokenizer of its own: begin with weights that bring it (`--init`)"
                );
            }
            Tokenizer::train(captions(shards)?.into_iter(), text.vocab_size)
                .with_context(|| format!("cannot learn a vocabulary from {named}"))?
                .into()
        }
    };
    if let Some(of_run) = teacher {
        of_run.reads_as(&tokenizer)?;
    }
    check_tokenizer("the run", text, &tokenizer)?;
    Ok(tokenizer)
}

/// The captions of all samples, in shard order.
fn captions(shards: &ShardSet) -> Result<Vec<String>> {
    let corpus = Corpus {
        texts: Vec::new(),
        shards: Some(shards.clone()),
    };
    let mut captions = Vec::new();
    corpus.read(|caption| {
        captions.push(caption.to_owned());
        captions.len() < TOKENIZER_CAPTIONS
    })?;
    Ok(captions)
}

/// Makes the dataset of coloured shapes, or finds it where it was made before, and trains and evaluates on it.
pub(super) fn shapes(config: &mut RunConfig, model: &ClipConfig) -> Result<()> {
    let shapes = ShapesConfig {
        image_size: model.vision_cfg.image_size.clamp(64, 224),
        ..ShapesConfig::default()
    };
    let dir = cache_dir()?.join(format!("shapes-{}", shapes.image_size));
    log::info!(
        "no --train: learning from coloured shapes, made in {}",
        dir.display()
    );
    let dataset = generate(&shapes, &dir)?;
    config.data.train.clone_from(&dataset.train);
    let tried = match few(config, &shapes) {
        None => dataset,
        Some(few) => {
            log::info!(
                "a short run: it is evaluated on {} images of shapes, not on all {} (recalls among fewer are higher)",
                human_count(evaluated(config, &few)),
                human_count(evaluated(config, &shapes))
            );
            let dir = dir.with_file_name(format!("shapes-{}-few", few.image_size));
            generate(&few, &dir)?
        }
    };
    let labelled = |name: &str, shards: String| LabelledSet {
        name: name.to_owned(),
        shards,
        classes: tried.classes.clone(),
        templates: tried.templates.clone(),
        allow_duplicates: false,
    };
    config.data.zeroshot = vec![
        labelled("seen", tried.zeroshot_seen.clone()),
        labelled("unseen", tried.zeroshot_unseen.clone()),
    ];
    if config.data.val.is_empty() {
        config.data.val = tried.val;
    }
    Ok(())
}

/// Fewer shapes to evaluate on, for a run that would otherwise evaluate more images than it trains on: the first of the
/// usual sets, one for each pair of colour and shape that is seen, and 100 whose captions are ranked.
fn few(config: &RunConfig, shapes: &ShapesConfig) -> Option<ShapesConfig> {
    let samples = shapes.train as u64;
    let steps = config.eval_every(samples).min(config.total_steps(samples));
    let trained = steps * config.batch as u64;
    (trained < evaluated(config, shapes)).then(|| ShapesConfig {
        train: 1,
        val: 100,
        zeroshot: 80,
        ..shapes.clone()
    })
}

/// Images of the shapes that an evaluation takes.
fn evaluated(config: &RunConfig, shapes: &ShapesConfig) -> u64 {
    let val = if config.data.val.is_empty() {
        shapes.val
    } else {
        0
    };
    (val + 2 * shapes.zeroshot) as u64
}

/// Where things are kept that can be made again.
fn cache_dir() -> Result<PathBuf> {
    let own = std::env::var_os("CLIP_CACHE_DIR").map(PathBuf::from);
    own.or_else(|| dirs::cache_dir().map(|dir| dir.join("clip")))
        .context(
            "this account has no cache folder: name one in the environment variable CLIP_CACHE_DIR",
        )
}

#[cfg(test)]
mod tests {
    use clip_train::config::ConfigLayers;

    use super::{super::SHAPES_RECIPE, *};

    /// Images evaluated in the default run with these settings.
    fn images(settings: &[&str]) -> u64 {
        let recipe = ConfigLayers::default().text(SHAPES_RECIPE, "the recipe");
        let set = |layers: ConfigLayers, setting: &&str| layers.set(setting).unwrap();
        let layers = settings.iter().fold(recipe.unwrap(), set);
        let (config, shapes) = (layers.resolve().unwrap(), ShapesConfig::default());
        evaluated(&config, &few(&config, &shapes).unwrap_or(shapes))
    }

    #[test]
    fn a_run_is_evaluated_on_fewer_images_where_it_trains_on_fewer() {
        assert_eq!(images(&[]), 3_400);
        assert_eq!(images(&["preset=\"ViT-B-32\""]), 3_400);
        assert_eq!(images(&["steps=2", "preset=\"ViT-B-32\""]), 260);
        // Evaluated once, after more images than that takes.
        assert_eq!(images(&["steps=100", "eval.steps=1000"]), 3_400);
        assert_eq!(images(&["steps=100"]), 260);
        assert_eq!(images(&["steps=100", "eval.epochs=1"]), 3_400);
        // The user's own validation set is taken whole.
        assert_eq!(images(&["steps=2", "data.val=\"val.tar\""]), 160);
    }
}
