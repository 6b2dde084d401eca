//! Speed and memory of curation, on generated captions and queries:
//!
//! ```text
//! cargo run --release -p clip-data --example curate -- 1000000 500000 DIR
//! ```
//!
//! `DIR` gets the raw shards, if they aren't there, and the curated ones, which must not be there. Words follow Zipf's
//! law, as in any language; half of the queries are words, half pairs of words that stand in captions.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Instant,
};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use clip_data::{CurateConfig, Queries, ShardSet, curate};

/// The start of a PNG: curation decodes no image.
const IMAGE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Words of a caption: Flickr8k's mean.
const WORDS: u64 = 11;
const SHARD: u64 = 10_000;

struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A word of `words`, the n-th about 1/n times as often as the first.
    fn word(&mut self, words: u64) -> String {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        name((words as f64).powf(unit) as u64)
    }

    fn caption(&mut self, words: u64) -> String {
        let words: Vec<String> = (0..WORDS).map(|_| self.word(words)).collect();
        words.join(" ")
    }
}

/// A pronounceable word for a number.
fn name(mut number: u64) -> String {
    let mut name = String::new();
    loop {
        name.push(char::from(b"bdfgklmnprstvz"[(number % 14) as usize]));
        number /= 14;
        name.push(char::from(b"aeiou"[(number % 5) as usize]));
        number /= 5;
        if number == 0 {
            return name;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [captions, queries, dir] = &args[..] else {
        return Err("give the numbers of captions and of queries, and a folder".into());
    };
    let (captions, queries): (u64, u64) = (captions.parse()?, queries.parse()?);
    let dir = Path::new(dir);
    let vocabulary = queries / 2;
    let mut draws = Draws(1);
    let mut list: Vec<String> = (0..vocabulary).map(name).collect();
    for _ in vocabulary..queries {
        list.push(format!(
            "{} {}",
            draws.word(vocabulary),
            draws.word(vocabulary)
        ));
    }
    let raw = raw_shards(&dir.join("raw"), captions, vocabulary)?;
    compare_automata(&list, vocabulary)?;

    let start = Instant::now();
    let found = Queries::new(list.iter().map(String::as_str), "generated")?;
    println!(
        "{} queries ready after {:.1?}",
        found.queries().len(),
        start.elapsed()
    );
    let config = CurateConfig {
        per_query: 200,
        ..CurateConfig::default()
    };
    let made = curate(&raw, &found, &config, &dir.join("curated"))?;
    println!(
        "{} pairs, {} with a query, {} kept, after {:.1?} in all on {} threads",
        made.faults.samples,
        made.matched,
        made.index.samples(),
        start.elapsed(),
        std::thread::available_parallelism()?,
    );
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        println!("peak memory {}", peak.unwrap_or_default());
    }
    Ok(())
}

/// Shards of captions, made once.
fn raw_shards(
    dir: &Path,
    captions: u64,
    vocabulary: u64,
) -> Result<ShardSet, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    let mut paths = Vec::new();
    for shard in 0..captions.div_ceil(SHARD) {
        let path = dir.join(format!("{captions}-{shard:06}.tar"));
        if !path.exists() {
            let mut tar = tar::Builder::new(BufWriter::new(File::create(&path)?));
            let mut draws = Draws(shard + 2);
            for number in shard * SHARD..((shard + 1) * SHARD).min(captions) {
                let caption = draws.caption(vocabulary);
                for (extension, body) in [("png", IMAGE), ("txt", caption.as_bytes())] {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(body.len() as u64);
                    header.set_mode(0o644);
                    tar.append_data(&mut header, format!("{number:09}.{extension}"), body)?;
                }
            }
            tar.into_inner()?.flush()?;
        }
        paths.push(path);
    }
    Ok(ShardSet::from_paths(paths))
}

/// Time and memory of the two kinds of automata on the same captions.
fn compare_automata(queries: &[String], vocabulary: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut draws = Draws(0);
    let captions: Vec<String> = (0..20_000)
        .map(|_| format!(" {} ", draws.caption(vocabulary)))
        .collect();
    for kind in [AhoCorasickKind::ContiguousNFA, AhoCorasickKind::DFA] {
        let start = Instant::now();
        let patterns = queries.iter().map(|query| format!(" {query} "));
        let automaton = AhoCorasick::builder().kind(Some(kind)).build(patterns)?;
        let built = start.elapsed();
        let start = Instant::now();
        let found: usize = captions
            .iter()
            .map(|caption| automaton.find_overlapping_iter(caption).count())
            .sum();
        println!(
            "{kind:?}: {:.0} MB, built in {built:.1?}, {:.0} captions a second on one thread ({found} matches)",
            automaton.memory_usage() as f64 / 1e6,
            captions.len() as f64 / start.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}
