//! `MobileCLIP`'s image encoders (`tests/reference/small_mobileclip.py`).

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};

use super::{Golden, assert_close, assert_values_close, named_gradients, pixels, with_values};
use crate::{
    Clip, ClipConfig, Init, Precision,
    encoder::{
        ImageEncoder, Statistics, TrainingDraws,
        fastvit::{FastVit, FastVitShape, FastVitStageShape},
        timm_vit::{TimmVisionTransformer, TimmVitShape, TimmVitStem},
    },
    l2_normalize,
    loss::{ContrastiveBatch, InfoNce},
    weights::named_params,
};

/// The text encoder of the script, and of `small_vitamin.py`; timm has no name for so small an image encoder.
pub(super) const TEXT: &str = r#"{"embed_dim": 6, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 8,
    "patch_size": 8}, "text_cfg": {"context_length": 4, "vocab_size": 10, "width": 4, "heads": 1, "layers": 1,
    "no_causal_mask": true}}"#;

/// The kinds of the script, with the sides of their images.
const KINDS: [(&str, usize); 4] = [
    ("fastvit.", 26),
    ("layer_norm.", 26),
    ("conv_stem.", 32),
    ("patches.", 12),
];

const fn stages(squeeze_excite: bool) -> [FastVitStageShape; 2] {
    let first = FastVitStageShape {
        depth: 1,
        channels: 4,
        attention: false,
        squeeze_excite: false,
    };
    let second = FastVitStageShape {
        depth: 1,
        channels: 8,
        attention: true,
        squeeze_excite,
    };
    [first, second]
}

const WEIGHED: [FastVitStageShape; 2] = stages(true);
const PLAIN: [FastVitStageShape; 2] = stages(false);

fn small_fastvit(layer_norm: bool) -> FastVitShape {
    FastVitShape {
        stages: if layer_norm { &PLAIN } else { &WEIGHED },
        mlp_ratio: 2,
        head_width: 4,
        stem_scale: !layer_norm,
        layer_norm,
    }
}

fn small_vit(stem: TimmVitStem, image_size: usize) -> TimmVitShape {
    TimmVitShape {
        stem,
        image_size,
        width: 4,
        layers: 1,
        heads: 2,
    }
}

/// A model of the script, with its weights.
fn load(kind: &str, side: usize, device: &Device) -> Clip {
    let init = &mut Init::new(0, device);
    let mut model = Clip::init(&ClipConfig::from_json(TEXT, "test").unwrap(), init);
    let vit = |stem, init: &mut Init| {
        ImageEncoder::TimmVit(TimmVisionTransformer::init(&small_vit(stem, side), 6, init))
    };
    model.visual = match kind {
        "conv_stem." => vit(TimmVitStem::Convolutions, init),
        "patches." => vit(TimmVitStem::Patches(4), init),
        _ => ImageEncoder::FastVit(FastVit::init(
            &small_fastvit(kind == "layer_norm."),
            6,
            init,
        )),
    };
    with_values(model)
}

fn golden(prefix: &'static str) -> Golden {
    let file = include_bytes!("../../tests/reference/small_mobileclip.safetensors");
    Golden::open(file, prefix)
}

/// The loss, with the texts of all of a file's models, whose features agree.
pub(super) fn loss(texts: &Golden, model: &Clip, image: Tensor<2>) -> Tensor<1> {
    let text = model.encode_text(texts.tokens(&model.device()));
    let expected = texts.floats("text_features");
    assert_close(l2_normalize(text.clone()), &expected, "text features");
    let batch = ContrastiveBatch::new(image, text, model.logit_scale.val());
    InfoNce::default().forward(batch)
}

/// Tensors by name are those that a file has one after the other.
pub(super) fn all_agree<'a>(
    got: impl Iterator<Item = (&'a String, &'a Vec<f32>)>,
    want: &[f32],
    what: &str,
) {
    let rest = got.fold(want, |want, (name, got)| {
        let (of_name, rest) = want.split_at(got.len());
        assert_values_close(got, of_name, &format!("{what} {name}"));
        rest
    });
    assert!(rest.is_empty(), "{what}: {} are left", rest.len());
}

fn gradients_agree(golden: &Golden, model: &Clip, loss: &Tensor<1>, name: &str) {
    let grads = named_gradients(model, &loss.backward(), "visual.");
    let only_norm = golden.prefix == "layer_norm.";
    let compared = grads
        .iter()
        .filter(|(name, _)| !only_norm || name.contains("blocks.0.norm."));
    all_agree(compared, &golden.floats(name), golden.prefix);
}

fn running_statistics(model: &Clip) -> BTreeMap<String, Vec<f32>> {
    let params = named_params(model, true).into_iter();
    let found = params.filter(|param| param.name.contains(".running_"));
    found
        .map(|param| (param.name, param.data.unwrap().try_to_vec().unwrap()))
        .collect()
}

#[test]
fn mobile_clips_agree_with_open_clip_in_training_and_after() {
    let device = Device::default().autodiff();
    for (kind, side) in KINDS {
        let (texts, golden, model) = (golden(""), golden(kind), load(kind, side, &device));
        let images = pixels(4, side, &device);
        let (image, statistics) =
            model.encode_image_in_training(images.clone(), TrainingDraws::default());
        let expected = golden.floats("image_features");
        assert_close(l2_normalize(image.clone()), &expected, kind);
        let found = loss(&texts, &model, image);
        let expected = golden.floats("loss");
        assert_close(found.clone().unsqueeze(), &expected, kind);
        gradients_agree(&golden, &model, &found, "grads");

        model.visual.update_running_statistics(&statistics);
        let after = running_statistics(&model);
        if !after.is_empty() {
            all_agree(after.iter(), &golden.floats("after"), kind);
        }
        let expected = golden.floats("eval.image_features");
        let image = model.encode_image(images.clone());
        assert_close(l2_normalize(image.clone()), &expected, kind);
        gradients_agree(&golden, &model, &loss(&texts, &model, image), "eval.grads");
        // Where a FastViT's branches are one convolution.
        let inference = l2_normalize(model.valid().encode_image(images.inner()));
        assert_close(inference, &expected, kind);
    }
}

#[test]
fn branches_of_a_full_sized_fastvit_become_one_convolution() {
    let device = Device::flex();
    let shape = FastVitShape::by_timm_name("fastvit_mci0").unwrap();
    let init = &mut Init::new(3, &device);
    let encoder = FastVit::init(&shape, 16, init).map(&mut Unsettle);
    let images = pixels(1, 64, &device);
    let one = encoder.forward(images.clone(), &mut Statistics::Running);
    let training = encoder.clone().train();
    let images = Tensor::from_inner(images);
    let branches = training.forward(images, &mut Statistics::Running);
    let expected = branches.into_data().try_to_vec::<f32>().unwrap();
    assert_close(one, &expected, "one convolution");
}

#[test]
fn mobile_clips_in_half_precision_are_close_to_open_clip() {
    let device = Device::default();
    for (kind, side) in KINDS {
        let model = load(kind, side, &device);
        let features = |model: &Clip| l2_normalize(model.encode_image(pixels(4, side, &device)));
        let want = features(&model);
        for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
            if !precision.is_supported(&device) {
                continue;
            }
            let cosines = (features(&precision.copy(&model)) * want.clone()).sum_dim(1);
            let least_found: f32 = cosines.min().into_scalar();
            assert!(least_found > least, "{kind}{precision}: {least_found}");
        }
    }
}

/// Moves numbers off the special values that they begin with.
struct Unsettle;

impl ModuleMapper for Unsettle {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D == 2 || D == 4 {
            return param;
        }
        param.map(|values| {
            let count = values.shape().num_elements();
            let shift = (0..count).map(|at| 0.2 + 0.1 * (at as f32).sin());
            let shift = TensorData::new(shift.collect::<Vec<f32>>(), values.shape());
            values.clone() + Tensor::from_data(shift, &values.device())
        })
    }
}
