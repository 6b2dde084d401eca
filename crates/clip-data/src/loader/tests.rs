use std::{collections::BTreeMap, path::Path, sync::Arc};

use burn::data::dataloader::DataLoader;

use super::*;
use crate::{
    Cursor, DataError, FaultKind, ShardSet, Tokenizer,
    order::{Purpose, below, stream},
    testing::{Tar, png, shards, sources, write},
};

fn tokenizer() -> Arc<Tokenizer> {
    static CLIP: std::sync::LazyLock<Arc<Tokenizer>> =
        std::sync::LazyLock::new(|| Arc::new(Tokenizer::clip()));
    Arc::clone(&CLIP)
}

fn config(batch: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch,
        workers,
        image_size: 4,
        seed: 11,
        shuffle_buffer: 20,
        ..LoaderConfig::default()
    }
}

fn train(shards: &ShardSet, config: LoaderConfig) -> TrainLoader {
    TrainLoader::new(shards.clone(), tokenizer(), config).unwrap()
}

fn take(loader: &TrainLoader, batches: usize) -> Vec<ImageTextBatch> {
    let taken: Result<Vec<_>, _> = loader.iter().take(batches).collect();
    taken.unwrap()
}

/// The samples' numbers, which their pictures show.
fn numbers(batches: &[ImageTextBatch]) -> Vec<u8> {
    let images = batches
        .iter()
        .flat_map(|batch| batch.images.chunks(4 * 4 * 3));
    images.map(|image| image[0]).collect()
}

/// Fifty random numbers of workers and places to cut, each with its own memory and prefetch.
fn check_resumption(shards: &ShardSet, with_replacement: bool) {
    let config = |workers| LoaderConfig {
        with_replacement,
        ..config(4, workers)
    };
    let whole = take(&train(shards, config(3)), 40);
    let mut rng = stream(1, 0, Purpose::Shuffle, 0);
    for _ in 0..50 {
        let workers = 1 + below(&mut rng, 6) as usize;
        let cut = below(&mut rng, 36) as usize;
        let mut config = config(workers);
        // Some streams can hold almost nothing in memory; that must not show.
        config.shuffle_bytes = [usize::MAX, 600, 0][cut % 3];
        config.prefetch = 1 + cut % 4;
        let first = train(shards, config.clone());
        let begun = take(&first, cut);
        assert_eq!(begun, whole[..cut], "{workers} workers");
        let cursor: Cursor =
            serde_json::from_str(&serde_json::to_string(&first.cursor()).unwrap()).unwrap();
        let resumed = train(shards, config).starting_at(cursor).unwrap();
        assert_eq!(
            take(&resumed, 4),
            whole[cut..cut + 4],
            "{workers} workers, cut {cut}"
        );
    }
}

#[test]
fn a_resumed_stream_is_the_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    check_resumption(&shards(&dir, &[17, 0, 30, 5, 9]), false);
}

#[test]
fn a_resumed_stream_of_all_sources_is_the_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let sources = sources(&dir);
    check_resumption(&ShardSet::parse(&sources.join("::")).unwrap(), false);
    let weighted = sources.join("#weight=1.5::");
    let weighted = ShardSet::parse(&weighted).unwrap();
    check_resumption(&weighted, true);
}

#[test]
fn replicas_train_on_different_samples_and_together_on_all() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&dir, &[17, 30, 5]);
    let mut seen = Vec::new();
    for rank in 0..3 {
        let config = LoaderConfig {
            rank,
            world_size: 3,
            ..config(1, 2)
        };
        for batch in train(&shards, config).iter().map(Result::unwrap) {
            seen.extend(numbers(std::slice::from_ref(&batch)));
            if batch.cursor.epoch == 1 {
                break;
            }
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..52).collect::<Vec<u8>>());
}

#[test]
fn upsampled_shards_come_oftener() {
    let dir = tempfile::tempdir().unwrap();
    let set = shards(&dir, &[4, 8]);
    let list = format!("{}#weight=3::{}", set.name(0), set.name(1));
    let set = ShardSet::parse(&list).unwrap();
    let loader = train(&set, config(4, 2));
    assert_eq!(loader.samples_per_epoch(), 20);
    let mut found = numbers(&take(&loader, 5));
    found.sort_unstable();
    assert_eq!(
        found,
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    );
}

#[test]
fn a_position_in_other_shards_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let set = shards(&dir, &[17, 9]);
    let first = train(&set, config(4, 2));
    take(&first, 2);
    let other = ShardSet::from_paths(vec![set.name(1).into(), set.name(0).into()]);
    let error = train(&other, config(4, 2)).starting_at(first.cursor());
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("2 shards of 26 samples") && error.contains("s-1.tar"),
        "{error}"
    );
    // The same files in another folder are the same data.
    let moved = tempfile::tempdir().unwrap();
    for shard in 0..2 {
        let name = set.name(shard);
        let to = moved.path().join(format!("s-{shard}.tar"));
        std::fs::copy(name, to).unwrap();
    }
    let list = format!("{}/s-{{0..1}}.tar", moved.path().display());
    let moved = ShardSet::parse(&list).unwrap();
    train(&moved, config(4, 2))
        .starting_at(first.cursor())
        .unwrap();
}

#[test]
fn iterating_again_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&dir, &[17, 9]);
    let whole = take(&train(&shards, config(4, 2)), 10);
    let loader = train(&shards, config(4, 2));
    let mut pieces = take(&loader, 3);
    pieces.extend(take(&loader, 7));
    assert_eq!(pieces, whole);
}

#[test]
fn every_epoch_holds_each_sample_once_and_batches_span_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let loader = train(&shards(&dir, &[17, 30, 5]), config(8, 2));
    // 52 samples in batches of 8: two epochs are 13 batches.
    let batches = take(&loader, 26);
    let numbers = numbers(&batches);
    let mut orders = Vec::new();
    for epoch in numbers.chunks(52) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..52).collect::<Vec<u8>>());
        orders.push(epoch.to_vec());
    }
    orders.sort();
    orders.dedup();
    assert_eq!(orders.len(), 4, "every epoch has its own order");
    let place = |batch: usize| (batches[batch].cursor.epoch, batches[batch].cursor.drawn);
    assert_eq!(place(12), (2, 0));
    assert_eq!(place(6), (1, 4));
    assert_eq!((loader.faults().samples, loader.faults().epochs), (208, 4));
}

#[test]
fn seeds_differ_and_captions_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&dir, &[20]);
    let other = LoaderConfig {
        seed: 12,
        ..config(20, 1)
    };
    let (ours, others) = (
        take(&train(&shards, config(20, 1)), 8),
        take(&train(&shards, other), 8),
    );
    assert_ne!(numbers(&ours), numbers(&others));
    // Each sample has a short and a long caption; over eight visits both are drawn.
    let lengths = |batch: &ImageTextBatch| {
        batch
            .tokens
            .chunks(batch.tokens_per_caption)
            .map(|ids| ids.iter().filter(|id| **id != 0).count())
            .collect::<Vec<_>>()
    };
    let mut drawn: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for batch in &ours {
        for (number, length) in numbers(std::slice::from_ref(batch))
            .iter()
            .zip(lengths(batch))
        {
            drawn.entry(*number).or_default().push(length);
        }
    }
    let both = drawn
        .values()
        .filter(|all| all.iter().min() != all.iter().max());
    assert!(both.count() >= 18, "{drawn:?}");
}

#[test]
fn captions_are_padded_to_the_longest_of_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let long = "red ".repeat(90);
    let tar = Tar::new()
        .file("a.png", &png(1))
        .file("a.txt", b"a dog")
        .file("b.png", &png(2))
        .file(
            "b.txt",
            "\u{72ac}\u{304c} \u{8d70}\u{308b} \u{1f415}".as_bytes(),
        )
        .file("c.png", &png(3))
        .file("c.txt", long.as_bytes());
    let path = write(&dir, "a.tar", &tar.bytes());
    let mut config = config(3, 1);
    config.context_length = 16;
    let loader = train(&ShardSet::from_paths(vec![path]), config);
    let batch = take(&loader, 1).remove(0);
    assert_eq!((batch.tokens_per_caption, batch.tokens.len()), (16, 48));
    for (number, ids) in numbers(std::slice::from_ref(&batch))
        .iter()
        .zip(batch.tokens.chunks(16))
    {
        let end = ids.iter().position(|id| *id == 49_407).unwrap();
        assert_eq!(ids[0], 49_406);
        assert!(ids[end + 1..].iter().all(|id| *id == 0));
        match number {
            1 => assert_eq!(end, 3),
            2 => assert!(end > 3),
            _ => assert_eq!(end, 15),
        }
    }
    assert_eq!(loader.faults().truncated_captions, 1);
}

/// Two good samples around every kind of bad one, and a cut-off end.
fn damaged(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let mut half = png(7);
    half.truncate(half.len() / 2);
    let bytes = Tar::new()
        .file("good1.png", &png(1))
        .file("good1.txt", b"one")
        .file("broken.png", &half)
        .file("broken.txt", b"broken")
        .file("wordless.png", &png(3))
        .file("classed.png", &png(4))
        .file("classed.cls", b"5")
        .file("imageless.txt", b"no image")
        .file("good2.png", &png(2))
        .file("good2.txt", b"two")
        .file("lost.png", &png(9))
        .bytes();
    write(dir, "damaged.tar", &bytes[..bytes.len() - 1024 - 480])
}

fn counted(path: &Path, faults: &crate::FaultReport) -> Vec<(FaultKind, u64)> {
    let kinds = &faults.shards[&path.display().to_string()];
    kinds.iter().map(|(kind, count)| (*kind, *count)).collect()
}

#[test]
fn bad_samples_are_skipped_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = damaged(&dir);
    let shards = ShardSet::from_paths(vec![path.clone()]);
    let mut config = config(2, 2);
    config.max_bad_share = 0.8;
    let loader = train(&shards, config.clone());
    let mut found = numbers(&take(&loader, 1));
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
    // To the end of the first epoch and on.
    take(&loader, 3);
    let kinds = counted(&path, &loader.faults());
    let all = [
        FaultKind::NoCaption,
        FaultKind::NoImage,
        FaultKind::Undecodable,
        FaultKind::TruncatedShard,
    ];
    assert_eq!(kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), all);

    let eval = EvalLoader::new(shards, EvalNeeds::Captions, config).unwrap();
    let batches: Vec<EvalBatch> = eval.iter().map(Result::unwrap).collect();
    assert_eq!(batches[0].keys, ["good1", "good2"]);
    let counts = counted(&path, &eval.faults());
    assert_eq!(
        counts,
        all.map(|kind| (kind, if kind == FaultKind::NoCaption { 2 } else { 1 }))
    );
}

#[test]
fn a_run_resumed_before_its_bad_samples_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(shards(&dir, &[10]).name(0)).unwrap();
    let bad = Tar::new().file("wordless.png", &png(11)).bytes();
    let set = ShardSet::from_paths(vec![
        write(&dir, "good.tar", &good),
        write(&dir, "bad.tar", &bad),
    ]);
    // 1 of 11 is fewer than may be bad, and more of any shorter rest that holds it; to the end of the next epoch too.
    for seed in 0..4 {
        let config = LoaderConfig {
            seed,
            ..config(1, 1)
        };
        let whole = take(&train(&set, config.clone()), 24);
        for (cut, batch) in whole[..10].iter().enumerate() {
            let resumed = train(&set, config.clone()).starting_at(batch.cursor);
            let rest = take(&resumed.unwrap(), 23 - cut);
            assert_eq!(rest, whole[cut + 1..], "seed {seed}, cut {cut}");
        }
    }
}

#[test]
fn too_many_bad_samples_end_the_stream_and_name_the_shard() {
    let dir = tempfile::tempdir().unwrap();
    let path = damaged(&dir);
    let set = shards(&dir, &[10]);
    let paths = vec![set.name(0).into(), path];
    let loader = train(&ShardSet::from_paths(paths), config(4, 2));
    let mut iter = loader.iter();
    let error = iter.by_ref().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("5 of 17 samples are unusable"), "{error}");
    assert!(error.contains("damaged.tar (2 no caption"), "{error}");
    assert!(iter.next().is_none());
    assert_eq!(loader.faults().bad(), 5);
}

#[test]
fn a_batch_larger_than_the_data_and_a_wrong_cursor_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&dir, &[3]);
    let error = TrainLoader::new(shards.clone(), tokenizer(), config(4, 1))
        .err()
        .unwrap();
    assert!(matches!(
        error,
        DataError::BatchTooLarge {
            batch: 4,
            samples: 3
        }
    ));
    let cursor = Cursor {
        drawn: 3,
        ..Cursor::default()
    };
    let error = train(&shards, config(2, 1))
        .starting_at(cursor)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("the shards that the run began with")
    );
}

#[test]
fn a_shard_that_vanishes_or_grows_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let set = shards(&dir, &[3, 8]);
    let mut config = config(4, 1);
    config.max_bad_share = 0.5;
    let loader = train(&set, config.clone());
    std::fs::remove_file(set.name(0)).unwrap();
    take(&loader, 2);
    take(&loader, 2);
    let lost = counted(Path::new(&set.name(0)), &loader.faults())[0];
    assert!(
        lost.0 == FaultKind::UnreadableShard && lost.1 >= 3,
        "{lost:?}"
    );

    // The last shard of an epoch, which is followed by none, as well.
    for (before, after) in [(&[3, 8][..], &[4, 8][..]), (&[8], &[9])] {
        let set = shards(&dir, before);
        let loader = train(&set, config.clone());
        shards(&dir, after);
        let mut batches = loader.iter().take(2 * before.len());
        let error = batches.find_map(Result::err).unwrap().to_string();
        let grew = format!("grew beyond the {} samples", before[0]);
        assert!(error.contains(&grew), "{error}");
    }
}

#[test]
fn evaluation_keeps_the_shards_order_and_the_last_few() {
    let dir = tempfile::tempdir().unwrap();
    let set = shards(&dir, &[5, 6]);
    for workers in [1, 3] {
        let eval = EvalLoader::new(set.clone(), EvalNeeds::Either, config(4, workers)).unwrap();
        let mut iter = eval.iter();
        let batches: Vec<EvalBatch> = iter.by_ref().map(Result::unwrap).collect();
        assert_eq!(
            batches.iter().map(|batch| batch.batch).collect::<Vec<_>>(),
            [4, 4, 3]
        );
        let keys: Vec<String> = batches
            .iter()
            .flat_map(|batch| batch.keys.clone())
            .collect();
        assert_eq!(
            keys,
            (0..11)
                .map(|number| format!("k{number}"))
                .collect::<Vec<_>>()
        );
        assert_eq!(batches[2].captions[2], ["10", "10b"]);
        assert_eq!(batches[2].images.len(), 3 * 4 * 4 * 3);
        assert!(iter.progress().is_completed());
    }
}

#[test]
fn a_set_to_evaluate_on_is_read_up_to_its_first_usable_sample() {
    let dir = tempfile::tempdir().unwrap();
    let bad = Tar::new()
        .file("a.png", &png(1))
        .file("b.png", b"no image")
        .file("b.txt", b"two");
    let bad = write(&dir, "bad.tar", &bad.bytes());
    let good = Tar::new().file("c.png", &png(3)).file("c.txt", b"three");
    let good = write(&dir, "good.tar", &good.bytes());
    let required = |paths: &[&Path], needs| {
        let set = ShardSet::from_paths(paths.iter().map(|path| path.to_path_buf()).collect());
        EvalLoader::new(set, needs, config(4, 1))
            .unwrap()
            .require_usable()
    };
    required(&[&bad, &good], EvalNeeds::Captions).unwrap();
    for (paths, needs, worst) in [
        (
            &[bad.as_path()][..],
            EvalNeeds::Captions,
            "bad.tar (1 no caption, 1 undecodable image)",
        ),
        (
            &[good.as_path()],
            EvalNeeds::Classes,
            "good.tar (1 no class)",
        ),
        (&[bad.as_path()], EvalNeeds::Classes, "bad.tar (2 no class)"),
    ] {
        let error = required(paths, needs).unwrap_err().to_string();
        assert!(error.ends_with(worst), "{error}");
    }
}

#[test]
fn slices_share_the_data_without_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let set = shards(&dir, &[5, 6, 3]);
    let eval = EvalLoader::new(set.clone(), EvalNeeds::Either, config(4, 1)).unwrap();
    let loader = train(&set, config(1, 1));
    let mut keys = Vec::new();
    let mut trained = Vec::new();
    for (start, end) in [(0, 4), (4, 12), (12, 14)] {
        let slice = eval.slice(start, end);
        assert_eq!(slice.num_items(), end - start);
        keys.extend(slice.iter().flat_map(|batch| batch.unwrap().keys));
        let slice = loader.slice(start, end);
        let batches: Result<Vec<_>, _> = slice.iter().take(end - start).collect();
        trained.extend(numbers(&batches.unwrap()));
    }
    assert_eq!(
        keys,
        (0..14)
            .map(|number| format!("k{number}"))
            .collect::<Vec<_>>()
    );
    trained.sort_unstable();
    assert_eq!(trained, (0..14).collect::<Vec<u8>>());
}
