//! A CoCa model (`tests/reference/small_coca.py`), whose weights and images are formulas.

use super::*;
use crate::{Captioner, Captioning, Draws, Search, loss::caption_loss};

const JSON: &str = r#"{"embed_dim": 4, "custom_text": true, "vision_cfg": {"image_size": 8, "layers": 1, "width": 6,
    "head_width": 3, "patch_size": 4, "mlp_ratio": 1.0, "attentional_pool": true, "attn_pooler_queries": 3,
    "attn_pooler_heads": 2, "output_tokens": true}, "text_cfg": {"context_length": 7, "vocab_size": 12, "width": 4,
    "heads": 2, "layers": 1, "mlp_ratio": 1.0, "embed_cls": true, "output_tokens": true}, "multimodal_cfg":
    {"context_length": 7, "vocab_size": 12, "width": 4, "heads": 2, "layers": 1}}"#;

/// `OpenCLIP`'s `coca_caption_loss_weight`.
const CAPTION_WEIGHT: f64 = 2.0;

const BYTES: &[u8] = include_bytes!("../../tests/reference/small_coca.safetensors");

fn golden() -> Golden {
    Golden::open(BYTES, "")
}

/// The script's numbers from -1 to 1.
fn noise(place: u32) -> f64 {
    let found = place.wrapping_mul(2_654_435_761);
    let found = (found ^ found >> 15).wrapping_mul(2_246_822_519);
    f64::from(found ^ found >> 13) / f64::from(1_u32 << 31) - 1.0
}

fn images(device: &Device) -> Tensor<4> {
    let pixels: Vec<f32> = (0..4 * 3 * 64).map(|at| (2.0 * noise(at)) as f32).collect();
    Tensor::from_data(TensorData::new(pixels, [4, 3, 8, 8]), device)
}

/// Names and shapes of `OpenCLIP`'s parameters, sorted.
fn parameters() -> Vec<(String, Vec<usize>)> {
    let (_, metadata) = SafeTensors::read_metadata(BYTES).unwrap();
    let lines = metadata.metadata().as_ref().unwrap()["parameters"].clone();
    let line = |line: &str| {
        let (name, shape) = line.split_once(' ').unwrap();
        let shape = shape.split_whitespace().map(|side| side.parse().unwrap());
        (name.to_owned(), shape.collect())
    };
    lines.split('\n').map(line).collect()
}

fn model(device: &Device) -> Clip {
    let mut place = 200_000;
    let mut numbers = |shape: &[usize]| -> Vec<u8> {
        let count = shape.iter().product::<usize>() as u32;
        place += count;
        (place - count..place)
            .flat_map(|at| ((1.6 * noise(at)) as f32).to_le_bytes())
            .collect()
    };
    let weights: Vec<_> = parameters()
        .into_iter()
        .map(|(name, shape)| (name, numbers(&shape), shape))
        .collect();
    let views = weights.iter().map(|(name, bytes, shape)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let config = ClipConfig::from_json(JSON, "test").unwrap();
    load_weights(config.init(0, device), &path).unwrap()
}

#[test]
fn coca_agrees_with_open_clip() {
    let (golden, device) = (golden(), Device::default().autodiff());
    let model = model(&device);
    let tokens = golden.tokens(&device);
    let (image, image_tokens) = model.visual.forward_with_tokens(images(&device), None);
    let (text, text_tokens) = model.text.forward_with_tokens(&model.text.embed(&tokens));
    for (features, name) in [(&image, "image_features"), (&text, "text_features")] {
        let features = l2_normalize(features.clone());
        assert_close(features, &golden.floats(name), name);
    }
    // Of all tokens but the last, those that are followed by none of padding.
    let decoder = model.text_decoder.as_ref().unwrap();
    let x = decoder.forward(&image_tokens, text_tokens.narrow(1, 0, 6));
    let labels: Vec<i32> = tokens
        .narrow(1, 1, 6)
        .into_data()
        .convert::<i32>()
        .try_to_vec()
        .unwrap();
    let rows = (0..24_i32).filter(|row| labels[*row as usize] != 0);
    let rows: Vec<i32> = rows.collect();
    let count = rows.len();
    let ids = |ids: Vec<i32>| Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
    let labels = ids(rows.iter().map(|row| labels[*row as usize]).collect());
    let logits = decoder.logits(x.reshape([24, 4]).select(0, ids(rows)));
    assert_close(logits.clone(), &golden.floats("logits"), "logits");

    let batch = ContrastiveBatch::new(image, text, model.logit_scale.val());
    let loss = InfoNce::default().forward(batch);
    let caption = caption_loss(logits, labels) * (CAPTION_WEIGHT / count as f64);
    for (loss, name) in [(&loss, "loss"), (&caption, "caption_loss")] {
        let loss = [loss.clone().into_scalar::<f32>()];
        assert_values_close(&loss, &golden.floats(name), name);
    }
    let grads = (loss + caption).backward();
    let mut gradients = Gradients {
        grads: &grads,
        found: HashMap::new(),
    };
    model.visit(&mut gradients);
    let all = golden.floats("gradients");
    let mut place = 0;
    let params = named_params(&model, false);
    for (name, shape) in parameters() {
        let param = params.iter().find(|param| param.name == name).unwrap();
        assert_eq!(param.shape, shape, "{name}");
        let got = as_stored(param, gradients.found.remove(&param.id).unwrap());
        let want = &all[place..place + got.len()];
        assert_values_close(&got, want, &name);
        place += got.len();
    }
    assert_eq!(place, all.len());
}

#[test]
fn coca_in_inference_is_coca_in_training() {
    let (golden, device) = (golden(), Device::default());
    let model = model(&device);
    let tokens = golden.tokens(&device);
    let image = l2_normalize(model.encode_image(images(&device)));
    assert_close(image, &golden.floats("image_features"), "image features");
    let want = golden.floats("text_features");
    let text = l2_normalize(model.encode_text(tokens.clone()));
    assert_close(text, &want, "text features");
    // Cut at their ends: the class token keeps its position, and the padding that it reads.
    for (row, length) in [(0, 5), (2, 4), (3, 2)] {
        let cut = tokens.clone().narrow(0, row, 1).narrow(1, 0, length);
        let text = l2_normalize(model.encode_text(cut));
        assert_close(text, &want[row * 4..(row + 1) * 4], "a cut caption");
    }
}

#[test]
fn captions_are_those_that_open_clip_writes() {
    let (golden, device) = (golden(), Device::default());
    let model = model(&device);
    let draws = Draws {
        temperature: 1.0,
        seed: 0,
    };
    for (search, name) in [
        (Search::TopK(1, draws), "greedy"),
        // Nothing is most probable but the most probable token.
        (Search::TopP(1e-9, draws), "greedy"),
        (Search::Beams(2), "beams"),
    ] {
        let how = Captioning {
            longest: 7,
            shortest: 3,
            search,
            ..Captioning::new(10, 11)
        };
        let captions = Captioner::new(how).write(&model, images(&device));
        let want = golden.ids(name);
        for (caption, want) in captions.iter().zip(want.chunks(7)) {
            let mut padded = caption.clone();
            padded.resize(7, 0);
            assert_eq!(padded, want, "{name}");
        }
    }
}

#[test]
fn draws_belong_to_an_images_place_and_not_to_its_batch() {
    let device = Device::default();
    let model = model(&device);
    let drawn = |parts: &[(usize, usize)]| {
        let draws = Draws {
            temperature: 3.0,
            seed: 5,
        };
        let how = Captioning {
            longest: 7,
            shortest: 3,
            search: Search::TopK(12, draws),
            ..Captioning::new(10, 11)
        };
        let mut captioner = Captioner::new(how);
        let write = |(at, count): &(usize, usize)| {
            let images = images(&device).narrow(0, *at, *count);
            captioner.write(&model, images)
        };
        parts.iter().flat_map(write).collect::<Vec<_>>()
    };
    let whole = drawn(&[(0, 4)]);
    assert_eq!(whole, drawn(&[(0, 1), (1, 3)]));
    assert_ne!(whole[0], whole[1]);
}
