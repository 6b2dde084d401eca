use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{DType, Int, Tensor},
};
use clip_model::{Clip, Precision, loss::ContrastiveGradients};

use super::{
    captions::Buckets,
    gradients::{collect, scaled, trains},
    recompute::Tape,
};

/// Some rows of a batch.
pub(super) struct Chunk {
    pub(super) start: usize,
    pub(super) images: Tensor<4>,
    pub(super) patches: Option<Tensor<2, Int>>,
    pub(super) captions: Buckets,
}

/// `[rows, embed_dim]`, not normalised, off the graph.
pub(super) struct Features {
    pub(super) image: Tensor<2>,
    pub(super) text: Tensor<2>,
}

/// How a step encodes chunks.
pub(super) struct Encoder<'a> {
    model: &'a Clip,
    /// The model in the step's precision, off the graph.
    inference: Clip,
    precision: Precision,
    recompute: bool,
    image_trains: bool,
    text_trains: bool,
}

/// A chunk's features on a graph of their own; a locked tower has none.
pub(super) struct Encoded {
    /// The same parameters in that graph: threads that share a graph wait for each other.
    model: Clip,
    image: Option<Tensor<2>>,
    text: Option<Tensor<2>>,
    image_tape: Option<Tape>,
    text_tapes: Vec<Tape>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(model: &'a Clip, precision: Precision, recompute: bool) -> Self {
        Self {
            model,
            inference: precision.copy(model).valid(),
            precision,
            recompute,
            image_trains: trains(&model.visual),
            text_trains: trains(&model.text),
        }
    }

    /// The features alone.
    pub(super) fn features(&self, chunk: &Chunk) -> Features {
        Features {
            image: self.image_features(chunk),
            text: self.text_features(chunk),
        }
    }

    fn image_features(&self, chunk: &Chunk) -> Tensor<2> {
        let patches = chunk.patches.clone().map(Tensor::inner);
        self.inference
            .encode_image_patches(chunk.images.clone().inner(), patches)
    }

    fn text_features(&self, chunk: &Chunk) -> Tensor<2> {
        let encode = |tokens: &Tensor<2, Int>| self.inference.encode_text(tokens.clone());
        chunk.captions.inner().encode(encode)
    }

    /// The features with their graph.
    pub(super) fn encode(&self, chunk: &Chunk) -> Encoded {
        let model = self.precision.copy(self.model);
        let mut encoded = Encoded {
            image: None,
            text: None,
            image_tape: None,
            text_tapes: Vec::new(),
            model,
        };
        let model = &encoded.model;
        if self.image_trains {
            let input = (chunk.images.clone(), chunk.patches.clone());
            encoded.image = Some(if self.recompute {
                let inference = &self.inference.visual;
                let (features, tape) = Tape::record(&model.visual, inference, &input);
                encoded.image_tape = Some(tape);
                features.cast(DType::F32)
            } else {
                model.encode_image_patches(input.0, input.1)
            });
        }
        if self.text_trains {
            encoded.text = Some(chunk.captions.encode(|tokens| {
                if self.recompute {
                    let (features, tape) = Tape::record(&model.text, &self.inference.text, tokens);
                    encoded.text_tapes.push(tape);
                    features.cast(DType::F32)
                } else {
                    model.encode_text(tokens.clone())
                }
            }));
        }
        encoded
    }

    /// What `encoded` holds, and what it leaves out.
    pub(super) fn features_of(&self, encoded: &Encoded, chunk: &Chunk) -> Features {
        let inner = |features: &Tensor<2>| features.clone().inner();
        Features {
            image: encoded
                .image
                .as_ref()
                .map_or_else(|| self.image_features(chunk), inner),
            text: encoded
                .text
                .as_ref()
                .map_or_else(|| self.text_features(chunk), inner),
        }
    }
}

impl Encoded {
    /// Gradients by the parameters of `sum(features * their gradient)`, in f32, for the chunk that begins at row `start`.
    /// On the way they are `scale` times as large, which is for numbers of little range.
    pub(super) fn back(
        self,
        found: &ContrastiveGradients,
        start: usize,
        scale: f64,
    ) -> GradientsParams {
        let sides = [(&self.image, &found.image), (&self.text, &found.text)];
        let sum = sides
            .into_iter()
            .filter_map(|(features, grad)| {
                let features = features.as_ref()?;
                let grad = grad.clone().narrow(0, start, features.dims()[0]);
                let grad = Tensor::from_inner(grad.mul_scalar(scale));
                Some((features.clone() * grad).sum())
            })
            .reduce(|a, b| a + b);
        let mut grads = GradientsParams::new();
        let Some(sum) = sum else {
            return grads;
        };
        let mut found = sum.backward();
        let model = &self.model;
        collect(&mut found, model, &mut grads);
        if let Some(tape) = self.image_tape {
            tape.back(&model.visual, &mut found, &mut grads);
        }
        for tape in self.text_tapes {
            tape.back(&model.text, &mut found, &mut grads);
        }
        scaled(grads, model, 1.0 / scale)
    }
}
