//! Captions for both sides: a user's, or made ones of natural lengths.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clip_data::{ShardItem, ShardSet};

/// Enough for every batch, and for a tokenizer to be learned from.
const CAPTIONS: usize = 2_000;

/// Words of captions of Flickr8k at 20 equally spaced quantiles (30,000 captions of the training photographs; 11.8
/// words on average, full stops counted).
const LENGTHS: [usize; 20] = [
    6, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 16, 18, 21,
];

const WORDS: &str = "a the in of and on is with man dog two white black boy are woman girl to wearing people at water \
    red young brown an his blue dogs running playing through while shirt down ball standing little grass snow child \
    person jumping over three front sitting holding field small by large group up green one her children walking \
    jacket men yellow beach near mouth street orange women camera hat sunglasses bicycle mountain skateboarder \
    trampoline waterfall swimming cliff football playground";

/// The captions that `--captions` names, or made ones.
pub(super) fn read(source: Option<&str>) -> Result<Vec<String>> {
    let captions = match source {
        None => made(),
        Some(source) if is_text(source) => std::fs::read_to_string(source)
            .with_context(|| format!("cannot read {source}: give a UTF-8 file of captions"))?
            .lines()
            .map(str::to_owned)
            .collect(),
        Some(source) => of_shards(source)?,
    };
    // Both sides read them from one file, a line each.
    let captions = captions
        .into_iter()
        .map(|caption| caption.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|caption| !caption.is_empty())
        .take(CAPTIONS)
        .collect::<Vec<_>>();
    let source = source.unwrap_or("the program");
    ensure!(
        !captions.is_empty(),
        "{source} holds no caption: give captions, one a line, or shards with captions"
    );
    Ok(captions)
}

/// Whether it is a file of captions; otherwise it is shards.
pub(super) fn is_text(source: &str) -> bool {
    let path = Path::new(source);
    path.is_file() && path.extension().is_none_or(|extension| extension != "tar")
}

fn of_shards(pattern: &str) -> Result<Vec<String>> {
    let shards = ShardSet::parse(pattern)?;
    let mut captions = Vec::new();
    for shard in 0..shards.len() {
        for item in shards.open(shard)? {
            if let ShardItem::Sample(sample) = item {
                captions.extend(sample.captions);
            }
            if captions.len() >= CAPTIONS {
                return Ok(captions);
            }
        }
    }
    Ok(captions)
}

/// The same on every machine.
fn made() -> Vec<String> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    // A congruential sequence.
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..CAPTIONS)
        .map(|_| {
            let length = LENGTHS[draw(LENGTHS.len())];
            let drawn: Vec<&str> = (1..length).map(|_| words[draw(words.len())]).collect();
            format!("{} .", drawn.join(" "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_captions_are_as_long_as_natural_ones() {
        let captions = read(None).unwrap();
        assert_eq!(captions.len(), CAPTIONS);
        let words = captions
            .iter()
            .map(|caption| caption.split(' ').count())
            .sum::<usize>();
        let mean = words as f64 / CAPTIONS as f64;
        assert!((mean - 11.8).abs() < 0.3, "{mean}");
    }

    #[test]
    fn a_file_gives_a_caption_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "a  dog\n\ntwo\tcats\n").unwrap();
        let read = |path: &str| read(Some(path));
        let path = file.path().to_str().unwrap();
        assert_eq!(read(path).unwrap(), ["a dog", "two cats"]);
        std::fs::write(&file, "\n").unwrap();
        assert!(read(path).unwrap_err().to_string().contains("no caption"));
        assert!(read("nowhere.tar").is_err());
    }
}
