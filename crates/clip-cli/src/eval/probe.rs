//! `clip eval probe`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Tensor;
use clip_data::ShardSet;
use clip_metrics::percent;
use clip_report::{Evaluation, FewShotCurve};
use clip_zeroshot::{
    Bootstrap, ClassNames, ClipEncoders, ImagePass, ShardFeatures, ZeroShotEvaluator,
    ZeroShotReport, evaluate_zeroshot,
    probe::{
        FewShot, FewShotPoint, LinearProbe, Samples, StrengthSearch, break_even, fit_probe, pick,
        split_by_class,
    },
};
use serde::Serialize;

use crate::{
    classes::{self, TemplateArgs},
    device::DeviceName,
    model::{EncoderArgs, LabelsFrom, ReadingArgs},
    output,
    usage::WrongUsage,
};

/// Of each class, of the training shards, where `--val` is not given. A fifth, as for the paper's sets that have no
/// validation split of their own.
const VALIDATION_SHARE: &str = "0.2";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: EncoderArgs,
    /// Shards to fit to, or a folder of class folders.
    #[arg(long, value_name = "SHARDS")]
    train: String,
    /// Shards that the penalty's strength is chosen on, or the share of the training samples to take for it.
    #[arg(long, value_name = "SHARDS|SHARE", default_value = VALIDATION_SHARE)]
    val: String,
    /// Shards to score on.
    #[arg(long, value_name = "SHARDS")]
    test: String,
    /// The classes' names, one a line, or a Python or JSON list: with them the zero-shot classifier is scored too.
    #[arg(long, value_name = "FILE", required_if_eq("labels_from", "caption"))]
    classes: Option<PathBuf>,
    #[command(flatten)]
    templates: TemplateArgs,
    /// Where a sample's class is written: in `.cls`, or the class folder, or as the first caption, by its name.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    labels_from: LabelsFrom,
    /// Fit to so many examples a class too, such as `1,2,4,8,16`, and say how many match the zero-shot classifier.
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    shots: Vec<u32>,
    /// Draws of examples for each number of shots.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    draws: u32,
    /// Decides the draws, and the share of `--val`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Write a page with the few-shot curve.
    #[arg(long, value_name = "FILE", requires = "shots")]
    html: Option<PathBuf>,
    /// Write the few-shot curve into this folder, as an SVG file.
    #[arg(long, value_name = "DIR", requires = "shots")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    report: ZeroShotReport,
    /// The strength chosen.
    strength: f64,
    search: StrengthSearch,
    iterations: usize,
    converged: bool,
    train_samples: usize,
    val_samples: usize,
    /// Numbers in a feature.
    width: usize,
    /// The zero-shot classifier's figures on the same test samples.
    zero_shot: Option<ZeroShotReport>,
    few_shot: Vec<FewShotPoint>,
    /// Examples a class at which a probe matches the zero-shot classifier.
    break_even_shots: Option<f64>,
    /// Samples that could not be used.
    skipped: u64,
}

/// Where the validation samples come from.
enum Validation {
    Shards(ShardSet),
    Share(f64),
}

impl Validation {
    fn parse(text: &str, shards: impl FnOnce(&str) -> Result<ShardSet>) -> Result<Self> {
        let Ok(share) = text.parse::<f64>() else {
            return Ok(Self::Shards(shards(text)?));
        };
        if share > 0.0 && share < 1.0 {
            Ok(Self::Share(share))
        } else {
            let reason = format!("--val {text}: give shards, or a share between 0 and 1");
            Err(WrongUsage(reason).into())
        }
    }
}

/// Features before the projection, with labels.
struct Labelled {
    features: Tensor<2>,
    labels: Vec<u32>,
}

impl Labelled {
    fn all(&self, classes: usize) -> Result<Samples> {
        Ok(Samples::new(self.features.clone(), &self.labels, classes)?)
    }
}

/// What is fitted to and what is scored, as it was named.
struct Splits {
    /// The classes, if a list or folders name them.
    names: Option<ClassNames>,
    train: ShardSet,
    test: ShardSet,
    validation: Validation,
}

impl Splits {
    fn of(args: &Args) -> Result<Self> {
        let names = args.classes.as_deref();
        let names = names
            .map(|path| classes::read_names(path, true))
            .transpose()?;
        let train = ShardSet::parse(&args.train)?;
        // Without a list, the folders to fit to are one.
        let folders = train.class_folders()?;
        let listed = names.is_some();
        let names = match (names, &folders) {
            (None, Some(folders)) => Some(ClassNames::from_list(folders, &args.train)?),
            (names, _) => names,
        };
        let train = args.labels_from.numbered(train, names.as_ref())?;
        let shards = |list: &str| {
            let shards = ShardSet::parse(list)?;
            let own = if listed {
                None
            } else {
                shards.class_folders()?
            };
            // By place, other folders could be other classes.
            if let Some(own) = own {
                let known = folders.as_deref().unwrap_or_default();
                let unknown = own.iter().find(|name| !known.contains(name));
                ensure!(
                    unknown.is_none(),
                    "{list} has the class folder `{}`, which {} hasn't: give the classes' names by --classes",
                    unknown.map_or("", String::as_str),
                    args.train
                );
            } else if !listed && folders.is_some() {
                bail!(
                    "{} has class folders, and {list} has none: give the classes' names by --classes, in the order of its \
                     numbers",
                    args.train
                );
            }
            args.labels_from.numbered(shards, names.as_ref())
        };
        let test = shards(&args.test)?;
        let validation = Validation::parse(&args.val, shards)?;
        Ok(Self {
            names,
            train,
            test,
            validation,
        })
    }
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let templates = args.templates.read()?;
    if let Some(path) = &args.html {
        clip_files::check_writable(path)?;
    }
    let Splits {
        names,
        train,
        test,
        validation,
    } = Splits::of(args)?;
    let encoders = args.model.load(device)?;

    let mut skipped = 0;
    let mut encode = |shards| -> Result<ShardFeatures> {
        let pass = ImagePass {
            unprojected: true,
            ..ImagePass::default()
        };
        let needs = args.labels_from.needs();
        let features = args.reading.encode(shards, &encoders, needs, pass)?;
        skipped += features.faults.bad();
        Ok(features)
    };
    let train = encode(train)?;
    let test = encode(test)?;
    let own = match validation {
        Validation::Shards(shards) => Ok(encode(shards)?),
        Validation::Share(share) => Err(share),
    };
    let names = match names {
        Some(names) => names,
        None => numbered([Some(&train), Some(&test), own.as_ref().ok()])?,
    };
    let labelled = |shards: &ShardFeatures| labelled(shards, &names, args.labels_from);
    let (pool, test_set) = (labelled(&train)?, labelled(&test)?);
    let classes = names.len();
    // What is fitted to: positions in the training shards, less those taken for validation.
    let (fit_to, validation): (Vec<usize>, Samples) = match &own {
        Ok(own) => {
            let everyone = (0..pool.labels.len()).collect();
            (everyone, labelled(own)?.all(classes)?)
        }
        Err(share) => {
            let (fit_to, taken) = split_by_class(&pool.labels, *share, args.seed);
            ensure!(
                !taken.is_empty(),
                "--val {share} takes no sample of any class: give more, or validation shards"
            );
            let taken = pick(&pool.features, &pool.labels, &taken, classes)?;
            (fit_to, taken)
        }
    };
    let fitted = pick(&pool.features, &pool.labels, &fit_to, classes)?;
    let test_samples = test_set.all(classes)?;
    log::info!(
        "searching the penalty's strength: {} samples, {classes} classes",
        fitted.len()
    );
    let (probe, search) = fit_probe(&fitted, &validation)?;
    let report = score(&probe, &test_set, &names)?;
    let zero_shot = match args.classes {
        None => None,
        Some(_) => Some(zero_shot(&encoders, &test, &names, &templates, args)?),
    };
    let few_shot = FewShot {
        shots: args.shots.iter().map(|&shots| shots as usize).collect(),
        draws: args.draws as usize,
        seed: args.seed,
    };
    let few_shot = if few_shot.shots.is_empty() {
        Vec::new()
    } else {
        warn_of_few(&few_shot, fit_to.iter().map(|&at| pool.labels[at]), &names);
        let (features, labels) = (&pool.features, &pool.labels);
        few_shot.curve(features, labels, &fit_to, &validation, &test_samples)?
    };
    let found = Found {
        strength: search.best().map_or(1.0, |best| best.strength),
        iterations: probe.iterations(),
        converged: probe.converged(),
        train_samples: fitted.len(),
        val_samples: validation.len(),
        width: fitted.width(),
        break_even_shots: zero_shot
            .as_ref()
            .and_then(|zero_shot| break_even(&few_shot, zero_shot.top1)),
        report,
        search,
        zero_shot,
        few_shot,
        skipped,
    };
    if args.json {
        output::line(&serde_json::to_string(&found)?)?;
    } else {
        print(&found, classes)?;
    }
    // After what was asked for first: a disk that is full by now costs only this.
    let page = page(args.model.name(), &found);
    output::page(&page, args.html.as_deref(), args.svg.as_deref())
}

fn labelled(shards: &ShardFeatures, names: &ClassNames, from: LabelsFrom) -> Result<Labelled> {
    let features = shards.unprojected.clone();
    Ok(Labelled {
        features: features.context("the pass kept no features before the projection")?,
        labels: shards.labels(names.as_slice(), from.source())?,
    })
}

/// Says which class has least, where a point of the curve asks for more examples than that.
fn warn_of_few(few_shot: &FewShot, labels: impl Iterator<Item = u32>, names: &ClassNames) {
    let mut counts = vec![0; names.len()];
    for label in labels {
        counts[label as usize] += 1;
    }
    let fewest = names
        .as_slice()
        .iter()
        .zip(counts)
        .min_by_key(|(_, count)| *count);
    let most = few_shot.shots.iter().copied().max().unwrap_or(0);
    if let Some((name, count)) = fewest.filter(|(_, count)| *count < most) {
        log::warn!(
            "--shots {most} asks for more examples than every class has: `{name}` has {count}, the fewest. Such a class \
             gives all it has"
        );
    }
}

/// Classes without names: as many as the highest number asks for.
fn numbered(splits: [Option<&ShardFeatures>; 3]) -> Result<ClassNames> {
    let classes = splits
        .into_iter()
        .flatten()
        .flat_map(|split| &split.classes);
    let highest = classes.flatten().max().context("no sample has a class")?;
    // A stray number would ask for memory by the gigabyte.
    ensure!(
        *highest < 100_000,
        "class {highest} of a sample: without --classes at most 100,000 classes are supposed"
    );
    let names: Vec<String> = (0..=*highest)
        .map(|class| format!("class {class}"))
        .collect();
    Ok(ClassNames::from_list(&names, "the shards' classes")?)
}

fn score(probe: &LinearProbe, test: &Labelled, names: &ClassNames) -> Result<ZeroShotReport> {
    let mut evaluator = ZeroShotEvaluator::new(names.as_slice(), Bootstrap::default());
    evaluator.add(probe.logits(test.features.clone())?, &test.labels)?;
    Ok(evaluator.report()?)
}

fn zero_shot(
    encoders: &ClipEncoders,
    test: &ShardFeatures,
    names: &ClassNames,
    templates: &clip_zeroshot::Templates,
    args: &Args,
) -> Result<ZeroShotReport> {
    let classifier = classes::classifier(encoders, names, templates, None)?;
    let labels = args.labels_from.source();
    Ok(evaluate_zeroshot(test, &classifier, labels, Bootstrap::default())?.report()?)
}

fn page(model: &str, found: &Found) -> Evaluation {
    let points = found
        .few_shot
        .iter()
        .map(|point| (point.shots, point.accuracy));
    Evaluation {
        title: model.to_owned(),
        few_shot: Some(FewShotCurve {
            points: points.collect(),
            full: found.report.top1,
            zero_shot: found.zero_shot.as_ref().map(|report| report.top1),
            break_even: found.break_even_shots,
        }),
        ..Evaluation::default()
    }
}

fn print(found: &Found, classes: usize) -> Result<()> {
    output::line(&format!(
        "{} + {} samples to fit to, {} to score on, {classes} classes, {} features",
        found.train_samples, found.val_samples, found.report.samples, found.width
    ))?;
    let row = |name: &str, report: &ZeroShotReport| {
        let [low, high] = report.ci95.map(percent);
        [
            name.to_owned(),
            percent(report.top1),
            format!("95% of resamples: {low} to {high}"),
            format!("mean of classes {}", percent(report.mean_per_class)),
        ]
    };
    let mut rows = vec![row("linear probe", &found.report)];
    rows.extend(
        found
            .zero_shot
            .as_ref()
            .map(|report| row("zero-shot", report)),
    );
    output::table(&rows)?;
    output::line(&format!(
        "strength {:.3e}, chosen among {} on the validation samples",
        found.strength,
        found.search.visits.len()
    ))?;
    for point in &found.few_shot {
        let draws: Vec<String> = point
            .accuracies
            .iter()
            .map(|&share| percent(share))
            .collect();
        output::line(&format!(
            "{:>4} a class  {}  ({})",
            point.shots,
            percent(point.accuracy),
            draws.join(", ")
        ))?;
    }
    match (found.break_even_shots, &found.zero_shot) {
        (Some(shots), Some(zero_shot)) => {
            let first = found.few_shot.first();
            let is_bound = first.is_some_and(|first| first.accuracy >= zero_shot.top1);
            let at_most = if is_bound { "at most " } else { "" };
            output::line(&format!(
                "zero-shot is matched by {at_most}{shots:.1} examples a class"
            ))
        }
        (None, Some(_)) if !found.few_shot.is_empty() => {
            output::line("zero-shot is better than every few-shot probe tried")
        }
        _ => Ok(()),
    }
}
