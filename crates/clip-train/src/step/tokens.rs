use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// Gradients by tokens as they were looked up, to become the one by the embedding.
#[derive(Default)]
pub(super) struct TokenGradients {
    /// Of each row.
    ids: Vec<i32>,
    /// `[tokens, width]` each, in f32, without a graph.
    rows: Vec<Tensor<2>>,
}

impl TokenGradients {
    /// Adds those of some captions, `[captions, tokens, width]`.
    ///
    /// - `ids`: of the captions' tokens, `[captions, length]`; there may be fewer than were looked up, which has padding then
    pub(super) fn push(&mut self, ids: &[i32], grad: Tensor<3>) {
        let [captions, tokens, width] = grad.dims();
        let length = ids.len() / captions.max(1);
        for caption in ids.chunks(length.max(1)) {
            self.ids.extend(caption);
            self.ids.resize(self.ids.len() + tokens - length, 0);
        }
        let rows = grad.reshape([captions * tokens, width]);
        self.rows.push(rows.cast(DType::F32));
    }

    /// All of them times a number.
    pub(super) fn scaled(mut self, factor: f64) -> Self {
        for rows in &mut self.rows {
            *rows = rows.clone().mul_scalar(factor);
        }
        self
    }

    /// The same on another device, brought there as one tensor.
    pub(super) fn moved(mut self, to: &Device) -> Self {
        if !self.rows.is_empty() {
            self.rows = vec![Tensor::cat(self.rows, 0).to_device(to)];
        }
        self
    }
}

/// The gradient by an embedding, of chunks that come one after the other.
pub(super) struct EmbeddingGradient {
    vocab_size: usize,
    /// They are brought together when they are as many as the vocabulary has tokens, so that memory ends there.
    waiting: TokenGradients,
    sum: Option<Tensor<2>>,
}

impl EmbeddingGradient {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            waiting: TokenGradients::default(),
            sum: None,
        }
    }

    pub(super) fn add(&mut self, part: TokenGradients) {
        self.waiting.ids.extend(part.ids);
        self.waiting.rows.extend(part.rows);
        if self.waiting.ids.len() >= self.vocab_size {
            self.bring_together();
        }
    }

    fn bring_together(&mut self) {
        let TokenGradients { ids, rows } = std::mem::take(&mut self.waiting);
        if rows.is_empty() {
            return;
        }
        let found = by_embedding(ids, Tensor::cat(rows, 0), self.vocab_size);
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + found,
            None => found,
        });
    }

    /// `[vocab_size, width]`; none if there were no tokens.
    pub(super) fn finish(mut self) -> Option<Tensor<2>> {
        self.bring_together();
        self.sum
    }
}

/// For each id the sum of its rows, in their order.
///
/// # Shapes
/// - `rows`: `[ids, width]`
/// - returns `[vocab_size, width]`
fn by_embedding(ids: Vec<i32>, rows: Tensor<2>, vocab_size: usize) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if clip_kernels::computes_on(&rows) {
        return clip_kernels::embedding_gradient(&ids, rows, vocab_size);
    }
    #[cfg(feature = "gpu")]
    if clip_cube::gathers(&rows, vocab_size) {
        return clip_cube::embedding_gradient(&ids, rows, vocab_size);
    }
    let ([count, width], device) = (rows.dims(), rows.device());
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
    let zeros = Tensor::zeros([vocab_size, width], &device);
    zeros.select_assign(0, ids, rows, IndexingUpdateOp::Add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_counts_as_token_0_and_parts_are_brought_together_in_time() {
        let device = Device::flex();
        let part = |ids: &[i32], captions: usize, tokens: usize, first: f32| {
            let numbers: Vec<f32> = (0..captions * tokens * 2)
                .map(|at| first + at as f32)
                .collect();
            let data = TensorData::new(numbers, [captions, tokens, 2]);
            let mut part = TokenGradients::default();
            part.push(ids, Tensor::from_data(data, &device));
            part
        };
        let mut gradient = EmbeddingGradient::new(4);
        // Two captions of two tokens, looked up as three.
        gradient.add(part(&[1, 3, 1, 1], 2, 3, 0.0));
        assert!(gradient.waiting.rows.is_empty() && gradient.sum.is_some());
        gradient.add(part(&[3], 1, 1, 100.0).scaled(0.5));
        assert_eq!(gradient.waiting.ids, [3]);
        let found = gradient.finish().unwrap().into_data();
        // Rows 0 to 5 are (0, 1), (2, 3), ..: tokens 1, 3, 0, 1, 1, 0.
        let want = [
            [4.0_f32 + 10.0, 5.0 + 11.0],
            [0.0 + 6.0 + 8.0, 1.0 + 7.0 + 9.0],
            [0.0; 2],
            [52.0, 53.5],
        ];
        found.assert_eq(&TensorData::from(want), true);
        assert!(EmbeddingGradient::new(4).finish().is_none());
    }
}
