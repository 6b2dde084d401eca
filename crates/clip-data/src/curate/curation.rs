use std::{fmt::Write as _, path::Path};

use clip_files::NewFolder;
use rayon::prelude::*;

use super::{balance::Balance, matcher::Queries};
use crate::{
    DataError, FaultReport, ShardIndex, ShardItem, ShardLayout, ShardSet, faults::FaultLog,
    output::SampleWriter, scan::Chunks,
};

/// The table of queries in the folder of curated shards: how many pairs hold each before and after, tab-separated.
pub const TABLE_FILE: &str = "queries.tsv";

/// How pairs are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurateConfig {
    /// Pairs that a query takes at most, in expectation: the `t` of `MetaCLIP`. 20,000: CLIP section 2.2.
    pub per_query: u64,
    /// Decides which pairs.
    pub seed: u64,
    /// The shards to write.
    pub layout: ShardLayout,
}

impl Default for CurateConfig {
    fn default() -> Self {
        Self {
            per_query: 20_000,
            seed: 0,
            layout: ShardLayout::default(),
        }
    }
}

/// What [`curate`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curated {
    /// The new shards.
    pub index: ShardIndex,
    /// Pairs whose captions hold a query.
    pub matched: u64,
    /// Queries that no pair holds.
    pub unused: usize,
    /// Queries that more than [`CurateConfig::per_query`] pairs hold.
    pub frequent: usize,
    /// Samples read, and those left out because they can't be used.
    pub faults: FaultReport,
}

/// Keeps the pairs whose captions hold a query, balanced so that no query takes more than
/// [`CurateConfig::per_query`] of them in expectation, and writes them as new shards with a [`TABLE_FILE`].
///
/// Two passes: one counts the pairs of each query, by their captions alone, one draws. Each query takes each of its pairs
/// with probability `min(1, t / count)`, independently, and a pair that any query takes is kept, as `MetaCLIP` does. So the pairs that
/// *a query took* (column `taken`) are at most `t` in expectation, while those that *hold* it (`after`) may be more:
/// others took them.
///
/// Memory is bounded by the queries and a chunk of samples. The bytes depend on the samples, the queries and `config`
/// alone, not on threads.
///
/// # Errors
/// [`DataError::BadSetting`], [`DataError::Folder`], [`DataError::DuplicateKey`],
/// [`DataError::NothingUsable`], [`DataError::Unread`] if a shard could not be read to its end,
/// [`DataError::Queries`] if no caption holds a query or no query took a pair, and [`DataError::Io`].
pub fn curate(
    shards: &ShardSet,
    queries: &Queries,
    config: &CurateConfig,
    out: &Path,
) -> Result<Curated, DataError> {
    config.layout.validate()?;
    if config.per_query == 0 {
        return Err(DataError::setting(
            "per_query",
            0,
            "must be at least 1 pair",
        ));
    }
    let folder = NewFolder::create(out)?;
    config.layout.warn_of_shared_keys(shards);
    let (counts, matched) = count(shards, queries)?;
    if matched == 0 {
        return Err(DataError::Queries {
            origin: format!("{} queries", counts.len()),
            reason: "no caption holds any of them; check that they are the words of the captions"
                .to_owned(),
        });
    }
    let balance = Balance::new(config.seed, config.per_query, counts);
    let mut writer = SampleWriter::new(folder.path(), &config.layout);
    let (mut taken, mut after) = (
        vec![0; queries.queries().len()],
        vec![0; queries.queries().len()],
    );
    // Nothing is lost by leaving bad samples out, so no share of them is too many.
    let mut log = FaultLog::new(1.0);
    let mut first = 0;
    for chunk in Chunks::new(shards) {
        let chunk = chunk?;
        let read = chunk.len() as u64;
        let drawn: Vec<_> = chunk
            .into_par_iter()
            .enumerate()
            .map(|(place, (shard, item))| match item {
                ShardItem::Sample(sample) => {
                    let found = queries.find(&sample.captions);
                    let takers = balance.takers(first + place as u64, &found);
                    Ok((!takers.is_empty()).then_some((sample, found, takers)))
                }
                ShardItem::Fault(kind, key) => Err((shard, kind, key)),
            })
            .collect();
        for outcome in drawn {
            match outcome {
                Ok(kept) => {
                    log.good(false);
                    if let Some((sample, found, takers)) = kept {
                        tally(&mut after, &found);
                        tally(&mut taken, &takers);
                        writer.write(sample)?;
                    }
                }
                Err((shard, kind, key)) => log.fault(&shards.name(shard), kind, &key)?,
            }
        }
        first += read;
    }
    log.epoch(shards)?;
    let faults = log.take_fresh();
    faults.require_read()?;
    let index = writer.finish()?;
    if index.samples() == 0 {
        return Err(DataError::Queries {
            origin: format!("{} queries", queries.queries().len()),
            reason: format!(
                "none took a pair, of {matched} that hold one: raise `--per-query`, or see whether the pairs' images \
                 are bad ({} of {} samples are)",
                faults.bad(),
                faults.samples
            ),
        });
    }
    write_table(folder.path(), queries, [balance.counts(), &taken, &after])?;
    folder.publish()?;
    faults.warn_of_lost_ends();
    let of = |test: &dyn Fn(u64) -> bool| {
        balance
            .counts()
            .iter()
            .filter(|count| test(**count))
            .count()
    };
    Ok(Curated {
        index,
        matched,
        unused: of(&|count| count == 0),
        frequent: of(&|count| count > config.per_query),
        faults,
    })
}

/// Pairs of each query, and pairs with any query.
fn count(shards: &ShardSet, queries: &Queries) -> Result<(Vec<u64>, u64), DataError> {
    let mut bad = FaultReport::default();
    let mut counts = vec![0; queries.queries().len()];
    let (mut usable, mut matched) = (0_u64, 0);
    for chunk in Chunks::without_images(shards) {
        let found: Vec<_> = chunk?
            .into_par_iter()
            .map(|(shard, item)| match item {
                ShardItem::Sample(sample) => Ok(queries.find(&sample.captions)),
                ShardItem::Fault(kind, _) => Err((shard, kind)),
            })
            .collect();
        for found in found {
            match found {
                Ok(found) => {
                    usable += 1;
                    matched += u64::from(!found.is_empty());
                    tally(&mut counts, &found);
                }
                // The second pass, which sees more of them, reports them.
                Err((shard, kind)) => {
                    bad.fault(&shards.name(shard), kind);
                }
            }
        }
    }
    if usable == 0 {
        return Err(bad.nothing_usable(shards));
    }
    bad.require_read()?;
    Ok((counts, matched))
}

fn tally(counts: &mut [u64], queries: &[u32]) {
    for query in queries {
        counts[*query as usize] += 1;
    }
}

fn write_table(dir: &Path, queries: &Queries, columns: [&[u64]; 3]) -> Result<(), DataError> {
    let mut table = "query\tbefore\ttaken\tafter\n".to_owned();
    let [before, taken, after] = columns;
    for (at, query) in queries.queries().iter().enumerate() {
        // invariant: a string takes all that is written to it.
        writeln!(
            table,
            "{query}\t{}\t{}\t{}",
            before[at], taken[at], after[at]
        )
        .expect("invariant: a string takes any text");
    }
    Ok(clip_files::replace(
        &dir.join(TABLE_FILE),
        table.as_bytes(),
    )?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        FaultKind,
        testing::{Tar, write},
    };

    /// 300 pairs in two shards: all hold `photo`, every tenth `dog`, the 7th `rare bird`, and every fourth no caption.
    fn raw(dir: &tempfile::TempDir) -> ShardSet {
        let shard = |numbers: std::ops::Range<usize>| {
            numbers.fold(Tar::new(), |tar, n| {
                let mut caption = if n % 3 == 0 {
                    "nothing".to_owned()
                } else {
                    format!("Photo {n}")
                };
                if n % 10 == 0 {
                    caption += ", dog";
                }
                if n == 7 {
                    caption += " of a rare bird!";
                }
                let tar = tar.file(&format!("k{n}.png"), b"\x89PNG\r\n\x1a\n");
                if n % 4 == 3 && n != 7 {
                    return tar;
                }
                tar.file(&format!("k{n}.txt"), caption.as_bytes())
            })
        };
        let paths = [0..200, 200..300].map(|numbers| {
            let name = format!("{}.tar", numbers.start);
            write(dir, &name, &shard(numbers).bytes())
        });
        ShardSet::from_paths(paths.to_vec())
    }

    fn queries() -> Queries {
        Queries::new(["photo", "dog", "rare bird", "cat"], "test").unwrap()
    }

    fn config(per_query: u64, seed: u64) -> CurateConfig {
        CurateConfig {
            per_query,
            seed,
            ..CurateConfig::default()
        }
    }

    #[test]
    fn pairs_with_a_query_are_kept_and_frequent_queries_thinned() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let made = curate(&raw(&dir), &queries(), &config(40, 1), &out).unwrap();
        assert_eq!(
            (made.unused, made.frequent, made.faults.samples),
            (1, 1, 300)
        );
        let table = fs::read_to_string(out.join(TABLE_FILE)).unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split('\t').collect())
            .collect();
        assert_eq!(rows[0], ["query", "before", "taken", "after"]);
        let row = |at: usize| {
            rows[at][1..]
                .iter()
                .map(|n| n.parse().unwrap())
                .collect::<Vec<u64>>()
        };
        // 150 of 300 have a `photo` and a caption. Four standard deviations around 40.
        assert!(
            (40 - 22..=40 + 22).contains(&row(1)[1]) && row(1)[2] >= row(1)[1],
            "{table}"
        );
        let dogs = row(2);
        assert!(
            dogs[0] < 40 && dogs[1] == dogs[0] && dogs[2] == dogs[0],
            "{table}"
        );
        assert_eq!((row(3), row(4)), (vec![1, 1, 1], vec![0, 0, 0]));
        assert!(made.index.samples() < made.matched && made.index.samples() >= row(1)[2]);
        let whole = curate(
            &raw(&dir),
            &queries(),
            &config(1000, 1),
            &dir.path().join("all"),
        )
        .unwrap();
        assert_eq!(whole.index.samples(), whole.matched);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let set = raw(&dir);
        let made = |threads: usize, seed: u64| {
            let out = dir.path().join(format!("{threads} {seed}"));
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| curate(&set, &queries(), &config(40, seed), &out))
                .unwrap();
            let read = |name: &str| fs::read(out.join(name)).unwrap();
            (
                read("shard-000000.tar"),
                read(TABLE_FILE),
                read("index.json"),
            )
        };
        let one = made(1, 3);
        assert!(one == made(4, 3));
        assert!(one != made(1, 4));
    }

    #[test]
    fn a_pair_without_its_image_is_counted_and_left_out() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "a.png", b"\x89PNG\r\n\x1a\n");
        let rows = b"filepath,title\na.png,a photo\ngone.png,another photo\n";
        let table = write(&dir, "t.csv", rows).display().to_string();
        let set = ShardSet::parse(&table).unwrap();
        let made = curate(&set, &queries(), &config(40, 0), &dir.path().join("out")).unwrap();
        assert_eq!((made.matched, made.index.samples()), (2, 1));
        assert_eq!(made.faults.kinds()[&FaultKind::UnreadableFile], 1);
        assert_eq!(made.faults.samples, 2);

        // The only pair that a query could take.
        let rows = b"filepath,title\na.png,nothing\ngone.png,a photo\n";
        let table = write(&dir, "u.csv", rows).display().to_string();
        let set = ShardSet::parse(&table).unwrap();
        let none = dir.path().join("none");
        let error = curate(&set, &queries(), &config(40, 0), &none).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("none took a pair, of 1 that hold one: raise `--per-query`")
                && error.contains("1 of 2 samples"),
            "{error}"
        );
        assert!(!none.exists());
    }

    #[test]
    fn what_cannot_be_curated_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let set = raw(&dir);
        let out = dir.path().join("out");
        let refused = |queries: &Queries, config: &CurateConfig| {
            curate(&set, queries, config, &out).unwrap_err().to_string()
        };
        let other = Queries::new(["zebra"], "test").unwrap();
        assert!(refused(&other, &config(1, 0)).contains("no caption holds any"));
        assert!(refused(&queries(), &config(0, 0)).contains("at least 1 pair"));
        assert!(!out.exists());
    }
}
