//! `ViTamin`'s image encoders (`tests/reference/small_vitamin.py`).

use burn::{
    module::Module,
    tensor::{DType, Device},
};

use super::{
    Golden, assert_close,
    mobileclip::{TEXT, all_agree, loss},
    named_gradients, pixels, with_values,
};
use crate::{
    Clip, ClipConfig, Init, Precision,
    encoder::{
        ImageEncoder, TimmProjection, TrainingDraws,
        vitamin::{ViTamin, ViTaminShape},
    },
    l2_normalize,
};

/// The kinds of the script, with the sides of their images.
const KINDS: [(&str, usize); 2] = [("positions.", 26), ("unplaced.", 20)];

/// A model of the script, with its weights.
fn load(kind: &str, side: usize, device: &Device) -> Clip {
    let has_positions = kind == "positions.";
    let shape = ViTaminShape {
        image_size: has_positions.then_some(side),
        channels: [4, 6],
        width: 8,
        layers: 2,
        heads: 2,
        projection: if has_positions {
            TimmProjection::Linear
        } else {
            TimmProjection::Mlp
        },
    };
    let init = &mut Init::new(0, device);
    let mut model = Clip::init(&ClipConfig::from_json(TEXT, "test").unwrap(), init);
    model.visual = ImageEncoder::ViTamin(ViTamin::init(&shape, 6, init));
    with_values(model)
}

fn golden(prefix: &'static str) -> Golden {
    let file = include_bytes!("../../tests/reference/small_vitamin.safetensors");
    Golden::open(file, prefix)
}

#[test]
fn vitamins_agree_with_open_clip() {
    let device = Device::default().autodiff();
    for (kind, side) in KINDS {
        let (golden, model) = (golden(kind), load(kind, side, &device));
        let images = pixels(4, side, &device);
        let (image, _) = model.encode_image_in_training(images.clone(), TrainingDraws::default());
        let expected = golden.floats("image_features");
        assert_close(l2_normalize(image.clone()), &expected, kind);
        let inference = l2_normalize(model.valid().encode_image(images.inner()));
        assert_close(inference, &expected, kind);

        let found = loss(&self::golden(""), &model, image);
        assert_close(found.clone().unsqueeze(), &golden.floats("loss"), kind);
        let grads = named_gradients(&model, &found.backward(), "visual.");
        let is_kept = |name: &str| {
            kind == "positions." || [".pool.", ".head."].iter().any(|part| name.contains(part))
        };
        let compared = grads.iter().filter(|(name, _)| is_kept(name));
        all_agree(compared, &golden.floats("grads"), kind);
    }
}

#[test]
fn vitamins_in_half_precision_are_close_to_open_clip() {
    let device = Device::default();
    for (kind, side) in KINDS {
        let model = load(kind, side, &device);
        let features = |model: &Clip| l2_normalize(model.encode_image(pixels(4, side, &device)));
        let want = features(&model);
        for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
            if !precision.is_supported(&device) {
                continue;
            }
            let copy = precision.copy(&model);
            let cosines = (features(&copy) * want.clone()).sum_dim(1);
            let least_found: f32 = cosines.min().into_scalar();
            assert!(least_found > least, "{kind}{precision}: {least_found}");
            let ImageEncoder::ViTamin(encoder) = &copy.visual else {
                panic!("a ViTamin");
            };
            let mlp = &encoder.trunk.blocks[1].mlp;
            assert_eq!(mlp.norm.gamma.val().dtype(), DType::F32);
            assert_eq!(mlp.w0.weight.val().dtype(), precision.dtype().into());
        }
    }
}
