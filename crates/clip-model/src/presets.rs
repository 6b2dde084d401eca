//! Architectures by name, each the JSON file that OpenCLIP would read.

/// Tokens of CLIP's own vocabulary. A preset with another `vocab_size` gets one trained on its run's captions.
pub const CLIP_VOCAB_SIZE: usize = 49_408;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        const PRESETS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../presets/", $name, ".json")))),*];
    };
}

presets![
    "ViT-Nano-6-36",
    "ViT-Mini-16-96",
    "ViT-S-16-alt",
    "ViT-S-32-alt",
    "ViT-S-16",
    "ViTamin-S",
    "ViT-S-32",
    "PE-Core-T-16-384",
    "MobileCLIP2-S0",
    "ViT-M-16-alt",
    "ViT-M-32-alt",
    "MobileCLIP-S1",
    "PE-Core-S-16-384",
    "convnext_tiny",
    "MobileCLIP-S2",
    "MobileCLIP2-S2",
    "RN50",
    "RN50-quickgelu",
    "ViT-M-16",
    "ViT-M-32",
    "convnext_small",
    "RN101",
    "RN101-quickgelu",
    "ViTamin-S-LTT",
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "EVA02-B-16",
    "MobileCLIP-B",
    "MobileCLIP2-B",
    "ViTamin-B",
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-32-256",
    "convnext_base",
    "RN50x4",
    "RN50x4-quickgelu",
    "convnext_base_w",
    "convnext_base_w_320",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP-256",
    "ViT-B-16-SigLIP-384",
    "ViT-B-16-SigLIP-512",
    "ViT-B-16-plus",
    "ViT-B-16-plus-240",
    "ViT-B-32-plus-256",
    "ViTamin-B-LTT",
    "roberta-ViT-B-32",
    "MobileCLIP2-S3",
    "coca_ViT-B-32",
    "RN50x16",
    "RN50x16-quickgelu",
    "convnext_large",
    "convnext_large_d",
    "convnext_large_d_320",
    "xlm-roberta-base-ViT-B-32",
    "ViT-B-16-SigLIP-i18n-256",
    "ViT-B-16-SigLIP2",
    "ViT-B-16-SigLIP2-256",
    "ViT-B-16-SigLIP2-384",
    "ViT-B-16-SigLIP2-512",
    "ViT-B-32-SigLIP2-256",
    "ViT-L-14-CLIPA",
    "ViT-L-14-CLIPA-336",
    "ViT-L-14",
    "ViT-L-14-quickgelu",
    "MobileCLIP2-L-14",
    "ViT-L-16",
    "EVA02-L-14",
    "ViT-L-14-280",
    "ViT-L-14-336",
    "ViT-L-14-336-quickgelu",
    "ViT-L-16-320",
    "EVA02-L-14-336",
    "MobileCLIP2-S4",
    "coca_base",
    "PE-Core-B-16",
    "ViTamin-L",
    "ViTamin-L-256",
    "ViTamin-L-336",
    "ViTamin-L-384",
    "nllb-clip-base",
    "nllb-clip-base-siglip",
    "ViT-L-14-worldwide",
    "ViT-L-14-worldwide-quickgelu",
    "RN50x64",
    "RN50x64-quickgelu",
    "coca_ViT-L-14",
    "ViT-L-16-SigLIP-256",
    "ViT-L-16-SigLIP-384",
    "convnext_xlarge",
    "PE-Core-L-14-336",
    "ViTamin-L2",
    "ViTamin-L2-256",
    "ViTamin-L2-336",
    "ViTamin-L2-384",
    "ViT-SO400M-14-SigLIP",
    "ViT-SO400M-14-SigLIP-378",
    "ViT-SO400M-14-SigLIP-384",
    "ViT-L-16-SigLIP2-256",
    "ViT-L-16-SigLIP2-384",
    "ViT-L-16-SigLIP2-512",
    "ViTamin-XL-256",
    "ViTamin-XL-336",
    "ViTamin-XL-384",
    "ViT-H-14-CLIPA",
    "ViT-H-14-CLIPA-336",
    "ViT-H-14",
    "ViT-H-14-quickgelu",
    "ViT-H-16",
    "ViT-H-14-378",
    "ViT-H-14-378-quickgelu",
    "ViT-SO400M-16-SigLIP-i18n-256",
    "ViT-SO400M-14-SigLIP2",
    "ViT-SO400M-16-SigLIP2-256",
    "ViT-SO400M-14-SigLIP2-378",
    "ViT-SO400M-16-SigLIP2-384",
    "EVA01-g-14",
    "ViT-SO400M-16-SigLIP2-512",
    "xlm-roberta-large-ViT-H-14",
    "nllb-clip-large-siglip",
    "convnext_xxlarge",
    "convnext_xxlarge_320",
    "EVA01-g-14-plus",
    "ViT-g-14",
    "nllb-clip-large",
    "ViT-H-14-worldwide",
    "ViT-H-14-worldwide-quickgelu",
    "ViT-H-14-worldwide-378",
    "ViT-gopt-16-SigLIP2-256",
    "ViT-gopt-16-SigLIP2-384",
    "PE-Core-bigG-14-448",
    "ViT-bigG-14-CLIPA",
    "ViT-bigG-14-CLIPA-336",
    "ViT-bigG-14",
    "ViT-bigG-14-quickgelu",
    "ViT-bigG-14-worldwide",
    "ViT-bigG-14-worldwide-378",
    "ViT-e-14",
    "EVA02-E-14",
    "EVA02-E-14-plus",
];

/// The names, smallest model first.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The JSON of the preset of that name.
pub fn json(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, json)| *json)
}

/// The `most` names that the fewest typed letters are between and `name`, the nearest first. Case doesn't count.
pub fn nearest(name: &str, most: usize) -> Vec<&'static str> {
    let mut found: Vec<&str> = names().collect();
    found.sort_by_cached_key(|known| edits(&name.to_lowercase(), &known.to_lowercase()));
    found.truncate(most);
    found
}

/// Letters to be put in, left out or exchanged until `a` is `b` (Levenshtein 1966).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (done, letter) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = done + 1;
        for (place, other) in b.iter().enumerate() {
            let exchanged = before + usize::from(letter != *other);
            before = row[place + 1];
            row[place + 1] = exchanged.min(before + 1).min(row[place] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::ClipConfig;

    /// What OpenCLIP's package has under a name.
    #[derive(Deserialize)]
    struct Theirs {
        parameters: usize,
        sha256: String,
    }

    /// Files and counts of OpenCLIP 3.3.0 (`tests/reference/presets.py`). A count alone knows neither activations nor
    /// epsilons, and no pooling without parameters.
    #[test]
    fn presets_are_open_clips() {
        let theirs = include_str!("../tests/reference/presets.json");
        let mut theirs: BTreeMap<String, Theirs> = serde_json::from_str(theirs).unwrap();
        assert_eq!(theirs["ViT-B-32"].parameters, 151_277_313); // OpenCLIP's docs/model_profile.csv, rounded there
        let ours = ["ViT-Nano-6-36", "ViT-Mini-16-96"];
        for name in names().filter(|name| !ours.contains(name)) {
            let theirs = theirs.remove(name).expect(name);
            let count = ClipConfig::load(name).unwrap().num_params();
            assert_eq!(count, theirs.parameters, "{name}");
            let sum = format!("{:x}", Sha256::digest(json(name).unwrap()));
            assert_eq!(sum, theirs.sha256, "{name}");
        }
        assert!(theirs.is_empty(), "presets that are no longer there");
    }

    #[test]
    fn the_nearest_names_are_those_that_were_meant() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!((edits("", "ab"), edits("ab", "")), (2, 2));
        assert_eq!(nearest("vit-b32", 1), ["ViT-B-32"]);
        assert_eq!(nearest("ViT-L-14", 2)[0], "ViT-L-14");
        assert_eq!(nearest("rn-50", 3).len(), 3);
    }

    #[test]
    fn the_papers_models_are_there_with_both_activations() {
        for name in [
            "RN50",
            "RN101",
            "RN50x4",
            "RN50x16",
            "RN50x64",
            "ViT-B-32",
            "ViT-B-16",
            "ViT-L-14",
            "ViT-L-14-336",
        ] {
            assert!(!ClipConfig::load(name).unwrap().quick_gelu, "{name}");
            let quick = ClipConfig::load(&format!("{name}-quickgelu")).unwrap();
            assert!(quick.quick_gelu, "{name}");
        }
    }

    #[test]
    fn an_unknown_preset_names_the_nearest() {
        for name in ["ViT-B32", "ViT-B32:openai"] {
            let error = ClipConfig::load(name).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{name}`")) && error.contains(" ViT-B-32, "),
                "{error}"
            );
            assert!(error.len() < 200, "{error}");
        }
    }
}
