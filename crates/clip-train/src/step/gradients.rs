use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{DType, Gradients, Tensor},
};

/// Moves what a backward pass found for a module's parameters to `sum`, and adds it to what is there.
pub(super) fn collect(found: &mut Gradients, module: &impl Module, sum: &mut GradientsParams) {
    struct Collect<'a> {
        found: &'a mut Gradients,
        sum: &'a mut GradientsParams,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(grad) = param.val().grad_remove(self.found) else {
                return;
            };
            let grad = match self.sum.remove::<D>(param.id) {
                Some(sum) => sum + grad,
                None => grad,
            };
            self.sum.register(param.id, grad);
        }
    }
    module.visit(&mut Collect { found, sum });
}

/// The same gradients in f32, times `factor`.
pub(crate) fn scaled(grads: GradientsParams, module: &impl Module, factor: f64) -> GradientsParams {
    struct Scale {
        grads: GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                let grad = grad.cast(DType::F32);
                let unchanged = self.factor.to_bits() == 1.0_f64.to_bits();
                let grad = if unchanged {
                    grad
                } else {
                    grad.mul_scalar(self.factor)
                };
                self.grads.register(param.id, grad);
            }
        }
    }
    let mut scale = Scale { grads, factor };
    module.visit(&mut scale);
    scale.grads
}

/// The Euclidean norm of all gradients together. Waits for the device.
pub(crate) fn global_norm(grads: &GradientsParams, module: &impl Module) -> f64 {
    struct SquaredNorm<'a> {
        grads: &'a GradientsParams,
        sum: Option<Tensor<1>>,
    }
    impl ModuleVisitor for SquaredNorm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                let square = grad.square().sum();
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    let mut norm = SquaredNorm { grads, sum: None };
    module.visit(&mut norm);
    norm.sum
        .map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// Whether any parameter of a module has a gradient.
pub(super) fn trains<M: Module>(module: &M) -> bool {
    struct Trains(bool);
    impl ModuleVisitor for Trains {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut visitor = Trains(false);
    module.visit(&mut visitor);
    visitor.0
}
