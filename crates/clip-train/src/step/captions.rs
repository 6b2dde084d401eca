use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_model::encoder::{TextEncoder, TextEnd};

/// The token ids of a batch's captions, on the host, where their lengths are known.
#[derive(Clone, Debug)]
pub struct Captions {
    /// `[captions, length]`: start, words, end, then padding.
    ids: Vec<i32>,
    length: usize,
}

/// Captions on the device: those of similar length together, so that little padding is computed on.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    /// `[captions of the bucket, its longest]`.
    tokens: Vec<Tensor<2, Int>>,
    /// The same on the host.
    ids: Vec<Vec<i32>>,
    /// Of each bucket its captions' places in the range.
    rows: Vec<Vec<i32>>,
    /// `[captions]`: where each is among those of all buckets.
    place: Tensor<1, Int>,
}

impl Captions {
    /// # Panics
    /// If the ids aren't whole captions of `length` tokens.
    pub fn new(ids: Vec<i32>, length: usize) -> Self {
        assert!(
            length > 0 && ids.len().is_multiple_of(length),
            "{} ids are no whole captions of {length} tokens",
            ids.len()
        );
        Self { ids, length }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ids.len() / self.length
    }

    /// The token ids of each.
    pub fn rows(&self) -> impl Iterator<Item = &[i32]> {
        self.ids.chunks(self.length)
    }

    /// Captions of a range as a text tower takes them: in at most `buckets` tensors without what follows their ends, where
    /// that changes nothing.
    pub(super) fn of(
        &self,
        text: &TextEncoder,
        range: Range<usize>,
        buckets: usize,
        device: &Device,
    ) -> Buckets {
        match text.end() {
            TextEnd::Context => self.whole(range, device),
            end => self.buckets(range, end, buckets, device),
        }
    }

    /// Captions of a range as they are, for a text tower to which their padding counts.
    pub(super) fn whole(&self, range: Range<usize>, device: &Device) -> Buckets {
        let ids = self.ids[range.start * self.length..range.end * self.length].to_vec();
        let place: Vec<i32> = (0..range.len() as i32).collect();
        Buckets {
            tokens: vec![on_device(ids.clone(), [range.len(), self.length], device)],
            ids: vec![ids],
            rows: vec![place.clone()],
            place: Tensor::from_data(TensorData::new(place, [range.len()]), device),
        }
    }

    /// Captions of a range, in at most `buckets` tensors, without what follows their ends.
    pub(super) fn buckets(
        &self,
        range: Range<usize>,
        end: TextEnd,
        buckets: usize,
        device: &Device,
    ) -> Buckets {
        let row = |at: usize| &self.ids[at * self.length..(at + 1) * self.length];
        let count = range.len();
        let mut order: Vec<(usize, usize)> = range.map(|at| (end.length(row(at)), at)).collect();
        order.sort_unstable();
        let mut place = vec![0i32; count];
        let first = order.iter().map(|(_, at)| *at).min().unwrap_or(0);
        for (to, (_, at)) in order.iter().enumerate() {
            place[at - first] = to as i32;
        }
        let size = count.div_ceil(buckets).max(1);
        let rows = order
            .chunks(size)
            .map(|bucket| bucket.iter().map(|(_, at)| (at - first) as i32).collect());
        let rows = rows.collect();
        let (tokens, ids) = order
            .chunks(size)
            .map(|bucket| {
                let longest = bucket.last().map_or(1, |(length, _)| *length);
                let ids: Vec<i32> = bucket
                    .iter()
                    .flat_map(|(_, at)| &row(*at)[..longest])
                    .copied()
                    .collect();
                let tokens = on_device(ids.clone(), [bucket.len(), longest], device);
                (tokens, ids)
            })
            .unzip();
        Buckets {
            tokens,
            ids,
            rows,
            place: Tensor::from_data(TensorData::new(place, [count]), device),
        }
    }
}

/// Brought there as one row: a GPU aligns each.
fn on_device(ids: Vec<i32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let row = [ids.len()];
    Tensor::<1, Int>::from_data(TensorData::new(ids, row), device).reshape(shape)
}

impl Buckets {
    /// Text features in the captions' own order, of `encode` for each bucket.
    ///
    /// # Shapes
    /// - returns `[captions, embed_dim]`, not normalised
    pub(super) fn encode(&self, encode: impl FnMut(&Tensor<2, Int>) -> Tensor<2>) -> Tensor<2> {
        self.in_order(self.tokens.iter().map(encode).collect())
    }

    /// The ids of each bucket's tokens, `[captions of the bucket, its longest]`.
    pub(super) fn ids(&self) -> &[Vec<i32>] {
        &self.ids
    }

    /// Of each bucket its captions' places among all.
    pub(super) fn rows(&self) -> &[Vec<i32>] {
        &self.rows
    }

    /// Text features of all captions in their own order, given those of each bucket.
    fn in_order(&self, mut parts: Vec<Tensor<2>>) -> Tensor<2> {
        let all = match parts.len() {
            1 => parts.swap_remove(0),
            _ => Tensor::cat(parts, 0),
        };
        all.select(0, self.place.clone())
    }

    /// The same, for a model without autodiff.
    pub(super) fn inner(&self) -> Self {
        Self {
            tokens: self
                .tokens
                .iter()
                .map(|tokens| tokens.clone().inner())
                .collect(),
            ids: self.ids.clone(),
            rows: self.rows.clone(),
            place: self.place.clone().inner(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_lengths_share_a_bucket_and_the_order_comes_back() {
        let rows = [[9, 1, 2, 8, 10], [9, 10, 0, 0, 0], [9, 3, 10, 0, 0]];
        let captions = Captions::new(rows.concat(), 5);
        let buckets = captions.buckets(0..3, TextEnd::Highest, 2, &Device::flex());
        let shapes: Vec<_> = buckets.tokens.iter().map(Tensor::dims).collect();
        assert_eq!(shapes, [[2, 3], [1, 5]]);
        let place: Vec<i32> = buckets
            .place
            .into_data()
            .convert::<i32>()
            .try_to_vec()
            .unwrap();
        assert_eq!(place, [2, 0, 1]);
        assert_eq!(buckets.rows, [vec![1, 2], vec![0]]);
        let part = captions.buckets(1..2, TextEnd::Highest, 4, &Device::flex());
        assert_eq!(part.tokens[0].dims(), [1, 2]);
    }
}
