//! `clip pretrain`: from shards to a trained, evaluated model directory and its report.

mod args;
mod devices;
mod free_memory;
mod memory;
mod mirror;
mod prepare;
mod report;
mod summary;
mod teacher;
mod unknown_flag;
mod val_loss;
mod validation;

use std::{
    iter,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use clip_data::{ShardSet, TrainLoader};
use clip_model::{Clip, ClipConfig};
use clip_train::{Evaluate, RunDir, Trained, Training, checkpoint::Copier};
use clip_zeroshot::{ClipEncoders, ZeroShotError};

use crate::{
    device::DeviceName,
    interrupt::{self, Interrupted},
    panics,
};

pub(crate) use args::PretrainArgs as Args;
use args::wrong_settings;
use devices::Devices;
use report::Page;
use teacher::RunTeacher;
pub(crate) use unknown_flag::with_tip;
use validation::Validation;

/// What the self-made dataset is learned with.
const SHAPES_RECIPE: &str = include_str!("../../../../datasets/shapes/recipe.toml");

/// Trains as the flags say, and leaves a model directory and a report.
pub(crate) fn run(args: &Args, name: Option<DeviceName>, quiet: bool) -> Result<()> {
    args.refuse_idle()?;
    let brought = mirror::bring(args)?;
    let choice = args.choose(SHAPES_RECIPE)?;
    let mut config = args::resolved(&choice.layers)?;
    let resumed = choice.resume.then(|| RunDir::open(&choice.out));
    let resumed = resumed.transpose()?;
    let preset = match &resumed {
        Some(run) => run.preset(&config)?,
        None => ClipConfig::load(&config.preset)?,
    };
    choice.layers.complete(&mut config, &preset);
    let model = config.model_of(preset.clone()).map_err(wrong_settings)?;
    // Everything that can be refused is looked at before anything is made.
    if choice.own_data {
        ShardSet::parse(&config.data.train).context("training data")?;
    }
    let devices = Devices::open(&args.devices, name, &args.token)?;
    let adapters = config.validate_adapters(&model, &devices.main.device);
    adapters.map_err(wrong_settings)?;
    let teacher = RunTeacher::of(&config, &model, &devices.main.device)?;
    devices.divide(&mut config, &model, teacher.as_ref());
    devices.tell_of_other_kind(&config, resumed.is_some());
    // A checkpoint has all that a run goes on with.
    let done = prepare::done(resumed.as_ref(), &config)?;
    let initial = match done {
        Some(_) => None,
        None => prepare::initial(&mut config, &model, &choice, &devices.main.device)?,
    };
    if args.resume.is_none() {
        mirror::open(&config, false, None)?;
    }
    if !choice.own_data {
        prepare::shapes(&mut config, &model)?;
    }
    let shards = ShardSet::parse(&config.data.train).context("training data")?;
    let known = (initial.as_ref(), teacher.as_ref());
    let train = (config.data.train.as_str(), &shards);
    let tokenizer = prepare::tokenizer(resumed.as_ref(), &model, known, train)?;
    let preprocess = config.preprocess.unwrap_or_default();
    let loader = TrainLoader::new(shards, Arc::clone(&tokenizer), config.loader(&model))?;
    let total_steps = config.total_steps(loader.samples_per_epoch());
    prepare::goes_on(resumed.as_ref(), done, total_steps)?;
    let begun = resumed.is_some();
    let run = resumed.map_or_else(|| RunDir::create(&choice.out), Ok)?;
    let page = Page::new(&run, &config, &model, total_steps, devices.described());
    let page = Arc::new(Mutex::new(page));
    let validation = Validation::open(&config, &model, preprocess, &tokenizer, Arc::clone(&page))
        .context("validation data")?;
    let best = config.validate_best(&validation.keys());
    best.map_err(wrong_settings)?;
    // What was brought is all that is whole there.
    let here_before = (begun && !brought).then_some(&run);
    let mirror = mirror::open(&config, args.resume.is_some(), here_before)?;
    if !begun || !run.tokenizer().exists() {
        tokenizer.save_dir(run.path())?;
    }
    let log = prepare::begin(&run, &preset, &config)?;
    let copier = mirror::start(mirror, &run, &config)?;
    summary::announce(&config, &model, &run, &devices, &loader);

    let latest = validation.latest();
    let retrieval_loader = validation.retrieval_loader();
    let interrupter = interrupt::training_begins();
    let validation = validation.interrupted_by(interrupter.clone());
    panics::leave_those_of_devices_to_errors(devices.on_other_machines());
    let trained = Training {
        config: &config,
        model: &model,
        initial,
        teacher: teacher.map(|of_run| of_run.teacher),
        norm: preprocess.norm(),
        device: devices.main.device.clone(),
        devices: devices.named(),
        elastic: args.elastic,
        run: &run,
        log: Some(log),
        copier: copier.clone(),
        loader,
        evaluator: Some(Box::new(validation)),
        display: args.display(quiet),
        interrupter,
    }
    .train();
    interrupt::training_ended();
    let trained = trained?;
    if trained.interrupted {
        return Err(stopped(&trained, &run, copier));
    }
    let models = save_models(&trained, &run, |clip| {
        ClipEncoders::new(&model, clip, Arc::clone(&tokenizer), preprocess)
    })?;
    let found = latest.get();
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    let report = page.write(&trained.state, &found, retrieval_loader.as_ref())?;
    let end = Ended {
        run: &run,
        trained: &trained,
        images_per_s: report.facts.images_per_s,
        shapes: !choice.own_data,
    };
    summary::tell(&end, &found, args.json)?;
    mirror::finish(copier, &models)
}

/// Says where a run stands that was asked to stop.
fn stopped(trained: &Trained, run: &RunDir, copier: Option<Arc<Copier>>) -> anyhow::Error {
    log::info!(
        "stopped after step {} of {}; go on with: clip pretrain --resume {}",
        trained.state.step,
        trained.total_steps,
        run.path().display()
    );
    if let Err(error) = mirror::finish(copier, &[]) {
        log::error!("{error:#}");
    }
    Interrupted.into()
}

/// Writes what the run came to, with the encoders of its weights; returns the directories.
fn save_models(
    trained: &Trained,
    run: &RunDir,
    encoders: impl Fn(&Clip) -> Result<ClipEncoders, ZeroShotError>,
) -> Result<Vec<PathBuf>> {
    run.check_in_place()?;
    let averaged = trained.ema.iter().map(|ema| (ema, run.ema_model()));
    let models = iter::once((&trained.model, run.model())).chain(averaged);
    let saved = models.map(|(model, dir)| {
        encoders(model)?.save(&dir)?;
        Ok(dir)
    });
    saved.collect()
}

/// A run that reached its last step.
struct Ended<'a> {
    run: &'a RunDir,
    trained: &'a Trained,
    images_per_s: Option<f64>,
    /// Whether it learned from the self-made dataset.
    shapes: bool,
}
