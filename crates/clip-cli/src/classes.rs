//! The flags that make a classifier: class names and templates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clip_files::sha256::Parts;
use clip_zeroshot::{
    ClassNames, Classifier, ClassifierHead, ClipEncoders, DuplicateNames, HeadKey, Templates,
};

use crate::usage::WrongUsage;

/// The sentences around the class names.
#[derive(clap::Args)]
pub(crate) struct TemplateArgs {
    /// Prompt templates, one a line with `{}` for the class name, or a Python or JSON list of them; their features
    /// are averaged. Without templates: `a photo of a {}.`, the paper's default.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// One prompt template; may be given several times. `{}` is the bare class name.
    #[arg(long, value_name = "TEXT", conflicts_with = "templates")]
    template: Vec<String>,
}

impl TemplateArgs {
    pub(crate) fn read(&self) -> Result<Templates> {
        Ok(match &self.templates {
            Some(path) => Templates::from_file(path)?,
            None if self.template.is_empty() => Templates::default(),
            None => Templates::from_list(&self.template, "--template")
                .map_err(|error| WrongUsage(error.to_string()))?,
        })
    }
}

/// The file of class names.
pub(crate) fn read_names(path: &Path, allow_duplicates: bool) -> Result<ClassNames> {
    let duplicates = if allow_duplicates {
        DuplicateNames::Allow
    } else {
        DuplicateNames::Refuse
    };
    Ok(ClassNames::from_file(path, duplicates)?)
}

/// Builds the classifier, or takes it from a folder where it was kept before.
pub(crate) fn classifier(
    encoders: &ClipEncoders,
    names: &ClassNames,
    templates: &Templates,
    cache: Option<&Path>,
) -> Result<Classifier> {
    let head = match cache {
        None => ClassifierHead::build(encoders, names, templates)?,
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
            let path = folder.join(file_name(&HeadKey::new(encoders, names, templates)));
            let device = encoders.device();
            let (head, used) =
                ClassifierHead::load_or_build(&path, encoders, names, templates, device)?;
            let what = if used { "taken from" } else { "kept in" };
            log::info!("classifier head {what} {}", path.display());
            head
        }
    };
    Ok(Classifier::new(head, encoders.temperature_factor()))
}

/// Heads of other models, names or templates have other names, so that one folder holds them all.
fn file_name(key: &HeadKey) -> String {
    let hash = Parts::of([&key.model, &key.names, &key.templates]).finish();
    format!("head-{}.safetensors", &hash[..16])
}
