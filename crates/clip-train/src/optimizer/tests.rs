use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Device, Distribution, Int},
};
use clip_model::ClipConfig;

use super::*;

const CONFIG: &str = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 2, "width": 16, "head_width": 8,
    "patch_size": 4}, "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 3}}"#;

fn model() -> Clip {
    let config = ClipConfig::from_json(CONFIG, "test").unwrap();
    config.init(0, &Device::flex().autodiff())
}

/// The gradients of something that depends on every parameter but `logit_scale`.
fn grads(model: &Clip) -> GradientsParams {
    let device = model.device();
    let images = Tensor::<4>::random([2, 3, 8, 8], Distribution::Default, &device);
    let tokens = Tensor::<2, Int>::from_data([[1, 2, 3, 8], [4, 5, 6, 8]], &device);
    let sum = model.encode_image(images).square().sum() + model.encode_text(tokens).square().sum();
    GradientsParams::from_grads(sum.backward(), model)
}

/// The numbers of every parameter, by name.
#[derive(Default)]
struct Numbers {
    path: Vec<String>,
    found: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Numbers {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data().try_to_vec().unwrap();
        self.found.push((self.path.join("."), values));
    }
}

fn parameters(model: &Clip) -> Vec<(String, Vec<f32>)> {
    let mut found = Numbers::default();
    model.visit(&mut found);
    found.found
}

#[test]
fn lower_layers_learn_slower_in_each_tower() {
    let model = model();
    // Lion's first step is the learning rate, up or down, wherever there is a gradient.
    let config = OptimizerConfig {
        kind: OptimizerKind::Lion,
        weight_decay: 0.0,
        layer_decay: Some(0.5),
        ..OptimizerConfig::default()
    };
    let before = parameters(&model);
    let grads = grads(&model);
    let (stepped, _) = Optimizer::new(&config, &model).step(1e-2, model, grads);
    let steps: Vec<(String, f32)> = before
        .into_iter()
        .zip(parameters(&stepped))
        .map(|((name, before), (_, after))| {
            let moved = before.iter().zip(&after).map(|(a, b)| (a - b).abs());
            (name, moved.fold(0.0, f32::max))
        })
        .collect();
    for (part, layers_above) in [
        ("visual.conv1.weight", 3),
        ("visual.ln_pre.gamma", 3),
        ("visual.transformer.resblocks.0.mlp", 2),
        ("visual.transformer.resblocks.1.mlp", 1),
        ("visual.proj", 0),
        ("text.token_embedding", 4),
        ("text.transformer.resblocks.0.ln_1", 3),
        ("text.transformer.resblocks.2.ln_1", 1),
        ("text.ln_final", 0),
    ] {
        let want = 1e-2 * 0.5_f32.powi(layers_above);
        let mut of_part = steps.iter().filter(|(name, _)| {
            // Without the names of variants.
            let name = name.replace("VisionTransformer.", "");
            let name = name.replace("text.Transformer.", "text.");
            name.starts_with(part)
        });
        let (name, got) = of_part
            .next()
            .unwrap_or_else(|| panic!("{part} in {steps:?}"));
        assert!(
            (got / want - 1.0).abs() < 1e-3,
            "{name}: {got} instead of {want}"
        );
    }
}

#[test]
fn every_kind_goes_on_from_saved_state_as_if_it_had_not_stopped() {
    for kind in [
        OptimizerKind::AdamW,
        OptimizerKind::Lamb,
        OptimizerKind::Lion,
    ] {
        let config = OptimizerConfig {
            kind,
            ..OptimizerConfig::default()
        };
        let begun = model();
        // Of the first model, for it is to be the same step.
        let [first, second] = [grads(&begun), grads(&begun)];
        let again = |grads: &GradientsParams| copied(grads, &begun);
        let mut optimizer = Optimizer::new(&config, &begun);
        let (model, norm) = optimizer.step(1e-3, begun.clone(), again(&first));
        assert!(norm.into_scalar::<f32>() > 0.0);
        let saved = optimizer.state();
        let (straight, _) = optimizer.step(1e-3, model.clone(), again(&second));
        assert_ne!(parameters(&model), parameters(&straight), "{kind:?}");

        let fresh = || Optimizer::new(&config, &begun);
        let mut loaded = fresh().with_state(saved).unwrap();
        let (resumed, _) = loaded.step(1e-3, model.clone(), again(&second));
        assert_eq!(parameters(&resumed), parameters(&straight), "{kind:?}");
        let (forgetful, _) = fresh().step(1e-3, model, again(&second));
        assert_ne!(parameters(&forgetful), parameters(&straight), "{kind:?}");
    }
}

/// A copy: gradients are no `Clone`.
fn copied(grads: &GradientsParams, model: &Clip) -> GradientsParams {
    struct Copy<'a>(&'a GradientsParams, GradientsParams);
    impl ModuleVisitor for Copy<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.1.register(param.id, grad);
            }
        }
    }
    let mut copy = Copy(grads, GradientsParams::new());
    model.visit(&mut copy);
    copy.1
}

#[test]
fn state_of_another_kind_is_refused() {
    let model = model();
    let of = |kind| {
        let config = OptimizerConfig {
            kind,
            ..OptimizerConfig::default()
        };
        Optimizer::new(&config, &model)
    };
    let saved = of(OptimizerKind::Lion).state();
    let error = of(OptimizerKind::AdamW).with_state(saved).err().unwrap();
    assert!(
        error.to_string().contains("another kind of optimizer"),
        "{error}"
    );
}

#[test]
fn what_the_system_refuses_is_known_by_its_kind() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let state = Optimizer::new(&OptimizerConfig::default(), &model).state();
    let error = state.write(&dir.path().join("gone/optimizer.bpk"));
    let Err(TrainError::Io(error)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound, "{error}");
}
