//! Low-rank adapters, stepped along the gradients of a batch in parts.

use super::*;
use crate::LoraConfig;

/// As of [whole weights](super::training), relative to what the steps changed.
const ROUNDING_OF_CHANGES: f32 = 2e-3;

fn adapted(device: &Device) -> (LoraConfig, Clip) {
    let lora = LoraConfig {
        rank: 4,
        ..LoraConfig::default()
    };
    let model = lora.lock(model(device), [false; 2]).unwrap();
    (lora, model)
}

#[test]
fn five_steps_of_adapters_give_the_same_weights_for_any_chunks_and_devices() {
    let main = Device::flex().autodiff();
    let (lora, begun) = adapted(&main);
    let trained = |step: ContrastiveStep| {
        let mut model = begun.clone();
        let config = OptimizerConfig::default();
        let mut optimizer = Optimizer::with_lora(&config, &lora, 0, &model);
        for at in 0..5 {
            let found = step.gradients(&model, &batch_of_patches(64, at));
            model = optimizer.step(1e-3, model, found.grads).0;
        }
        weights(&model)
    };
    let first = weights(&begun);
    let whole = trained(step(64));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    for (chunk, devices, recompute) in
        [(16, 1, false), (64, 2, false), (4, 3, false), (16, 1, true)]
    {
        let step = step(chunk)
            .with_threads(devices)
            .unwrap()
            .with_devices(vec![Device::flex(); devices])
            .with_recomputed_blocks(recompute);
        let got = trained(step);
        for (((name, first), (_, want)), (_, got)) in first.iter().zip(&whole).zip(&got) {
            let change = norm(&mut want.iter().zip(first).map(|(a, b)| a - b));
            let off = norm(&mut want.iter().zip(got).map(|(a, b)| a - b));
            assert!(
                off <= ROUNDING_OF_CHANGES * change,
                "{chunk} {devices} {name}: {off} of {change}"
            );
        }
    }
}

#[test]
fn only_adapted_matrices_have_gradients() {
    let device = Device::flex().autodiff();
    let batch = batch(BATCH);
    let (_, locked) = adapted(&device);
    let whole = found(step(BATCH), &model(&device), &batch);
    for (chunk, recompute) in [(BATCH, false), (5, false), (5, true)] {
        let step = step(chunk).with_recomputed_blocks(recompute);
        let got = found(step, &locked, &batch);
        // Four matrices of each of four blocks, and `logit_scale`.
        assert_eq!(got.1.len(), 4 * 4 + 1);
        let is_found = |name: &String| got.1.iter().any(|(other, _)| other == name);
        let want = whole.1.iter().filter(|(name, _)| is_found(name));
        assert_same(&(whole.0, want.cloned().collect()), &got, ROUNDING);
    }
}

#[test]
fn adapters_learn_a_batch() {
    let device = Device::flex().autodiff();
    let (lora, mut model) = adapted(&device);
    let mut optimizer = Optimizer::with_lora(&OptimizerConfig::default(), &lora, 0, &model);
    let mut losses = Vec::new();
    for at in 0..60 {
        let found = step(6).gradients(&model, &batch_of_patches(BATCH, at));
        losses.push(found.loss.into_scalar::<f32>());
        model = optimizer.step(3e-3, model, found.grads).0;
    }
    assert!(losses[59] < 0.7 * losses[0], "{losses:?}");
}
