//! `clip eval zeroshot`.

mod measure;
mod page;
mod print;
mod sets;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result};
use clip_zeroshot::{Corruption, CorruptionKind, ReferenceLine, SEVERITIES};
use serde_json::json;

use self::{
    measure::{Found, measure},
    sets::Set,
};
use crate::{
    classes::TemplateArgs,
    device::DeviceName,
    model::{EncoderArgs, LabelsFrom, ReadingArgs},
    output,
    usage::WrongUsage,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: EncoderArgs,
    #[command(flatten)]
    set: SetArgs,
    /// Several sets in one run, described in a TOML file (docs/guide.md, "Several sets").
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "data", "classes", "allow_duplicates", "labels_from", "templates", "template", "context",
        ]
    )]
    sets: Option<PathBuf>,
    /// Score each template alone too, against the ensemble of all.
    #[arg(long)]
    ablation: bool,
    /// Score groups of classes too: `group` and `subgroup` of the samples' `json`.
    #[arg(long)]
    groups: bool,
    /// Damage the images too, at five severities each: `all`, or some of `gaussian_noise`, `gaussian_blur`, contrast,
    /// brightness, jpeg and pixelate. Every severity costs another pass over the images.
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    corruptions: Vec<String>,
    /// Accuracies of other models without and under the shift, a pair a line: with them, effective robustness under
    /// corruptions, and of sets with `shift_of`.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Keep classifier heads in this folder and use them again.
    #[arg(long, value_name = "DIR")]
    head_cache: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Write a page with confusions, reliability and some images with their likeliest classes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the page's drawings into this folder, as SVG files.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One set of labelled images, described by flags.
#[derive(clap::Args)]
struct SetArgs {
    /// WebDataset tars (plain, gzip or Zstandard; local or at http(s)://, s3://, gs://, az://), a `.csv`, `.tsv` or
    /// `.parquet` table, a folder of images with `.cls`, `.txt` or `.json` beside them, or a folder of class folders, such as
    /// OpenCLIP's `--imagenet-val`: brace ranges (`test-{000000..000009}.tar`), globs, and lists joined by `::`.
    #[arg(long, value_name = "SHARDS", required_unless_present = "sets")]
    data: Option<String>,
    /// The classes' names, one a line, or a Python or JSON list; a sample's class is a position in it, from 0. Class
    /// folders are found in it by their names, or else have its order when they are sorted. May be left out with
    /// `--labels-from caption`: then every distinct caption is a class.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["labels_from", "sets"],
        required_if_eq("labels_from", "cls")
    )]
    classes: Option<PathBuf>,
    /// Let two classes have the same name, as some published lists need.
    #[arg(long)]
    allow_duplicates: bool,
    #[command(flatten)]
    templates: TemplateArgs,
    /// What all classes are, put at each template's end: `a type of pet`.
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// Where a sample's class is written: in `.cls`, or the class folder, or as the first caption, by its name.
    #[arg(long, value_name = "WHERE")]
    labels_from: Option<LabelsFrom>,
}

/// What is measured beside the plain figures.
struct Extras {
    ablation: bool,
    corruptions: Vec<CorruptionKind>,
    reference: Option<ReferenceLine>,
    /// Whether images are shown.
    pictured: bool,
}

impl Extras {
    fn new(args: &Args) -> Result<Self> {
        Ok(Self {
            ablation: args.ablation,
            corruptions: corruptions(&args.corruptions)?,
            reference: args
                .reference
                .as_deref()
                .map(ReferenceLine::from_file)
                .transpose()?,
            pictured: args.html.is_some() || args.svg.is_some(),
        })
    }
}

/// The kinds that `--corruptions` names, each once.
fn corruptions(names: &[String]) -> Result<Vec<CorruptionKind>, WrongUsage> {
    let mut kinds = Vec::new();
    for name in names {
        if name == "all" {
            kinds.extend(CorruptionKind::ALL);
        } else {
            let kind = name.parse::<CorruptionKind>();
            kinds
                .push(kind.map_err(|error| WrongUsage(format!("--corruptions: {error}, or all")))?);
        }
    }
    let mut seen = BTreeSet::new();
    kinds.retain(|kind| seen.insert(*kind));
    Ok(kinds)
}

/// Each severity of a kind of corruption.
fn severities(kind: CorruptionKind) -> impl Iterator<Item = Corruption> {
    (1..=SEVERITIES).filter_map(move |severity| Corruption::new(kind, severity))
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    // What the user wrote is read before the model, which takes longer.
    let extras = Extras::new(args)?;
    if let Some(path) = &args.html {
        clip_files::check_writable(path)?;
    }
    let mut sets = match &args.sets {
        Some(path) => sets::read(path)?,
        None => vec![Set::of_flags(&args.set)?],
    };
    if args.groups {
        // Of all sets: what one lacks should not cost the evaluation of those before it.
        for set in &mut sets {
            set.read_groups()
                .with_context(|| format!("set `{}`", set.name))?;
        }
    }
    let encoders = args.model.load(device)?;
    let cache = args.head_cache.as_deref();
    let mut found: Vec<Found> = Vec::new();
    for set in &sets {
        log::info!("evaluating {}", set.name);
        let one = measure(set, &encoders, &args.reading, cache, &extras)
            .with_context(|| format!("set `{}`", set.name))?;
        found.push(one);
    }
    measure::shifts(&mut found, &sets, extras.reference);
    print_all(args, &found)?;
    // After what was asked for first: a disk that is full by now costs only this.
    let page = page::page(args.model.name(), &found);
    output::page(&page, args.html.as_deref(), args.svg.as_deref())
}

fn print_all(args: &Args, found: &[Found]) -> Result<()> {
    if args.json {
        let object = match (args.sets.is_some(), found) {
            (false, [one]) => serde_json::to_value(one)?,
            _ => json!({ "sets": found }),
        };
        return output::line(&object.to_string());
    }
    if args.sets.is_some() {
        print::overview(found)?;
    }
    for one in found {
        print::details(one, args.sets.is_some())?;
    }
    Ok(())
}
