use std::path::Path;

use anyhow::Result;
use clip_data::TrainLoader;
use clip_metrics::{Kind, Measured, gibibytes, human_count, human_duration, percent};
use clip_model::ClipConfig;
use clip_train::{RunDir, checkpoint::Best, config::RunConfig, peak_memory};
use serde_json::{Map, Value, json};

use super::{Ended, devices::Devices, validation::Found};
use crate::{kernels, output};

/// Says what is about to happen.
pub(super) fn announce(
    config: &RunConfig,
    model: &ClipConfig,
    run: &RunDir,
    devices: &Devices,
    loader: &TrainLoader,
) {
    let samples = loader.samples_per_epoch();
    log::info!(
        "{} ({} parameters) on {}; {} samples, batch {}, {} steps; everything goes to {}",
        config.preset,
        human_count(model.num_params() as u64),
        devices.described(),
        human_count(samples),
        config.batch,
        config.total_steps(samples),
        run.path().display()
    );
    if devices.main.is_gpu()
        && let Some(kept_in) = kernels::kept_in()
    {
        log::info!(
            "the first step compiles kernels for the GPU and tries which are the fastest, for minutes; later runs find in {} \
             what was tried, and on cuda and vulkan what was compiled",
            kept_in.display()
        );
    }
}

/// Prints what came of it: for people, or as one JSON object.
pub(super) fn tell(end: &Ended<'_>, found: &Found, json: bool) -> Result<()> {
    let state = &end.trained.state;
    let output = found.output();
    let averaged = end.trained.evaluation.as_ref();
    let averaged = averaged.map_or(&[][..], |found| &found.averaged);
    let peak = state.peak_memory.max(peak_memory());
    // A run may have gone on without keeping it.
    let best = state.best.as_ref();
    let best = best.and_then(|best| Some((best, end.run.checkpoints(1).best_model(best)?)));
    if json {
        let object = |values: &[Measured]| {
            let values = values.iter();
            let values = values.map(|found| (found.key.clone(), json!(found.value)));
            Value::Object(values.collect::<Map<_, _>>())
        };
        let line = json!({
            "model_dir": end.run.model(),
            "steps": state.step,
            "samples": state.samples,
            "images_per_s": end.images_per_s,
            "peak_rss_mb": peak.map(|bytes| bytes as f64 / 1e6),
            "val_loss": output.loss,
            "retrieval": object(&output.retrieval),
            "zeroshot": object(&output.zeroshot),
            "ema": object(averaged),
            "report": end.run.report(),
            "best": best.map(|(best, model)| json!({
                "key": best.key,
                "value": best.value,
                "step": best.step,
                "model": model,
            })),
        });
        return output::line(&line.to_string());
    }
    output::line(&format!(
        "trained {} steps in {}{}",
        state.step,
        human_duration(state.seconds),
        peak.map_or(String::new(), |bytes| format!(
            ", peak memory {}",
            gibibytes(bytes)
        ))
    ))?;
    if let Some(retrieval) = &found.retrieval {
        let report = &retrieval.report;
        let row = |name: &str, values: [f64; 3]| {
            let [r1, r5, r10] = values.map(percent);
            [name.to_owned(), r1, r5, r10]
        };
        output::table(&[
            ["retrieval", "R@1", "R@5", "R@10"].map(str::to_owned),
            row(
                "image to text",
                [report.i2t_r1, report.i2t_r5, report.i2t_r10],
            ),
            row(
                "text to image",
                [report.t2i_r1, report.t2i_r5, report.t2i_r10],
            ),
        ])?;
        output::line(&format!("validation loss {:.3}", retrieval.loss))?;
    }
    for set in &found.zeroshot {
        output::line(&format!(
            "zero-shot, {}: top-1 {} of {} images among {} classes",
            set.name,
            percent(set.report.top1),
            set.report.samples,
            set.classes
        ))?;
    }
    if !averaged.is_empty() {
        let numbers = averaged.iter().filter_map(|found| {
            let Measured { key, kind, value } = found;
            match kind {
                Kind::Share => Some(format!("{key} {}", percent(*value))),
                Kind::Loss => Some(format!("{key} {value:.3}")),
                Kind::Rank => None,
            }
        });
        let numbers: Vec<String> = numbers.collect();
        output::line(&format!("averaged weights: {}", numbers.join(", ")))?;
    }
    let model = end.run.model();
    output::line(&format!("model   {}", model.display()))?;
    if let Some((best, model)) = best {
        tell_best(best, &model)?;
    }
    output::line(&format!("report  {}", end.run.report().display()))?;
    output::line(&format!(
        "use it  clip classify IMAGE --labels \"{}\" --model {}",
        if end.shapes {
            "red circle,blue star"
        } else {
            "a dog,a cat"
        },
        model.display()
    ))
}

/// The model that `checkpoint.best` kept, and what makes a model directory of it.
fn tell_best(best: &Best, model: &Path) -> Result<()> {
    output::line(&format!(
        "best    {model}, {} {} (`clip weights import {model} --out DIR` makes a model directory of it)",
        best.key,
        percent(best.value),
        model = model.display()
    ))
}
