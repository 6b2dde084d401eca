use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Captioning, Draws, Search, Writing, is_last, put_off_end};

/// A caption whose tokens are drawn.
pub(super) struct Sampler<'a> {
    how: &'a Captioning,
    temperature: f64,
    rng: ChaCha8Rng,
    ids: Vec<i32>,
}

impl<'a> Sampler<'a> {
    /// Of the image at a place among all.
    pub(super) fn new(draws: Draws, place: u64, how: &'a Captioning) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(draws.seed);
        rng.set_stream(place);
        Self {
            how,
            temperature: draws.temperature,
            rng,
            ids: vec![how.start],
        }
    }

    pub(super) fn finish(self) -> Vec<i32> {
        self.ids
    }

    /// One of the tokens, by their probabilities.
    fn draw(&mut self, mut kept: Vec<(f32, usize)>) -> i32 {
        if let Search::TopP(share, _) = self.how.search {
            kept.truncate(count_of_share(&kept, share));
        }
        let largest = kept.first().map_or(0.0, |(logit, _)| *logit);
        let weight = |logit: f32| (f64::from(logit - largest) / self.temperature).exp();
        let total: f64 = kept.iter().map(|(logit, _)| weight(*logit)).sum();
        // 53 bits: every value a double can hold in steps of 2^-53.
        let unit = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = unit * total;
        for (logit, token) in &kept {
            left -= weight(*logit);
            if left < 0.0 {
                return *token as i32;
            }
        }
        kept.last().map_or(self.how.end, |(_, token)| *token as i32)
    }
}

/// The largest logits, first those with their tokens that are larger.
pub(super) fn largest(logits: &[f32], count: usize) -> Vec<(f32, usize)> {
    let mut all: Vec<(f32, usize)> = logits.iter().copied().zip(0..).collect();
    let order = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

/// How many of the largest logits have a share of all probability together; at least one.
fn count_of_share(logits: &[(f32, usize)], share: f64) -> usize {
    let largest = logits.first().map_or(0.0, |(logit, _)| *logit);
    let weight = |(logit, _): &(f32, usize)| f64::from(logit - largest).exp();
    let mut left = share * logits.iter().map(weight).sum::<f64>();
    let enough = logits.iter().position(|logit| {
        left -= weight(logit);
        left <= 0.0
    });
    enough.map_or(logits.len(), |last| last + 1)
}

impl Writing for Sampler<'_> {
    fn open(&self) -> Vec<&[i32]> {
        let last = self.ids.last().copied().unwrap_or(self.how.end);
        let is_open = self.ids.len() < self.how.longest && !is_last(self.how, last);
        is_open.then_some(&*self.ids).into_iter().collect()
    }

    fn follow(&mut self, logits: Vec<&mut [f32]>) {
        for logits in logits {
            let length = self.ids.len();
            if length + 1 == self.how.longest {
                self.ids.push(self.how.end);
                return;
            }
            put_off_end(self.how, length, logits);
            let count = match self.how.search {
                Search::TopK(tokens, _) => tokens,
                _ => logits.len(),
            };
            let next = self.draw(largest(logits, count));
            self.ids.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_tokens_are_drawn_as_often_as_they_are_probable() {
        let logits = [0.4_f32, 0.1, 0.3, 0.2].map(f32::ln);
        assert_eq!(largest(&logits, 2).len(), 2);
        for (share, kept) in [(0.1, 1), (0.4, 1), (0.41, 2), (0.75, 3), (1.0, 4)] {
            assert_eq!(count_of_share(&largest(&logits, 4), share), kept, "{share}");
        }
        let share = |temperature, place| {
            let draws = Draws {
                temperature,
                seed: 3,
            };
            let how = Captioning {
                search: Search::TopK(2, draws),
                ..Captioning::new(8, 9)
            };
            let mut sampler = Sampler::new(draws, place, &how);
            let drawn = (0..10_000).map(|_| sampler.draw(largest(&logits, 2)));
            let drawn: Vec<i32> = drawn.collect();
            assert!(drawn.iter().all(|token| [0, 2].contains(token)));
            drawn.iter().filter(|token| **token == 0).count()
        };
        // Of 0.4 and 0.3, and of their squares: five deviations are 250 of 10,000.
        assert!(share(1.0, 0).abs_diff(5_714) < 250);
        assert!(share(0.5, 0).abs_diff(6_400) < 250);
        assert_eq!(share(1.0, 1), share(1.0, 1));
        assert_ne!(share(1.0, 1), share(1.0, 2));
    }
}
