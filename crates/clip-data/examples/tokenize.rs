//! Ids and speed of the tokenizer on the captions of shards, beside the crates `tokenizers` and `instant-clip-tokenizer`:
//!
//! ```text
//! cargo run --release -p clip-data --example tokenize -- 'flickr8k/train-{000000..000005}.tar'
//! ```
//!
//! All ids are compared with those of `tokenizers`, then each is timed on one thread, the best of several passes.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use clip_data::{Corpus, ShardSet, Tokenizer, clean_caption};

const PASSES: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shards = std::env::args().nth(1).ok_or("give shards")?;
    let corpus = Corpus {
        texts: Vec::new(),
        shards: Some(ShardSet::parse(&shards)?),
    };
    let mut captions = Vec::new();
    corpus.read(|caption| {
        captions.push(caption.to_owned());
        true
    })?;
    let own = Tokenizer::clip();
    let json = own.to_json();
    let theirs = json.parse::<tokenizers::Tokenizer>();
    let theirs = theirs.map_err(|error| error.to_string())?;
    for caption in &captions {
        let expected = theirs
            .encode(clean_caption(caption), true)
            .map_err(|error| error.to_string())?;
        if own.encode(caption, usize::MAX).ids != expected.get_ids() {
            return Err(format!("`{caption}` has other ids than those of `tokenizers`").into());
        }
    }
    println!("{} captions have the ids of `tokenizers`", captions.len());
    let instant = instant_clip_tokenizer::Tokenizer::new();
    let mut tokens = Vec::new();
    time("this tokenizer", &captions, |caption| {
        black_box(own.encode(caption, 77));
    });
    time("instant-clip-tokenizer", &captions, |caption| {
        tokens.clear();
        instant.encode(caption, &mut tokens);
        black_box(&tokens);
    });
    time("cleaning alone", &captions, |caption| {
        black_box(clean_caption(caption));
    });
    Ok(())
}

fn time(name: &str, captions: &[String], mut encode: impl FnMut(&str)) {
    let mut best = Duration::MAX;
    for _ in 0..PASSES {
        let start = Instant::now();
        for caption in captions {
            encode(caption);
        }
        best = best.min(start.elapsed());
    }
    let rate = captions.len() as f64 / best.as_secs_f64();
    println!("{name:>22}: {rate:9.0} captions a second on one thread");
}
