use super::*;
use crate::{
    HfPooler, HfProjType,
    encoder::{
        TextEncoder,
        hugging_face::{
            HfFamily, HfProjection, HfTextEncoder, HfTextShape, HfTransformer, PADDING,
        },
    },
};

/// Width of the joint space.
const EMBED_DIM: usize = 6;

/// A model with a text encoder of this shape.
fn with_text(shape: &HfTextShape, device: &Device) -> Clip {
    // The image encoder by configuration; the hub has no name for so small a text encoder.
    let json = r#"{"embed_dim": 6, "custom_text": true, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8,
        "head_width": 8, "patch_size": 8}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
    let init = &mut Init::new(0, device);
    let mut model = Clip::init(&ClipConfig::from_json(json, "test").unwrap(), init);
    model.text = TextEncoder::HuggingFace(HfTextEncoder::init(shape, EMBED_DIM, init));
    let params = named_params(&model, false).into_iter();
    let of_text = params.filter(|param| param.name.starts_with("text."));
    let count: usize = of_text
        .map(|param| param.shape.iter().product::<usize>())
        .sum();
    assert_eq!(count, shape.num_params(EMBED_DIM));
    model
}

/// The model of `small_roberta.py`, with one of OpenCLIP's poolers and projections.
fn small_roberta(pooler: HfPooler, projection: HfProjType, device: &Device) -> Clip {
    let shape = HfTextShape {
        family: HfFamily::Roberta,
        vocab_size: 20,
        longest: 8,
        width: 12,
        heads: 2,
        layers: 2,
        mlp_width: 20,
        pooler,
        projection: Some(projection),
    };
    with_text(&shape, device)
}

/// That of `small_m2m100.py`.
fn small_m2m100(device: &Device) -> Clip {
    let shape = HfTextShape {
        family: HfFamily::M2m100,
        vocab_size: 20,
        longest: 16,
        width: 8,
        heads: 2,
        layers: 2,
        mlp_width: 12,
        pooler: HfPooler::ClsPooler,
        projection: Some(HfProjType::Linear),
    };
    with_text(&shape, device)
}

fn golden_roberta() -> Golden {
    let file = include_bytes!("../../tests/reference/small_roberta.safetensors");
    Golden::open(file, "")
}

#[test]
fn roberta_agrees_with_open_clip() {
    let (golden, device) = (golden_roberta(), Device::default().autodiff());
    let model = small_roberta(HfPooler::MeanPooler, HfProjType::Mlp, &device);
    let model = golden.load(model);
    golden.agrees(&model, pixels(4, 8, &device));

    golden.has_been_kept(&model);

    // The first caption is over after four of eight tokens.
    let cut = golden.tokens(&device).narrow(0, 0, 1).narrow(1, 0, 4);
    let whole = &golden.floats("text_features")[..EMBED_DIM];
    assert_close(l2_normalize(model.encode_text(cut)), whole, "cut padding");
    let inference = model.valid().encode_text(golden.tokens(&device.inner()));
    let expected = golden.floats("text_features");
    assert_close(l2_normalize(inference), &expected, "inference");
}

#[test]
fn robertas_own_pooler_agrees_with_open_clip() {
    let (golden, device) = (golden_roberta(), Device::default());
    let trained = golden.load(small_roberta(
        HfPooler::MeanPooler,
        HfProjType::Mlp,
        &device,
    ));
    let mut model = small_roberta(HfPooler::ClsPooler, HfProjType::Linear, &device);
    let (TextEncoder::HuggingFace(trained), TextEncoder::HuggingFace(text)) =
        (trained.text, &mut model.text)
    else {
        panic!("both are Hugging Face's");
    };
    let (HfTransformer::Roberta(trained), HfTransformer::Roberta(roberta)) =
        (trained.transformer, &mut text.transformer)
    else {
        panic!("both are RoBERTa's");
    };
    (roberta.embeddings, roberta.encoder) = (trained.embeddings, trained.encoder);
    let matrix = |name: &str, shape: [usize; 2]| {
        let data = TensorData::new(golden.floats(&format!("cls_pooler.text.{name}")), shape);
        Param::from_tensor(Tensor::<2>::from_data(data, &device).transpose())
    };
    let pooler = roberta.pooler.as_mut().unwrap();
    pooler.weight = matrix("transformer.pooler.dense.weight", [12, 12]);
    let bias = golden.floats("cls_pooler.text.transformer.pooler.dense.bias");
    let bias = Tensor::from_data(TensorData::new(bias, [12]), &device);
    pooler.bias = Some(Param::from_tensor(bias));
    let Some(HfProjection::Linear(projection)) = &mut text.proj else {
        panic!("a matrix");
    };
    projection.weight = matrix("proj.weight", [EMBED_DIM, 12]);
    let features = l2_normalize(model.encode_text(golden.tokens(&device)));
    let expected = golden.floats("cls_pooler.text_features");
    assert_close(features, &expected, "cls_pooler");
}

#[test]
fn m2m100_agrees_with_open_clip() {
    let file = include_bytes!("../../tests/reference/small_m2m100.safetensors");
    let (golden, device) = (Golden::open(file, ""), Device::default().autodiff());
    let model = small_m2m100(&device);
    // The file has the text encoder alone.
    let bytes = weights_bytes(&model);
    let own = SafeTensors::deserialize(&bytes).unwrap();
    let theirs = |name: &str| golden.find(&format!("model.{name}"));
    let merged = own.tensors().into_iter().map(|(name, view)| {
        let view = theirs(&name).unwrap_or(view);
        (name, view)
    });
    let merged: HashMap<String, TensorView<'_>> = merged.collect();
    let names = golden.file.names().into_iter();
    let names: Vec<_> = names
        .filter_map(|name| name.strip_prefix("model."))
        .collect();
    assert!(names.iter().all(|name| merged.contains_key(*name)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    std::fs::write(&path, safetensors::serialize(&merged, None).unwrap()).unwrap();
    let model = load_weights(model, &path).unwrap();

    let features = model.encode_text(golden.tokens(&device));
    let expected = golden.floats("text_features");
    assert_close(features.clone(), &expected, "text features");
    let grads = features.sin().sum().backward();
    assert_eq!(golden.gradients_agree(&model, &grads, "text."), names.len());
    let cut = golden.tokens(&device).narrow(0, 0, 1).narrow(1, 0, 4);
    assert_close(
        model.encode_text(cut),
        &expected[..EMBED_DIM],
        "cut padding",
    );
}

#[test]
fn roberta_in_half_precision_is_close_to_open_clip() {
    let (golden, device) = (golden_roberta(), Device::default());
    let model = golden.load(small_roberta(
        HfPooler::MeanPooler,
        HfProjType::Mlp,
        &device,
    ));
    let want = TensorData::new(golden.floats("text_features"), [4, EMBED_DIM]);
    let want = Tensor::<2>::from_data(want, &device);
    for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
        if !precision.is_supported(&device) {
            continue;
        }
        let copy = precision.copy(&model);
        let features = l2_normalize(copy.encode_text(golden.tokens(&device)));
        let cosines = (features * want.clone()).sum_dim(1);
        let least_found: f32 = cosines.min().into_scalar();
        assert!(least_found > least, "{precision}: {least_found}");
    }
}

/// BERT's deviation, and 0 for padding and biases.
#[test]
fn roberta_begins_as_transformers_does() {
    let shape = HfTextShape {
        family: HfFamily::Roberta,
        vocab_size: 200,
        longest: 38,
        width: 64,
        heads: 2,
        layers: 1,
        mlp_width: 256,
        pooler: HfPooler::ClsPooler,
        projection: Some(HfProjType::Linear),
    };
    let device = Device::flex();
    let encoder = HfTextEncoder::init(&shape, EMBED_DIM, &mut Init::new(3, &device));
    let HfTransformer::Roberta(roberta) = &encoder.transformer else {
        panic!("RoBERTa's");
    };
    let words = encoder.token_embedding().weight.val();
    let positions = roberta.embeddings.position_embeddings.weight.val();
    let [padding_word, padding_position] =
        [&words, &positions].map(|table| table.clone().narrow(0, PADDING as usize, 1));
    assert!(!padding_word.any().into_scalar::<bool>());
    assert!(!padding_position.any().into_scalar::<bool>());
    let layer = &roberta.encoder.layer[0];
    for weights in [
        words,
        layer.attention.key.weight.val(),
        layer.mlp.c_fc.weight.val(),
    ] {
        let deviation: f32 = weights.square().mean().sqrt().into_scalar();
        // 4,096 numbers or more: a deviation within 4 standard errors.
        assert!((deviation / 0.02 - 1.0).abs() < 0.045, "{deviation}");
    }
    let bias = layer.mlp.c_proj.bias.as_ref().unwrap().val();
    assert!(!bias.any().into_scalar::<bool>());
}

/// Whether each parameter has a gradient.
struct Trained(HashMap<ParamId, bool>);

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, param.is_require_grad());
    }
}

#[test]
fn layers_are_locked_from_the_input() {
    let device = Device::flex().autodiff();
    let model = small_roberta(HfPooler::ClsPooler, HfProjType::Linear, &device);
    let trained = |groups: usize| {
        let model = Clip {
            text: model.text.clone().lock(groups),
            ..model.clone()
        };
        let mut found = Trained(HashMap::new());
        model.visit(&mut found);
        let params = named_params(&model, false).into_iter();
        let of_text = params.filter(|param| param.name.starts_with("text.") && found.0[&param.id]);
        of_text.map(|param| param.name).collect::<Vec<_>>()
    };
    assert_eq!(trained(0), ["text.proj.weight"]);
    let last = trained(1);
    assert_eq!(last.len(), 16 + 3);
    assert!(
        last.iter()
            .all(|name| !name.contains("layer.0.") && !name.contains("embeddings"))
    );
    assert_eq!(trained(2).len(), 2 * 16 + 3);
    assert_eq!(trained(3).len(), 5 + 2 * 16 + 3);
    assert_eq!(trained(9).len(), 5 + 2 * 16 + 3);
}
