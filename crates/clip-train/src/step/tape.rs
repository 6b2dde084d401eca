use burn::{
    optim::GradientsParams,
    tensor::{Gradients, Int, Tensor},
};
use clip_model::encoder::{
    Chain,
    passes::{BlockGradients, Kept, ScoreMask},
};

use super::gradients::{add_one, collect, trains};

/// What the backward pass through an encoder's blocks needs, where they aren't on one graph with all else.
///
/// - To save memory, only what each block got: it is computed again on the way back, so that what one block keeps is in
///   memory at a time, instead of all.
/// - To save operations, what each keeps for a backward pass of its own, where autodiff's is of many operations.
///
/// # References
/// Chen et al. 2016, [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174).
pub(super) struct Tape {
    /// What the first block got, with the stem's graph.
    stem: Tensor<3>,
    /// Of the blocks from the first that trains, or that has something below it that does.
    links: Vec<(usize, Link)>,
    /// The tokens that the last block was asked for, if that is one of the links.
    only: Option<Tensor<2, Int>>,
    /// Of the blocks that go back by themselves.
    mask: Option<ScoreMask>,
    /// What the last link gave: a leaf, at which the head's graph begins.
    last: Tensor<3>,
}

enum Link {
    /// `[batch, tokens, width]`: what the block got, off the graph.
    Input(Box<Tensor<3>>),
    Kept(Box<Kept>),
}

/// Whether blocks go back by themselves: where they are single operations, autodiff has as little to do.
fn by_themselves(chain: &impl Chain) -> bool {
    let first = chain.blocks().first();
    first.is_some_and(|block| !block.is_one_operation())
}

impl Tape {
    /// Whether there is something to gain.
    pub(super) fn serves(chain: &impl Chain, recompute: bool) -> bool {
        recompute || by_themselves(chain)
    }

    /// Encodes, with a graph of stem and head; where blocks go back by themselves, the head's has the last block too if it
    /// gives one token alone.
    ///
    /// # Shapes
    /// - `inference`: the weights of `chain`, off the graph
    /// - `recompute`: whether blocks are computed again on the way back
    /// - returns `[batch, embed_dim]`, not normalised
    pub(super) fn record<C: Chain>(
        chain: &C,
        inference: &C,
        input: &C::Input,
        recompute: bool,
    ) -> (Tensor<2>, Self) {
        let stem = chain.stem(input);
        let only = chain.pool(&stem, input);
        let (x, tape) = Self::record_blocks(chain, inference, (stem, only), recompute);
        (chain.head(x, input), tape)
    }

    /// The same as far as the head, which is somebody else's and reads all tokens.
    ///
    /// # Shapes
    /// - returns `[batch, tokens, width]`
    pub(super) fn record_tokens<C: Chain>(
        chain: &C,
        inference: &C,
        input: &C::Input,
        recompute: bool,
    ) -> (Tensor<3>, Self) {
        let stem = chain.stem(input);
        Self::record_blocks(chain, inference, (stem, None), recompute)
    }

    /// Of a stem, and of the token that the last block is asked for, if it is one.
    fn record_blocks<C: Chain>(
        chain: &C,
        inference: &C,
        (stem, only): (Tensor<3>, Option<Tensor<2, Int>>),
        recompute: bool,
    ) -> (Tensor<3>, Self) {
        let mut x = stem.clone().inner();
        let mask = chain.mask(&x);
        let by_themselves = by_themselves(chain);
        // A block of one token is little to compute, so it is on the head's graph instead.
        let on_graph = usize::from(by_themselves && only.is_some());
        let count = chain.blocks().len() - on_graph;
        let first = chain.blocks().iter().position(trains);
        let first = if stem.is_tracked() { Some(0) } else { first };
        let of_scores = by_themselves.then(|| ScoreMask::new(mask.clone(), &x));
        let mut links = Vec::with_capacity(count);
        for at in 0..count {
            let needed = first.is_some_and(|first| at >= first);
            let block = &chain.blocks()[at];
            if let (Some(mask), false) = (&of_scores, recompute) {
                let (y, kept) = block.pass(x, mask);
                x = y;
                if needed {
                    links.push((at, Link::Kept(Box::new(kept))));
                }
                continue;
            }
            if needed {
                links.push((at, Link::Input(Box::new(x.clone()))));
            }
            let only = only.clone().filter(|_| at + 1 == chain.blocks().len());
            let only = only.map(Tensor::inner);
            x = inference.blocks()[at].forward(x, mask.clone(), only.as_ref());
        }
        let last = Tensor::from_inner(x).require_grad();
        let mut x = last.clone();
        for block in &chain.blocks()[count..] {
            let mask = mask.clone().map(Tensor::from_inner);
            x = block.forward(x, mask, only.as_ref());
        }
        let tape = Self {
            stem,
            links,
            only,
            mask: of_scores,
            last,
        };
        (x, tape)
    }

    /// Adds the gradients by the parameters of blocks and stem, once `found` holds the head's. What is locked is not
    /// gone through. Returns what the stem's graph has beside parameters, if it was gone through.
    pub(super) fn back<C: Chain>(
        self,
        chain: &C,
        found: &mut Gradients,
        sum: &mut GradientsParams,
    ) -> Option<Gradients> {
        let mut by_x = self.last.grad_remove(found)?;
        let stem_trains = self.stem.is_tracked();
        let first = self.links.first().map(|(at, _)| *at);
        for (at, link) in self.links.into_iter().rev() {
            let block = &chain.blocks()[at];
            let kept = match (link, &self.mask) {
                (Link::Kept(kept), _) => *kept,
                (Link::Input(x), Some(mask)) => block.pass(*x, mask).1,
                (Link::Input(x), None) => {
                    let x =
                        Tensor::from_inner(*x).set_require_grad(Some(at) > first || stem_trains);
                    let is_last = at + 1 == chain.blocks().len();
                    let only = self.only.as_ref().filter(|_| is_last);
                    let y = block.forward(x.clone(), chain.mask(&x), only);
                    let mut grads = (y * Tensor::from_inner(by_x)).sum().backward();
                    collect(&mut grads, block, sum);
                    by_x = x.grad_remove(&mut grads)?;
                    continue;
                }
            };
            let (by_input, grads) = block.back(kept, by_x);
            add(grads, sum);
            by_x = by_input;
        }
        stem_trains.then(|| {
            let mut grads = (self.stem * Tensor::from_inner(by_x)).sum().backward();
            collect(&mut grads, chain, sum);
            grads
        })
    }
}

/// To what other captions found for the same parameters.
fn add(grads: BlockGradients, sum: &mut GradientsParams) {
    for (id, grad) in grads.vectors {
        add_one(sum, id, grad);
    }
    for (id, grad) in grads.matrices {
        add_one(sum, id, grad);
    }
}
