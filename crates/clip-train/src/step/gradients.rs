use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{DType, Device, Gradients, Tensor},
};
use clip_model::Clip;

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
            add_one(self.sum, param.id, grad);
        }
    }
    module.visit(&mut Collect { found, sum });
}

/// Adds what was found of other rows, as Burn's `GradientsAccumulator` does on one thread.
pub(super) fn add(sum: &mut GradientsParams, mut part: GradientsParams, module: &impl Module) {
    struct Add<'a> {
        part: &'a mut GradientsParams,
        sum: &'a mut GradientsParams,
    }
    impl ModuleVisitor for Add<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.part.remove::<D>(param.id) {
                add_one(self.sum, param.id, grad);
            }
        }
    }
    let part = &mut part;
    module.visit(&mut Add { part, sum });
}

/// Adds to what is there of a parameter.
pub(super) fn add_one<const D: usize>(sum: &mut GradientsParams, id: ParamId, grad: Tensor<D>) {
    let grad = match sum.remove::<D>(id) {
        #[cfg(feature = "cpu")]
        Some(sum) if clip_kernels::computes_on(&sum) && clip_kernels::computes_on(&grad) => {
            clip_kernels::add_gradient(sum, grad)
        }
        Some(sum) => sum + grad,
        None => grad,
    };
    sum.register(id, grad);
}

/// The same gradients in f32, times a factor `[1]` if there is one.
pub(super) fn scaled(
    grads: GradientsParams,
    module: &impl Module,
    factor: Option<Tensor<1>>,
) -> GradientsParams {
    struct Scale {
        grads: GradientsParams,
        factor: Option<Tensor<1>>,
    }
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                let grad = grad.cast(DType::F32);
                let grad = match self.factor.clone() {
                    #[cfg(feature = "cpu")]
                    Some(factor) if clip_kernels::computes_on(&grad) => {
                        clip_kernels::scale_gradient(grad, factor)
                    }
                    Some(factor) => grad * factor.reshape([1; D]),
                    None => grad,
                };
                self.grads.register(param.id, grad);
            }
        }
    }
    let mut scale = Scale { grads, factor };
    module.visit(&mut scale);
    scale.grads
}

/// The same gradients on another device, brought there as one tensor: between machines each tensor that is read takes the
/// way there and back.
pub(super) fn moved(grads: GradientsParams, module: &impl Module, to: &Device) -> GradientsParams {
    struct Pack<'a> {
        grads: &'a GradientsParams,
        flat: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Pack<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.flat.push(grad.reshape([-1]));
            }
        }
    }
    struct Unpack<'a> {
        from: GradientsParams,
        packed: &'a Tensor<1>,
        at: usize,
        grads: GradientsParams,
    }
    impl ModuleVisitor for Unpack<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(grad) = self.from.remove::<D>(param.id) else {
                return;
            };
            let shape = grad.dims();
            let length = shape.iter().product();
            let grad = self.packed.clone().narrow(0, self.at, length);
            self.grads.register(param.id, grad.reshape(shape));
            self.at += length;
        }
    }
    let mut pack = Pack {
        grads: &grads,
        flat: Vec::new(),
    };
    module.visit(&mut pack);
    if pack.flat.is_empty() {
        return grads;
    }
    let mut unpack = Unpack {
        packed: &Tensor::cat(pack.flat, 0).to_device(to),
        from: grads,
        at: 0,
        grads: GradientsParams::new(),
    };
    module.visit(&mut unpack);
    unpack.grads
}

/// The Euclidean norm of all gradients together, `[1]`, where the model is.
pub(crate) fn global_norm(grads: &GradientsParams, model: &Clip) -> Tensor<1> {
    norm_of(grads, model, &model.device())
}

/// That of a module's gradients, `[1]`, which are on `device`.
pub(crate) fn norm_of(grads: &GradientsParams, module: &impl Module, device: &Device) -> Tensor<1> {
    /// Sums of sums: for a GPU it is less to bring hundreds of small tensors together than to sum each.
    struct Squares<'a> {
        grads: &'a GradientsParams,
        vectors: Vec<Tensor<1>>,
        /// Of the squares in each row, or in all.
        rows: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(grad) = self.grads.get::<D>(param.id) else {
                return;
            };
            #[cfg(feature = "cpu")]
            if clip_kernels::computes_on(&grad) {
                self.rows.push(clip_kernels::sum_of_squares(grad));
                return;
            }
            match grad.dims().first() {
                Some(&rows) if D > 1 => {
                    let squares = grad.reshape([rows as i32, -1]).square();
                    self.rows.push(squares.sum_dim(1).reshape([rows]));
                }
                _ => self.vectors.push(grad.reshape([-1])),
            }
        }
    }
    let mut squares = Squares {
        grads,
        vectors: Vec::new(),
        rows: Vec::new(),
    };
    module.visit(&mut squares);
    let Squares { vectors, rows, .. } = squares;
    let sum = |parts: Vec<Tensor<1>>| (!parts.is_empty()).then(|| Tensor::cat(parts, 0));
    let of_vectors = sum(vectors).map(|vectors| vectors.square().sum());
    let of_rows = sum(rows).map(Tensor::sum);
    let nothing = || Tensor::zeros([1], &device.clone().inner());
    let sums = of_vectors.into_iter().chain(of_rows);
    sums.reduce(|a, b| a + b).unwrap_or_else(nothing).sqrt()
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    #[test]
    fn gradients_come_out_of_the_pack_as_they_went_in() {
        let device = Device::flex().autodiff();
        let module: Vec<Linear> = [(3, 2), (2, 5)]
            .map(|(rows, columns)| LinearConfig::new(rows, columns).init(&device))
            .into();
        let input = Tensor::<2>::ones([4, 3], &device);
        let sum = module.iter().fold(input, |x, layer| layer.forward(x).sin());
        let mut grads = GradientsParams::from_grads(sum.sum().backward(), &module);
        // As a layer that is locked has none.
        grads.remove::<1>(module[0].bias.as_ref().unwrap().id);
        let of = |grads: &GradientsParams| {
            let weights = module.iter().map(|layer| grads.get::<2>(layer.weight.id));
            let biases = module
                .iter()
                .map(|layer| grads.get::<1>(layer.bias.as_ref().unwrap().id));
            let data = |grad: Option<Tensor<2>>| grad.map(|grad| grad.into_data());
            let biases = biases.map(|grad| grad.map(|grad| grad.into_data()));
            (
                weights.map(data).collect::<Vec<_>>(),
                biases.collect::<Vec<_>>(),
            )
        };
        let before = of(&grads);
        let after = of(&moved(grads, &module, &device.inner()));
        assert_eq!(before, after);
        assert!(before.0.iter().all(Option::is_some));
        assert_eq!(before.1[0], None);
    }
}
