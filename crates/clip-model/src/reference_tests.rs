//! Features, loss and every gradient against OpenCLIP's (`tests/reference/small_vit.py`).

use std::collections::HashMap;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Device, Int, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Clip, ClipConfig, l2_normalize,
    loss::{ContrastiveBatch, InfoNce},
    weights::{load_weights, named_params},
};

/// Kernels sum in another order than PyTorch's; relative to the norm of what is compared.
const ROUNDING: f32 = 1e-4;

struct Golden {
    file: SafeTensors<'static>,
    case: &'static str,
}

impl Golden {
    fn open(case: &'static str) -> Self {
        let bytes = include_bytes!("../tests/reference/small_vit.safetensors");
        Self {
            file: SafeTensors::deserialize(bytes).unwrap(),
            case,
        }
    }

    fn view(&self, name: &str) -> TensorView<'_> {
        self.file.tensor(&format!("{}.{name}", self.case)).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.view(name);
        view.data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    /// The model with the reference's weights, through a file as any import.
    fn model(&self, quick_gelu: bool, device: &Device) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 8, "quick_gelu": {quick_gelu}, "vision_cfg": {{"image_size": 16,
            "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}}, "text_cfg":
            {{"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}}}}"#
        );
        let prefix = format!("{}.model.", self.case);
        let weights: HashMap<String, TensorView<'_>> = self
            .file
            .names()
            .iter()
            .filter_map(|name| {
                Some((
                    name.strip_prefix(&prefix)?.to_owned(),
                    self.file.tensor(name).ok()?,
                ))
            })
            .collect();
        assert!(weights.values().all(|view| view.dtype() == Dtype::F32));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        std::fs::write(&path, safetensors::serialize(&weights, None).unwrap()).unwrap();
        load_weights(
            ClipConfig::from_json(&json, "test")
                .unwrap()
                .init(0, device),
            &path,
        )
        .unwrap()
    }
}

fn assert_close(got: Tensor<2>, want: &[f32], what: &str) {
    assert_values_close(&got.into_data().try_to_vec().unwrap(), want, what);
}

fn assert_values_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = want.iter().map(|x| x * x).sum::<f32>().sqrt();
    let off = got
        .iter()
        .zip(want)
        .map(|(x, y)| (x - y).powi(2))
        .sum::<f32>()
        .sqrt();
    assert!(
        off <= ROUNDING * norm + 1e-6,
        "{what}: off by {off} of {norm}"
    );
}

struct Gradients<'a> {
    grads: &'a burn::tensor::Gradients,
    found: HashMap<ParamId, Vec<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = param
            .val()
            .grad(self.grads)
            .expect("every parameter has a gradient");
        self.found
            .insert(param.id, grad.into_data().try_to_vec().unwrap());
    }
}

fn agrees(case: &'static str, quick_gelu: bool) {
    let golden = Golden::open(case);
    let device = Device::flex().autodiff();
    let model = golden.model(quick_gelu, &device);
    let images = TensorData::new(golden.floats("images"), [4, 3, 16, 16]);
    let tokens: Vec<i32> = golden
        .view("tokens")
        .data()
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [4, 8]), &device);
    let image = model.encode_image(Tensor::from_data(images, &device));
    let text = model.encode_text(tokens);
    assert_close(
        l2_normalize(image.clone()),
        &golden.floats("image_features"),
        "image features",
    );
    assert_close(
        l2_normalize(text.clone()),
        &golden.floats("text_features"),
        "text features",
    );

    let batch = ContrastiveBatch::new(image, text, model.logit_scale.val());
    let loss = InfoNce::default().forward(batch);
    assert_values_close(
        &[loss.clone().into_scalar::<f32>()],
        &golden.floats("loss"),
        "loss",
    );
    let grads = loss.backward();
    let mut gradients = Gradients {
        grads: &grads,
        found: HashMap::new(),
    };
    model.visit(&mut gradients);
    for param in named_params(&model, false) {
        let mut got = gradients.found.remove(&param.id).unwrap();
        if param.transposed {
            let (rows, columns) = (param.shape[1], param.shape[0]);
            got = (0..columns)
                .flat_map(|c| (0..rows).map(move |r| (r, c)))
                .map(|(r, c)| got[r * columns + c])
                .collect();
        }
        assert_values_close(
            &got,
            &golden.floats(&format!("grad.{}", param.name)),
            &param.name,
        );
    }
}

#[test]
fn gelu_model_agrees_with_open_clip() {
    agrees("gelu", false);
}

#[test]
fn quick_gelu_model_agrees_with_open_clip() {
    agrees("quick_gelu", true);
}
