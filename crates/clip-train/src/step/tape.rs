use burn::{
    optim::GradientsParams,
    tensor::{Gradients, Int, Tensor},
};
use clip_model::encoder::Chain;

use super::gradients::{collect, trains};

/// What the backward pass through an encoder's blocks needs if it computes each block again: their inputs. The graph of
/// one block at a time is in memory, instead of all.
///
/// # References
/// Chen et al. 2016, [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174).
pub(super) struct Tape {
    /// What the first block got, with the stem's graph.
    stem: Tensor<3>,
    /// `[batch, tokens, width]`: what each block got, off the graph.
    inputs: Vec<Tensor<3>>,
    /// The tokens that the last block was asked for.
    only: Option<Tensor<2, Int>>,
    /// What the last block gave: a leaf, at which the head's graph begins.
    last: Tensor<3>,
}

impl Tape {
    /// Encodes, with a graph of stem and head alone.
    ///
    /// # Shapes
    /// - `inference`: the weights of `chain`, off the graph
    /// - returns `[batch, embed_dim]`, not normalised
    pub(super) fn record<C: Chain>(
        chain: &C,
        inference: &C,
        input: &C::Input,
    ) -> (Tensor<2>, Self) {
        let stem = chain.stem(input);
        let mut x = stem.clone().inner();
        let mask = inference.mask(&x);
        let only = chain.pool(&stem, input);
        let inner = only.clone().map(Tensor::inner);
        let blocks = inference.blocks();
        let mut inputs = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            inputs.push(x.clone());
            let only = inner.as_ref().filter(|_| at + 1 == blocks.len());
            x = block.forward(x, mask.clone(), only);
        }
        let last = Tensor::from_inner(x).require_grad();
        let features = chain.head(last.clone(), input);
        let tape = Self {
            stem,
            inputs,
            only,
            last,
        };
        (features, tape)
    }

    /// Adds the gradients by the parameters of blocks and stem, once `found` holds the head's. What is locked is not
    /// gone through.
    pub(super) fn back<C: Chain>(
        self,
        chain: &C,
        found: &mut Gradients,
        sum: &mut GradientsParams,
    ) {
        let Some(mut by_x) = self.last.grad_remove(found) else {
            return;
        };
        let stem_trains = self.stem.is_tracked();
        let first = chain.blocks().iter().position(trains);
        let Some(first) = stem_trains.then_some(0).or(first) else {
            return;
        };
        let links = chain.blocks().iter().zip(self.inputs).enumerate();
        let links: Vec<_> = links.skip(first).collect();
        let last = chain.blocks().len() - 1;
        for (at, (block, x)) in links.into_iter().rev() {
            let x = Tensor::from_inner(x).set_require_grad(at > first || stem_trains);
            let mask = chain.mask(&x);
            let only = self.only.as_ref().filter(|_| at == last);
            let y = block.forward(x.clone(), mask, only);
            let mut grads = (y * Tensor::from_inner(by_x)).sum().backward();
            collect(&mut grads, block, sum);
            match x.grad_remove(&mut grads) {
                Some(grad) => by_x = grad,
                None => return,
            }
        }
        let mut grads = (self.stem * Tensor::from_inner(by_x)).sum().backward();
        collect(&mut grads, chain, sum);
    }
}
