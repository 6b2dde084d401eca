use super::{Captioning, Writing, put_off_end, sampling::largest};

/// Captions of one image that are searched together.
///
/// # References
/// The `BeamSearchScorer` of transformers, with its length penalty of 1 and without early stopping, as `OpenCLIP` has it.
pub(super) struct Beams<'a> {
    how: &'a Captioning,
    /// How many are kept.
    count: usize,
    open: Vec<Beam>,
    /// Those that ended, without their end, and by the mean of their scores.
    ended: Vec<(f64, Vec<i32>)>,
    /// Whether none that is open can become better than those that ended.
    is_done: bool,
}

struct Beam {
    ids: Vec<i32>,
    /// Logits added up.
    score: f32,
}

impl<'a> Beams<'a> {
    pub(super) fn new(count: usize, how: &'a Captioning) -> Self {
        let first = Beam {
            ids: vec![how.start],
            score: 0.0,
        };
        Self {
            how,
            count,
            open: vec![first],
            ended: Vec::new(),
            is_done: false,
        }
    }

    fn length(&self) -> usize {
        self.open.first().map_or(0, |beam| beam.ids.len())
    }

    /// Keeps a caption that ended if it is among the best.
    fn end(&mut self, ids: Vec<i32>, score: f32, length: usize) {
        let mean = f64::from(score) / length as f64;
        let better = self.ended.iter().filter(|(other, _)| *other >= mean);
        let place = better.count();
        self.ended.insert(place, (mean, ids));
        self.ended.truncate(self.count);
    }

    /// The best caption.
    pub(super) fn finish(mut self) -> Vec<i32> {
        if !self.is_done {
            for beam in std::mem::take(&mut self.open) {
                let length = beam.ids.len();
                self.end(beam.ids, beam.score, length);
            }
        }
        let best = self.ended.into_iter().next();
        let mut ids = best.map_or_else(|| vec![self.how.start], |(_, ids)| ids);
        if ids.len() < self.how.longest {
            ids.push(self.how.end);
        }
        ids
    }
}

impl Writing for Beams<'_> {
    fn open(&self) -> Vec<&[i32]> {
        if self.is_done || self.length() >= self.how.longest {
            return Vec::new();
        }
        self.open.iter().map(|beam| &*beam.ids).collect()
    }

    fn follow(&mut self, logits: Vec<&mut [f32]>) {
        let length = self.length();
        let mut candidates = Vec::new();
        for (beam, logits) in logits.into_iter().enumerate() {
            put_off_end(self.how, length, logits);
            for logit in &mut *logits {
                *logit += self.open[beam].score;
            }
            let best = largest(logits, 2 * self.count).into_iter();
            candidates.extend(best.map(|(score, token)| (score, beam, token as i32)));
        }
        // Those of equal scores stay in the order of beams and tokens.
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        candidates.truncate(2 * self.count);
        let highest = candidates.first().map_or(f32::NEG_INFINITY, |best| best.0);
        let mut open = Vec::with_capacity(self.count);
        for (rank, (score, beam, token)) in candidates.into_iter().enumerate() {
            let mut ids = self.open[beam].ids.clone();
            if token == self.how.end {
                if rank < self.count {
                    self.end(ids, score, length + 1);
                }
                continue;
            }
            ids.push(token);
            open.push(Beam { ids, score });
            if open.len() == self.count {
                break;
            }
        }
        self.open = open;
        let attainable = f64::from(highest) / (length + 1) as f64;
        let worst = self.ended.last().filter(|_| self.ended.len() == self.count);
        self.is_done = worst.is_some_and(|(worst, _)| *worst >= attainable);
    }
}
