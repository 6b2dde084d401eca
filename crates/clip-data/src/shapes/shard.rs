use std::{io::Result, path::Path};

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

use super::ShapesConfig;
use super::caption::captions;
use super::dataset::{SHARD, Split, shard_file};
use super::draw::Draw;
use super::render::render;
use super::scene::{Counts, Scene, pick_pairs};
use super::split::{PairSplit, class_index};
use crate::output::ShardFile;

/// Half of the scenes have one object, from which colours and shapes are learned soonest; the others teach which
/// colour belongs to which shape.
const COUNTS: Counts = [0.6, 0.25];

/// The quality from which the edges of a shape of ten pixels show no rings. JPEG and not PNG, because speckles and
/// gradients hardly compress without loss: 2.1 KB an image against 6.3, and both decode in some 60 µs.
const JPEG_QUALITY: u8 = 92;

/// A sample before it is put into its shard.
pub(super) struct Sample {
    pub(super) image: Vec<u8>,
    pub(super) captions: Vec<String>,
    pub(super) class: Option<usize>,
}

impl Sample {
    /// Sample `index` of a split: the same whoever asks, and in whatever order.
    pub(super) fn new(
        config: &ShapesConfig,
        split: Split,
        pairs: &PairSplit,
        index: usize,
    ) -> Self {
        let mut draw = Draw::new(config.seed, split as u64 + 1, index as u64);
        let pool = split.pairs(pairs);
        let chosen = if split.has_classes() {
            // In turn, so that every class has as many images as the next.
            vec![pool[index % pool.len()]]
        } else {
            pick_pairs(pool, COUNTS, &mut draw)
        };
        let scene = Scene::new(&chosen, &mut draw);
        let captions = captions(&scene, config.captions, &mut draw);
        let class = split
            .has_classes()
            .then(|| class_index(chosen[0].0, chosen[0].1));
        Self {
            image: encode(&render(&scene, config.image_size), config.image_size),
            captions,
            class,
        }
    }

    fn append(&self, shard: &mut ShardFile, key: &str) -> Result<()> {
        let captions = serde_json::json!({ "captions": self.captions }).to_string();
        shard.append(&format!("{key}.jpg"), &self.image)?;
        shard.append(&format!("{key}.json"), captions.as_bytes())?;
        shard.append(&format!("{key}.txt"), self.captions[0].as_bytes())?;
        if let Some(class) = self.class {
            shard.append(&format!("{key}.cls"), class.to_string().as_bytes())?;
        }
        Ok(())
    }
}

/// Writes a shard into `dir`; returns its SHA-256.
pub(super) fn write_shard(
    dir: &Path,
    config: &ShapesConfig,
    split: Split,
    pairs: &PairSplit,
    shard: usize,
) -> Result<String> {
    let mut file = ShardFile::create(&dir.join(shard_file(split, shard)))?;
    let end = ((shard + 1) * SHARD).min(split.samples(config));
    for index in shard * SHARD..end {
        Sample::new(config, split, pairs, index).append(&mut file, &format!("{index:08}"))?;
    }
    let (_, sha256) = file.finish()?;
    Ok(sha256)
}

fn encode(pixels: &[u8], side: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pixels.len() / 2);
    let side = side as u32;
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(pixels, side, side, ExtendedColorType::Rgb8)
        // invariant: `pixels` has the size said, and memory takes every byte.
        .expect("an image in memory is always encoded");
    bytes
}
