use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};
use std::{any::Any, collections::HashMap};

use crate::{Clip, weights::is_count};

/// The model between two of the same architecture: `(1 - share) * from + share * to`, parameter by parameter, and so the
/// running statistics of batch norms. Their counts of batches are `to`'s.
///
/// Between a model and what fine-tuning made of it there are often models that do both what the one and what the other
/// does well.
///
/// # Panics
/// If the architectures differ.
///
/// # References
/// Wortsman et al. 2022, [Robust fine-tuning of zero-shot models](https://arxiv.org/abs/2109.01903).
pub fn interpolate(from: &Clip, to: Clip, share: f64) -> Clip {
    let mut tensors = Tensors::default();
    from.visit(&mut tensors);
    to.map(&mut Blend {
        tensors,
        share,
        counts: false,
    })
}

/// Values of any rank by their parameter.
#[derive(Default)]
struct Tensors(HashMap<ParamId, Box<dyn Any>>);

impl ModuleVisitor for Tensors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, Box::new(param.val()));
    }
}

struct Blend {
    tensors: Tensors,
    share: f64,
    /// Whether the field at hand is a batch norm's count of batches.
    counts: bool,
}

impl ModuleMapper for Blend {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.counts = is_count(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.counts = false;
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.counts {
            return param;
        }
        let from = self.tensors.0.remove(&param.id);
        let from = from.and_then(|from| from.downcast::<Tensor<D>>().ok());
        let from = *from.expect("both models have the same parameters");
        param.map(|to| from * (1.0 - self.share) + to * self.share)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{ClipConfig, weights::named_params};

    fn model(seed: u64) -> Clip {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 16,
            "head_width": 8, "patch_size": 4}, "text_cfg": {"context_length": 6,
            "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}}"#;
        ClipConfig::from_json(json, "test")
            .unwrap()
            .init(seed, &Device::flex())
    }

    fn values(model: &Clip) -> Vec<f32> {
        let values = model.text.token_embedding().weight.val().into_data();
        values.try_to_vec().unwrap()
    }

    #[test]
    fn counts_of_batches_are_not_blended() {
        struct More;
        impl ModuleMapper for More {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|tensor| tensor + 1.0)
            }
        }
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8,
            "head_width": 16, "patch_size": null}, "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 16,
            "heads": 2, "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let new = || config.init(1, &Device::flex());
        let middle = interpolate(&new(), new().map(&mut More), 0.25);
        let of = |model| named_params(model, true).into_iter();
        for (before, after) in of(&new()).zip(of(&middle)) {
            let [before, after] = [before, after].map(|param| {
                let data = param.data.unwrap();
                (param.name, data.iter::<f32>().next().unwrap())
            });
            let moved = if is_count(&after.0) { 1.0 } else { 0.25 };
            let off = after.1 - before.1 - moved;
            assert!(off.abs() < 1e-6, "{}: {off}", after.0);
        }
    }

    #[test]
    fn the_ends_are_the_models_and_the_middle_their_mean() {
        let (from, to) = (model(1), model(2));
        let at = |share| values(&interpolate(&from, to.clone(), share));
        assert_eq!(at(0.0), values(&from));
        assert_eq!(at(1.0), values(&to));
        for ((mean, from), to) in at(0.25).iter().zip(values(&from)).zip(values(&to)) {
            assert!((mean - (0.75 * from + 0.25 * to)).abs() < 1e-7);
        }
    }
}
