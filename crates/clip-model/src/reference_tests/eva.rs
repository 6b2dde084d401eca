//! The families of timm's `Eva` (`tests/reference/small_eva.py`).

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};

use super::{Golden, SMALL_TEXT, assert_close, pixels};
use crate::{
    Clip, ClipConfig, Init, Precision,
    encoder::{
        ImageEncoder,
        eva::{Eva, EvaFamily, EvaShape},
    },
    l2_normalize,
};

const EVA_SIDE: usize = 12;

/// A shape of `small_eva.py`.
fn small_eva(family: EvaFamily) -> EvaShape {
    let (width, layers, heads, mlp_width) = match family {
        EvaFamily::Eva01 | EvaFamily::Eva02PostNorm => (4, 2, 2, 6),
        EvaFamily::Eva02 => (16, 1, 2, 12),
        EvaFamily::PerceptionEncoder => (8, 1, 1, 12),
    };
    EvaShape {
        family,
        image_size: EVA_SIDE,
        patch_size: 4,
        width,
        layers,
        heads,
        mlp_width,
        class_token: true,
    }
}

/// Its model with the reference's weights.
fn load_eva(golden: &Golden, shape: &EvaShape, device: &Device) -> Clip {
    let init = &mut Init::new(0, device);
    let mut model = Clip::init(&ClipConfig::from_json(SMALL_TEXT, "test").unwrap(), init);
    model.visual = ImageEncoder::Eva(Eva::init(shape, 6, init));
    golden.load(model)
}

fn golden_eva(prefix: &'static str) -> Golden {
    let file = include_bytes!("../../tests/reference/small_eva.safetensors");
    Golden::open(file, prefix)
}

#[test]
fn evas_agree_with_open_clip() {
    let device = Device::default().autodiff();
    for (prefix, family) in [
        ("eva01.", EvaFamily::Eva01),
        ("eva02.", EvaFamily::Eva02),
        ("post_norm.", EvaFamily::Eva02PostNorm),
        ("pe.", EvaFamily::PerceptionEncoder),
    ] {
        let golden = golden_eva(prefix);
        let model = load_eva(&golden, &small_eva(family), &device);
        golden.agrees(&model, pixels(3, EVA_SIDE, &device));
        golden.has_been_kept(&model);

        let inference = model.valid();
        let features = inference.encode_image(pixels(3, EVA_SIDE, &device).inner());
        let expected = golden.floats("image_features");
        assert_close(l2_normalize(features), &expected, "inference");
    }
}

/// The largest Perception Encoder has none.
#[test]
fn a_perception_encoder_without_class_token_agrees_with_open_clip() {
    let device = Device::default();
    let shape = small_eva(EvaFamily::PerceptionEncoder);
    let mut model = load_eva(&golden_eva("pe."), &shape, &device);
    let bare = EvaShape {
        class_token: false,
        ..shape
    };
    let mut bare = Eva::init(&bare, 6, &mut Init::new(0, &device));
    let ImageEncoder::Eva(Eva { trunk }) = model.visual else {
        panic!("an Eva");
    };
    let patches = trunk.pos_embed.val().narrow(1, 1, 9);
    bare.trunk.pos_embed = Param::initialized(trunk.pos_embed.id, patches);
    bare.trunk.patch_embed = trunk.patch_embed;
    bare.trunk.norm_pre = trunk.norm_pre;
    bare.trunk.blocks = trunk.blocks;
    bare.trunk.norm = trunk.norm;
    bare.trunk.attn_pool = trunk.attn_pool;
    bare.trunk.head = trunk.head;
    model.visual = ImageEncoder::Eva(bare);
    let features = l2_normalize(model.encode_image(pixels(3, EVA_SIDE, &device)));
    let expected = golden_eva("bare.").floats("image_features");
    assert_close(features, &expected, "without class token");
}

#[test]
fn evas_in_half_precision_are_close_to_open_clip() {
    let device = Device::default();
    for (prefix, family) in [
        ("eva02.", EvaFamily::Eva02),
        ("pe.", EvaFamily::PerceptionEncoder),
    ] {
        let golden = golden_eva(prefix);
        let model = load_eva(&golden, &small_eva(family), &device);
        let want = TensorData::new(golden.floats("image_features"), [3, 6]);
        let want = Tensor::<2>::from_data(want, &device);
        for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
            if !precision.is_supported(&device) {
                continue;
            }
            let copy = precision.copy(&model);
            let features = l2_normalize(copy.encode_image(pixels(3, EVA_SIDE, &device)));
            let cosines = (features * want.clone()).sum_dim(1);
            let least_found: f32 = cosines.min().into_scalar();
            assert!(least_found > least, "{prefix}{precision}: {least_found}");
        }
    }
}
