//! Images a second: `cargo run --release --example throughput -- SHARDS [SIZE]`.
//!
//! Reads all samples into memory, then times decoding, cropping and tokenizing apart, on one thread; all three together
//! on one thread and on all cores, each with images of its own, which is what the machine can do; and the loader with as
//! many workers, from the shards.

use std::{
    collections::BTreeMap,
    hint::black_box,
    num::NonZero,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use burn::data::dataloader::DataLoader;
use clip_data::{
    ImageResizer, LoaderConfig, RandomResizedCrop, RawSample, ShardItem, ShardSet, Tokenizer,
    TrainLoader, decode,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

type Times = BTreeMap<&'static str, Duration>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let shards = ShardSet::parse(&args.next().ok_or("give shards")?)?;
    let size: usize = args.next().map_or(Ok(224), |size| size.parse())?;
    let mut samples: Vec<RawSample> = Vec::new();
    for shard in 0..shards.len() {
        samples.extend(shards.open(shard)?.filter_map(|item| match item {
            ShardItem::Sample(sample) => Some(sample),
            ShardItem::Fault(..) => None,
        }));
    }
    let tokenizer = Arc::new(Tokenizer::clip());
    let stages = each_stage(&samples, size, &tokenizer)?;
    for (stage, time) in stages {
        let rate = samples.len() as f64 / time.as_secs_f64();
        println!("{stage:>9}: {rate:9.0} a second on one thread");
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    for threads in [1, cores] {
        let bare = on_threads(threads, &samples, size, &tokenizer)?;
        let loaded = through_loader(threads, &shards, samples.len(), size, &tokenizer)?;
        println!(
            "{threads:>2} at once: {bare:9.0} a second of all three, {loaded:9.0} from the loader: {:.2}",
            loaded / bare
        );
    }
    Ok(())
}

/// How long each stage takes, of all samples one after the other.
fn each_stage(samples: &[RawSample], size: usize, tokenizer: &Tokenizer) -> Result<Times, String> {
    let mut resizer = ImageResizer::new(size);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut times = Times::new();
    for sample in samples {
        let start = Instant::now();
        let image = decode(&sample.image).map_err(|kind| kind.to_string())?;
        let decoded = Instant::now();
        let part = RandomResizedCrop::default().draw(image.width, image.height, &mut rng);
        black_box(resizer.crop(&image, part));
        let cropped = Instant::now();
        black_box(tokenizer.encode(&sample.captions[0], 77));
        *times.entry("decode").or_default() += decoded - start;
        *times.entry("crop").or_default() += cropped - decoded;
        *times.entry("tokenize").or_default() += cropped.elapsed();
    }
    Ok(times)
}

/// Samples a second of so many threads, each of which does all of them.
fn on_threads(
    threads: usize,
    samples: &[RawSample],
    size: usize,
    tokenizer: &Tokenizer,
) -> Result<f64, String> {
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| each_stage(samples, size, tokenizer)))
            .collect();
        // invariant: an error of the decoder is no panic.
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join().expect("invariant: stages return errors");
            done.map(drop)
        })
    })?;
    Ok((threads * samples.len()) as f64 / start.elapsed().as_secs_f64())
}

/// Samples a second of a loader that has started.
fn through_loader(
    workers: usize,
    shards: &ShardSet,
    samples: usize,
    size: usize,
    tokenizer: &Arc<Tokenizer>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let config = LoaderConfig {
        image_size: size,
        workers,
        batch: 64.min(samples),
        ..LoaderConfig::default()
    };
    // What was ready before it was asked for isn't counted: as much is at the end.
    let ahead = config.prefetch + 1;
    let loader = TrainLoader::new(shards.clone(), Arc::clone(tokenizer), config)?;
    let mut batches = loader.iter();
    for batch in batches.by_ref().take(ahead) {
        batch?;
    }
    let start = Instant::now();
    let mut images = 0;
    while images < workers * samples {
        images += batches.next().ok_or("the loader came to an end")??.batch;
    }
    Ok(images as f64 / start.elapsed().as_secs_f64())
}
