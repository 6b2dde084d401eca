use std::{
    fs::File,
    io::{BufWriter, Result, Write},
    path::Path,
};

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use sha2::{Digest, Sha256};

use super::ShapesConfig;
use super::caption::captions;
use super::dataset::{SHARD, Split, shard_file};
use super::draw::Draw;
use super::manifest::hex;
use super::render::render;
use super::scene::{Counts, Scene, pick_pairs};
use super::split::{PairSplit, class_index};

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

    fn append(&self, tar: &mut tar::Builder<impl Write>, key: &str) -> Result<()> {
        let captions = serde_json::json!({ "captions": self.captions }).to_string();
        let mut add = |extension: &str, body: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            tar.append_data(&mut header, format!("{key}.{extension}"), body)
        };
        add("jpg", &self.image)?;
        add("json", captions.as_bytes())?;
        add("txt", self.captions[0].as_bytes())?;
        if let Some(class) = self.class {
            add("cls", class.to_string().as_bytes())?;
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
    let file = File::create(dir.join(shard_file(split, shard)))?;
    let hashing = Hashing {
        file,
        hasher: Sha256::new(),
    };
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, hashing));
    let end = ((shard + 1) * SHARD).min(split.samples(config));
    for index in shard * SHARD..end {
        Sample::new(config, split, pairs, index).append(&mut tar, &format!("{index:08}"))?;
    }
    let hashing = tar
        .into_inner()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    Ok(hex(hashing.hasher.finalize().as_slice()))
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

/// A file that is hashed as it is written.
struct Hashing {
    file: File,
    hasher: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}
