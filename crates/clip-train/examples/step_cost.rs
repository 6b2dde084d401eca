//! What a contrastive step costs: seconds, and memory beyond model and batch.
//!
//!     cargo run --release -p clip-train --example step_cost -- ViT-B-32 16
//!     cargo run --release -p clip-train --example step_cost -- ViT-B-32 16 recompute bf16 burn
//!     cargo run --release -p clip-train --example step_cost -- ViT-Nano-6-36 4096 chunk=256 threads=2
//!
//! `recompute` keeps the inputs of blocks and computes each again on the way back, `burn` asks Burn to do so for its
//! cheap operations, `patches` drops half of the patches, `f16` and `bf16` compute in those. `chunk` is the batch and
//! `threads` is 1, unless they are given.

use std::{error::Error, time::Instant};

use burn::tensor::Device;
use clip_data::Cursor;
use clip_model::{ClipConfig, ImageNorm, Precision};
use clip_train::{Captions, ContrastiveStep, Images, PairBatch, PatchDropout};

#[global_allocator]
static ALLOCATOR: clip_alloc::ThreadCached = clip_alloc::ThreadCached;

/// Tokens of each caption; those of photographs are about as long.
const TOKENS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    clip_alloc::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let preset = args.first().map_or("ViT-Mini-16-96", String::as_str);
    let rows: usize = args.get(1).map_or(Ok(32), |rows| rows.parse())?;
    let asked = |option: &str| args.iter().skip(2).any(|arg| arg == option);
    let number = |option: &str, default: usize| {
        let given = args.iter().find_map(|arg| arg.strip_prefix(option));
        given.map_or(Ok(default), str::parse)
    };

    let mut config = ClipConfig::load(preset)?;
    config.vision_cfg.patch_dropout = if asked("patches") { 0.5 } else { 0.0 };
    let mut device = Device::flex().autodiff();
    if asked("burn") {
        device = device.gradient_checkpointing();
    }
    let model = config.init(0, &device);
    let size = config.vision_cfg.image_size;
    let pixels = (0..rows * size * size * 3).map(|at| (at * 7919 % 1013) as u8);
    let images = Images::new(pixels.collect(), size, ImageNorm::default());
    let words = config.text_cfg.vocab_size - 1;
    let token = |at: usize| ((at % TOKENS + at / TOKENS) % words) as i32 + 1;
    let captions = Captions::new((0..rows * TOKENS).map(token).collect(), TOKENS);
    let dropout = PatchDropout::new(&config.vision_cfg, 0);
    let batch = PairBatch {
        patches: dropout.map(|dropout| dropout.draw(Cursor::default(), rows)),
        ..PairBatch::new(images, captions)
    };
    let precision = match (asked("bf16"), asked("f16")) {
        (true, _) => Precision::Bf16,
        (_, true) => Precision::F16,
        _ => Precision::F32,
    };
    let chunk = number("chunk=", rows)?;
    let step = ContrastiveStep::new(clip_model::loss::ContrastiveLoss::default(), chunk)
        .with_threads(number("threads=", 1)?)?
        .with_precision(precision)
        .with_recomputed_blocks(asked("recompute"));

    let before = peak_mb();
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        let found = step.gradients(&model, &batch);
        let loss = found.loss.into_scalar::<f32>();
        fastest = fastest.min(began.elapsed().as_secs_f64());
        println!("loss {loss:.5}");
    }
    println!(
        "{fastest:.3} s, peak memory: {:.0} MB more than before",
        peak_mb() - before
    );
    Ok(())
}

/// The most memory that the process has had, in MB; NaN where the system doesn't tell it as a file.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| 1024.0 * kib / 1e6)
}
