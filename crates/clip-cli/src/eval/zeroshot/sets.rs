//! What to evaluate: one set by flags, or several by a TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clip_data::ShardSet;
use clip_zeroshot::{ClassNames, GroupVotes, Templates};
use serde::Deserialize;

use super::SetArgs;
use crate::{classes, model::LabelsFrom, usage::WrongUsage};

/// A set of labelled images, with its classifier's names and templates.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) shards: ShardSet,
    /// `None`: the distinct captions.
    pub(super) names: Option<ClassNames>,
    pub(super) templates: Templates,
    pub(super) labels_from: LabelsFrom,
    /// The set that this one is a shift of.
    pub(super) shift_of: Option<String>,
    /// Where groups are scored too.
    pub(super) groups: Option<GroupVotes>,
}

impl Set {
    pub(super) fn of_flags(args: &SetArgs) -> Result<Self> {
        let names = args.classes.as_deref();
        let names = names.map(|path| classes::read_names(path, args.allow_duplicates));
        let names = names.transpose()?;
        let data = args.data.as_deref().context("give shards with --data")?;
        let labels_from = args.labels_from.unwrap_or_default();
        Ok(Self {
            name: data.to_owned(),
            templates: in_context(args.templates.read()?, args.context.as_deref())
                .map_err(|error| WrongUsage(format!("--context: {error}")))?,
            shards: labels_from.numbered(ShardSet::parse(data)?, names.as_ref())?,
            names,
            labels_from,
            shift_of: None,
            groups: None,
        })
    }

    /// Reads the groups of the set's classes, of which there must be some.
    pub(super) fn read_groups(&mut self) -> Result<()> {
        log::info!("reading the groups of {}", self.name);
        let votes = GroupVotes::read(&self.shards, self.labels_from.source())?;
        ensure!(
            !votes.is_empty(),
            "no sample's `json` names a `group` or a `subgroup`: leave out --groups"
        );
        self.groups = Some(votes);
        Ok(())
    }
}

fn in_context(templates: Templates, context: Option<&str>) -> Result<Templates> {
    match context {
        None => Ok(templates),
        Some(context) => {
            ensure!(
                !context.trim().is_empty(),
                "the context is empty: leave it out"
            );
            Ok(templates.with_context(context)?)
        }
    }
}

/// The TOML file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    set: Vec<Entry>,
}

/// One `[[set]]` of the file. Paths are relative to the file's folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    data: String,
    classes: Option<PathBuf>,
    #[serde(default)]
    allow_duplicates: bool,
    templates: Option<PathBuf>,
    #[serde(default)]
    template: Vec<String>,
    context: Option<String>,
    #[serde(default)]
    labels_from: LabelsFrom,
    shift_of: Option<String>,
}

pub(super) fn read(path: &Path) -> Result<Vec<Set>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = toml::from_str(&text).with_context(|| {
        format!(
            "{} describes no sets: give a `[[set]]` with `name`, `data` and `classes` for each",
            path.display()
        )
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut sets: Vec<Set> = Vec::new();
    for entry in file.set {
        let name = entry.name.clone();
        if sets.iter().any(|set| set.name == name) {
            bail!(
                "{}: two sets are called `{name}`: give each its own name",
                path.display()
            );
        }
        sets.push(
            entry
                .resolve(folder)
                .with_context(|| format!("set `{name}`"))?,
        );
    }
    for set in &sets {
        if let Some(of) = &set.shift_of {
            ensure!(
                sets.iter()
                    .any(|other| &other.name == of && of != &set.name),
                "set `{}` is a shift of `{of}`, which is no other set of the file",
                set.name
            );
        }
    }
    Ok(sets)
}

impl Entry {
    fn resolve(self, folder: &Path) -> Result<Set> {
        let names = self
            .classes
            .map(|path| classes::read_names(&folder.join(path), self.allow_duplicates))
            .transpose()?;
        ensure!(
            names.is_some() || self.labels_from == LabelsFrom::Caption,
            "without `classes` the labels must be captions: give `classes`, or `labels_from = \"caption\"`"
        );
        let templates = match (self.templates, self.template.as_slice()) {
            (Some(path), []) => Templates::from_file(&folder.join(path))?,
            (None, []) => Templates::default(),
            (None, templates) => Templates::from_list(templates, "template")?,
            (Some(_), _) => bail!("give `templates` or `template`, not both"),
        };
        let data: Vec<String> = self
            .data
            .split("::")
            .map(|part| {
                if part.contains("://") {
                    part.to_owned()
                } else {
                    folder.join(part.trim()).display().to_string()
                }
            })
            .collect();
        let shards = ShardSet::parse(&data.join("::"))?;
        Ok(Set {
            shards: self.labels_from.numbered(shards, names.as_ref())?,
            names,
            templates: in_context(templates, self.context.as_deref())?,
            labels_from: self.labels_from,
            shift_of: self.shift_of,
            groups: None,
            name: self.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_file_is_understood_with_all_that_it_mentions() {
        let guide = include_str!("../../../../../docs/guide.md");
        let (_, rest) = guide.split_once("--sets sets.toml").unwrap();
        let (_, rest) = rest.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        for text in [text.to_owned(), text.replace("\n# ", "\n")] {
            let file: File = toml::from_str(&text).unwrap();
            assert_eq!(file.set.len(), 2);
            assert_eq!(file.set[1].shift_of.as_ref(), Some(&file.set[0].name));
        }
    }
}
