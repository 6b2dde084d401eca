use burn::{
    module::ModuleMapper,
    tensor::{Device, Distribution, Int},
};
use clip_model::{ClipConfig, weights::weights_bytes};

use super::*;
use crate::{Optimizer, OptimizerConfig, OptimizerKind, OptimizerState, step::global_norm};

const CONFIG: &str = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 2, "width": 16, "head_width": 8,
    "patch_size": 4}, "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 3}}"#;

/// Rounding of products of a few numbers of this size.
const ROUNDING: f32 = 2e-6;

fn model() -> Clip {
    let config = ClipConfig::from_json(CONFIG, "test").unwrap();
    config.init(0, &Device::flex().autodiff())
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 3.0,
        ..LoraConfig::default()
    }
}

/// Something that depends on every parameter, `logit_scale` too.
fn loss(model: &Clip, seed: u64) -> Tensor<1> {
    let device = model.device();
    device.seed(seed);
    let images = Tensor::<4>::random([2, 3, 8, 8], Distribution::Default, &device);
    let tokens = Tensor::<2, Int>::from_data([[1, 2, 3, 8], [4, 5, 6, 8]], &device);
    let images = model.encode_image(images).sin();
    let texts = model.encode_text(tokens).sin();
    images.sum() + texts.sum() * model.logit_scale.val()
}

fn grads(model: &Clip, seed: u64) -> GradientsParams {
    GradientsParams::from_grads(loss(model, seed).backward(), model)
}

/// Steps of AdamW, so that no factor is 0 any more.
fn trained(lora: &LoraConfig, config: &OptimizerConfig, steps: u64) -> (Clip, Optimizer) {
    let mut model = lora.lock(model(), [false; 2]).unwrap();
    let mut optimizer = Optimizer::with_lora(config, lora, 5, &model);
    for step in 0..steps {
        let grads = grads(&model, step);
        model = optimizer.step(1e-2, model, grads).0;
    }
    (model, optimizer)
}

fn adapters(optimizer: &Optimizer) -> &Adapters {
    optimizer.adapters.as_ref().unwrap()
}

/// Parameters by name, in the layout that they are saved in.
fn parameters(model: &Clip) -> HashMap<String, Vec<u8>> {
    let bytes = weights_bytes(model);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let own = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()));
    own.collect()
}

fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn matrix(model: &Clip, site: &Site) -> Tensor<2> {
    let mut weights = Weights {
        wanted: vec![site.matrix],
        found: HashMap::new(),
    };
    model.visit(&mut weights);
    site.of(&weights.found[&site.matrix])
}

fn assert_near(got: &[f32], want: &[f32], what: &str) {
    let largest = want
        .iter()
        .fold(0.0, |most: f32, value| most.max(value.abs()));
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= ROUNDING * largest,
            "{what}: {got}, not {want} of {largest}"
        );
    }
}

#[test]
fn a_matrix_is_its_first_weights_and_the_product_of_its_factors() {
    let before = model();
    let (after, optimizer) = trained(&lora(), &OptimizerConfig::default(), 3);
    let adapters = adapters(&optimizer);
    assert_eq!(adapters.sites.len(), (2 + 3) * 6);
    for (site, Factors { a, b }) in adapters.sites.iter().zip(&adapters.factors) {
        let [w0, w, a, b] = [
            matrix(&before, site),
            matrix(&after, site),
            a.val().inner(),
            b.val().inner(),
        ]
        .map(numbers);
        let to = site.columns.len();
        let want: Vec<f32> = (0..w0.len())
            .map(|at| {
                let (row, column) = (at / to, at % to);
                let product: f64 = (0..2)
                    .map(|k| f64::from(a[row * 2 + k]) * f64::from(b[k * to + column]))
                    .sum();
                (f64::from(w0[at]) + 1.5 * product) as f32
            })
            .collect();
        assert_near(&w, &want, &site.name);
        assert_ne!(w, w0, "{} {}", site.name, site.target);
    }
}

/// Autodiff's gradients, of the whole model with every matrix composed of leaves.
#[test]
fn gradients_of_the_factors_are_those_of_a_composed_layer() {
    struct Compose<'a>(&'a Adapters, Vec<[Tensor<2>; 2]>);
    impl ModuleMapper for Compose<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Self(adapters, leaves) = self;
            let own = |at: &usize| adapters.sites[*at].matrix == param.id;
            let own: Vec<usize> = (0..leaves.len()).filter(own).collect();
            if own.is_empty() {
                return param;
            }
            let parts = own.iter().map(|at| {
                let [a, b] = leaves[*at].clone();
                let base = Tensor::from_inner(adapters.base[*at].clone());
                base + a.matmul(b).mul_scalar(1.5)
            });
            let composed = Tensor::cat(parts.collect(), 1);
            let (id, shape) = (param.id, param.dims());
            Param::initialized(id, composed.reshape(shape))
        }
    }
    let config = OptimizerConfig::default();
    let (model, mut optimizer) = trained(&lora(), &config, 2);
    let adapters = adapters(&optimizer).clone();
    let (found, others) = adapters.gradients(grads(&model, 7), &model);
    // `logit_scale` alone.
    assert_eq!(others.len(), 1);

    let leaf = |factor: &Param<Tensor<2>>| Tensor::from_inner(factor.val().inner()).require_grad();
    let leaves = adapters
        .factors
        .iter()
        .map(|Factors { a, b }| [leaf(a), leaf(b)]);
    let leaves: Vec<_> = leaves.collect();
    let composed = model.clone().map(&mut Compose(&adapters, leaves.clone()));
    let autodiff = loss(&composed, 7).backward();
    let mut squares = 0.0;
    for ((Factors { a, b }, leaves), site) in
        adapters.factors.iter().zip(&leaves).zip(&adapters.sites)
    {
        for (id, leaf) in [a.id, b.id].into_iter().zip(leaves) {
            let want = numbers(leaf.grad(&autodiff).unwrap());
            let got = numbers(found.get::<2>(id).unwrap());
            // Rounding of sums over a batch and its tokens.
            let largest = want
                .iter()
                .fold(0.0, |most: f32, value| most.max(value.abs()));
            let off = want.iter().zip(&got).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f32::max);
            // No gradient of keys but rounding, where a sequence's scores shift alike.
            assert!(
                off <= 1e-4 * largest + 1e-7,
                "{} {}: {off} of {largest}",
                site.name,
                site.target
            );
            squares += want.iter().map(|value| value * value).sum::<f32>();
        }
    }
    let scale = global_norm(&others, &model).into_scalar::<f32>();
    let want = (squares + scale * scale).sqrt();
    let (_, norm) = optimizer.step(1e-2, model.clone(), grads(&model, 7));
    let norm = norm.into_scalar::<f32>();
    assert!((norm / want - 1.0).abs() < 1e-4, "{norm}, not {want}");
}

#[test]
fn what_has_no_adapter_keeps_its_bits() {
    let before = parameters(&model());
    let changed = |lora: &LoraConfig| {
        let after = parameters(&trained(lora, &OptimizerConfig::default(), 3).0);
        let mut changed: Vec<_> = before
            .keys()
            .filter(|name| before[*name] != after[*name])
            .collect();
        changed.sort();
        changed.into_iter().cloned().collect::<Vec<_>>()
    };
    let queries = LoraConfig {
        targets: vec![Target::QProj, Target::VProj],
        ..lora()
    };
    let of_blocks = |matrix: &str| {
        let text = (0..3).map(|block| format!("transformer.resblocks.{block}.{matrix}"));
        let image = (0..2).map(|block| format!("visual.transformer.resblocks.{block}.{matrix}"));
        text.chain(image).collect::<Vec<_>>()
    };
    let with_scale = |names: Vec<String>| [vec!["logit_scale".to_owned()], names].concat();
    assert_eq!(
        changed(&queries),
        with_scale(of_blocks("attn.in_proj_weight"))
    );
    let quiet = LoraConfig {
        targets: vec![Target::CFc],
        logit_scale: false,
        ..lora()
    };
    assert_eq!(changed(&quiet), of_blocks("mlp.c_fc.weight"));
    let with_norm = LoraConfig {
        train: vec!["visual.proj".to_owned(), "ln_final".to_owned()],
        ..quiet
    };
    let named = ["ln_final.bias", "ln_final.weight"]
        .map(ToOwned::to_owned)
        .to_vec();
    let last = vec!["visual.proj".to_owned()];
    let mut want = [named, of_blocks("mlp.c_fc.weight"), last].concat();
    want.sort();
    assert_eq!(changed(&with_norm), want);

    // Keys lie between queries and values.
    let (after, optimizer) = trained(&queries, &OptimizerConfig::default(), 3);
    let site = &adapters(&optimizer).sites[0];
    let keys = Site {
        columns: 16..32,
        ..site.clone()
    };
    assert_eq!(
        numbers(matrix(&model(), &keys)),
        numbers(matrix(&after, &keys))
    );
}

#[test]
fn adapters_go_on_from_files_as_if_they_had_not_stopped() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Lion] {
        let config = OptimizerConfig {
            kind,
            grad_clip_norm: Some(1.0),
            ..OptimizerConfig::default()
        };
        let lora = lora();
        let (straight, _) = trained(&lora, &config, 4);
        let (half, optimizer) = trained(&lora, &config, 2);
        let mut state = optimizer.state();
        let of = state.of().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let [record, factors] =
            ["optimizer.bpk", "adapters.safetensors"].map(|name| dir.path().join(name));
        state.take_adapters().unwrap().write(&factors).unwrap();
        state.write(&record).unwrap();

        // A checkpoint's reader begins with a model of zeros.
        let blank = ClipConfig::from_json(CONFIG, "test").unwrap();
        let blank = blank.init_blank(&Device::flex().autodiff());
        let blank = lora.lock(blank, [false; 2]).unwrap();
        let fresh = Optimizer::with_lora(&config, &lora, 5, &blank);
        let read = |adapters| OptimizerState::read(&record, adapters, of.clone()).unwrap();
        let mut resumed = fresh
            .clone()
            .with_state(read(Some(factors.as_path())))
            .unwrap();
        let mut model = half;
        for step in 2..4 {
            let grads = grads(&model, step);
            model = resumed.step(1e-2, model, grads).0;
        }
        assert!(
            weights_bytes(&model) == weights_bytes(&straight),
            "{kind:?}"
        );

        let error = fresh
            .clone()
            .with_state(read(None))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("adapters are missing"), "{error}");
        let others = LoraConfig {
            targets: vec![Target::VProj],
            ..lora
        };
        let others = Optimizer::with_lora(&config, &others, 5, &blank);
        let error = others
            .with_state(read(Some(factors.as_path())))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("adapters of other matrices"),
            "{error}"
        );
        std::fs::write(&factors, &std::fs::read(&factors).unwrap()[..400]).unwrap();
        OptimizerState::read(&record, Some(&factors), of.clone()).unwrap_err();
    }
}

#[test]
fn adapters_of_lower_layers_learn_slower_too() {
    // Lion's first step is the learning rate, up or down, wherever there is a gradient; `A` has none yet.
    let config = OptimizerConfig {
        kind: OptimizerKind::Lion,
        weight_decay: 0.0,
        layer_decay: Some(0.5),
        ..OptimizerConfig::default()
    };
    let (_, optimizer) = trained(&lora(), &config, 1);
    let adapters = adapters(&optimizer);
    for (site, Factors { b, .. }) in adapters.sites.iter().zip(&adapters.factors) {
        let above = |blocks: usize| {
            let block = site.name.split("resblocks.").nth(1).unwrap();
            blocks - block.split('.').next().unwrap().parse::<usize>().unwrap()
        };
        let above = above(if site.name.starts_with("visual") {
            2
        } else {
            3
        });
        let want = 1e-2 * 0.5_f32.powi(above as i32);
        let got = numbers(b.val().inner())
            .iter()
            .fold(0.0, |most: f32, value| most.max(value.abs()));
        assert!(
            (got / want - 1.0).abs() < 1e-3,
            "{}: {got}, not {want}",
            site.name
        );
    }
}

#[test]
fn a_seed_means_its_factors_whatever_else_is_drawn() {
    let model = lora().lock(model(), [false; 2]).unwrap();
    let drawn = |seed| {
        let adapters = Adapters::new(&lora(), seed, &model);
        let first = numbers(adapters.factors[0].a.val().inner());
        let bound = 1.0 / 4.0; // 16 inputs
        let largest = first
            .iter()
            .fold(0.0, |most: f32, value| most.max(value.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "{largest}");
        first
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}
