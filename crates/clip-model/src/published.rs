//! Where others publish weights of the presets, under the tags that OpenCLIP gives them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use crate::{Preprocess, presets};

/// A model of the Hugging Face hub, alone where OpenCLIP finds the file by itself and images are made ready for it as for the
/// paper's.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Hub(String),
    Other {
        hub: String,
        file: Option<String>,
        #[serde(default)]
        preprocess: Preprocess,
    },
}

/// By preset, then tag (`tests/reference/published.py`).
static PUBLISHED: LazyLock<BTreeMap<String, BTreeMap<String, Entry>>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../published.json"))
        .expect("invariant: the table is of the script's form")
});

/// Weights that `open_clip.create_model(preset, pretrained=tag)` downloads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The architecture.
    pub preset: &'static str,
    /// What OpenCLIP calls them, after the data and the samples seen: `laion2b_s34b_b79k`.
    pub tag: &'static str,
    /// The model of the Hugging Face hub that has them, `ORGANISATION/NAME`.
    pub hub: &'static str,
    /// The file of weights there, where OpenCLIP names it: then what lies beside it is in a layout of others.
    pub file: Option<&'static str>,
    /// How OpenCLIP makes images ready for them.
    pub preprocess: Preprocess,
}

/// How a name says that it is a model of the Hugging Face hub.
pub const HUB_PREFIX: &str = "hf-hub:";

/// A name of a model on the Hugging Face hub as this program takes it, `hf-hub:ORGANISATION/NAME` or `PRESET:TAG`, of a name
/// that is one or is `PRESET/TAG`, as OpenCLIP once wrote it; `None` of any other.
pub fn hub_name(name: &str) -> Option<String> {
    if name.starts_with(HUB_PREFIX) {
        return Some(name.to_owned());
    }
    if let Some((preset, tag)) = name.split_once(':') {
        return presets::json(preset).map(|_| format!("{preset}:{tag}"));
    }
    let (preset, tag) = name.split_once('/')?;
    of(preset)
        .any(|it| it.tag == tag)
        .then(|| format!("{preset}:{tag}"))
}

/// What of a name may be meant as a preset: that of a `PRESET:TAG`, or all.
pub(crate) fn preset_in(name: &str) -> &str {
    name.split_once(':').map_or(name, |(preset, _)| preset)
}

/// All of them, presets in [their order](presets::names).
pub fn all() -> impl Iterator<Item = Published> {
    presets::names().flat_map(of)
}

/// The published models of a preset, by tag.
pub fn of(preset: &str) -> impl Iterator<Item = Published> {
    let of_preset = PUBLISHED.get_key_value(preset).into_iter();
    of_preset.flat_map(|(preset, tags)| {
        tags.iter().map(|(tag, entry)| {
            let (hub, file, preprocess) = match entry {
                Entry::Hub(hub) => (hub, None, Preprocess::default()),
                Entry::Other {
                    hub,
                    file,
                    preprocess,
                } => (hub, file.as_deref(), *preprocess),
            };
            Published {
                preset,
                tag,
                hub,
                file,
                preprocess,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interpolation, ResizeMode};

    #[test]
    fn tags_are_open_clips() {
        let found: Vec<Published> = of("ViT-B-32")
            .filter(|it| it.tag == "laion2b_s34b_b79k")
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].hub, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K");
        assert_eq!(found[0].preprocess, Preprocess::default());
        assert_eq!(found[0].file, None);
        assert_eq!(of("ViT-Nano-6-36").count(), 0);
        let named = of("ViTamin-L-336").next().unwrap();
        assert_eq!(named.hub, "jienengchen/ViTamin-L-336px");
        assert_eq!(named.file, Some("pytorch_model.bin"));
        assert_eq!(named.preprocess, Preprocess::default());
    }

    #[test]
    fn a_tag_knows_how_images_are_made_ready() {
        let plain = Preprocess {
            mean: [0.0; 3],
            std: [1.0; 3],
            interpolation: Interpolation::Bilinear,
            resize_mode: ResizeMode::Shortest,
        };
        assert!(of("MobileCLIP-S1").all(|it| it.preprocess == plain));
        let large = Preprocess {
            interpolation: Interpolation::Bilinear,
            ..Preprocess::default()
        };
        assert!(of("MobileCLIP2-S4").all(|it| it.preprocess == large));
        assert!(of("ViT-B-16-SigLIP").all(|it| it.preprocess.resize_mode == ResizeMode::Squash));
    }

    #[test]
    fn every_table_entry_is_of_a_preset() {
        let presets: Vec<&str> = presets::names().collect();
        assert!(
            PUBLISHED
                .keys()
                .all(|name| presets.contains(&name.as_str()))
        );
        assert_eq!(
            all().count(),
            PUBLISHED.values().map(BTreeMap::len).sum::<usize>()
        );
        assert!(all().all(|it| {
            it.hub
                .split_once('/')
                .is_some_and(|(_, name)| !name.contains('/'))
        }));
    }

    #[test]
    fn names_of_the_hub_are_known_in_all_their_forms() {
        for (name, known) in [
            ("hf-hub:a/b", Some("hf-hub:a/b")),
            (
                "ViT-B-32:laion2b_s34b_b79k",
                Some("ViT-B-32:laion2b_s34b_b79k"),
            ),
            (
                "ViT-B-32/laion2b_s34b_b79k",
                Some("ViT-B-32:laion2b_s34b_b79k"),
            ),
            // The tag is for whoever takes it to refuse.
            ("ViT-B-32:none", Some("ViT-B-32:none")),
            ("ViT-B-32/none", None),
            ("ViT-B-32", None),
            ("C:/model", None),
            ("runs/model", None),
        ] {
            assert_eq!(hub_name(name).as_deref(), known, "{name}");
        }
    }
}
