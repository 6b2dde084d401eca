use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::builder::RangedU64ValueParser;
use clip_model::weights::{CONFIG_FILE, without_local_dir};
use clip_train::{
    CheckpointModel, RunDir, TrainError,
    checkpoint::Mirror,
    config::{ConfigLayers, RunConfig},
    progress::Display,
};

use super::devices::AnyDevice;
use crate::{numbers, remote::TokenArgs, usage::WrongUsage, weights};

/// TOML has no larger numbers.
const LARGEST: u64 = i64::MAX as u64;

/// What `--help` ends with.
const SETTINGS: &str = "\
Settings that have no flag go by --set KEY=VALUE or stand in a --config FILE. The commonest:
  precision=bf16                 what encoders compute in
  warmup_steps=2000              steps of linear warm-up
  optimizer.weight_decay=0.2     of matrices
  optimizer.grad_clip_norm=1     of all gradients together
  loss=siglip                    instead of infonce
  chunk=64                       pairs encoded at once, of the whole batch
  grad_checkpointing=true        less memory, each block computed twice
  lock_image=true                trains the text encoder alone
  data.workers=8                 threads that decode
  data.with_replacement=true     shards drawn by their weights
  eval.steps=500                 steps from one evaluation to the next
  checkpoint.best=i2t_r1         keeps the checkpoint that is best by it
docs/guide.md has all of them, and OpenCLIP's flags with what they are here.";

/// Train a model from image-caption shards.
///
/// Without --train, a dataset of coloured shapes is made and learned, which takes minutes on a CPU. Settings come from
/// the run that is resumed, then --config, then --set, then the other flags, each above the one before; the run's
/// directory keeps the result in config.toml.
#[derive(Debug, clap::Args)]
#[command(after_help = SETTINGS)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct PretrainArgs {
    /// What to train on: tars, tables (.csv, .tsv, .parquet) or folders; paths or addresses with {000000..000123}, globs,
    /// and lists joined by `::`, each with a `#weight=2` where it is to be seen oftener
    #[arg(long, value_name = "SHARDS")]
    train: Option<String>,
    /// Shards to evaluate retrieval on
    #[arg(long, value_name = "SHARDS")]
    val: Option<String>,
    /// The model: a preset, a JSON file with OpenCLIP's keys, or a model directory, of which the architecture alone is taken
    /// (`--init` takes its weights)
    #[arg(long, value_name = "NAME|FILE|DIR")]
    preset: Option<String>,
    /// Weights to begin with: a model directory, a checkpoint of a run (RUN/checkpoints/step-N), a file, a `hf-hub:ORG/NAME`
    /// or a `PRESET:TAG` that `clip weights import` reads, of the preset's architecture, or without a preset of its own
    #[arg(long, value_name = "DIR|FILE|hf-hub:ORG/NAME")]
    init: Option<String>,
    /// A model to learn from beside the captions: a model directory, a file, a `hf-hub:ORG/NAME` or a `PRESET:TAG`, of the preset's image
    /// size and vocabulary
    #[arg(long, value_name = "DIR|FILE|hf-hub:ORG/NAME")]
    distill: Option<String>,
    /// Settings in a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as `optimizer.weight_decay=0.1`; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where everything goes [default: runs/PRESET-NUMBER]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Decides weights, order, crops and captions
    #[arg(long, value_parser = RangedU64ValueParser::<u64>::new().range(..=LARGEST))]
    seed: Option<u64>,
    /// Passes over the training data
    #[arg(long, value_parser = numbers::positive)]
    epochs: Option<f64>,
    /// Optimizer steps, instead of epochs
    #[arg(long, conflicts_with = "epochs", value_parser = RangedU64ValueParser::<u64>::new().range(1..=LARGEST))]
    steps: Option<u64>,
    /// Pairs of a batch, at least 2
    #[arg(long, value_parser = RangedU64ValueParser::<u64>::new().range(2..=LARGEST))]
    batch: Option<u64>,
    /// The highest learning rate
    #[arg(long, value_parser = numbers::positive)]
    lr: Option<f64>,
    /// Several devices that encode parts of each batch, such as `cuda:0,cuda:1,remote://10.0.0.2:7861` (`clip
    /// serve-device` there); the first of this machine has the model
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    pub(crate) devices: Vec<AnyDevice>,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    /// Go on with the other devices when one of several stops, instead of stopping with a checkpoint
    #[arg(long)]
    pub(crate) elastic: bool,
    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(..=LARGEST))]
    checkpoint_steps: Option<u64>,
    /// Go on with the run in DIR; `auto`: with the run in --out if there is one, else with the one in its `checkpoint.mirror`,
    /// else start it; an address: with the one in that mirror, brought to --out
    #[arg(long, value_name = "auto|DIR|ADDRESS")]
    pub(super) resume: Option<String>,
    /// Lines instead of the dashboard, on a terminal too
    #[arg(long)]
    pub(crate) plain: bool,
    /// One JSON object as the last line of stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a run goes and what it begins with.
pub(crate) struct Choice {
    pub(crate) out: PathBuf,
    pub(crate) resume: bool,
    pub(crate) layers: ConfigLayers,
    /// Whether the user named training shards, here or in a file.
    pub(crate) own_data: bool,
    /// Whether the preset was named, or is that of the weights that the run begins with.
    pub(crate) preset_is_given: bool,
}

impl PretrainArgs {
    /// Refuses flags that would change nothing.
    pub(super) fn refuse_idle(&self) -> Result<(), WrongUsage> {
        let elsewhere = |device: &AnyDevice| matches!(device, AnyDevice::Elsewhere(_));
        let reason = if self.elastic && self.devices.len() < 2 {
            "`--elastic` goes on with the other devices when one stops: name two or more with `--devices`, or leave it out"
        } else if self.token.is_given() && !self.devices.iter().any(elsewhere) {
            "`--token-file` is for devices of other machines: name them with `--devices remote://HOST:PORT`, or leave it out"
        } else {
            return Ok(());
        };
        Err(WrongUsage(reason.to_owned()))
    }

    /// Flags and files as one set of settings; `recipe` is that of the self-made dataset.
    pub(crate) fn choose(&self, recipe: &str) -> Result<Choice> {
        let (out, resume) = self.directory()?;
        if resume {
            let layers = self.lay(RunDir::config_layers(&out)?)?;
            return Ok(Choice {
                out,
                resume,
                layers,
                own_data: true,
                preset_is_given: true,
            });
        }
        let own = self.lay(ConfigLayers::default())?;
        let (taken, config) = (preset_of_init(&own)?, own.resolve()?);
        let preset_is_given = taken.is_some() || own.sets("preset");
        let own_data = !config.data.train.is_empty();
        let mut layers = if own_data {
            own
        } else {
            self.lay(ConfigLayers::default().text(recipe, "the recipe of the shapes")?)?
        };
        let mut name = None;
        if let Some(taken) = taken {
            name = Some(taken.name);
            layers = layers.value("preset", taken.preset, "--init")?;
        }
        let out = match (&self.out, name) {
            (Some(out), _) => out.clone(),
            (None, Some(name)) => next_free(&name)?,
            (None, None) => next_free(&name_of(&layers.resolve()?.preset))?,
        };
        Ok(Choice {
            out,
            resume,
            layers,
            own_data,
            preset_is_given,
        })
    }

    /// How progress is shown.
    pub(super) fn display(&self, quiet: bool) -> Display {
        if quiet {
            Display::Quiet
        } else if self.plain {
            Display::Plain
        } else {
            Display::Auto
        }
    }

    /// The directory that `--out` and `--resume` mean, and whether its run goes on.
    fn directory(&self) -> Result<(PathBuf, bool)> {
        match self.resume.as_deref() {
            Some("auto") => {
                let out = self.out.clone().ok_or_else(|| {
                    let reason = "`--resume auto` needs `--out DIR`, the directory to look in";
                    WrongUsage(reason.to_owned())
                })?;
                let resume = RunDir::holds_run(&out);
                Ok((out, resume))
            }
            Some(address) if Mirror::is_address(address) => {
                let out = self.out.clone().ok_or_else(|| {
                    WrongUsage(format!(
                        "`--resume {address}` needs `--out DIR`, the directory to bring the run to"
                    ))
                })?;
                Ok((out, true))
            }
            Some(dir) => {
                let dir = PathBuf::from(dir);
                if let Some(out) = self.out.as_ref().filter(|out| **out != dir) {
                    return Err(WrongUsage(format!(
                        "`--resume {}` goes on in that directory: leave out `--out {}`",
                        dir.display(),
                        out.display()
                    ))
                    .into());
                }
                Ok((dir, true))
            }
            None => Ok((PathBuf::new(), false)),
        }
    }

    pub(super) fn lay(&self, mut layers: ConfigLayers) -> Result<ConfigLayers> {
        if let Some(path) = &self.config {
            layers = layers.file(path).map_err(wrong_settings)?;
        }
        layers = layers.set_all(&self.set).map_err(wrong_settings)?;
        if self.epochs.is_some() {
            layers = layers.without("steps");
        }
        let texts = [
            ("data.train", "--train", &self.train),
            ("data.val", "--val", &self.val),
            ("preset", "--preset", &self.preset),
            ("init", "--init", &self.init),
            ("distill", "--distill", &self.distill),
        ];
        for (key, flag, value) in texts {
            if let Some(value) = value {
                layers = layers.value(key, value.clone(), flag)?;
            }
        }
        let wholes = [
            ("seed", "--seed", self.seed),
            ("steps", "--steps", self.steps),
            ("batch", "--batch", self.batch),
            (
                "checkpoint.steps",
                "--checkpoint-steps",
                self.checkpoint_steps,
            ),
        ];
        for (key, flag, value) in wholes {
            if let Some(value) = value {
                layers = layers.value(key, value as i64, flag)?;
            }
        }
        if self.checkpoint_steps.is_some() {
            layers = layers.value("checkpoint.epochs", 0.0, "--checkpoint-steps")?;
        }
        for (key, flag, value) in [("epochs", "--epochs", self.epochs), ("lr", "--lr", self.lr)] {
            if let Some(value) = value {
                layers = layers.value(key, value, flag)?;
            }
        }
        Ok(layers)
    }
}

/// An architecture that a run takes over from the model that it begins with.
struct Taken {
    /// What the model is called.
    name: String,
    preset: String,
}

/// That of the model directory, run's checkpoint, or model of the hub, that a run begins with, where no preset is named.
fn preset_of_init(layers: &ConfigLayers) -> Result<Option<Taken>> {
    let init = layers.resolve()?.init;
    let Some(init) = init.filter(|_| !layers.sets("preset")) else {
        return Ok(None);
    };
    if let Some((name, config)) = weights::hub_config(&init)? {
        let preset = config.display().to_string();
        return Ok(Some(Taken { name, preset }));
    }
    if let Some(preset) = weights::preset_of_tag(&init)? {
        let name = preset.clone();
        return Ok(Some(Taken { name, preset }));
    }
    let path = Path::new(without_local_dir(&init));
    if let Some(model) = CheckpointModel::open(path)? {
        let name = name_of(&model.run.display().to_string());
        let preset = model.preset;
        return Ok(Some(Taken { name, preset }));
    }
    let folder = if path.is_dir() {
        Some(path)
    } else {
        path.parent()
    };
    let folder = folder.filter(|folder| folder.join(CONFIG_FILE).is_file());
    Ok(folder.map(|folder| {
        let preset = folder.join(CONFIG_FILE).display().to_string();
        let name = name_of(&preset);
        Taken { name, preset }
    }))
}

/// What a run of a preset is called; of a model directory's file, what the directory is called.
fn name_of(preset: &str) -> String {
    let path = Path::new(without_local_dir(preset));
    let name = match path.parent() {
        Some(folder) if path.ends_with(CONFIG_FILE) => folder.file_name(),
        _ => path.file_stem(),
    };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// `runs/NAME-0001`, or the first number after it that is free.
fn next_free(name: &str) -> Result<PathBuf> {
    (1..10_000)
        .map(|number| Path::new("runs").join(format!("{name}-{number:04}")))
        .find(|path| !path.exists())
        .context("runs/ is full: give a directory with --out")
}

/// The settings, checked.
pub(crate) fn resolved(layers: &ConfigLayers) -> Result<RunConfig> {
    let config = layers.resolve()?;
    config.validate().map_err(wrong_settings)?;
    Ok(config)
}

/// A setting that can't be is wrong usage, whether a flag or a file gives it.
pub(super) fn wrong_settings(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Config { .. } => WrongUsage(error.to_string()).into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: PretrainArgs,
    }

    fn choose(args: &[&str]) -> Result<Choice> {
        let args = std::iter::once("clip").chain(args.iter().copied());
        Cli::parse_from(args)
            .args
            .choose("preset = \"ViT-Nano-6-36\"\nepochs = 5.0\nsteps = 9\n")
    }

    #[test]
    fn own_shards_leave_the_recipe_of_the_shapes_behind() {
        let shapes = choose(&["--lr", "0.002"]).unwrap();
        let config = resolved(&shapes.layers).unwrap();
        assert!(!shapes.own_data);
        assert_eq!(
            (config.preset.as_str(), config.lr),
            ("ViT-Nano-6-36", 0.002)
        );

        let own = choose(&["--train", "a.tar", "--set", "batch=64", "--batch", "128"]).unwrap();
        let config = resolved(&own.layers).unwrap();
        assert!(own.own_data);
        assert!((config.epochs - 32.0).abs() < 1e-12);
        assert_eq!(config.batch, 128);
    }

    #[test]
    fn epochs_replace_the_steps_of_a_file() {
        let config = resolved(&choose(&["--epochs", "2"]).unwrap().layers).unwrap();
        assert!((config.epochs - 2.0).abs() < 1e-12);
        assert_eq!(config.steps, None);
    }

    #[test]
    fn a_run_has_the_architecture_of_the_directory_it_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("tuned");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join(CONFIG_FILE), "{}").unwrap();
        let init = model.to_str().unwrap();
        for more in [&[][..], &["--train", "a.tar"]] {
            let choice = choose(&[&["--init", init], more].concat()).unwrap();
            let config = choice.layers.resolve().unwrap();
            assert_eq!(Path::new(&config.preset), model.join(CONFIG_FILE));
            assert!(choice.out.ends_with("tuned-0001"), "{:?}", choice.out);
            let named = choose(&[&["--init", init, "--preset", "RN50"], more].concat());
            assert_eq!(named.unwrap().layers.resolve().unwrap().preset, "RN50");
        }
    }

    #[test]
    fn help_names_settings_that_exist() {
        let lines = SETTINGS.lines().filter(|line| line.starts_with("  "));
        let settings: Vec<&str> = lines
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(settings.len() > 9);
        for setting in settings {
            ConfigLayers::default().set(setting).unwrap();
        }
    }

    #[test]
    fn a_preset_is_given_by_name_or_by_weights() {
        assert!(!choose(&[]).unwrap().preset_is_given);
        assert!(!choose(&["--init", "none.pt"]).unwrap().preset_is_given);
        assert!(choose(&["--preset", "RN50"]).unwrap().preset_is_given);
        let file = choose(&["--set", "preset=RN50"]).unwrap();
        assert!(file.preset_is_given);
    }

    #[test]
    fn resume_auto_needs_a_place_to_look() {
        let error = choose(&["--resume", "auto"]).err().unwrap().to_string();
        assert!(error.contains("--out DIR"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_str().unwrap();
        let choice = choose(&["--resume", "auto", "--out", out]).unwrap();
        assert!(!choice.resume);
        assert_eq!(choice.out, dir.path());
    }
}
