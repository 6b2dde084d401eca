//! What an exact query of an index costs: `cargo run --release --example search_cost -- ROWS CLUSTERS [WIDTH]`. Features are
//! random, in clusters of random centres; the queries are drawn as the features are.

use std::{collections::HashMap, error::Error, time::Instant};

use clip_zeroshot::{ImageIndex, IndexedImage};
use rand::{Rng, RngExt, SeedableRng};

const QUERIES: usize = 20;
const TOP: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<usize> = std::env::args()
        .skip(1)
        .map(|arg| arg.parse())
        .collect::<Result<_, _>>()?;
    let (rows, clusters, width) = match *args.as_slice() {
        [rows, clusters] => (rows, clusters, 512),
        [rows, clusters, width] => (rows, clusters, width),
        _ => return Err("usage: search_cost ROWS CLUSTERS [WIDTH]".into()),
    };
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let shift = random(&mut rng, width);
    let centres: Vec<Vec<f32>> = (0..clusters)
        .map(|_| sum(&shift, &random(&mut rng, width)))
        .collect();
    let mut feature = |at: usize| sum(&centres[at % clusters], &random(&mut rng, width));

    let mut index = ImageIndex::new(String::new(), String::new(), width);
    let images: Vec<IndexedImage> = (0..rows)
        .map(|at| IndexedImage {
            path: format!("{at:08}"),
            size: 0,
            changed: 0,
        })
        .collect();
    let encoded: HashMap<_, _> = images
        .iter()
        .cloned()
        .enumerate()
        .map(|(at, image)| (image, feature(at)))
        .collect();
    index.update(images, encoded);
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|at| feature(at * 7)).collect();

    for _ in 0..3 {
        let start = Instant::now();
        for query in &queries {
            std::hint::black_box(index.search(query, TOP));
        }
        let ms = 1000.0 * start.elapsed().as_secs_f64() / QUERIES as f64;
        println!("{rows} x {width}: {ms:.1} ms a query");
    }
    Ok(())
}

fn random(rng: &mut impl Rng, width: usize) -> Vec<f32> {
    // The sum of four is near enough to normal.
    let mut one = || (0..4).map(|_| rng.random_range(-1.0..1.0)).sum();
    (0..width).map(|_| one()).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
