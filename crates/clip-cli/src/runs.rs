use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clip_metrics::{Direction, is_zeroshot, percent};
use clip_report::{ComparedRun, Comparison, Curves};
use clip_train::{RunDir, Standing};
use serde_json::{Map, Value, json};

use crate::output;

/// Compare runs: where each stands, and their curves on one page.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directories of runs, or a directory that holds them
    #[arg(default_value = "runs", value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Write the curves to one page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object a run
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut read_runs = Vec::new();
    for named in &args.dirs {
        for dir in runs_of(named)? {
            match read(&dir) {
                Ok(run) => read_runs.push(run),
                // One of a folder's runs, perhaps of another version, hides no other.
                Err(error) if dir != *named => {
                    log::warn!("{} left out: {error:#}", dir.display());
                }
                Err(error) => return Err(error),
            }
        }
    }
    ensure!(!read_runs.is_empty(), "none of these runs can be read");
    let (runs, failures): (Vec<ComparedRun>, Vec<Option<String>>) = read_runs.into_iter().unzip();
    let comparison = Comparison { runs };
    if let Some(path) = &args.html {
        comparison.write(path)?;
        log::info!("wrote {}", path.display());
    }
    if args.json {
        return json_lines(&comparison, &failures);
    }
    table(&comparison)?;
    for (run, failure) in comparison.runs.iter().zip(&failures) {
        if let Some(told) = failure {
            log::info!("{}: {told}", run.name);
        }
    }
    Ok(())
}

/// The directory itself if it is a run's, else those of the runs in it.
fn runs_of(dir: &Path) -> Result<Vec<PathBuf>> {
    if RunDir::holds_run(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", dir.display()))?
            .path();
        if RunDir::holds_run(&path) {
            runs.push(path);
        }
    }
    if runs.is_empty() {
        bail!(
            "{} holds no run: give the `--out` of `clip pretrain`, or the folder of several",
            dir.display()
        );
    }
    runs.sort();
    Ok(runs)
}

/// A run, and what ended it where an error did.
fn read(dir: &Path) -> Result<(ComparedRun, Option<String>)> {
    let metrics = dir.join("metrics.jsonl");
    let config = RunDir::config_layers(dir)?.resolve()?;
    let mut run = ComparedRun {
        name: dir.display().to_string(),
        // A run that has only begun has no numbers yet.
        curves: if metrics.exists() {
            Curves::from_jsonl(&metrics)?
        } else {
            Curves::default()
        },
        ..ComparedRun::default()
    };
    let (standing, total_steps) = Standing::of(dir, &config, run.steps());
    run.total_steps = total_steps;
    run.preset = config.preset;
    run.state = standing.to_string();
    let failure = match standing {
        Standing::Failed(told) => Some(told),
        _ => None,
    };
    Ok((run, failure))
}

fn json_lines(comparison: &Comparison, failures: &[Option<String>]) -> Result<()> {
    for (run, failure) in comparison.runs.iter().zip(failures) {
        let evaluations: Map<String, Value> = comparison
            .evaluations()
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), json!(run.curves.last(key)?))))
            .collect();
        let object = json!({
            "run": run.name,
            "preset": run.preset,
            "state": run.state,
            "error": failure,
            "steps": run.steps(),
            "total_steps": run.total_steps,
            "loss": run.loss(),
            "images_per_s": run.curves.median("images_per_s"),
            "evaluations": evaluations,
        });
        output::line(&object.to_string())?;
    }
    Ok(())
}

fn table(comparison: &Comparison) -> Result<()> {
    // A terminal has room for few: those that say most.
    let found = comparison.evaluations();
    let recalls = Direction::BOTH.map(|direction| direction.recall(1));
    let recalls = recalls
        .into_iter()
        .filter(|key| found.contains(&key.as_str()));
    let mut keys: Vec<String> = recalls.collect();
    let zeroshot = found.iter().find(|key| is_zeroshot(key));
    keys.extend(zeroshot.map(|key| (*key).to_owned()));
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let mut head: Vec<String> = ["run", "preset", "state", "steps", "loss", "img/s"]
        .map(str::to_owned)
        .to_vec();
    head.extend(keys.iter().cloned());
    let mut rows = vec![head];
    for run in &comparison.runs {
        let mut row = vec![
            run.name.clone(),
            run.preset.clone(),
            run.state.clone(),
            run.steps_of_all(|steps| steps.to_string()),
            number(run.loss(), 3),
            number(run.curves.median("images_per_s"), 0),
        ];
        row.extend(keys.iter().map(|key| {
            let value = run.curves.last(key);
            value.map_or("-".to_owned(), percent)
        }));
        rows.push(row);
    }
    output::table(&rows)
}
