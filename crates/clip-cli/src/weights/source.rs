//! Where weights come from.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Error, Result, bail};
use clip_model::{
    ClipConfig, Preprocess, presets,
    published::{self, HUB_PREFIX as PREFIX, Published},
    weights::{CONFIG_FILE, without_local_dir},
};

/// Tags that are listed where one of them may be meant.
const TAGS: usize = 8;

/// The file or folder that a source means, downloaded if it is on the Hugging Face hub.
///
/// # Errors
/// If it is no model's name or no tag of its preset, can't be downloaded, or isn't there.
pub(super) fn locate(source: &str) -> Result<PathBuf> {
    if let Some(model) = on_hub(source)? {
        return fetch(&model);
    }
    let path = PathBuf::from(without_local_dir(source));
    // What the system refuses for another reason is read on, which says it.
    if matches!(path.try_exists(), Ok(false)) {
        bail!(absent(source, &path));
    }
    Ok(path)
}

/// What to say of a source that isn't there.
fn absent(source: &str, path: &Path) -> String {
    let absent = format!("there is no file or folder `{}`", path.display());
    if let Some(name) = published::hub_name(source) {
        return format!("{absent}; on the Hugging Face hub there is {name}");
    }
    if presets::json(source).is_some() {
        let none = format!("{source} is a preset, which has no weights");
        let tags: Vec<String> = published::of(source)
            .map(|it| format!("{source}:{}", it.tag))
            .collect();
        return match tags.len() {
            0 => format!("{none}: name a file or a folder of some"),
            all if all > TAGS => format!(
                "{none}: name a file or a folder of some, or published ones, such as {} (`clip weights list {source}` has all \
                 {all})",
                tags[..TAGS].join(", ")
            ),
            _ => format!(
                "{none}: name a file or a folder of some, or published ones: {}",
                tags.join(", ")
            ),
        };
    }
    match source.split_once(':') {
        Some((preset, _)) if path == Path::new(source) => format!(
            "{absent}, nor a preset `{preset}`; the nearest are {}",
            presets::nearest(preset, 3).join(", ")
        ),
        _ => absent,
    }
}

/// The model of the hub that `hf-hub:ORG/NAME` means, or `PRESET:TAG` as OpenCLIP knows it; `None` for files and folders.
fn on_hub(source: &str) -> Result<Option<HubModel>> {
    if let Some(model) = source.strip_prefix(PREFIX) {
        return model.parse().map(Some);
    }
    let known = |(preset, _): &(&str, &str)| presets::json(preset).is_some();
    let Some((preset, tag)) = source.split_once(':').filter(known) else {
        return Ok(None);
    };
    let tags: Vec<Published> = published::of(preset).collect();
    match tags.iter().find(|it| it.tag == tag) {
        Some(it) => Ok(Some(HubModel {
            tag: Some(*it),
            ..it.hub.parse()?
        })),
        None if tags.is_empty() => bail!(
            "no weights of {preset} are known by a tag: see `clip weights list`, or name a file, a folder or \
             {PREFIX}ORGANISATION/NAME"
        ),
        None => {
            let tags: Vec<&str> = tags.iter().map(|it| it.tag).collect();
            bail!(
                "{preset} has no weights `{tag}`; there are: {}",
                tags.join(", ")
            )
        }
    }
}

/// The architecture of located weights that have none beside them, as some have that OpenCLIP knows by a tag.
///
/// # Errors
/// As [`preset_of_tag`].
pub(super) fn config_of_tag(source: &str, located: &Path) -> Result<Option<ClipConfig>> {
    if located.with_file_name(CONFIG_FILE).is_file() {
        return Ok(None);
    }
    let preset = preset_of_tag(source)?;
    Ok(preset.as_deref().map(ClipConfig::load).transpose()?)
}

/// The preset of a `PRESET:TAG`; `None` of any other source.
///
/// # Errors
/// If its preset has no such tag.
pub(crate) fn preset_of_tag(source: &str) -> Result<Option<String>> {
    let tag = on_hub(source)?.and_then(|model| model.tag);
    Ok(tag.map(|tag| tag.preset.to_owned()))
}

/// How images are made ready for a `PRESET:TAG` whose files don't say; `None` of any other source.
///
/// # Errors
/// As [`preset_of_tag`].
pub(super) fn preprocess_of_tag(source: &str) -> Result<Option<Preprocess>> {
    let tag = on_hub(source)?.and_then(|model| model.tag);
    Ok(tag.map(|tag| tag.preprocess))
}

/// What a model of the hub is called and OpenCLIP's configuration of it, downloaded; `None` for other sources, and models
/// in another layout.
///
/// # Errors
/// As [`locate`].
pub(crate) fn hub_config(source: &str) -> Result<Option<(String, PathBuf)>> {
    let Some(model) = on_hub(source)? else {
        return Ok(None);
    };
    let name = model.name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(fetch_config(&model)?.map(|config| (name, config)))
}

#[cfg(feature = "hub")]
use super::hub::{fetch, fetch_config};

#[cfg(not(feature = "hub"))]
fn fetch_config(model: &HubModel) -> Result<Option<PathBuf>> {
    fetch(model).map(Some)
}

#[cfg(not(feature = "hub"))]
fn fetch(model: &HubModel) -> Result<PathBuf> {
    bail!(
        "this build of clip can't download {} (revision {}): build it with `cargo xtask clip`, or with \
         `--features hub`",
        model.name,
        model.revision
    )
}

/// A model of the hub: `hf-hub:ORG/NAME`, with `@REVISION` for another than the newest.
#[derive(Debug, PartialEq)]
pub(super) struct HubModel {
    pub(super) name: String,
    pub(super) revision: String,
    /// OpenCLIP's, whose weights need no configuration beside them.
    pub(super) tag: Option<Published>,
}

impl FromStr for HubModel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_revision = revision.split('/').all(is_part);
        match name.split_once('/') {
            Some((organisation, model))
                if is_part(organisation) && is_part(model) && is_revision =>
            {
                Ok(Self {
                    name: name.to_owned(),
                    revision: revision.to_owned(),
                    tag: None,
                })
            }
            _ => bail!(
                "`{PREFIX}{text}` names no model: write {PREFIX}ORGANISATION/NAME, or {PREFIX}ORGANISATION/NAME@REVISION"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_hub_has_an_organisation_a_name_and_maybe_a_revision_or_a_tag() {
        let model = |revision: &str| HubModel {
            name: "org/ViT-B-32".to_owned(),
            revision: revision.to_owned(),
            tag: None,
        };
        assert_eq!("org/ViT-B-32".parse::<HubModel>().unwrap(), model("main"));
        assert_eq!(
            "org/ViT-B-32@refs/pr/1".parse::<HubModel>().unwrap(),
            model("refs/pr/1")
        );
        for wrong in ["", "org", "org/a/b", "../b", "org/a@", "org/a@../main"] {
            let error = wrong.parse::<HubModel>().unwrap_err().to_string();
            assert!(error.contains("ORGANISATION/NAME"), "{wrong}: {error}");
        }
        let tagged = on_hub("ViT-B-32:laion2b_s34b_b79k").unwrap().unwrap();
        assert_eq!(tagged.name, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K");
        assert_eq!(tagged.tag.unwrap().preset, "ViT-B-32");
        let preprocess = preprocess_of_tag("MobileCLIP-S1:datacompdr").unwrap();
        let interpolation = preprocess.unwrap().interpolation;
        assert_eq!(interpolation, clip_model::Interpolation::Bilinear);
        assert_eq!(preprocess_of_tag("hf-hub:org/a").unwrap(), None);
        for (source, told) in [
            (
                "ViT-B-32:laion",
                "there are: commonpool_m_basic_s128m_b4k, ",
            ),
            ("ViT-S-32:openai", "no weights of ViT-S-32"),
        ] {
            let error = locate(source).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(on_hub("C:/weights").unwrap(), None);
    }

    #[test]
    fn a_source_that_is_not_there_says_what_may_be_meant() {
        for (source, told) in [
            ("ViT-B-32", "such as ViT-B-32:"),
            ("ViT-B-32", "`clip weights list ViT-B-32` has all"),
            ("RN101", "or published ones: RN101:"),
            (
                "ViT-Nano-6-36",
                "is a preset, which has no weights: name a file or a folder of some",
            ),
            (
                "ViT-B-32/openai",
                "on the Hugging Face hub there is ViT-B-32:openai",
            ),
            (
                "ViT-B32:openai",
                "nor a preset `ViT-B32`; the nearest are ViT-B-32, ",
            ),
            ("local-dir:none/such", "no file or folder `none/such`"),
        ] {
            let error = locate(source).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let name = format!("local-dir:{}", dir.path().display());
        assert_eq!(locate(&name).unwrap(), dir.path());
    }
}
