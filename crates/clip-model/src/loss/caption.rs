use burn::tensor::{Int, Tensor, activation::log_softmax};

/// What tokens of captions cost of which a decoder gave logits: the cross-entropy of each, added up.
///
/// CoCa's loss is its mean over all tokens of a batch that aren't padding, so whoever encodes a batch in parts divides
/// each part's sum by the whole batch's tokens.
///
/// # Shapes
/// - `logits`: `[tokens, vocab_size]`, in f32
/// - `labels`: `[tokens]`, the tokens themselves
/// - returns `[1]`, in nats
///
/// # References
/// Yu et al. 2022, [CoCa](https://arxiv.org/abs/2205.01917), equation 3; `OpenCLIP`'s `CoCaLoss`.
pub fn caption_loss(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let likelihoods = log_softmax(logits, 1);
    -likelihoods.gather(1, labels.unsqueeze_dim(1)).sum()
}
