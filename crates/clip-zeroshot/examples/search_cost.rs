//! What a query of an index costs, exact and sketched, and how many of the nearest ten the sketch finds:
//! `cargo run --release --example search_cost -- ROWS CLUSTERS [WIDTH]`. Features are random, in clusters of random
//! centres, all off the origin as CLIP's are; the queries are drawn as the features are.

use std::{collections::HashMap, error::Error, time::Instant};

use clip_zeroshot::{Found, ImageIndex, IndexedImage};
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

    let start = Instant::now();
    let sketch = index.sketch();
    println!("sketched in {:.2} s", start.elapsed().as_secs_f64());
    for _ in 0..3 {
        let (exact, exact_ms) = timed(&queries, |query| index.search(query, TOP));
        let (sketched, ms) = timed(&queries, |query| index.search_sketched(&sketch, query, TOP));
        let kept = exact.iter().zip(&sketched).map(|(exact, sketched)| {
            let is_found = |one: &&Found| sketched.iter().any(|two| two.position == one.position);
            exact.iter().filter(is_found).count()
        });
        println!(
            "{rows} x {width}: exact {exact_ms:.1} ms, sketched {ms:.1} ms, recall@{TOP} {:.3}",
            kept.sum::<usize>() as f64 / (TOP * QUERIES) as f64
        );
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

fn timed(queries: &[Vec<f32>], search: impl Fn(&[f32]) -> Vec<Found>) -> (Vec<Vec<Found>>, f64) {
    let start = Instant::now();
    let found = queries.iter().map(|query| search(query)).collect();
    let ms = 1000.0 * start.elapsed().as_secs_f64() / queries.len() as f64;
    (found, ms)
}
