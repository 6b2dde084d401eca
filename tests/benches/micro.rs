//! Pieces of the work on one processor, to see what a change to one of them costs or gains.
//!
//! ```sh
//! cargo bench --workspace --bench micro [-- FILTER]
//! ```
//!
//! Whole pieces of work, beside OpenCLIP's, are `cargo xtask bench`'s.

use std::{hint::black_box, io::Cursor};

use burn::tensor::{Device, Distribution, Tensor};
use clip_data::{CropBox, ImageResizer, RgbImage, Tokenizer};
use clip_model::{
    Init,
    encoder::{Activation, Transformer},
    loss::{ContrastiveBatch, ContrastiveLoss},
};
use clip_zeroshot::{ImageIndex, IndexedImage};
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};

/// Of ViT-B/32.
const EMBED_DIM: usize = 512;

fn main() {
    divan::main();
}

/// As large as a photograph of Flickr or COCO: smooth, with some detail.
fn photograph() -> RgbImage {
    let (width, height) = (500, 375);
    let pixels = (0..width * height * 3)
        .map(|at| {
            let (x, y) = (at / 3 % width, at / 3 / width);
            let wave = (x as f32 / 30.0).sin() * (y as f32 / 20.0).cos();
            (128.0 + 90.0 * wave) as u8 ^ (x * y % 8) as u8
        })
        .collect();
    RgbImage {
        width,
        height,
        pixels,
    }
}

#[divan::bench]
fn decode_jpeg(bencher: Bencher<'_, '_>) {
    let photograph = photograph();
    let (width, height) = (photograph.width as u32, photograph.height as u32);
    let image = image::RgbImage::from_raw(width, height, photograph.pixels);
    let mut jpeg = Vec::new();
    image
        .expect("as many bytes as pixels")
        .write_to(&mut Cursor::new(&mut jpeg), image::ImageFormat::Jpeg)
        .expect("memory can be written to");
    bencher
        .counter(BytesCount::of_slice(&jpeg))
        .bench(|| clip_data::decode(black_box(&jpeg)).expect("it was encoded above"));
}

#[divan::bench(args = [96, 224])]
fn crop_and_resize(bencher: Bencher<'_, '_>, size: usize) {
    let photograph = photograph();
    let part = CropBox {
        left: 10,
        top: 12,
        width: 470,
        height: 350,
    };
    bencher
        .with_inputs(|| ImageResizer::new(size))
        .bench_local_refs(|resizer| resizer.crop(black_box(&photograph), part));
}

#[divan::bench]
fn tokenize(bencher: Bencher<'_, '_>) {
    const CAPTION: &str = "A child in a pink dress is climbing up a set of stairs in an entry way.";
    let tokenizer = Tokenizer::clip();
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench(|| tokenizer.encode(black_box(CAPTION), 77));
}

/// Forward and backward pass of one of ViT-Mini-16-96's blocks.
#[divan::bench(args = [32, 128])]
fn residual_block(bencher: Bencher<'_, '_>, batch: usize) {
    let device = Device::flex().autodiff();
    let mut init = Init::new(0, &device);
    let block = Transformer::init_default(256, 1, 4, 1024, Activation::Gelu, &mut init);
    let x = Tensor::<3>::random([batch, 37, 256], Distribution::Default, &device).require_grad();
    bencher
        .counter(ItemsCount::new(batch))
        .bench_local(|| block.forward(x.clone(), None, None).sum().backward());
}

#[divan::bench(args = [256, 1024])]
fn infonce_and_gradients(bencher: Bencher<'_, '_>, batch: usize) {
    let device = Device::flex();
    let features =
        || Tensor::<2>::random([batch, EMBED_DIM], Distribution::Normal(0.0, 1.0), &device);
    let pairs = ContrastiveBatch::new(features(), features(), Tensor::from_floats([3.0], &device));
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let found = ContrastiveLoss::default().with_gradients(pairs.clone());
        found.loss.into_scalar::<f32>()
    });
}

#[divan::bench(args = [1_000, 100_000])]
fn exact_search(bencher: Bencher<'_, '_>, images: usize) {
    let index = index(images);
    let query = index.feature(images / 2).to_vec();
    bencher
        .counter(ItemsCount::new(images))
        .bench(|| index.search(black_box(&query), 10));
}

fn index(images: usize) -> ImageIndex {
    let mut index = ImageIndex::new(String::new(), String::new(), EMBED_DIM);
    let present: Vec<_> = (0..images)
        .map(|at| IndexedImage {
            path: format!("{at:08}"),
            size: 0,
            changed: 0,
        })
        .collect();
    let feature = |at: usize| {
        (0..EMBED_DIM)
            .map(|number| ((at * 31 + number * 17) as f32).sin())
            .collect()
    };
    let encoded = present.iter().cloned().zip((0..images).map(feature));
    let encoded = encoded.collect();
    index.update(present, encoded);
    index
}
