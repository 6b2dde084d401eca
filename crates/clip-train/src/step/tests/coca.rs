//! A step of a model whose decoder writes captions.

use burn::tensor::{Int, TensorData};
use clip_model::{encoder::coca::COCA_PADDING, loss::caption_loss};
use serde_json::{Value, json};

use super::*;

/// Captions of a batch have so many tokens: an end within the context, padding after it.
const CONTEXT: usize = 6;

/// With settings of the image encoder.
fn coca(vision: Value, device: &Device) -> Clip {
    let mut all = json!({"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4,
        "output_tokens": true});
    let keys = all.as_object_mut().unwrap();
    keys.extend(vision.as_object().unwrap().clone());
    let json = json!({"embed_dim": 24, "custom_text": true, "vision_cfg": all, "text_cfg": {"context_length": CONTEXT,
        "vocab_size": 50, "width": 24, "heads": 2, "layers": 2, "embed_cls": true, "output_tokens": true},
        "multimodal_cfg": {"width": 24, "heads": 2, "layers": 2}});
    let config = ClipConfig::from_json(&json.to_string(), "test").unwrap();
    config.init(9, device)
}

fn pooled() -> Value {
    json!({"attentional_pool": true, "attn_pooler_queries": 5, "attn_pooler_heads": 2})
}

/// Captions of several lengths, among them one without words, one that fills the context, and some with a word whose id
/// is that of padding.
fn batch_of_captions() -> PairBatch {
    let rows = (0..BATCH as i32).flat_map(|row| {
        let words = (0..row % 5).map(|at| (row - 7 + at * (row + 4)).rem_euclid(48));
        let mut caption: Vec<i32> = [48].into_iter().chain(words).chain([49]).collect();
        caption.resize(CONTEXT, COCA_PADDING);
        caption
    });
    let captions: Vec<i32> = rows.collect();
    assert!(captions.chunks(CONTEXT).any(|ids| ids[CONTEXT - 1] == 49));
    assert!(captions.chunks(CONTEXT).any(|ids| ids[1] == COCA_PADDING));
    let images = batch(BATCH).images;
    PairBatch::new(images, Captions::new(captions, CONTEXT))
}

const WEIGHTS: CocaWeights = CocaWeights {
    contrastive: 0.7,
    caption: 1.8,
};

/// Both losses and the gradients of their sum, on one graph and without leaving anything out.
fn plain(model: &Clip, pairs: &PairBatch) -> ((f32, f32), Named) {
    let device = model.device();
    let ids: Vec<i32> = pairs.captions.rows().flatten().copied().collect();
    let tokens = TensorData::new(ids.clone(), [BATCH, CONTEXT]);
    let tokens = Tensor::<2, Int>::from_data(tokens, &device);
    let images = pairs.images.rows(0..BATCH, &device);
    let (image, image_tokens) = model.visual.forward_with_tokens(images, None);
    let (text, text_tokens) = model.text.forward_with_tokens(&model.text.embed(&tokens));
    let batch = ContrastiveBatch::new(image, text, model.logit_scale.val());
    let contrastive = InfoNce::default().forward(batch);

    let decoder = model.text_decoder.as_ref().unwrap();
    let x = decoder.forward(&image_tokens, text_tokens.narrow(1, 0, CONTEXT - 1));
    let [_, before, width] = x.dims();
    let logits = decoder.logits(x.reshape([BATCH * before, width]));
    let mut caption = Tensor::<1>::zeros([1], &device);
    let mut count = 0;
    for (row, label) in ids.chunks(CONTEXT).flat_map(|ids| &ids[1..]).enumerate() {
        if *label != COCA_PADDING {
            let label = Tensor::<1, Int>::from_data([*label], &device);
            caption = caption + caption_loss(logits.clone().narrow(0, row, 1), label);
            count += 1;
        }
    }
    let caption = caption / f64::from(count);
    let losses = [&contrastive, &caption].map(|loss| loss.clone().into_scalar());
    let sum = contrastive * WEIGHTS.contrastive + caption * WEIGHTS.caption;
    let grads = GradientsParams::from_grads(sum.backward(), model);
    ((losses[0], losses[1]), named(&grads, model))
}

fn assert_plain(model: &Clip, step: ContrastiveStep, tolerance: f32) {
    let pairs = batch_of_captions();
    let ((contrastive, caption), want) = plain(model, &pairs);
    let found = step.with_coca_weights(WEIGHTS).gradients(model, &pairs);
    let lost: f32 = found.caption.unwrap().into_scalar();
    assert!(
        (lost - caption).abs() < tolerance * caption,
        "{lost} {caption}"
    );
    let got = (found.loss.into_scalar(), named(&found.grads, model));
    assert_same(&(contrastive, want), &got, tolerance);
}

#[test]
fn both_losses_are_the_whole_batchs_in_any_chunks() {
    let device = Device::flex().autodiff();
    for vision in [
        pooled(),
        // Queries as wide as tokens.
        json!({"width": 24, "head_width": 12, "attentional_pool": true, "attn_pooler_queries": 3, "attn_pooler_heads": 2}),
        // The patches' own tokens.
        json!({"width": 24, "head_width": 12}),
        // As on GPUs: a block with layer scales is no single operation.
        json!({"ls_init_value": 0.3, "attentional_pool": true, "attn_pooler_queries": 4, "attn_pooler_heads": 2}),
    ] {
        let model = coca(vision, &device);
        for (chunk, threads, buckets, recompute) in [
            (BATCH, 1, 1, false),
            (BATCH, 1, 3, true),
            (1, 1, 1, false),
            (5, 1, 2, false),
            (5, 1, 2, true),
            (4, 3, 1, false),
            (BATCH, 5, 4, false),
            (2, 3, 2, false),
        ] {
            let step = step(chunk)
                .with_threads(threads)
                .unwrap()
                .with_text_buckets(buckets)
                .with_recomputed_blocks(recompute);
            assert_plain(&model, step, 10.0 * ROUNDING);
        }
    }
}

#[test]
fn a_decoder_learns_beside_locked_towers() {
    let device = Device::flex().autodiff();
    for (image, text) in [(true, false), (false, true), (true, true)] {
        let mut model = coca(pooled(), &device);
        if image {
            model.visual = model.visual.lock(0);
        }
        if text {
            model.text = model.text.lock(0);
        }
        for chunk in [BATCH, 5] {
            assert_plain(&model, step(chunk).with_text_buckets(2), 10.0 * ROUNDING);
        }
    }
}

#[test]
fn devices_and_half_precision_have_the_decoder_too() {
    let device = Device::flex().autodiff();
    let model = coca(pooled(), &device);
    let elsewhere = step(2)
        .with_threads(3)
        .unwrap()
        .with_devices(vec![Device::flex(); 3]);
    assert_plain(&model, elsewhere, 10.0 * ROUNDING);
    for (precision, tolerance) in [
        (Precision::Bf16, BF16_ROUNDING),
        (Precision::F16, F16_ROUNDING),
    ] {
        let step = step(5).with_precision(precision);
        assert_plain(&model, step, tolerance);
    }
}

#[test]
fn chunks_of_patches_agree_too() {
    let device = Device::flex().autodiff();
    let model = coca(pooled(), &device);
    let pairs = PairBatch {
        patches: batch_of_patches(BATCH, 12).patches,
        ..batch_of_captions()
    };
    let whole = found(step(BATCH), &model, &pairs);
    let all = found(step(BATCH), &model, &batch_of_captions());
    assert!((whole.0 - all.0).abs() > 1e-5, "{} {}", whole.0, all.0);
    for (chunk, threads) in [(5, 1), (2, 3)] {
        let step = step(chunk).with_threads(threads).unwrap();
        assert_same(&whole, &found(step, &model, &pairs), 10.0 * ROUNDING);
    }
}
