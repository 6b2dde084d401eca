//! What to say of a flag that `clip pretrain` doesn't have: a setting of that name, or what OpenCLIP's flag is here.

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};
use clip_train::config::ConfigLayers;

/// Tables of settings whose keys may be meant by their last part.
const TABLES: [&str; 7] = [
    "",
    "optimizer.",
    "data.",
    "eval.",
    "checkpoint.",
    "lora.",
    "preprocess.",
];

/// OpenCLIP's flags, and what stands for them here. The guide has the same table.
const OPEN_CLIP: &[(&[&str], &str)] = &[
    (&["--model"], "`--preset NAME`"),
    (
        &["--pretrained"],
        "`--init PRESET:TAG`, or a model directory or a file",
    ),
    (&["--train-data"], "`--train SHARDS`"),
    (
        &["--train-data-upsampling-factors"],
        "`--train 'A.tar#weight=2::B.tar'`",
    ),
    (
        &["--train-num-samples", "--val-num-samples"],
        "a `sizes.json` beside the shards, which `clip data index` writes",
    ),
    (&["--val-data"], "`--val SHARDS`"),
    (
        &["--imagenet-val", "--imagenet-v2"],
        "a `[[data.zeroshot]]` table in `--config FILE`",
    ),
    (
        &["--dataset-type"],
        "nothing: tars, tables and folders are told apart by their names",
    ),
    (
        &["--dataset-resampled"],
        "`--set data.with_replacement=true`",
    ),
    (
        &["--csv-img-key", "--csv-caption-key"],
        "`--train 'FILE.csv#image=COLUMN&caption=COLUMN'`",
    ),
    (
        &["--csv-separator"],
        "`--train 'FILE.csv#separator=tab'`, or another character",
    ),
    (
        &["--batch-size"],
        "`--batch N`, the pairs of all devices together",
    ),
    (
        &["--accum-freq"],
        "`--set chunk=N`, the pairs encoded at once: `--batch` is the whole batch, its loss exact",
    ),
    (
        &["--local-loss", "--gather-with-grad"],
        "nothing: the loss and its gradients are always those of the whole batch",
    ),
    (&["--workers"], "`--set data.workers=N`"),
    (&["--warmup"], "`--set warmup_steps=N`"),
    (&["--wd"], "`--set optimizer.weight_decay=X`"),
    (&["--beta1"], "`--set optimizer.beta_1=X`"),
    (&["--beta2"], "`--set optimizer.beta_2=X`"),
    (&["--eps"], "`--set optimizer.epsilon=X`"),
    (&["--opt"], "`--set optimizer.kind=NAME`"),
    (&["--grad-clip-norm"], "`--set optimizer.grad_clip_norm=X`"),
    (
        &["--lr-scheduler", "--skip-scheduler"],
        "`--set schedule.kind=constant`, or `cosine`",
    ),
    (
        &[
            "--epochs-cooldown",
            "--lr-cooldown-end",
            "--lr-cooldown-power",
        ],
        "`--set schedule.kind=constant-cooldown --set schedule.steps=N`, and `schedule.lr_end`, `schedule.power`",
    ),
    (&["--siglip"], "`--set loss=siglip`"),
    (
        &["--distill-model", "--distill-pretrained"],
        "`--distill PRESET:TAG`, or a model directory or a file",
    ),
    (&["--force-patch-dropout"], "`--set patch_dropout=SHARE`"),
    (
        &["--force-quick-gelu"],
        "`--preset NAME-quickgelu`, a preset of its own",
    ),
    (
        &["--force-image-size"],
        "`--preset FILE.json`, the preset's JSON with that `image_size`",
    ),
    (&["--image-mean"], "`--set 'preprocess.mean=[R, G, B]'`"),
    (&["--image-std"], "`--set 'preprocess.std=[R, G, B]'`"),
    (
        &["--image-interpolation"],
        "`--set preprocess.interpolation=bicubic`, or `bilinear`",
    ),
    (
        &["--image-resize-mode"],
        "`--set preprocess.resize_mode=shortest`, or `squash`",
    ),
    (
        &["--aug-cfg"],
        "`--set data.augment.flip_prob=0.5` and its other keys; `data.crop_scale` is OpenCLIP's `scale`",
    ),
    (&["--name", "--logs"], "`--out DIR`"),
    (
        &["--save-frequency"],
        "`--set checkpoint.epochs=N --set checkpoint.keep=0`, or `--checkpoint-steps N`",
    ),
    (
        &["--save-most-recent", "--delete-previous-checkpoint"],
        "`--set checkpoint.keep=1`, the newest so many",
    ),
    (
        &["--zeroshot-frequency", "--val-frequency"],
        "`--set eval.epochs=N`, or `eval.steps`",
    ),
    (&["--remote-sync"], "`--set checkpoint.mirror=ADDRESS`"),
    (
        &["--report-to"],
        "nothing: `tensorboard --logdir RUN` shows every run",
    ),
];

/// A mistake of the command line, with a better tip where a flag of `clip pretrain` is unknown.
pub(crate) fn with_tip(error: Error) -> Error {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    with_tip_for(error, &args)
}

fn with_tip_for(mut error: Error, args: &[String]) -> Error {
    let trains = |usage: &ContextValue| usage.to_string().contains("clip pretrain");
    if error.kind() != ErrorKind::UnknownArgument
        || !error.get(ContextKind::Usage).is_some_and(trains)
    {
        return error;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let Some(tip) = tip(flag, value_of(flag, args)) else {
        return error;
    };
    error.remove(ContextKind::SuggestedArg);
    let tips = vec![StyledStr::from(tip)];
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    error
}

/// What a flag was given, behind it or behind a `=`.
fn value_of<'a>(flag: &str, args: &'a [String]) -> Option<&'a str> {
    let place = args.iter().position(|arg| {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        name == flag
    })?;
    match args[place].split_once('=') {
        Some((_, value)) => Some(value),
        None => args
            .get(place + 1)
            .map(String::as_str)
            .filter(|next| !next.starts_with("--")),
    }
}

fn tip(flag: &str, value: Option<&str>) -> Option<String> {
    let name = flag.strip_prefix("--")?.replace('-', "_");
    let keys = TABLES.map(|table| format!("{table}{name}"));
    if let Some(key) = keys.into_iter().find(|key| ConfigLayers::knows(key)) {
        let is_switch = || ConfigLayers::default().value(&key, true, "").is_ok();
        let value = match value {
            Some(value) => value,
            None if is_switch() => "true",
            None => "VALUE",
        };
        return Some(format!("a setting: `--set {key}={value}`"));
    }
    let known = OPEN_CLIP.iter().find(|(names, _)| names.contains(&flag));
    known.map(|(_, here)| format!("OpenCLIP's {flag} is here {here}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, clap::Parser)]
    #[command(name = "clip")]
    enum Cli {
        Pretrain(Box<crate::pretrain::Args>),
        Other {
            #[arg(long)]
            preset: Option<String>,
        },
    }

    /// What the program says of its arguments.
    fn told(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let error = <Cli as clap::Parser>::try_parse_from(&args).unwrap_err();
        with_tip_for(error, &args).to_string()
    }

    #[test]
    fn an_unknown_flag_is_told_as_a_setting_or_by_its_name_here() {
        for (args, tip) in [
            (&["--precision", "bf16"][..], "`--set precision=bf16`"),
            (&["--precision=bf16"], "`--set precision=bf16`"),
            (&["--lock-image"], "`--set lock_image=true`"),
            (&["--lock-image", "--out", "x"], "`--set lock_image=true`"),
            (
                &["--grad-clip-norm", "1"],
                "`--set optimizer.grad_clip_norm=1`",
            ),
            (&["--workers", "4"], "`--set data.workers=4`"),
            (&["--warmup-steps"], "`--set warmup_steps=VALUE`"),
            (
                &["--siglip"],
                "OpenCLIP's --siglip is here `--set loss=siglip`",
            ),
            (&["--accum-freq", "4"], "`--set chunk=N`"),
            (&["--pretrained", "openai"], "`--init PRESET:TAG`"),
        ] {
            let error = told(&[&["clip", "pretrain"], args].concat());
            assert!(error.contains(tip), "{error}");
            assert!(!error.contains("similar argument"), "{error}");
        }
        // What is no setting is told as ever, and so are other commands' flags.
        let error = told(&["clip", "pretrain", "--presett", "x"]);
        assert!(error.contains("'--preset'"), "{error}");
        let error = told(&["clip", "other", "--precision", "bf16"]);
        assert!(!error.contains("--set"), "{error}");
    }

    #[test]
    fn the_table_names_flags_and_settings_that_exist() {
        let command = Cli::command();
        let pretrain = command.find_subcommand("pretrain").unwrap();
        let is_flag = |name: &str| {
            pretrain
                .get_arguments()
                .any(|arg| arg.get_long() == Some(name))
        };
        for (flags, here) in OPEN_CLIP {
            for flag in *flags {
                assert!(!is_flag(&flag[2..]), "{flag} is a flag here too");
            }
            for part in here.split("`--").skip(1) {
                let name = part.split([' ', '`']).next().unwrap();
                assert!(is_flag(name), "{here}");
                let Some(setting) = part.strip_prefix("set ") else {
                    continue;
                };
                let key = setting
                    .trim_start_matches('\'')
                    .split(['=', '.'])
                    .next()
                    .unwrap();
                let whole = setting.trim_start_matches('\'').split('=').next().unwrap();
                assert!(
                    ConfigLayers::knows(key) && ConfigLayers::knows(whole),
                    "{here}"
                );
            }
        }
    }

    #[test]
    fn the_guide_has_the_table() {
        let guide = include_str!("../../../../docs/guide.md");
        for (flags, here) in OPEN_CLIP {
            let flags: Vec<String> = flags.iter().map(|flag| format!("`{flag}`")).collect();
            let row = format!("| {} | {here} |\n", flags.join(", "));
            assert!(guide.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_guide_has_every_setting() {
        let guide = include_str!("../../../../docs/guide.md");
        let settings = clip_train::config::RunConfig::default().to_toml().unwrap();
        let settings: toml::Table = settings.parse().unwrap();
        let of_tables = settings.values().filter_map(toml::Value::as_table);
        let keys = settings.keys().chain(of_tables.flat_map(toml::Table::keys));
        // Without a default, so that the defaults don't have them.
        let others = [
            "mean",
            "std",
            "interpolation",
            "resize_mode",
            "grad_clip_norm",
            "mirror",
        ];
        for key in keys.map(String::as_str).chain(others) {
            let forms = [
                format!("`{key}`"),
                format!(".{key}`"),
                format!(".{key}."),
                format!("`{key}."),
            ];
            let told = guide.lines().filter(|line| line.starts_with('|'));
            let is_there = forms
                .iter()
                .any(|form| told.clone().any(|line| line.contains(form)));
            assert!(is_there || key == "zeroshot", "{key}");
        }
    }
}
