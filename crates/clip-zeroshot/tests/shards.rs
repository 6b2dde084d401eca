//! The bridge from a model and shards to the evaluations: it adds nothing to what they say of features.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, Tensor, Tolerance};
use clip_data::{EvalNeeds, FaultKind, LoaderConfig, ShardSet, Tokenizer};
use clip_model::{ClipConfig, ImageNorm, Precision};
use clip_zeroshot::{
    Bootstrap, ClassNames, Classifier, ClassifierHead, ClipEncoders, EncodeTexts, HeadKey,
    LabelSource, ShardFeatures, Templates, encode_all, evaluate_retrieval, evaluate_zeroshot,
    retrieve,
};

const NAMES: [&str; 3] = ["red square", "green square", "a blue square"];
/// Sums in another order: a batch of another size takes other kernels.
const ROUNDING: f64 = 1e-5;

fn config() -> ClipConfig {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32,
        "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540,
        "width": 16, "heads": 2, "layers": 1}}"#;
    ClipConfig::from_json(json, "test").unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train(NAMES.iter().map(|&name| name.to_owned()), 540).unwrap()
}

fn encoders(seed: u64) -> ClipEncoders {
    let (config, device) = (config(), Device::flex());
    let model = config.init(seed, &device);
    ClipEncoders::new(&config, &model, tokenizer(), ImageNorm::default()).unwrap()
}

/// Sample `n` shows colour `n % 3` in a strength of its own, and has that class and that name.
fn shard(path: &Path, samples: &[usize]) -> ShardSet {
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |name: String, body: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, body).unwrap();
    };
    for &sample in samples {
        let mut pixel = [20u8; 3];
        pixel[sample % 3] = 255 - 5 * sample as u8;
        let image = image::RgbImage::from_pixel(20, 18, image::Rgb(pixel));
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        file(format!("s{sample}.png"), &png.into_inner());
        file(
            format!("s{sample}.cls"),
            (sample % 3).to_string().as_bytes(),
        );
        let name = NAMES[sample % 3];
        let captions = format!(r#"{{"captions": ["{name}", "{name} number {sample}"]}}"#);
        file(format!("s{sample}.json"), captions.as_bytes());
    }
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
    ShardSet::from_paths(vec![path.to_owned()])
}

fn read(encoders: &ClipEncoders, shards: ShardSet, batch: usize) -> ShardFeatures {
    let config = LoaderConfig {
        batch,
        max_bad_share: 0.5,
        ..LoaderConfig::default()
    };
    let loader = encoders.loader(shards, EvalNeeds::Either, config).unwrap();
    encoders.encode_shards(&loader).unwrap()
}

fn assert_close(got: Tensor<2>, expected: Tensor<2>) {
    got.into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(ROUNDING));
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    (dir, path)
}

#[test]
fn retrieval_over_shards_is_that_over_their_features() {
    let (_dir, path) = temporary();
    let encoders = encoders(1);
    let shards = read(&encoders, shard(&path, &[0, 1, 2, 3, 4, 5, 6]), 3);
    assert_eq!(shards.keys[4], "s4");
    assert_eq!(shards.captions.len(), 14);
    assert_eq!(shards.image_of_caption[..5], [0, 0, 1, 1, 2]);
    assert_eq!(shards.first_caption(6), Some("red square"));
    let texts = encode_all(&encoders, &shards.captions, 4).unwrap();
    let expected = retrieve(shards.images.clone(), texts, &shards.image_of_caption).unwrap();
    let got = evaluate_retrieval(&encoders, &shards, DType::F32).unwrap();
    assert_eq!((got.report.images, got.report.captions), (7, 14));
    assert!((got.report.i2t_r10 - expected.report.i2t_r10).abs() < 1e-9);
    assert!((got.report.t2i_mean_rank - expected.report.t2i_mean_rank).abs() < 1e-9);
}

#[test]
fn order_and_batches_change_no_feature() {
    let (_dir, path) = temporary();
    let encoders = encoders(2);
    let forth = read(&encoders, shard(&path, &[0, 1, 2, 3, 4]), 2);
    let back = read(&encoders, shard(&path, &[4, 3, 2, 1, 0]), 64);
    assert_eq!(back.keys[0], "s4");
    assert_close(forth.images.flip([0]), back.images);
}

#[test]
fn a_text_is_the_same_alone_and_among_longer_ones() {
    let encoders = encoders(3);
    let texts = ["red", "a green square of many words"].map(str::to_owned);
    let together = encoders.encode_texts(&texts).unwrap();
    let alone = encoders.encode_texts(&texts[..1]).unwrap();
    assert_close(together.slice(0..1), alone);
}

#[test]
fn a_model_in_training_is_used_without_autodiff() {
    let (config, device) = (config(), Device::flex().autodiff());
    let model = config.init(4, &device);
    let half = ClipEncoders::new(&config, &model, tokenizer(), ImageNorm::default()).unwrap();
    assert!(!half.device().is_autodiff());
    let pixels = vec![90; 2 * 16 * 16 * 3];
    let features = half.encode_images(pixels.clone());
    assert!(!features.is_autodiff());
    assert_close(features, encoders(4).encode_images(pixels));
    let texts = half.encode_texts(&["red".to_owned()]).unwrap();
    assert!(!texts.is_autodiff());
}

#[test]
fn a_directory_gives_the_same_encoders_back() {
    let dir = tempfile::tempdir().unwrap();
    let saved = encoders(5);
    saved.save(dir.path()).unwrap();
    let name = dir.path().to_str().unwrap();
    let loaded = ClipEncoders::load(name, &Device::flex()).unwrap();
    let texts = NAMES.map(str::to_owned);
    let (expected, got) = (saved.encode_texts(&texts), loaded.encode_texts(&texts));
    assert_eq!(expected.unwrap().into_data(), got.unwrap().into_data());
    // The configuration says now where OpenCLIP finds the tokenizer, so it counts as another model.
    let again = ClipEncoders::load(name, &Device::flex()).unwrap();
    assert_eq!(loaded.model_hash(), again.model_hash());
    assert_ne!(encoders(5).model_hash(), encoders(6).model_hash());

    for (file, message) in [
        ("tokenizer.json", "it has no tokenizer.json"),
        (
            "open_clip_model.safetensors",
            "no open_clip_model.safetensors",
        ),
        ("open_clip_config.json", "it has no open_clip_config.json"),
    ] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
        let error = ClipEncoders::load(name, &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = ClipEncoders::load("ViT-Nano-6-36", &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("no vocabulary yet"), "{error}");
    let error = ClipEncoders::load("no/such", &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("no model `no/such`"), "{error}");
    for (name, import) in [
        ("ViT-B-32:openai", "`clip weights import ViT-B-32:openai "),
        ("ViT-B-32/openai", "`clip weights import ViT-B-32:openai "),
        ("hf-hub:a/b", "`clip weights import hf-hub:a/b "),
    ] {
        let error = ClipEncoders::load(name, &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(import), "{error}");
    }
}

#[test]
fn each_precision_is_a_model_of_its_own() {
    let (config, device) = (config(), Device::flex());
    // Zeros, which every type holds exactly.
    let model = config.init_blank(&device);
    let hash = |precision| {
        let encoders = ClipEncoders::new(&config, &model, tokenizer(), ImageNorm::default());
        encoders.unwrap().with_precision(precision).model_hash()
    };
    let [f32, bf16, f16] = [Precision::F32, Precision::Bf16, Precision::F16].map(hash);
    assert!(f32 != bf16 && f32 != f16 && bf16 != f16);
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    let config = config();
    let model = config.init(0, &Device::flex());
    let other = Tokenizer::train(["red".to_owned()].into_iter(), 560).unwrap();
    let error = ClipEncoders::new(&config, &model, other, ImageNorm::default()).unwrap_err();
    assert!(error.to_string().contains("has 560 tokens"), "{error}");
}

fn classifier(encoders: &ClipEncoders, names: &[&str]) -> Classifier {
    let names = ClassNames::from_list(names, "names").unwrap();
    let head = ClassifierHead::build(encoders, &names, &Templates::default()).unwrap();
    Classifier::new(head, encoders.temperature_factor())
}

#[test]
fn labels_are_class_numbers_or_captions() {
    let (_dir, path) = temporary();
    let encoders = encoders(7);
    let shards = read(&encoders, shard(&path, &[0, 1, 2, 3, 4, 5, 6]), 4);
    let head = classifier(&encoders, &NAMES);
    let report = |classifier: &Classifier, labels| {
        evaluate_zeroshot(&shards, classifier, labels, Bootstrap::default())
            .map(|evaluator| evaluator.report().unwrap())
    };
    let by_class = report(&head, LabelSource::Class).unwrap();
    assert_eq!(by_class.samples, 7);
    assert_eq!(report(&head, LabelSource::Caption).unwrap(), by_class);
    let predicted = head.top_k(shards.images.clone(), 1).unwrap();
    let hits = predicted
        .iter()
        .enumerate()
        .filter(|(sample, top)| top[0].class == sample % 3);
    assert!((by_class.top1 - hits.count() as f64 / 7.0).abs() < 1e-6);

    let mut sorted = NAMES.map(str::to_owned);
    sorted.sort();
    assert_eq!(shards.distinct_captions(), sorted);

    let two = classifier(&encoders, &NAMES[..2]);
    let error = report(&two, LabelSource::Class).unwrap_err().to_string();
    assert!(
        error.starts_with("sample `s2` has class 2, but there are only 2"),
        "{error}"
    );
    let error = report(&two, LabelSource::Caption).unwrap_err().to_string();
    assert!(
        error.contains("`s2` has the caption `a blue square`"),
        "{error}"
    );
}

#[test]
fn a_head_is_cached_by_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("head.safetensors");
    let names = ClassNames::from_list(&NAMES, "names").unwrap();
    let (templates, device) = (Templates::default(), Device::flex());
    let used = |seed| {
        let encoders = encoders(seed);
        let head =
            ClassifierHead::load_or_build(&path, &encoders, &names, &templates, &device).unwrap();
        head.1
    };
    assert_eq!(
        [used(8), used(8), used(9), used(9)],
        [false, true, false, true]
    );
    let key = HeadKey::new(&encoders(9), &names, &templates);
    ClassifierHead::load(&path, &key, &device).unwrap();
}

#[test]
fn what_cannot_be_used_is_counted_in_its_own_pass() {
    let (_dir, path) = temporary();
    let encoders = encoders(10);
    let shards = shard(&path, &[0, 1, 2]);
    let mut bytes = std::fs::read(&path).unwrap();
    // A byte of the first image's own data, after its header.
    bytes[512 + 40] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let config = LoaderConfig {
        max_bad_share: 0.5,
        ..LoaderConfig::default()
    };
    let loader = encoders
        .loader(shards, EvalNeeds::Captions, config)
        .unwrap();
    for _ in 0..2 {
        let features = encoders.encode_shards(&loader).unwrap();
        assert_eq!(features.keys, ["s1", "s2"]);
        assert_eq!(features.faults.samples, 3);
        assert_eq!(features.faults.kinds()[&FaultKind::Undecodable], 1);
    }
}
