use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Device,
};
use clip_data::Cursor;
use clip_model::{
    ClipConfig, ImageNorm,
    encoder::ImageEncoder,
    loss::{Groups, InfoNce, SigLip},
    weights::weights_bytes,
};

use super::*;
use crate::{Optimizer, OptimizerConfig};

/// Rounding of sums in another order, relative to a gradient's own norm.
const ROUNDING: f32 = 1e-5;

/// What f16's 11 bits of fraction leave of a gradient that went through two blocks, relative to its norm. A product is
/// off by up to 2^-12, but before training the batch's features are alike, and the gradient lives on the twentieth part
/// in which they differ. 0.023 at most was found.
const F16_ROUNDING: f32 = 0.03;

/// The same for 8 bits; below 0.1 was found.
const BF16_ROUNDING: f32 = 0.15;

const BATCH: usize = 12;

fn config() -> ClipConfig {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
        "head_width": 16, "patch_size": 4, "patch_dropout": 0.5}, "text_cfg": {"context_length": 8,
        "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}, "init_logit_bias": -1.0}"#;
    ClipConfig::from_json(json, "test").unwrap()
}

fn model(device: &Device) -> Clip {
    config().init(9, device)
}

fn batch(size: usize) -> PairBatch {
    batch_of_images(size, 16)
}

fn batch_of_images(size: usize, side: usize) -> PairBatch {
    let pixels = (0..size * 3 * side * side)
        .map(|i| ((i * 7919) % 1013 * 255 / 1012) as u8)
        .collect();
    // From -1 to 1.
    let norm = ImageNorm {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let rows = (0..size).map(|row| {
        let words = [row * 13 % 47, row * 29 % 47].map(|word| word as i32 + 1);
        match row % 3 {
            0 => [48, words[0], 49, 0, 0],
            _ => [48, words[0], words[1], 49, 0],
        }
    });
    let captions = Captions::new(rows.flatten().collect(), 5);
    PairBatch::new(Images::new(pixels, side, norm), captions)
}

/// The same with half of the patches.
fn batch_of_patches(size: usize, drawn: u64) -> PairBatch {
    let dropout = PatchDropout::new(&config().vision_cfg, 3).unwrap();
    PairBatch {
        patches: Some(dropout.draw(
            Cursor {
                drawn,
                ..Cursor::default()
            },
            size,
        )),
        ..batch(size)
    }
}

fn step(chunk: usize) -> ContrastiveStep {
    ContrastiveStep::new(ContrastiveLoss::default(), chunk)
}

struct Flat<'a>(&'a GradientsParams, Vec<(String, Vec<f32>)>, Vec<String>);

impl ModuleVisitor for Flat<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.2.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.2.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.0.get::<D>(param.id) {
            let values = grad.into_data().try_to_vec().unwrap();
            self.1.push((self.2.join("."), values));
        }
    }
}

/// A model's parameters.
struct Weights(Vec<(String, Vec<f32>)>, Vec<String>);

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.1.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.1.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data().try_to_vec().unwrap();
        self.0.push((self.1.join("."), values));
    }
}

fn weights(model: &Clip) -> Named {
    let mut weights = Weights(Vec::new(), Vec::new());
    model.visit(&mut weights);
    weights.0
}

/// By the names of their parameters.
type Named = Vec<(String, Vec<f32>)>;

fn named(grads: &GradientsParams, model: &Clip) -> Named {
    let mut flat = Flat(grads, Vec::new(), Vec::new());
    model.visit(&mut flat);
    flat.1
}

fn found(step: ContrastiveStep, model: &Clip, batch: &PairBatch) -> (f32, Named) {
    let found = step.gradients(model, batch);
    (found.loss, named(&found.grads, model))
}

fn gradients(chunk: usize, threads: usize, buckets: usize) -> (f32, Named) {
    let device = Device::flex().autodiff();
    let step = step(chunk).with_threads(threads).with_text_buckets(buckets);
    found(step, &model(&device), &batch(BATCH))
}

/// Compares losses and gradients, each relative to its own norm.
fn assert_same((loss, want): &(f32, Named), (other, got): &(f32, Named), tolerance: f32) {
    assert!((loss - other).abs() < tolerance * loss, "{loss} {other}");
    let names = |all: &Named| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(want), names(got));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let wrong: Vec<String> = want
        .iter()
        .zip(got)
        .filter_map(|((name, a), (_, b))| {
            let off = norm(&mut a.iter().zip(b).map(|(x, y)| x - y));
            let norm = norm(&mut a.iter().copied());
            // Key biases shift every score of a query alike: their true gradient is zero.
            (off > tolerance * norm + 1e-7).then(|| format!("{name}: {off} of {norm}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chunks_threads_and_buckets_change_nothing() {
    let whole = gradients(BATCH, 1, 1);
    // All parameters but `logit_bias`, to which a softmax is blind.
    assert_eq!(whole.1.len(), 6 + 8 + 4 * 12);
    let cases = [
        (1, 1, 1),
        (4, 1, 1),
        (5, 1, 2),
        (12, 1, 3),
        (12, 2, 1),
        (12, 5, 4),
        (4, 3, 1),
        (2, 3, 2),
    ];
    for (chunk, threads, buckets) in cases {
        assert_same(&whole, &gradients(chunk, threads, buckets), ROUNDING);
    }
}

#[test]
fn every_option_agrees_with_itself_in_chunks() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let losses = [
        ContrastiveLoss::default(),
        ContrastiveLoss::SigLip(SigLip::default()),
    ];
    let groups = Groups::alone(BATCH).join_equal((0..BATCH).map(|row| row % 5));
    let batch = PairBatch {
        groups: Some(groups),
        ..batch_of_patches(BATCH, 12)
    };
    for loss in losses {
        let whole = found(ContrastiveStep::new(loss, BATCH), &model, &batch);
        let has_bias = whole.1.iter().any(|(name, _)| name == "logit_bias");
        assert_eq!(has_bias, matches!(loss, ContrastiveLoss::SigLip(_)));
        for (chunk, threads, recompute) in [
            (1, 1, false),
            (5, 1, false),
            (4, 3, false),
            (12, 1, true),
            (5, 1, true),
            (12, 3, true),
        ] {
            let step = ContrastiveStep::new(loss, chunk)
                .with_threads(threads)
                .with_text_buckets(2)
                .with_recomputed_blocks(recompute);
            assert_same(&whole, &found(step, &model, &batch), ROUNDING);
        }
    }
}

#[test]
fn dropped_patches_and_groups_make_a_difference() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let loss = |batch: &PairBatch| step(BATCH).gradients(&model, batch).loss;
    let plain = loss(&batch(BATCH));
    let dropped = loss(&batch_of_patches(BATCH, 12));
    assert!((plain - dropped).abs() > 1e-4, "{plain} {dropped}");
    let groups = Groups::alone(BATCH).join_equal((0..BATCH).map(|row| row % 5));
    let grouped = loss(&PairBatch {
        groups: Some(groups),
        ..batch(BATCH)
    });
    assert!((plain - grouped).abs() > 1e-4, "{plain} {grouped}");
}

#[test]
fn half_precision_is_near_f32_and_gives_f32_gradients() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let batch = batch(BATCH);
    let want = found(step(BATCH), &model, &batch);
    for (precision, tolerance) in [
        (Precision::Bf16, BF16_ROUNDING),
        (Precision::F16, F16_ROUNDING),
    ] {
        for (chunk, recompute) in [(BATCH, false), (5, false), (BATCH, true)] {
            let step = step(chunk)
                .with_precision(precision)
                .with_recomputed_blocks(recompute);
            assert_same(&want, &found(step, &model, &batch), tolerance);
        }
    }
}

#[test]
fn small_gradients_survive_f16() {
    let device = Device::flex().autodiff();
    let mut model = model(&device);
    // A small temperature factor makes for small gradients; f16 ends at 6e-8.
    model.logit_scale = model.logit_scale.map(|scale| {
        scale
            .set_require_grad(false)
            .sub_scalar(12.0)
            .require_grad()
    });
    let batch = batch(BATCH);
    let want = found(step(BATCH), &model, &batch);
    let largest = want.1.iter().flat_map(|(_, values)| values);
    let largest = largest.fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(largest < 1e-4, "{largest}");
    let got = found(step(BATCH).with_precision(Precision::F16), &model, &batch);
    for ((name, want), (_, got)) in want.1.iter().zip(&got.1) {
        if name.ends_with("proj") || name.ends_with("weight") {
            let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
            let ratio = norm(got) / norm(want);
            assert!((0.9..1.1).contains(&ratio), "{name}: {ratio}");
        }
    }
}

#[test]
fn what_is_locked_has_no_gradient_and_stays_as_it_is() {
    let device = Device::flex().autodiff();
    let batch = batch(BATCH);
    let whole = found(step(BATCH), &model(&device), &batch);
    let lock = |image: usize, text: usize| {
        let mut model = model(&device);
        model.visual = model.visual.lock(image);
        model.text = model.text.lock(text);
        model
    };
    // Of four groups a tower, so many are left: parameters of image and text.
    let head = |groups: usize| [0, 1, 1 + 2 + 12, 1 + 2 + 24][groups];
    for (image, text) in [(0, 4), (1, 0), (2, 3), (3, 1), (9, 9)] {
        let model = lock(image, text);
        let kept = |groups: usize, whole: usize| if groups > 3 { whole } else { head(groups) };
        let count = kept(image, 8 + 24) + kept(text, 5 + 24) + 1;
        let want: Named = {
            let trained = found(step(BATCH), &model, &batch).1;
            assert_eq!(trained.len(), count, "{image} {text}");
            let is_trained = |name: &String| trained.iter().any(|(other, _)| other == name);
            let kept = whole.1.iter().filter(|(name, _)| is_trained(name));
            kept.cloned().collect()
        };
        for (chunk, threads, recompute) in [
            (12, 1, false),
            (5, 1, false),
            (12, 3, false),
            (12, 1, true),
            (5, 1, true),
        ] {
            let step = step(chunk)
                .with_threads(threads)
                .with_recomputed_blocks(recompute);
            let got = found(step, &model, &batch);
            assert_same(&(whole.0, want.clone()), &got, ROUNDING);
        }
    }

    let model = lock(0, 2);
    assert!(
        !model
            .encode_image(batch.images.rows(0..BATCH, &device))
            .is_tracked()
    );
    let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
    let grads = step(BATCH).gradients(&model, &batch).grads;
    let (stepped, _) = optimizer.step(1e-2, model.clone(), grads);
    let projection = |model: &Clip| match &model.visual {
        ImageEncoder::VisionTransformer(visual) => visual.proj.val().into_data(),
        _ => panic!("a vision transformer"),
    };
    assert_eq!(projection(&model), projection(&stepped));
    let positions = |model: &Clip| model.text.positional_embedding.val().into_data();
    assert_eq!(positions(&model), positions(&stepped));
    let gains = |model: &Clip| model.text.ln_final.gamma.val().into_data();
    assert_ne!(gains(&model), gains(&stepped));
    // Another step finds it locked still.
    let again = step(BATCH).gradients(&stepped, &batch).grads;
    assert_eq!(named(&again, &stepped).len(), 1 + 2 + 12 + 1);
}

#[test]
fn threads_give_the_same_bits_every_time_on_however_many_devices() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let batch = batch_of_patches(BATCH, 12);
    // All at the same time; one after the other.
    for chunk in [12, 2] {
        let step = step(chunk).with_threads(3).with_text_buckets(2);
        let first = found(step.clone(), &model, &batch);
        for devices in [0, 1, 2, 3] {
            let step = step.clone().with_devices(vec![Device::flex(); devices]);
            assert!(found(step, &model, &batch) == first, "{chunk} {devices}");
        }
    }
}

#[test]
fn a_panic_tells_which_device_it_came_from() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let mut ids: Vec<i32> = batch(BATCH).captions.rows().flatten().copied().collect();
    // A token that the vocabulary doesn't have, in the third of three parts.
    ids[5 * (BATCH - 1) + 1] = 60_000;
    let batch = PairBatch {
        captions: Captions::new(ids, 5),
        ..batch(BATCH)
    };
    for chunk in [BATCH, 2] {
        let step = step(chunk)
            .with_threads(3)
            .with_devices(vec![Device::flex(); 3]);
        let panic = catch_unwind(AssertUnwindSafe(|| step.gradients(&model, &batch).loss));
        let panic = panic.unwrap_err();
        let stopped = panic.downcast_ref::<Stopped>().unwrap();
        assert_eq!(stopped.device, 2);
        assert_ne!(stopped.reason, "unknown reason");
    }
}

/// Rounding of sums in another order, after five steps of AdamW, relative to a parameter's own norm.
const ROUNDING_OF_WEIGHTS: f32 = 1e-5;

#[test]
fn five_steps_give_the_same_weights_for_any_chunks_and_devices() {
    let main = Device::flex().autodiff();
    let trained = |chunk: usize, devices: usize| {
        let mut model = model(&main);
        let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
        let step = step(chunk)
            .with_threads(devices)
            .with_devices(vec![Device::flex(); devices]);
        for at in 0..5 {
            let found = step.gradients(&model, &batch_of_patches(64, at));
            model = optimizer.step(1e-3, model, found.grads).0;
        }
        weights(&model)
    };
    // The true gradient by a key's bias is zero, and of rounding alone Adam makes steps.
    let without_keys = |name: &str, values: &[f32]| {
        let third = values.len() / 3;
        if name.ends_with("attn.in_proj.bias") {
            [&values[..third], &values[2 * third..]].concat()
        } else {
            values.to_vec()
        }
    };
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let whole = trained(64, 1);
    for chunk in [64, 16, 4] {
        for devices in [1, 2, 3] {
            for ((name, want), (_, got)) in whole.iter().zip(&trained(chunk, devices)) {
                let [want, got] = [want, got].map(|values| without_keys(name, values));
                let off = norm(&mut want.iter().zip(&got).map(|(a, b)| a - b));
                let norm = norm(&mut want.iter().copied());
                assert!(
                    off <= ROUNDING_OF_WEIGHTS * norm,
                    "{chunk} {devices} {name}: {off} of {norm}"
                );
            }
        }
    }
}

#[test]
fn the_gradients_are_those_of_the_plain_loss() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let pairs = batch(BATCH);
    let captions = pairs.captions.buckets(0..BATCH, 1, &device);
    let loss = InfoNce::default().forward(ContrastiveBatch::new(
        model.encode_image(pairs.images.rows(0..BATCH, &device)),
        captions.encode(|tokens| model.encode_text(tokens.clone())),
        model.logit_scale.val(),
    ));
    let value: f32 = loss.clone().into_scalar();
    let plain = GradientsParams::from_grads(loss.backward(), &model);
    let plain = (value, named(&plain, &model));
    // Burn's own softmax sums in yet another order.
    assert_same(&plain, &gradients(BATCH, 1, 1), 10.0 * ROUNDING);
}

#[test]
fn training_learns_a_batch_and_resumes_bit_by_bit() {
    let device = Device::flex().autodiff();
    let run = |mut model: Clip, mut optimizer: Optimizer, steps: std::ops::Range<u64>| {
        let mut loss = 0.0;
        for at in steps {
            // What is drawn belongs to the position, not to the run.
            let batch = batch_of_patches(BATCH, at);
            let found = step(6).gradients(&model, &batch);
            loss = found.loss;
            model = optimizer.step(1e-3, model, found.grads).0;
        }
        (model, optimizer, loss)
    };
    let config = OptimizerConfig {
        grad_clip_norm: Some(1.0),
        ..OptimizerConfig::default()
    };
    let fresh = |model: &Clip| Optimizer::new(&config, model);
    let start = model(&device);
    let (straight, _, loss) = run(start.clone(), fresh(&start), 0..30);
    assert!(loss < 0.7 * 12_f32.ln(), "{loss}");

    let (halfway, optimizer, _) = run(start.clone(), fresh(&start), 0..15);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    std::fs::write(&path, weights_bytes(&halfway)).unwrap();
    let state = optimizer.to_bytes().unwrap();
    let loaded = clip_model::weights::load_weights(model(&device), &path).unwrap();
    let optimizer = fresh(&loaded).load_bytes(&state).unwrap();
    let (resumed, _, _) = run(loaded, optimizer, 15..30);
    assert!(
        weights_bytes(&resumed) == weights_bytes(&straight),
        "resumed weights differ"
    );
}

#[test]
fn a_resnet_resumes_bit_by_bit_and_its_running_statistics_move_once_a_step() {
    let device = Device::flex().autodiff();
    let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1],
        "width": 2, "head_width": 16}, "text_cfg": {"context_length": 8, "vocab_size": 50,
        "width": 8, "heads": 2, "layers": 1}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    let batch = batch_of_images(8, 32);
    let fresh = |model: &Clip| Optimizer::new(&OptimizerConfig::default(), model);
    // One chunk; two at a time; one after the other, encoded twice; in f16, where steps may be tried again.
    let steps = [
        step(8),
        step(8).with_threads(2),
        step(4),
        step(8).with_precision(Precision::F16),
    ];
    for step in steps {
        let run = |mut model: Clip, mut optimizer: Optimizer| {
            for _ in 0..2 {
                let found = step.gradients(&model, &batch);
                model = optimizer.step(1e-3, model, found.grads).0;
            }
            (model, optimizer)
        };
        let model = config.init(0, &device);
        let (model, optimizer) = run(model.clone(), fresh(&model));
        let (half, state) = (weights_bytes(&model), optimizer.to_bytes().unwrap());
        let (straight, _) = run(model, optimizer);
        let ImageEncoder::ModifiedResNet(visual) = &straight.visual else {
            panic!("a residual network");
        };
        let tracked: f32 = visual.bn1.num_batches_tracked.value().into_scalar();
        assert_eq!(tracked.to_bits(), 4.0_f32.to_bits());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        std::fs::write(&path, half).unwrap();
        let loaded = clip_model::weights::load_weights(config.init(1, &device), &path).unwrap();
        let optimizer = fresh(&loaded).load_bytes(&state).unwrap();
        let (resumed, _) = run(loaded, optimizer);
        assert!(
            weights_bytes(&resumed) == weights_bytes(&straight),
            "{step:?}"
        );
    }
}

#[test]
fn a_state_that_is_not_this_models_is_refused() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
    let found = step(4).gradients(&model, &batch(4));
    let mut stepped = optimizer.clone();
    stepped.step(1e-3, model, found.grads);
    let state = stepped.to_bytes().unwrap();
    assert!(optimizer.clone().load_bytes(&state).is_ok());
    for cut in [0, 10, 40, state.len() / 2] {
        assert!(
            optimizer.clone().load_bytes(&state[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    let wider = r#"{"embed_dim": 24, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
        "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 8,
        "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
    let wider = ClipConfig::from_json(wider, "test")
        .unwrap()
        .init(0, &device);
    let other = Optimizer::new(&OptimizerConfig::default(), &wider);
    let error = other
        .load_bytes(&state)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("other parameters"), "{error}");
}
