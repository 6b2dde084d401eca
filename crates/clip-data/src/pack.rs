//! Samples of any source to shards of a given size.

use std::path::Path;

use clip_files::NewFolder;
use fast_image_resize::{FilterType, Resizer};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use rayon::prelude::*;

use crate::{
    DataError, FaultKind, FaultReport, RawSample, ShardIndex, ShardItem, ShardLayout, ShardSet,
    decode,
    faults::FaultLog,
    output::{SampleWriter, image_extension},
    resize::resize,
    scan::Chunks,
};

/// What becomes of the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackConfig {
    /// The shards to write.
    pub layout: ShardLayout,
    /// Pixels that the shorter side of an image is reduced to. Images that are no larger, and all without it, keep
    /// their bytes.
    pub resize: Option<u32>,
    /// Quality of the JPEGs that reduced images become. 95 is img2dataset's: training sees no difference.
    pub jpeg_quality: u8,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            layout: ShardLayout::default(),
            resize: None,
            jpeg_quality: 95,
        }
    }
}

/// The names of class folders beside the shards that are made of them, a line each: the line is the number in `.cls`.
const CLASSES_FILE: &str = "classes.txt";

/// What [`pack`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The new shards.
    pub index: ShardIndex,
    /// Samples read, and those left out because they can't be used.
    pub faults: FaultReport,
    /// Samples that were not wanted.
    pub unwanted: u64,
}

/// Writes the usable samples of a set as new shards, in the set's order, with `index.json` and `sizes.json`.
///
/// A sample keeps its image, captions, class and `json` member, class folders their names in `classes.txt`; bad ones are counted and left out. The folder appears when it is
/// whole, and its bytes depend on the samples and `config` alone. Of a shard that is cut off, what stands before the
/// cut is taken. Without [`PackConfig::resize`], no image is decoded: one whose first bytes are those of a known format
/// is kept, whatever follows.
///
/// # Errors
/// [`DataError::BadSetting`], [`DataError::Folder`], [`DataError::DuplicateKey`], [`DataError::ClassFolders`] of several sources,
/// [`DataError::NothingUsable`], [`DataError::Unread`] if a shard could not be read to its end, and [`DataError::Io`].
pub fn pack(shards: &ShardSet, config: &PackConfig, out: &Path) -> Result<Packed, DataError> {
    pack_some(shards, config, out, |_| true)
}

/// Writes those usable samples of a set that are `wanted` as new shards. It is asked in the set's order; the rest is as
/// in [`pack`].
///
/// # Errors
/// As [`pack`], and [`DataError::NothingWanted`].
pub fn pack_some(
    shards: &ShardSet,
    config: &PackConfig,
    out: &Path,
    mut wanted: impl FnMut(&RawSample) -> bool,
) -> Result<Packed, DataError> {
    config.layout.validate()?;
    if config.resize == Some(0) {
        return Err(DataError::setting("resize", 0, "must be at least 1 pixel"));
    }
    if !(1..=100).contains(&config.jpeg_quality) {
        return Err(DataError::setting(
            "jpeg_quality",
            config.jpeg_quality,
            "must be from 1 to 100",
        ));
    }
    let classes = shards.class_folders()?;
    let folder = NewFolder::create(out)?;
    config.layout.warn_of_shared_keys(shards);
    let mut writer = SampleWriter::new(folder.path(), &config.layout);
    if let Some(names) = classes {
        let lines = names.join("\n") + "\n";
        clip_files::replace(&folder.path().join(CLASSES_FILE), lines.as_bytes())?;
    }
    // Nothing is lost by leaving bad samples out of a copy, so no share of them is too many.
    let mut log = FaultLog::new(1.0);
    let mut unwanted = 0;
    for chunk in Chunks::new(shards) {
        let mut chosen = Vec::new();
        for (shard, item) in chunk? {
            if let ShardItem::Sample(sample) = &item
                && !wanted(sample)
            {
                unwanted += 1;
                log.good(false);
            } else {
                chosen.push((shard, item));
            }
        }
        let prepared: Vec<_> = chosen
            .into_par_iter()
            .map_init(Resizer::new, |resizer, (shard, item)| {
                (shard, prepare(item, config, resizer))
            })
            .collect();
        for (shard, outcome) in prepared {
            match outcome {
                Ok(sample) => {
                    log.good(false);
                    writer.write(sample)?;
                }
                Err((kind, key)) => log.fault(&shards.name(shard), kind, &key)?,
            }
        }
    }
    log.epoch(shards)?;
    let faults = log.take_fresh();
    faults.require_read()?;
    let index = writer.finish()?;
    if index.samples() == 0 {
        return Err(DataError::NothingWanted { unwanted });
    }
    folder.publish()?;
    faults.warn_of_lost_ends();
    Ok(Packed {
        index,
        faults,
        unwanted,
    })
}

fn prepare(
    item: ShardItem,
    config: &PackConfig,
    resizer: &mut Resizer,
) -> Result<RawSample, (FaultKind, String)> {
    let mut sample = match item {
        ShardItem::Sample(sample) => sample,
        ShardItem::Fault(kind, key) => return Err((kind, key)),
    };
    let shrunk = match config.resize {
        Some(side) => shrink(&sample.image, side, config.jpeg_quality, resizer),
        None if image_extension(&sample.image).is_none() => Err(FaultKind::Undecodable),
        None => Ok(None),
    };
    match shrunk {
        Ok(Some(image)) => sample.image = image,
        Ok(None) => {}
        Err(kind) => return Err((kind, sample.key)),
    }
    Ok(sample)
}

/// The image as a JPEG with a shorter side of `side` pixels; `None` if it is no larger already.
fn shrink(
    bytes: &[u8],
    side: u32,
    quality: u8,
    resizer: &mut Resizer,
) -> Result<Option<Vec<u8>>, FaultKind> {
    let image = decode(bytes)?;
    let (width, height) = (image.width as u32, image.height as u32);
    let shorter = width.min(height);
    if shorter <= side {
        return Ok(None);
    }
    let scaled = |length: u32| {
        let exact = f64::from(length) * f64::from(side) / f64::from(shorter);
        exact.round() as u32
    };
    let (width, height) = (scaled(width), scaled(height));
    // Pillow's `BICUBIC`, as the crops of training.
    let pixels = resize(&image, width, height, FilterType::CatmullRom, resizer);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .encode(&pixels, width, height, ExtendedColorType::Rgb8)
        // A side beyond JPEG's 65,535 pixels, which no useful photograph has.
        .map_err(|_| FaultKind::TooLarge)?;
    Ok(Some(jpeg))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;
    use crate::testing::{Tar, png, shards, write};

    fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        fs::read_dir(dir).unwrap().map(entry).collect()
    }

    fn config(max_samples: usize) -> PackConfig {
        PackConfig {
            layout: ShardLayout {
                max_samples,
                ..ShardLayout::default()
            },
            ..PackConfig::default()
        }
    }

    fn samples(set: &ShardSet) -> Vec<RawSample> {
        Chunks::new(set)
            .flat_map(Result::unwrap)
            .filter_map(|(_, item)| match item {
                ShardItem::Sample(sample) => Some(RawSample { shard: 0, ..sample }),
                ShardItem::Fault(..) => None,
            })
            .collect()
    }

    #[test]
    fn shards_of_another_size_hold_the_same_samples() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[5, 2]);
        let out = dir.path().join("out");
        let packed = pack(&set, &config(3), &out).unwrap();
        let sizes: Vec<u64> = packed
            .index
            .shards
            .iter()
            .map(|shard| shard.samples)
            .collect();
        assert_eq!((sizes, packed.faults.samples), (vec![3, 3, 1], 7));
        let list = format!("{}/shard-{{000000..000002}}.tar", out.display());
        let again = ShardSet::parse(&list).unwrap();
        assert_eq!(samples(&again), samples(&set));
        assert_eq!(ShardIndex::by_folder(&again).unwrap()[&out], packed.index);

        let bytes = PackConfig {
            layout: ShardLayout {
                max_bytes: packed.index.shards[0].bytes,
                ..ShardLayout::default()
            },
            ..PackConfig::default()
        };
        let by_bytes = pack(&set, &bytes, &dir.path().join("by bytes")).unwrap();
        assert!(by_bytes.index.shards.len() > 1);
        let limit = bytes.layout.max_bytes;
        assert!(
            by_bytes
                .index
                .shards
                .iter()
                .all(|shard| shard.bytes <= limit),
            "{by_bytes:?}"
        );
    }

    #[test]
    fn the_same_samples_give_the_same_bytes_on_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[40]);
        let config = PackConfig {
            resize: Some(4),
            ..config(16)
        };
        let made = |threads: usize| {
            let out = dir.path().join(threads.to_string());
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| pack(&set, &config, &out)).unwrap();
            files(&out)
        };
        let one = made(1);
        let names: Vec<&str> = one.keys().map(String::as_str).collect();
        let expected = [
            "index.json",
            "shard-000000.tar",
            "shard-000001.tar",
            "shard-000002.tar",
            "sizes.json",
        ];
        assert_eq!(names, expected);
        assert!(one == made(4));
    }

    #[test]
    fn large_images_shrink_and_small_ones_keep_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[1]);
        let packed = |side: u32| {
            let out = dir.path().join(side.to_string());
            let config = PackConfig {
                resize: Some(side),
                ..PackConfig::default()
            };
            pack(&set, &config, &out).unwrap();
            let shard = out.join("shard-000000.tar");
            samples(&ShardSet::from_paths(vec![shard])).remove(0).image
        };
        assert_eq!(packed(8), png(0));
        let small = decode(&packed(4)).unwrap();
        // 9 by 8 pixels before.
        assert_eq!((small.width, small.height), (5, 4));
    }

    #[test]
    fn samples_that_are_not_wanted_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[4, 3]);
        let out = dir.path().join("out");
        let mut asked = Vec::new();
        let packed = pack_some(&set, &PackConfig::default(), &out, |sample| {
            asked.push(sample.key.clone());
            sample.key.as_str() > "k3" || sample.key == "k1"
        });
        let packed = packed.unwrap();
        assert!(asked.into_iter().eq((0..7).map(|n| format!("k{n}"))));
        let read = (packed.faults.samples, packed.unwanted);
        assert_eq!((read, packed.index.samples()), ((7, 3), 4));
        let kept = samples(&ShardSet::from_paths(vec![out.join("shard-000000.tar")]));
        let keys: Vec<&str> = kept.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys, ["k1", "k4", "k5", "k6"]);

        let none = dir.path().join("none");
        let error = pack_some(&set, &PackConfig::default(), &none, |_| false).unwrap_err();
        assert!(error.to_string().contains("none of 7 samples"), "{error}");
        assert!(!none.exists());
    }

    #[test]
    fn bad_samples_are_counted_and_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::new()
            .file("a.png", &png(1))
            .file("a.txt", b"one")
            .file("a.cls", b"3")
            .file("a.json", br#"{"url": "http://host/a",  "width": 9}"#)
            .file("b.png", &png(2))
            .file("c.jpg", b"no image")
            .file("c.txt", b"three");
        let set = ShardSet::from_paths(vec![write(&dir, "a.tar", &tar.bytes())]);
        let out = dir.path().join("out");
        let packed = pack(&set, &PackConfig::default(), &out).unwrap();
        let kinds: Vec<_> = packed.faults.kinds().into_iter().collect();
        assert_eq!(
            kinds,
            [(FaultKind::NoCaption, 1), (FaultKind::Undecodable, 1)]
        );
        assert_eq!((packed.faults.samples, packed.index.samples()), (3, 1));
        let kept = samples(&ShardSet::from_paths(vec![out.join("shard-000000.tar")]));
        assert_eq!(
            (kept[0].captions[0].as_str(), kept[0].class),
            ("one", Some(3))
        );
        assert_eq!(kept[0].json, br#"{"url": "http://host/a",  "width": 9}"#);
    }

    #[test]
    fn keys_that_come_twice_are_numbered_anew_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[2]);
        let paths: Vec<_> = set
            .local_tars()
            .unwrap()
            .into_iter()
            .map(Into::into)
            .collect();
        let twice = ShardSet::from_paths([&paths[..], &paths].concat());
        let out = dir.path().join("out");
        let mut config = config(10);
        let error = pack(&twice, &config, &out).unwrap_err().to_string();
        assert!(error.contains("`k0` comes twice"), "{error}");
        assert!(!out.exists() && !dir.path().join(".out.partial").exists());
        config.layout.renumber = true;
        pack(&twice, &config, &out).unwrap();
        let kept = samples(&ShardSet::from_paths(vec![out.join("shard-000000.tar")]));
        let keys: Vec<&str> = kept.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys, ["000000000", "000000001", "000000002", "000000003"]);
    }

    #[test]
    fn a_table_without_keys_becomes_shards_that_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = "filepath,title\n".to_owned();
        for (number, name) in ["plain.png", "a.b.png", "a.c.png", "far.png"]
            .iter()
            .enumerate()
        {
            let path = write(&dir, name, &png(number as u8));
            let path = path.display().to_string();
            let named = if number == 3 { &path } else { *name };
            table.extend([named, ",caption ", &number.to_string(), "\n"]);
        }
        let table = write(&dir, "t.csv", table.as_bytes());
        let set = ShardSet::parse(&table.display().to_string()).unwrap();
        let out = dir.path().join("out");
        pack(&set, &PackConfig::default(), &out).unwrap();
        let again = ShardSet::from_paths(vec![out.join("shard-000000.tar")]);
        assert!(
            Chunks::new(&again)
                .flat_map(Result::unwrap)
                .all(|(_, item)| matches!(item, ShardItem::Sample(_)))
        );
        let (read, packed) = (samples(&set), samples(&again));
        let told = |samples: &[RawSample]| -> Vec<_> {
            let told = samples
                .iter()
                .map(|sample| (sample.captions.clone(), sample.image.clone()));
            told.collect()
        };
        assert_eq!(told(&packed), told(&read));
        let keys: Vec<&str> = packed.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys[..3], ["plain", "a_b", "a_c"]);
        assert!(
            keys[3].ends_with("/far") && !keys[3].starts_with('/'),
            "{keys:?}"
        );

        // Two names that become one key are told, as those that are one are.
        write(&dir, "a_b.png", &png(9));
        let table = write(&dir, "u.csv", b"filepath,title\na.b.png,one\na_b.png,two\n");
        let set = ShardSet::parse(&table.display().to_string()).unwrap();
        let twice = dir.path().join("twice");
        let error = pack(&set, &PackConfig::default(), &twice)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`a_b` comes twice") && error.contains("`--renumber`"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_packed_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let set = ShardSet::from_paths(vec![write(&dir, "empty.tar", b"")]);
        let out = dir.path().join("out");
        let refused = |config: &PackConfig| pack(&set, config, &out).unwrap_err().to_string();
        let nothing = refused(&config(1));
        assert!(
            nothing.contains("no usable sample") && nothing.contains("empty.tar (1 no tar)"),
            "{nothing}"
        );
        assert!(refused(&config(0)).contains("max_samples = 0"));
        let mut empty = config(1);
        empty.layout.max_bytes = 0;
        assert!(refused(&empty).contains("max_bytes = 0"));
        let quality = PackConfig {
            jpeg_quality: 0,
            ..config(1)
        };
        assert!(refused(&quality).contains("from 1 to 100"));
        let mut named = config(1);
        named.layout.name = "a/b".to_owned();
        assert!(refused(&named).contains("no slash"));
        assert!(!out.exists());
    }
}
