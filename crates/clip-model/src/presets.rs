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
    "ViT-S-32",
    "ViT-S-16",
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-L-14",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336",
    "ViT-L-14-336-quickgelu",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipConfig;

    #[test]
    fn every_preset_loads() {
        for name in names() {
            ClipConfig::load(name).unwrap();
        }
    }
}
