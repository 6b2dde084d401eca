//! Several steps, with an optimizer and its state.

use super::*;

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
                .unwrap()
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
    let words = |model: &Clip| model.text.token_embedding().weight.val().into_data();
    assert_eq!(words(&model), words(&stepped));
    let gains = |model: &Clip| own_text(model).ln_final.gamma.val().into_data();
    assert_ne!(gains(&model), gains(&stepped));
    // Another step finds it locked still.
    let again = step(BATCH).gradients(&stepped, &batch).grads;
    assert_eq!(named(&again, &stepped).len(), 1 + 2 + 12 + 1);
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
            .unwrap()
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
fn training_learns_a_batch_and_resumes_bit_by_bit() {
    let device = Device::flex().autodiff();
    let run = |mut model: Clip, mut optimizer: Optimizer, steps: std::ops::Range<u64>| {
        let mut loss = 0.0;
        for at in steps {
            // What is drawn belongs to the position, not to the run.
            let batch = batch_of_patches(BATCH, at);
            let found = step(6).gradients(&model, &batch);
            loss = found.loss.into_scalar::<f32>();
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
    let state = optimizer.state();
    let loaded = clip_model::weights::load_weights(model(&device), &path).unwrap();
    let optimizer = fresh(&loaded).with_state(state).unwrap();
    let (resumed, _, _) = run(loaded, optimizer, 15..30);
    assert!(
        weights_bytes(&resumed) == weights_bytes(&straight),
        "resumed weights differ"
    );
}

#[test]
fn a_resnet_resumes_bit_by_bit_and_its_running_statistics_move_once_a_step() {
    let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1],
        "width": 2, "head_width": 16}, "text_cfg": {"context_length": 8, "vocab_size": 50,
        "width": 8, "heads": 2, "layers": 1}}"#;
    // One chunk; two at a time; one after the other, encoded twice; in f16, where steps may be tried again.
    let steps = [
        step(8),
        step(8).with_threads(2).unwrap(),
        step(4),
        step(8).with_precision(Precision::F16),
    ];
    resumes_with_batch_norms(json, &steps);
}

/// timm has no name for a smaller one.
#[test]
fn a_fastvit_resumes_bit_by_bit_and_its_running_statistics_move_once_a_step() {
    let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "timm_model_name": "fastvit_mci0",
        "timm_pool": "avg", "timm_proj": null}, "text_cfg": {"context_length": 8, "vocab_size": 50,
        "width": 8, "heads": 2, "layers": 1}}"#;
    resumes_with_batch_norms(json, &[step(4).with_threads(2).unwrap()]);
}

fn resumes_with_batch_norms(json: &str, steps: &[ContrastiveStep]) {
    let device = Device::flex().autodiff();
    let config = ClipConfig::from_json(json, "test").unwrap();
    let batch = batch_of_images(8, 32);
    let fresh = |model: &Clip| Optimizer::new(&OptimizerConfig::default(), model);
    for step in steps {
        let run = |mut model: Clip, mut optimizer: Optimizer| {
            for _ in 0..2 {
                let found = step.gradients(&model, &batch);
                model.visual.update_running_statistics(&found.statistics);
                model = optimizer.step(1e-3, model, found.grads).0;
            }
            (model, optimizer)
        };
        let model = config.init(0, &device);
        let (model, optimizer) = run(model.clone(), fresh(&model));
        let (half, state) = (weights_bytes(&model), optimizer.state());
        let (straight, _) = run(model, optimizer);
        let norm = match &straight.visual {
            ImageEncoder::ModifiedResNet(visual) => &visual.bn1,
            ImageEncoder::FastVit(visual) => {
                let conv = visual.trunk.final_conv.conv_kxk.as_ref();
                &conv.unwrap().bn
            }
            _ => panic!("a network with batch norms"),
        };
        let tracked: f32 = norm.num_batches_tracked.value().into_scalar();
        assert_eq!(tracked.to_bits(), 4.0_f32.to_bits());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        std::fs::write(&path, half).unwrap();
        let loaded = clip_model::weights::load_weights(config.init(1, &device), &path).unwrap();
        let optimizer = fresh(&loaded).with_state(state).unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.bpk");
    let of = stepped.state().of().to_owned();
    stepped.state().write(&path).unwrap();
    let read = || OptimizerState::read(&path, None, of.clone());
    assert!(optimizer.with_state(read().unwrap()).is_ok());
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 10, 40, whole.len() / 2] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(read().is_err(), "cut at {cut}");
    }
    let wider = r#"{"embed_dim": 24, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
        "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 8,
        "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
    let wider = ClipConfig::from_json(wider, "test")
        .unwrap()
        .init(0, &device);
    let other = Optimizer::new(&OptimizerConfig::default(), &wider);
    let error = other
        .with_state(stepped.state())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("other parameters"), "{error}");
}
