//! What a loss costs in its plain and in its tiled form, forward and backward: seconds, and memory beyond its operands.
//!
//!     cargo run --release -p clip-model --example loss_cost -- tiled 32768
//!     cargo run --release -p clip-model --example loss_cost -- both 1024 siglip
//!
//! Memory is the process's peak, so ask for one form at a time.

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use clip_model::loss::{ContrastiveBatch, ContrastiveLoss, InfoNce, SigLip};

#[global_allocator]
static ALLOCATOR: clip_alloc::ThreadCached = clip_alloc::ThreadCached;

/// Of ViT-B/32.
const EMBED_DIM: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    clip_alloc::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let form = args.first().map_or("both", String::as_str);
    let rows: usize = args.get(1).map_or(Ok(1024), |rows| rows.parse())?;
    let sigmoid = args.get(2).is_some_and(|loss| loss == "siglip");
    let repeats = if rows > 4096 { 1 } else { 30 };

    let device = Device::flex();
    let features =
        || Tensor::<2>::random([rows, EMBED_DIM], Distribution::Normal(0.0, 1.0), &device);
    let batch = ContrastiveBatch::new(features(), features(), Tensor::from_floats([3.0], &device))
        .with_bias(sigmoid.then(|| Tensor::from_floats([-10.0], &device)));
    let loss = if sigmoid {
        ContrastiveLoss::SigLip(SigLip::default())
    } else {
        ContrastiveLoss::InfoNce(InfoNce::default())
    };
    let tiled = || loss.with_gradients(batch.clone()).loss.into_scalar::<f32>();
    let plain = || {
        let mut batch = batch.clone();
        batch.image = batch.image.autodiff().require_grad();
        batch.text = batch.text.autodiff().require_grad();
        batch.logit_scale = batch.logit_scale.autodiff().require_grad();
        batch.logit_bias = batch.logit_bias.map(|bias| bias.autodiff().require_grad());
        let found = match loss {
            ContrastiveLoss::InfoNce(loss) => loss.forward(batch),
            ContrastiveLoss::SigLip(loss) => loss.forward(batch),
        };
        drop(found.backward());
        found.into_scalar::<f32>()
    };

    let before = peak_mb();
    let (mut fastest, mut value) = ([f64::INFINITY; 2], [f32::NAN; 2]);
    for _ in 0..repeats {
        // In turn, so that other work on the machine slows both.
        for (at, run) in [&tiled as &dyn Fn() -> f32, &plain].into_iter().enumerate() {
            if form == "both" || form == ["tiled", "plain"][at] {
                let began = Instant::now();
                value[at] = run();
                fastest[at] = fastest[at].min(began.elapsed().as_secs_f64());
            }
        }
    }
    for (at, name) in ["tiled", "plain"].into_iter().enumerate() {
        println!("{name}: {:.4} s, loss {:.5}", fastest[at], value[at]);
    }
    println!("peak memory: {:.0} MB more than before", peak_mb() - before);
    Ok(())
}

/// The most memory that the process has had, in MB; NaN where the system doesn't tell it as a file.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| 1024.0 * kib / 1e6)
}
