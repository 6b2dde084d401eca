//! What a dataset on disk promises, read back as training reads it.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use burn::data::dataloader::DataLoader;

use super::dataset::{CLASSES, TEMPLATES};
use super::split::{PairSplit, class_index};
use super::vocabulary::{Colour, Shape};
use super::*;
use crate::{
    EvalLoader, EvalNeeds, LoaderConfig, RawSample, ShardItem, ShardSet, Tokenizer, TrainLoader,
    decode,
};

struct Made {
    dataset: ShapesDataset,
    _dir: tempfile::TempDir,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let config = ShapesConfig {
        train: 1_500,
        val: 100,
        zeroshot: 400,
        ..ShapesConfig::default()
    };
    let dataset = generate(&config, &dir.path().join("shapes")).unwrap();
    Made { dataset, _dir: dir }
});

fn samples(pattern: &str) -> Vec<RawSample> {
    let shards = ShardSet::parse(pattern).unwrap();
    let items = (0..shards.len()).flat_map(|shard| shards.open(shard).unwrap());
    items
        .map(|item| match item {
            ShardItem::Sample(sample) => sample,
            ShardItem::Fault(kind, key) => panic!("{key}: {kind}"),
        })
        .collect()
}

/// The pairs of colour and shape that stand side by side in a caption, in any of their names.
fn pairs_named(caption: &str) -> Vec<(Colour, Shape)> {
    let has = |colour: Colour, shape: Shape| {
        colour.names().iter().any(|colour| {
            let names = shape.names().iter();
            names
                .into_iter()
                .any(|shape| caption.contains(&format!("{colour} {shape}")))
        })
    };
    let all = Colour::ALL
        .into_iter()
        .flat_map(|colour| Shape::ALL.map(|shape| (colour, shape)));
    all.filter(|&(colour, shape)| has(colour, shape)).collect()
}

#[test]
fn training_and_validation_never_name_an_unseen_pair() {
    let split = PairSplit::new();
    let mut named = BTreeSet::new();
    for pattern in [
        &MADE.dataset.train,
        &MADE.dataset.val,
        &MADE.dataset.zeroshot_seen,
    ] {
        for caption in samples(pattern).iter().flat_map(|sample| &sample.captions) {
            for pair in pairs_named(caption) {
                assert!(!split.unseen.contains(&pair), "{caption}");
                named.insert(pair);
            }
        }
    }
    assert_eq!(named.len(), split.seen.len());
}

#[test]
fn zero_shot_samples_have_the_class_of_their_caption() {
    let split = PairSplit::new();
    let names: Vec<&str> = CLASSES.lines().collect();
    for (pattern, pairs) in [
        (&MADE.dataset.zeroshot_seen, split.seen),
        (&MADE.dataset.zeroshot_unseen, split.unseen),
    ] {
        let samples = samples(pattern);
        assert_eq!(samples.len(), 400);
        let mut counts = vec![0; names.len()];
        for sample in samples {
            let class = sample.class.unwrap();
            counts[class] += 1;
            for pair in sample
                .captions
                .iter()
                .flat_map(|caption| pairs_named(caption))
            {
                assert_eq!(class_index(pair.0, pair.1), class, "{:?}", sample.captions);
            }
        }
        for (class, name) in names.iter().enumerate() {
            let is_in = pairs
                .iter()
                .any(|pair| class_index(pair.0, pair.1) == class);
            assert_eq!(
                counts[class],
                if is_in { 400 / pairs.len() } else { 0 },
                "{name}"
            );
        }
    }
    assert!(
        samples(&MADE.dataset.train)
            .iter()
            .all(|sample| sample.class.is_none())
    );
}

#[test]
fn samples_are_whole_and_all_different() {
    let mut images = BTreeSet::new();
    let mut keys = BTreeSet::new();
    let train = samples(&MADE.dataset.train);
    for sample in &train {
        let image = decode(&sample.image).unwrap();
        assert_eq!((image.width, image.height), (64, 64));
        assert_eq!(sample.captions.len(), 5);
        images.insert(&sample.image);
        keys.insert(&sample.key);
    }
    assert_eq!(
        (images.len(), keys.len(), train.len()),
        (1_500, 1_500, 1_500)
    );
}

#[test]
fn the_loaders_read_them_without_a_fault() {
    let config = LoaderConfig {
        batch: 100,
        image_size: 64,
        context_length: 32,
        ..LoaderConfig::default()
    };
    let captions = samples(&MADE.dataset.train)
        .into_iter()
        .flat_map(|sample| sample.captions);
    let tokenizer = Arc::new(Tokenizer::train(captions, 768).unwrap());
    let train = ShardSet::parse(&MADE.dataset.train).unwrap();
    let train = TrainLoader::new(train, tokenizer, config.clone()).unwrap();
    let batches = train.iter().take(15).map(Result::unwrap);
    assert_eq!(batches.map(|batch| batch.batch).sum::<usize>(), 1_500);
    let faults = train.faults();
    assert_eq!(
        (faults.bad(), faults.truncated_captions),
        (0, 0),
        "{faults:?}"
    );

    let unseen = ShardSet::parse(&MADE.dataset.zeroshot_unseen).unwrap();
    let unseen = EvalLoader::new(unseen, EvalNeeds::Classes, config).unwrap();
    let batches = unseen.iter().map(Result::unwrap);
    assert_eq!(batches.map(|batch| batch.classes.len()).sum::<usize>(), 400);
}

#[test]
fn classes_and_templates_lie_beside_the_shards() {
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&MADE.dataset.classes), CLASSES);
    assert_eq!(read(&MADE.dataset.templates), TEMPLATES);
    let mut templates = BTreeSet::new();
    for template in TEMPLATES.lines() {
        assert_eq!(template.matches("{}").count(), 1, "{template}");
        assert_eq!(template.matches(['{', '}']).count(), 2, "{template}");
        assert!(templates.insert(template), "{template} stands twice");
    }
}
