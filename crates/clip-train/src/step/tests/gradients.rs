//! One step: its loss and gradients.

use burn::tensor::TensorData;

use super::*;

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
                .unwrap()
                .with_text_buckets(2)
                .with_recomputed_blocks(recompute);
            assert_same(&whole, &found(step, &model, &batch), ROUNDING);
        }
    }
}

/// As on GPUs: a block with layer scales is no single operation.
#[test]
fn blocks_that_go_back_by_themselves_find_what_autodiff_does() {
    let device = Device::flex().autodiff();
    let batch = batch(BATCH);
    for locked in [false, true] {
        let mut config = config();
        config.vision_cfg.ls_init_value = Some(0.3);
        config.vision_cfg.patch_dropout = 0.0;
        let mut model = config.init(9, &device);
        let scale = |value| LayerScale {
            scale: Param::from_tensor(Tensor::full([32], value, &device)),
        };
        let TextEncoder::Transformer(text) = &mut model.text else {
            panic!("OpenCLIP's own");
        };
        for block in &mut text.transformer.resblocks {
            (block.ls_1, block.ls_2) = (Some(scale(0.4)), Some(scale(0.5)));
        }
        assert!(!text.blocks()[0].is_one_operation());
        if locked {
            // The text tower's lower block, below which nothing needs a gradient, and a part of an image block.
            model.text = model.text.lock(2);
            let ImageEncoder::VisionTransformer(visual) = &mut model.visual else {
                panic!("a vision transformer");
            };
            let block = &mut visual.transformer.resblocks[0];
            block.mlp.c_fc = block.mlp.c_fc.clone().no_grad();
        }
        let image = model.encode_image(batch.images.rows(0..BATCH, &device));
        let captions = batch.captions.whole(0..BATCH, &device);
        let text = captions.encode(|tokens| model.encode_text(tokens.clone()));
        let [image_features, text_features] = [&image, &text].map(|all| all.clone().inner());
        let logit_scale = model.logit_scale.val().inner();
        let features = ContrastiveBatch::new(image_features, text_features, logit_scale);
        let loss = ContrastiveLoss::default().with_gradients(features);
        let sum = |features: Tensor<2>, grad| (features * Tensor::from_inner(grad)).sum();
        let sum = sum(image, loss.image) + sum(text, loss.text);
        let mut grads = GradientsParams::from_grads(sum.backward(), &model);
        grads.register(model.logit_scale.id, loss.logit_scale);
        let want = (loss.loss.into_scalar(), named(&grads, &model));
        for (chunk, threads, buckets, recompute) in [
            (BATCH, 1, 1, false),
            (BATCH, 1, 2, true),
            (5, 1, 2, false),
            (5, 2, 1, true),
        ] {
            let step = step(chunk)
                .with_threads(threads)
                .unwrap()
                .with_text_buckets(buckets)
                .with_recomputed_blocks(recompute);
            assert_same(&want, &found(step, &model, &batch), ROUNDING);
        }
    }
}

/// A teacher of another width, whose images are normalised otherwise.
fn teacher() -> (Clip, ImageNorm) {
    let json = r#"{"embed_dim": 24, "vision_cfg": {"image_size": 16, "layers": 1, "width": 48, "head_width": 16,
        "patch_size": 8}, "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 2, "layers": 1}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    (config.init(5, &Device::flex()), ImageNorm::default())
}

#[test]
fn a_teachers_part_is_that_of_the_plain_loss_in_any_chunks() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let pairs = batch_of_patches(BATCH, 12);
    let (clip, norm) = teacher();
    let plain = {
        // Whole images for the teacher, as many of their patches as are kept for the student.
        let device = &Device::flex();
        let captions = pairs
            .captions
            .buckets(0..BATCH, TextEnd::Highest, 1, device);
        let model = model.valid();
        let draws = TrainingDraws {
            patches: pairs
                .patches
                .as_ref()
                .map(|kept| kept.rows(0..BATCH, device)),
            paths: None,
        };
        let images = pairs.images.rows(0..BATCH, device);
        let batch = ContrastiveBatch::new(
            model.encode_image_in_training(images, draws).0,
            captions.encode(|tokens| model.encode_text(tokens.clone())),
            model.logit_scale.val(),
        );
        let taught = TeacherFeatures {
            image: clip.encode_image(pairs.images.rows_for(norm, 0..BATCH, device)),
            text: captions.encode(|tokens| clip.encode_text(tokens.clone())),
            logit_scale: clip.logit_scale.val(),
        };
        let both = InfoNce::default().forward(batch.clone().with_teacher(Some(taught)));
        (both - InfoNce::default().forward(batch)).into_scalar::<f32>()
    };
    let taught = |chunk, threads| {
        step(chunk)
            .with_threads(threads)
            .unwrap()
            .with_text_buckets(2)
            .with_teacher(Some(Teacher::new(clip.clone(), norm)))
    };
    let whole = found(taught(BATCH, 1), &model, &pairs);
    let untaught = found(step(BATCH), &model, &pairs);
    assert!(
        (whole.0 - untaught.0).abs() < ROUNDING * whole.0,
        "the captions' own"
    );
    for (chunk, threads, devices) in [(5, 1, 0), (BATCH, 3, 2), (2, 3, 3)] {
        let step = taught(chunk, threads).with_devices(vec![Device::flex(); devices]);
        let distill = step
            .gradients(&model, &pairs)
            .distill
            .unwrap()
            .into_scalar::<f32>();
        assert!(
            (distill - plain).abs() < 10.0 * ROUNDING * plain,
            "{distill} {plain}"
        );
        assert_same(&whole, &found(step, &model, &pairs), ROUNDING);
    }
    let bf16 = taught(BATCH, 1).with_precision(Precision::Bf16);
    assert_same(&whole, &found(bf16, &model, &pairs), BF16_ROUNDING);
}

#[test]
fn dropped_patches_and_groups_make_a_difference() {
    let device = Device::flex().autodiff();
    let mut model = model(&device);
    let loss_of = |model: &Clip, batch: &PairBatch| {
        let found = step(BATCH).gradients(model, batch);
        found.loss.into_scalar::<f32>()
    };
    let loss = |batch: &PairBatch| loss_of(&model, batch);
    let plain = loss(&batch(BATCH));
    let dropped = loss(&batch_of_patches(BATCH, 12));
    assert!((plain - dropped).abs() > 1e-4, "{plain} {dropped}");
    let groups = Groups::alone(BATCH).join_equal((0..BATCH).map(|row| row % 5));
    let grouped = loss(&PairBatch {
        groups: Some(groups),
        ..batch(BATCH)
    });
    assert!((plain - grouped).abs() > 1e-4, "{plain} {grouped}");

    // An encoder that doesn't train leaves patches out all the same.
    model.visual = model.visual.lock(0);
    let locked = loss_of(&model, &batch_of_patches(BATCH, 12));
    assert!((dropped - locked).abs() < 1e-5, "{dropped} {locked}");
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
fn threads_give_the_same_bits_every_time_on_however_many_devices() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let batch = batch_of_patches(BATCH, 12);
    // All at the same time; one after the other.
    for chunk in [12, 2] {
        let step = step(chunk).with_threads(3).unwrap().with_text_buckets(2);
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
            .unwrap()
            .with_devices(vec![Device::flex(); 3]);
        let panic = catch_unwind(AssertUnwindSafe(|| step.gradients(&model, &batch).loss));
        let panic = panic.unwrap_err();
        let stopped = panic.downcast_ref::<Stopped>().unwrap();
        assert_eq!(stopped.device, 2);
        assert_ne!(stopped.reason, "unknown reason");
    }
}

#[test]
fn the_gradients_are_those_of_the_plain_loss() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let pairs = batch(BATCH);
    let captions = pairs
        .captions
        .buckets(0..BATCH, TextEnd::Highest, 1, &device);
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

/// A text tower that sees the whole context, as SigLIP's does, and captions whose highest id isn't their end.
#[test]
fn captions_that_end_elsewhere_are_not_cut_at_their_highest_id() {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16,
        "patch_size": 8}, "text_cfg": {"context_length": 5, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2,
        "no_causal_mask": true, "pool_type": "last"}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    let model = config.init(9, &Device::flex().autodiff());
    let pairs = |last: i32| {
        let rows = (0..4).flat_map(|row| [49 - row, 3 + row, 1, 1, last]);
        PairBatch::new(batch(4).images, Captions::new(rows.collect(), 5))
    };
    let plain = |pairs: &PairBatch| -> f32 {
        let device = Device::flex();
        let rows: Vec<i32> = pairs.captions.rows().flatten().copied().collect();
        let tokens = Tensor::from_data(TensorData::new(rows, [4, 5]), &device);
        let model = model.valid();
        let batch = ContrastiveBatch::new(
            model.encode_image(pairs.images.rows(0..4, &device)),
            model.encode_text(tokens),
            model.logit_scale.val(),
        );
        InfoNce::default().forward(batch).into_scalar()
    };
    let losses = [1, 2].map(|last| {
        let pairs = pairs(last);
        let (loss, _) = found(step(3).with_text_buckets(2), &model, &pairs);
        let expected = plain(&pairs);
        assert!(
            (loss - expected).abs() < ROUNDING * expected,
            "{loss} {expected}"
        );
        loss
    });
    // What stands last counts.
    assert!(
        (losses[0] - losses[1]).abs() > 100.0 * ROUNDING,
        "{losses:?}"
    );
}

/// `RoBERTa`, whose padding is no 0 and isn't attended to, on captions without a token of CLIP's meaning.
#[test]
fn padding_that_a_text_encoder_leaves_out_is_cut() {
    let device = Device::flex().autodiff();
    let shape = HfTextShape {
        family: HfFamily::Roberta,
        vocab_size: 50,
        longest: 12,
        width: 16,
        heads: 2,
        layers: 2,
        mlp_width: 32,
        pooler: HfPooler::MeanPooler,
        projection: Some(HfProjType::Mlp),
    };
    let init = &mut Init::new(9, &device);
    let numbered = weights(&model(&device)).len();
    for _ in 0..numbered {
        // Numbers that the rest of the model has.
        init.constant([1], 0.0);
    }
    let mut model = model(&device);
    model.text = TextEncoder::HuggingFace(HfTextEncoder::init(&shape, 16, init));
    let pairs = |length: usize| {
        let rows = (0..BATCH as i32).flat_map(|row| {
            let words = row % 4 + 1;
            let caption = (0..words).map(|at| 3 + (row * 7 + at * 11) % 47);
            let caption = std::iter::once(0).chain(caption).chain([2]);
            let padding = std::iter::repeat_n(1, length - words as usize - 2);
            caption.chain(padding).collect::<Vec<_>>()
        });
        PairBatch::new(batch(BATCH).images, Captions::new(rows.collect(), length))
    };
    let whole = found(step(BATCH), &model, &pairs(6));
    assert_eq!(whole.1.len(), 8 + 2 * 12 + 5 + 2 * 16 + 2 + 1);
    for (length, chunk, buckets) in [(12, BATCH, 1), (6, BATCH, 3), (12, 5, 2)] {
        let step = step(chunk).with_text_buckets(buckets);
        assert_same(&whole, &found(step, &model, &pairs(length)), ROUNDING);
    }
    // A locked encoder is trained in its projection alone, as with `--lock-text-freeze-layer-norm`.
    model.text = model.text.lock(0);
    let (_, grads) = found(step(BATCH), &model, &pairs(6));
    assert_eq!(grads.len(), 8 + 2 * 12 + 2 + 1);
}
