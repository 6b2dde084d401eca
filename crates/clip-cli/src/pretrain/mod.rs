//! `clip pretrain`: from shards to a trained, evaluated model directory and its report.

mod args;
mod prepare;

use std::time::Instant;

use anyhow::{Context, Result};
use burn::{tensor::Device, train::Interrupter};
use clip_data::{FaultReport, TrainLoader};
use clip_model::{ClipConfig, ImageNorm};
use clip_train::{RunDir, Training, progress::Display};

pub(crate) use args::PretrainArgs;

/// Trains as the flags say.
pub(crate) fn run(args: &PretrainArgs, device: &Device) -> Result<()> {
    let choice = args.choose("")?;
    let mut config = args::resolved(&choice.layers)?;
    if config.threads == 0 {
        config.threads = std::thread::available_parallelism().map_or(1, usize::from);
    }
    let model = ClipConfig::load(&config.preset)?;
    let run = if choice.resume {
        RunDir::open(&choice.out)?
    } else {
        RunDir::create(&choice.out)?
    };
    let shards = clip_data::ShardSet::parse(&config.data.train).context("--train")?;
    let tokenizer = prepare::tokenizer(&run, &model, &shards)?;
    let loader = TrainLoader::new(shards, tokenizer, config.loader(&model))?;
    run.save_config(&config)?;
    let began = Instant::now();
    let trained = Training {
        config: &config,
        model: &model,
        norm: ImageNorm::default(),
        device: device.clone(),
        run: &run,
        loader,
        evaluator: None,
        display: if args.plain { Display::Plain } else { Display::Auto },
        interrupter: Interrupter::new(),
    }
    .train()?;
    let _: FaultReport = trained.state.faults;
    eprintln!("{} s", began.elapsed().as_secs_f64());
    Ok(())
}
