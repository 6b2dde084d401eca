//! Captions of images, written token by token by a CoCa model's decoder.

mod beams;
mod sampling;

use burn::tensor::{Int, Tensor, TensorData};

use self::{beams::Beams, sampling::Sampler};
use crate::{Clip, encoder::coca::COCA_PADDING};

/// How captions are written. `OpenCLIP`'s `generate` begins with the same numbers, unless it is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioning {
    /// The id that every caption begins with.
    pub start: i32,
    /// The id that every caption ends with.
    pub end: i32,
    /// Most tokens, start and end included; no more than the model's context.
    pub longest: usize,
    /// Fewest tokens, start included, before the end may follow.
    pub shortest: usize,
    /// How the next token is found.
    pub search: Search,
}

/// How the next token of a caption is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// Of so many captions at a time those whose logits, added up, are largest, and of those that ended the one with the
    /// largest mean. `OpenCLIP` adds logits up where others add logarithms of probabilities. It begins with three groups of
    /// two, which all find the same, for nothing makes them differ.
    Beams(usize),
    /// Drawn from the so many most probable tokens; the most probable of all is one of 1.
    TopK(usize, Draws),
    /// Drawn from the most probable tokens that have this share of all probability together.
    TopP(f64, Draws),
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// What logits are divided by, once it is clear from which tokens is drawn: below 1, likely ones are drawn more often.
    pub temperature: f64,
    /// What the draws follow from: a seed always gives the same captions. Each image has draws of its own, by its place
    /// among all that are captioned.
    pub seed: u64,
}

impl Captioning {
    /// By two beams, in 30 tokens at most.
    pub fn new(start: i32, end: i32) -> Self {
        Self {
            start,
            end,
            longest: 30,
            shortest: 5,
            search: Search::Beams(2),
        }
    }
}

/// Writes captions of images, batch after batch.
#[derive(Clone, Debug)]
pub struct Captioner {
    how: Captioning,
    /// Images that were captioned.
    written: u64,
}

impl Captioner {
    /// # Panics
    /// If there is no beam, no token to draw from, or no temperature, or captions are to be longer than they may be.
    pub fn new(how: Captioning) -> Self {
        assert!(
            how.shortest < how.longest,
            "captions of at least {} tokens can't be of {} at most",
            how.shortest,
            how.longest
        );
        let draws = match how.search {
            Search::Beams(beams) => {
                assert!(beams > 0, "a search needs a beam");
                None
            }
            Search::TopK(tokens, draws) => {
                assert!(tokens > 0, "a draw needs a token");
                Some(draws)
            }
            Search::TopP(_, draws) => Some(draws),
        };
        let warm = draws.is_none_or(|draws| draws.temperature > 0.0);
        assert!(warm, "a temperature is above 0");
        Self { how, written: 0 }
    }

    /// Token ids of a caption of each image, from the start token to the end token, or without one where a beam came to the
    /// longest.
    ///
    /// # Shapes
    /// - `images`: as [`Clip::encode_image`]
    ///
    /// # Panics
    /// If the model has no decoder, or less context than captions may be long.
    pub fn write(&mut self, model: &Clip, images: Tensor<4>) -> Vec<Vec<i32>> {
        let (_, image) = model.visual.forward_with_tokens(images, None);
        let [count, ..] = image.dims();
        let next = Next { model, image };
        let first = self.written;
        self.written += count as u64;
        match self.how.search {
            Search::Beams(beams) => {
                let searches = (0..count).map(|_| Beams::new(beams, &self.how));
                let found = search(&next, searches.collect());
                found.into_iter().map(Beams::finish).collect()
            }
            Search::TopK(_, draws) | Search::TopP(_, draws) => {
                let samplers = (first..self.written).map(|at| Sampler::new(draws, at, &self.how));
                let found = search(&next, samplers.collect());
                found.into_iter().map(Sampler::finish).collect()
            }
        }
    }
}

/// Captions of one image that are being written.
trait Writing {
    /// The captions to go on with, all of the same length; none when all is written.
    fn open(&self) -> Vec<&[i32]>;

    /// Goes on with them, given logits of what follows each.
    fn follow(&mut self, logits: Vec<&mut [f32]>);
}

/// All of them at once, each token in one pass over the captions of all images.
fn search<W: Writing>(next: &Next<'_>, mut all: Vec<W>) -> Vec<W> {
    loop {
        let open = all.iter().enumerate();
        let open: Vec<(usize, &[i32])> = open
            .flat_map(|(image, writing)| writing.open().into_iter().map(move |ids| (image, ids)))
            .collect();
        let mut counts = vec![0; all.len()];
        for (image, _) in &open {
            counts[*image] += 1;
        }
        if open.is_empty() {
            return all;
        }
        let (vocab_size, mut logits) = next.logits(&open);
        let mut rows = logits.chunks_exact_mut(vocab_size);
        for (writing, count) in all.iter_mut().zip(counts) {
            if count > 0 {
                writing.follow(rows.by_ref().take(count).collect());
            }
        }
    }
}

/// A model and the tokens of some images.
struct Next<'a> {
    model: &'a Clip,
    /// `[images, image tokens, width]`.
    image: Tensor<3>,
}

impl Next<'_> {
    /// Tokens of the vocabulary, and logits of what follows each caption, one after the other.
    fn logits(&self, captions: &[(usize, &[i32])]) -> (usize, Vec<f32>) {
        let device = self.image.device();
        let rows: Vec<i32> = captions.iter().map(|(image, _)| *image as i32).collect();
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &device);
        let ids: Vec<i32> = captions.iter().flat_map(|(_, ids)| *ids).copied().collect();
        let length = ids.len() / count;
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, length]), &device);
        let image = self.image.clone().select(0, rows);
        let logits = self.model.last_logits(&image, &ids);
        let [_, vocab_size] = logits.dims();
        let logits = logits.into_data().try_to_vec::<f32>();
        // invariant: the decoder's logits are f32 whatever it computes in.
        (vocab_size, logits.expect("invariant: f32"))
    }
}

/// Puts the end out of reach of a caption that is too short for it.
fn put_off_end(how: &Captioning, length: usize, logits: &mut [f32]) {
    if length < how.shortest {
        logits[how.end as usize] = f32::NEG_INFINITY;
    }
}

/// Whether nothing follows a token.
fn is_last(how: &Captioning, id: i32) -> bool {
    id == how.end || id == COCA_PADDING
}
