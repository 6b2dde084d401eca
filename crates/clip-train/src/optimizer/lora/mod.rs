//! Low-rank adapters: what a step does with a matrix's gradient, where not the matrix itself is trained.
//!
//! The encoders know nothing of them. They compute with `W = W0 + scale A B`, and of its gradient `G` the chain rule
//! gives those of the factors, `scale G Bᵀ` and `scale Aᵀ G`, exactly and in whatever chunks `G` was found.

mod config;
mod sites;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::{GradientsParams, ModuleOptimizer},
    tensor::{Tensor, TensorData},
};
use clip_model::{Clip, weights::parameter_names};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use config::{LoraConfig, Target};
use sites::Site;
pub(super) use state::AdapterState;

use crate::{TrainError, step::norm_of};

/// Apart from the draws of the weights, which begin with the same seed.
const STREAM: u64 = 1;

impl LoraConfig {
    /// The model with all locked that these settings leave as it is. `locked` are the image and the text encoder that
    /// are left as they are on purpose, at least in part: what is locked already gets no adapter.
    ///
    /// # Errors
    /// [`TrainError::Config`] where an encoder has nothing to adapt or has batch norms, and if the rank is too large.
    pub fn lock(&self, model: Clip, locked: [bool; 2]) -> Result<Clip, TrainError> {
        sites::lock(model, self, locked)
    }
}

/// The adapters of a model, with the weights that they stand on.
#[derive(Clone, Debug)]
pub(super) struct Adapters {
    scale: f64,
    sites: Vec<Site>,
    /// `W0` of each site, `[from, to]`.
    base: Vec<Tensor<2>>,
    /// Of each site.
    factors: Vec<Factors>,
}

/// What is trained of an adapter.
#[derive(Module, Debug)]
struct Factors {
    /// `[from, rank]`: next to the input.
    a: Param<Tensor<2>>,
    /// `[rank, to]`: next to the output.
    b: Param<Tensor<2>>,
}

impl Adapters {
    /// Of a model with its first weights, [locked](LoraConfig::lock). `A` is drawn as a linear layer's weights are,
    /// `U(±1/sqrt(from))`, as the paper's own code does it, and `B` is 0: the first step begins with the model as it
    /// is.
    pub(super) fn new(config: &LoraConfig, seed: u64, model: &Clip) -> Self {
        let sites = sites::sites(model, config);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        let device = model.device().inner();
        let names = parameter_names(model);
        // Beside those of the model, in an optimizer that steps both.
        let mut last = names
            .iter()
            .map(|(id, _)| id.val())
            .max()
            .unwrap_or_default();
        let mut param = |values: Vec<f32>, shape: [usize; 2]| {
            last += 1;
            let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
            Param::initialized(ParamId::from(last), Tensor::from_inner(tensor))
        };
        let factors = sites.iter().map(|site| {
            let bound = 1.0 / (site.from as f64).sqrt();
            let mut uniform = || ((2.0 * unit(&mut rng) - 1.0) * bound) as f32;
            let a = std::iter::repeat_with(&mut uniform);
            let a = a.take(site.from * config.rank).collect();
            let to = site.columns.len();
            Factors {
                a: param(a, [site.from, config.rank]),
                b: param(vec![0.0; config.rank * to], [config.rank, to]),
            }
        });
        let factors = factors.collect();
        let mut weights = Weights {
            wanted: sites.iter().map(|site| site.matrix).collect(),
            found: HashMap::new(),
        };
        model.visit(&mut weights);
        let base = sites
            .iter()
            .map(|site| site.of(&weights.found[&site.matrix]));
        Self {
            scale: config.scale(),
            base: base.collect(),
            factors,
            sites,
        }
    }

    /// What tells these adapters from others: their factor, and where they are.
    pub(super) fn digest(&self) -> impl Iterator<Item = String> {
        let scale = self.scale.to_string();
        let shapes = self.sites.iter().zip(&self.factors).map(|(site, factors)| {
            let rank = factors.b.lazy_shape().to_vec()[0];
            format!("{} {} {rank}", site.name, site.target)
        });
        std::iter::once(scale).chain(shapes)
    }

    /// Each adapter's matrix, with its two factors.
    pub(super) fn ids(&self) -> impl Iterator<Item = (ParamId, [ParamId; 2])> {
        let both = self.sites.iter().zip(&self.factors);
        both.map(|(site, Factors { a, b })| (site.matrix, [a.id, b.id]))
    }

    /// How many numbers are trained.
    pub(super) fn num_params(&self) -> usize {
        self.factors.num_params()
    }

    /// The gradients of the factors, given those of the matrices; and of the others those that `model` trains.
    pub(super) fn gradients(
        &self,
        mut grads: GradientsParams,
        model: &Clip,
    ) -> (GradientsParams, GradientsParams) {
        let mut of_factors = GradientsParams::new();
        for (site, Factors { a, b }) in self.sites.iter().zip(&self.factors) {
            let Some(grad) = grads.get::<2>(site.matrix) else {
                continue;
            };
            let by_w = site.of(&grad).mul_scalar(self.scale);
            let [a_values, b_values] = [a, b].map(|factor| factor.val().inner());
            of_factors.register(a.id, by_w.clone().matmul(b_values.transpose()));
            of_factors.register(b.id, a_values.transpose().matmul(by_w));
        }
        for site in &self.sites {
            grads.remove::<2>(site.matrix);
        }
        let mut trained = Trained {
            grads,
            kept: GradientsParams::new(),
        };
        model.visit(&mut trained);
        (of_factors, trained.kept)
    }

    /// Takes a step along the gradients of the factors.
    pub(super) fn step(
        self,
        optimizer: &mut ModuleOptimizer,
        lr: f64,
        grads: GradientsParams,
    ) -> Self {
        Self {
            factors: optimizer.step(lr, self.factors, grads),
            ..self
        }
    }

    /// The norm of the factors' gradients, `[1]`.
    pub(super) fn norm(&self, grads: &GradientsParams, model: &Clip) -> Tensor<1> {
        norm_of(grads, &self.factors, &model.device())
    }

    /// The model with every adapted matrix made anew.
    pub(super) fn merge(&self, model: Clip) -> Clip {
        let mut sites = HashMap::<ParamId, Vec<usize>>::new();
        for (at, site) in self.sites.iter().enumerate() {
            sites.entry(site.matrix).or_default().push(at);
        }
        model.map(&mut Merge {
            adapters: self,
            sites,
        })
    }

    /// `W0 + scale A B` of a site, `[from, to]`.
    fn merged(&self, at: usize) -> Tensor<2> {
        let Factors { a, b } = &self.factors[at];
        let product = a.val().inner().matmul(b.val().inner());
        self.base[at].clone() + product.mul_scalar(self.scale)
    }
}

impl Site {
    /// Its part of a tensor like its matrix.
    fn of(&self, matrix: &Tensor<2>) -> Tensor<2> {
        if self.is_whole {
            return matrix.clone();
        }
        let columns = self.columns.clone();
        matrix.clone().narrow(1, columns.start, columns.len())
    }
}

/// Uniform in `[0, 1)`.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Matrices off the graph.
struct Weights {
    wanted: Vec<ParamId>,
    found: HashMap<ParamId, Tensor<2>>,
}

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.wanted.contains(&param.id) {
            let matrix = param.val().inner();
            let shape = matrix.dims();
            self.found
                .insert(param.id, matrix.reshape([shape[0], shape[1]]));
        }
    }
}

/// Keeps the gradients of what isn't locked: there is one of `logit_scale` in any case.
struct Trained {
    grads: GradientsParams,
    kept: GradientsParams,
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id)
            && param.is_require_grad()
        {
            self.kept.register(param.id, grad);
        }
    }
}

struct Merge<'a> {
    adapters: &'a Adapters,
    /// Of each matrix.
    sites: HashMap<ParamId, Vec<usize>>,
}

impl ModuleMapper for Merge<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(sites) = self.sites.get(&param.id) else {
            return param;
        };
        param.map(|old| {
            let shape = old.dims();
            let mut matrix = old.inner().reshape([shape[0], shape[1]]);
            for at in sites {
                let (site, new) = (&self.adapters.sites[*at], self.adapters.merged(*at));
                matrix = if site.is_whole {
                    new
                } else {
                    matrix.slice_assign([0..site.from, site.columns.clone()], new)
                };
            }
            Tensor::from_inner(matrix.reshape(shape)).require_grad()
        })
    }
}
