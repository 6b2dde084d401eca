//! What queries of an index cost, exact and approximate ones: `cargo run --release --example search_cost -- ROWS CLUSTERS
//! [WIDTH]`. Features are random, in clusters of random centres, or without any for 0 clusters; the queries are drawn as the
//! features are. The index is written into the system's folder for temporary files.

use std::{collections::HashMap, error::Error, time::Instant};

use clip_zeroshot::{ApproximateIndex, Found, ImageIndex, IndexedImage};
use rand::{Rng, RngExt, SeedableRng};

const QUERIES: usize = 100;
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
    let mut feature = |at: usize| {
        let own = random(&mut rng, width);
        match centres.get(at % clusters.max(1)) {
            Some(centre) => sum(centre, &own),
            None => own,
        }
    };

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

    let exact = time("exact", &queries, |query| index.search(query, TOP));
    let file = tempfile::NamedTempFile::new()?;
    index.set_approximate(true);
    let start = Instant::now();
    index.save(file.path())?;
    let bytes = file.path().metadata()?.len() as f64;
    println!(
        "coded and written in {:.1} s, {:.0} MB",
        start.elapsed().as_secs_f64(),
        bytes / 1e6
    );
    drop(index);
    let start = Instant::now();
    let index = ApproximateIndex::open(file.path())?.ok_or("an index without codes")?;
    println!("opened in {:.2} s", start.elapsed().as_secs_f64());
    let mut fault = None;
    let found = time("approximate", &queries, |query| {
        index.search(query, TOP).unwrap_or_else(|error| {
            fault = Some(error);
            Vec::new()
        })
    });
    if let Some(error) = fault {
        return Err(error.into());
    }
    let hits = exact.iter().zip(&found).map(|(exact, found)| {
        let positions: Vec<usize> = found.iter().map(|found| found.position).collect();
        let found = exact.iter().filter(|one| positions.contains(&one.position));
        found.count()
    });
    println!(
        "recall@{TOP} {:.4}",
        hits.sum::<usize>() as f64 / (TOP * QUERIES) as f64
    );
    Ok(())
}

/// Prints the mean time of a query, three times over. Returns what the last round found.
fn time(
    what: &str,
    queries: &[Vec<f32>],
    mut search: impl FnMut(&[f32]) -> Vec<Found>,
) -> Vec<Vec<Found>> {
    let mut found = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        found = queries.iter().map(|query| search(query)).collect();
        let ms = 1000.0 * start.elapsed().as_secs_f64() / queries.len() as f64;
        println!("{what}: {ms:.2} ms a query");
    }
    found
}

fn random(rng: &mut impl Rng, width: usize) -> Vec<f32> {
    // The sum of four is near enough to normal.
    let mut one = || (0..4).map(|_| rng.random_range(-1.0..1.0)).sum();
    (0..width).map(|_| one()).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
