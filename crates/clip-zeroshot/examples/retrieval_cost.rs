//! Time and peak memory of ranking random features of 512 numbers, kept as f16, against each other:
//! `cargo run --release --example retrieval_cost -- IMAGES CAPTIONS`. `tests/reference/retrieval_cost.py` is PyTorch's side.

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Tensor, TensorData, f16};
use clip_zeroshot::retrieve;
use rand::{RngExt, SeedableRng};

const WIDTH: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<usize> = std::env::args()
        .skip(1)
        .map(|arg| arg.parse())
        .collect::<Result<_, _>>()?;
    let [images, captions] = *args.as_slice() else {
        return Err("usage: retrieval_cost IMAGES CAPTIONS".into());
    };
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let mut random = |rows: usize| -> Tensor<2> {
        let values: Vec<f16> = (0..rows * WIDTH)
            .map(|_| f16::from_f32(rng.random_range(-1.0..1.0)))
            .collect();
        let device = Device::flex();
        Tensor::from_data(
            TensorData::new(values, [rows, WIDTH]),
            (&device, burn::tensor::DType::F16),
        )
    };
    let (image_features, text_features) = (random(images), random(captions));
    let image_of_text: Vec<usize> = (0..captions).map(|text| text * images / captions).collect();
    let start = Instant::now();
    let found = retrieve(image_features, text_features, &image_of_text)?;
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{images} x {captions}: {seconds:.1} s, R@10 {:.5}, {:.5}; {}",
        found.report.i2t_r10,
        found.report.t2i_r10,
        peak.unwrap_or("peak memory unknown")
    );
    Ok(())
}
