use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Enumerate,
};

use fast_image_resize::Resizer;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    BadSample, CaptionReport, Diagnosis, DuplicateReport, ImageReport, Twin,
    duplicates::{Duplicates, Print},
    perceptual::perceptual_hash,
    summary::Histogram,
};
use crate::{
    DataError, Encoded, FaultKind, RawSample, ShardItem, ShardReader, ShardSet, Tokenizer, decode,
    faults::FaultLog, scan::Chunks,
};

/// Encoded sizes are counted in steps of so many bytes, so that there are few different ones; the smallest, the largest and
/// the mean are exact.
const BYTES_STEP: u64 = 100;

/// Tokens that are counted of a caption at most: a text of a book's length is no caption, whatever its length is.
const MAX_TOKENS: usize = 1 << 16;

/// What a set is judged for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorConfig {
    /// Tokens that the model sees. CLIP's is 77.
    pub context_length: usize,
    /// Bad samples that are listed at most, and duplicates of each kind.
    pub listed: usize,
}

impl Default for DoctorConfig {
    fn default() -> Self {
        Self {
            context_length: 77,
            listed: 20,
        }
    }
}

/// A good sample, reduced to what the report needs.
struct Good {
    width: u64,
    height: u64,
    bytes: u64,
    tokens: Vec<usize>,
    has_class: bool,
    print: Print,
}

/// Reads, decodes and tokenizes every sample of a set, on all cores.
///
/// Memory grows by some 100 bytes an image, for the duplicates; nothing else is kept of a sample.
///
/// # Errors
/// [`DataError::Io`] if a shard can't be opened. What is wrong with samples is the result.
pub fn examine(
    shards: &ShardSet,
    tokenizer: &Tokenizer,
    config: &DoctorConfig,
) -> Result<Diagnosis, DataError> {
    let mut tally = Tally::new(shards, config);
    // One more than the model sees tells that a caption is longer.
    let counted = config.context_length.saturating_add(1).max(MAX_TOKENS);
    let (mut shard_now, mut place) = (0, 0);
    for chunk in Chunks::new(shards) {
        let examined: Vec<_> = chunk?
            .into_par_iter()
            .map_init(Resizer::new, |resizer, (shard, item)| {
                (shard, examine_item(item, tokenizer, counted, resizer))
            })
            .collect();
        for (shard, outcome) in examined {
            if shard != shard_now {
                (shard_now, place) = (shard, 0);
            }
            match outcome {
                Ok(good) => tally.good(good, (shard as u32, place)),
                Err((kind, key)) => tally.bad(shard, kind, key)?,
            }
            place += 1;
        }
    }
    tally.finish()
}

/// What is counted while samples go by.
struct Tally<'a> {
    shards: &'a ShardSet,
    config: &'a DoctorConfig,
    log: FaultLog,
    width: Histogram,
    height: Histogram,
    shorter_side: Histogram,
    bytes: Histogram,
    tokens: Histogram,
    captions: CaptionReport,
    classes: u64,
    bad_samples: Vec<BadSample>,
    prints: Vec<Print>,
    /// Of each print, its shard and its place in there.
    places: Vec<(u32, u32)>,
}

impl<'a> Tally<'a> {
    fn new(shards: &'a ShardSet, config: &'a DoctorConfig) -> Self {
        Self {
            shards,
            config,
            log: FaultLog::new(1.0),
            width: Histogram::default(),
            height: Histogram::default(),
            shorter_side: Histogram::default(),
            bytes: Histogram::in_steps_of(BYTES_STEP),
            tokens: Histogram::default(),
            captions: CaptionReport {
                context_length: config.context_length,
                ..CaptionReport::default()
            },
            classes: 0,
            bad_samples: Vec::new(),
            prints: Vec::new(),
            places: Vec::new(),
        }
    }

    fn good(&mut self, good: Good, place: (u32, u32)) {
        self.log.good(false);
        self.width.add(good.width);
        self.height.add(good.height);
        self.shorter_side.add(good.width.min(good.height));
        self.bytes.add(good.bytes);
        self.captions.captions += good.tokens.len() as u64;
        for length in good.tokens {
            self.tokens.add(length as u64);
            self.captions.truncated += u64::from(length > self.config.context_length);
        }
        self.classes += u64::from(good.has_class);
        self.prints.push(good.print);
        self.places.push(place);
    }

    fn bad(&mut self, shard: usize, kind: FaultKind, key: String) -> Result<(), DataError> {
        let shard = self.shards.name(shard);
        self.log.fault(&shard, kind, &key)?;
        if self.bad_samples.len() < self.config.listed {
            self.bad_samples.push(BadSample { shard, key, kind });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Diagnosis, DataError> {
        let faults = self.log.take_fresh();
        let (truncated, captions) = (self.captions.truncated, self.captions.captions);
        Ok(Diagnosis {
            samples: faults.samples,
            bad: faults.bad(),
            bad_share: share(faults.bad(), faults.samples),
            kinds: faults.kinds(),
            shards: faults.shards,
            classes: self.classes,
            images: ImageReport {
                width: self.width.summary(),
                height: self.height.summary(),
                shorter_side: self.shorter_side.summary(),
                bytes: self.bytes.summary(),
            },
            captions: CaptionReport {
                tokens: self.tokens.summary(),
                truncated_share: share(truncated, captions),
                ..self.captions
            },
            duplicates: report(
                self.shards,
                &Duplicates::find(&self.prints),
                &self.places,
                self.config.listed,
            )?,
            bad_samples: self.bad_samples,
        })
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn examine_item(
    item: ShardItem,
    tokenizer: &Tokenizer,
    counted: usize,
    resizer: &mut Resizer,
) -> Result<Good, (FaultKind, String)> {
    match item {
        ShardItem::Fault(kind, key) => Err((kind, key)),
        ShardItem::Sample(sample) => {
            examine_sample(&sample, tokenizer, counted, resizer).map_err(|kind| (kind, sample.key))
        }
    }
}

fn examine_sample(
    sample: &RawSample,
    tokenizer: &Tokenizer,
    counted: usize,
    resizer: &mut Resizer,
) -> Result<Good, FaultKind> {
    let captions = sample.captions.iter();
    let captions: Vec<Encoded> = captions
        .map(|caption| tokenizer.encode(caption, counted))
        .collect();
    if captions.iter().any(|caption| tokenizer.is_blank(caption)) {
        return Err(FaultKind::EmptyCaption);
    }
    let tokens = captions.iter().map(|caption| caption.ids.len()).collect();
    let image = decode(&sample.image)?;
    let sha: [u8; 32] = Sha256::digest(&sample.image).into();
    let (half, _) = sha.split_at(16);
    Ok(Good {
        width: image.width as u64,
        height: image.height as u64,
        bytes: sample.image.len() as u64,
        tokens,
        has_class: sample.class.is_some(),
        print: Print {
            sha: half
                .iter()
                .fold(0, |sha, byte| sha << 8 | u128::from(*byte)),
            perceptual: perceptual_hash(&image, resizer),
        },
    })
}

/// Finds the names of the duplicates that are listed, which were not kept.
fn report(
    shards: &ShardSet,
    duplicates: &Duplicates,
    places: &[(u32, u32)],
    listed: usize,
) -> Result<DuplicateReport, DataError> {
    let pairs = |pairs: &[(usize, usize)], exact| {
        let pairs: Vec<_> = pairs
            .iter()
            .take(listed)
            .map(|pair| (*pair, exact))
            .collect();
        pairs
    };
    let listed = [
        pairs(&duplicates.exact, true),
        pairs(&duplicates.near, false),
    ]
    .concat();
    let wanted = listed
        .iter()
        .flat_map(|((image, first), _)| [*image, *first]);
    let keys = keys(shards, wanted.map(|image| places[image]).collect())?;
    let name = |image: usize| {
        let (shard, _) = places[image];
        let key = keys.get(&places[image]).cloned();
        (shards.name(shard as usize), key.unwrap_or_default())
    };
    let twins = listed.into_iter().map(|((image, first), exact)| {
        let ((shard, key), (first_shard, first_key)) = (name(image), name(first));
        Twin {
            shard,
            key,
            first_shard,
            first_key,
            exact,
        }
    });
    Ok(DuplicateReport {
        exact: duplicates.exact.len() as u64,
        near: duplicates.near.len() as u64,
        twins: twins.collect(),
    })
}

/// The keys at these places, each shard and place in there. A shard is read once, as far as its last place.
fn keys(
    shards: &ShardSet,
    places: BTreeSet<(u32, u32)>,
) -> Result<BTreeMap<(u32, u32), String>, DataError> {
    let mut keys = BTreeMap::new();
    let mut open: Option<(u32, Enumerate<ShardReader>)> = None;
    for (shard, place) in places {
        let headers = match &mut open {
            Some((now, headers)) if *now == shard => headers,
            open => {
                let headers = shards.open(shard as usize)?.headers_only();
                &mut open.insert((shard, headers.enumerate())).1
            }
        };
        let item = headers.find(|(at, _)| *at == place as usize);
        if let Some((_, ShardItem::Sample(RawSample { key, .. }) | ShardItem::Fault(_, key))) = item
        {
            keys.insert((shard, place), key);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, compressed::gzip, png, shards, write};

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["one two three".to_owned()].into_iter(), 540).unwrap()
    }

    #[test]
    fn a_set_is_described_with_all_that_is_wrong_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Tar::new()
            .file("a.png", &png(1))
            .file("a.txt", b"one two three one two three")
            .file("b.png", &png(2))
            .file("c.png", &png(3)[..40])
            .file("c.txt", b"three")
            .file("d.png", &png(4))
            .file("d.txt", "\u{feff}".as_bytes());
        let second = Tar::new()
            .file("e.png", &png(1))
            .file("e.json", br#"{"captions": ["one", "two"]}"#)
            .file("e.cls", b"0");
        let shards = ShardSet::from_paths(vec![
            write(&dir, "1.tar", &first.bytes()),
            write(&dir, "2.tar", &second.bytes()),
        ]);
        let config = DoctorConfig {
            context_length: 5,
            listed: 2,
        };
        let found = examine(&shards, &tokenizer(), &config).unwrap();
        assert_eq!((found.samples, found.bad, found.classes), (5, 3, 1));
        assert_eq!(found.broken_shards(), None);
        let kinds = [
            FaultKind::NoCaption,
            FaultKind::EmptyCaption,
            FaultKind::Undecodable,
        ];
        assert_eq!(found.kinds, BTreeMap::from(kinds.map(|kind| (kind, 1))));
        let listed: Vec<&str> = found
            .bad_samples
            .iter()
            .map(|bad| bad.key.as_str())
            .collect();
        assert_eq!(listed, ["b", "c"]);
        assert_eq!(found.images.width.unwrap().max, 9);
        assert_eq!(found.images.shorter_side.unwrap().median, 8);
        assert_eq!((found.captions.captions, found.captions.truncated), (3, 1));
        // `one` and `two` by their letters, which the tokenizer never saw twice, with start and end.
        assert_eq!(found.captions.tokens.unwrap().min, 5);
        let twin = &found.duplicates.twins[0];
        assert_eq!((found.duplicates.exact, found.duplicates.near), (1, 0));
        assert_eq!(
            (twin.key.as_str(), twin.first_key.as_str(), twin.exact),
            ("e", "a", true)
        );
        assert!(twin.shard.ends_with("2.tar") && twin.first_shard.ends_with("1.tar"));

        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(
            (json["samples"].as_u64(), json["bad"].as_u64()),
            (Some(5), Some(3))
        );
        assert_eq!(json["kinds"]["undecodable"], 1);
    }

    #[test]
    fn an_empty_set_has_nothing_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let shards = ShardSet::from_paths(vec![write(&dir, "1.tar", &Tar::new().bytes())]);
        let found = examine(&shards, &tokenizer(), &DoctorConfig::default()).unwrap();
        assert_eq!((found.samples, found.bad, found.images.width), (0, 0, None));
    }

    #[test]
    fn a_file_of_no_bytes_is_no_tar() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("1.tar", vec![]), ("2.tar.gz", gzip(b""))];
        let paths = files.map(|(name, bytes)| write(&dir, name, &bytes));
        let shards = ShardSet::from_paths(paths.to_vec());
        let found = examine(&shards, &tokenizer(), &DoctorConfig::default()).unwrap();
        assert_eq!(found.kinds, BTreeMap::from([(FaultKind::NoTar, 2)]));
        assert_eq!(found.shards.len(), 2);
        let broken = found.broken_shards().unwrap();
        assert!(broken.ends_with("2.tar.gz"), "{broken}");
    }

    #[test]
    fn a_caption_of_a_book_is_counted_so_far() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::new()
            .file("a.png", &png(1))
            .file("a.txt", "one ".repeat(1 << 20).as_bytes());
        let shards = ShardSet::from_paths(vec![write(&dir, "1.tar", &tar.bytes())]);
        let found = examine(&shards, &tokenizer(), &DoctorConfig::default()).unwrap();
        assert_eq!((found.captions.captions, found.captions.truncated), (1, 1));
        assert_eq!(found.captions.tokens.unwrap().max, MAX_TOKENS as u64);
    }

    #[test]
    fn keys_are_found_in_any_shard_and_at_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[3, 1, 4]);
        let wanted = [(2, 3), (0, 2), (0, 0), (2, 1), (1, 5)];
        let keys = keys(&set, BTreeSet::from(wanted)).unwrap();
        let found: Vec<&str> = keys.values().map(String::as_str).collect();
        assert_eq!(found, ["k0", "k2", "k5", "k7"]);
    }
}
