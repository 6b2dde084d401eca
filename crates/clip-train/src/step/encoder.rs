use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{DType, Int, Tensor},
};
use clip_model::{
    Clip, Precision,
    encoder::{BatchStatistics, ImageEncoder},
    loss::ContrastiveGradients,
};

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
    pub(super) statistics: BatchStatistics,
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
    statistics: BatchStatistics,
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
        let (image, statistics) = self.image_features(chunk);
        Features {
            image,
            text: self.text_features(chunk),
            statistics,
        }
    }

    /// A locked encoder's batch norms use their running statistics: training leaves it as it is.
    fn image_features(&self, chunk: &Chunk) -> (Tensor<2>, BatchStatistics) {
        let images = chunk.images.clone().inner();
        if !self.image_trains {
            return (
                self.inference.encode_image(images),
                BatchStatistics::default(),
            );
        }
        let patches = chunk.patches.clone().map(Tensor::inner);
        self.inference.encode_image_in_training(images, patches)
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
            statistics: BatchStatistics::default(),
            model,
        };
        let model = &encoded.model;
        if self.image_trains {
            let (images, patches) = (chunk.images.clone(), chunk.patches.clone());
            let (features, statistics, tape) = self.encode_images(model, images, patches);
            encoded.image = Some(features);
            encoded.statistics = statistics;
            encoded.image_tape = tape;
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

    /// A residual network has no blocks to compute again: it keeps its whole graph, as in the reference.
    fn encode_images(
        &self,
        model: &Clip,
        images: Tensor<4>,
        patches: Option<Tensor<2, Int>>,
    ) -> (Tensor<2>, BatchStatistics, Option<Tape>) {
        let (features, tape) = match (&model.visual, &self.inference.visual) {
            (
                ImageEncoder::VisionTransformer(chain),
                ImageEncoder::VisionTransformer(inference),
            ) if self.recompute => Tape::record(chain, inference, &(images, patches)),
            (ImageEncoder::Siglip(chain), ImageEncoder::Siglip(inference)) if self.recompute => {
                Tape::record(chain, inference, &images)
            }
            _ => {
                let (features, statistics) = model.encode_image_in_training(images, patches);
                return (features, statistics, None);
            }
        };
        let statistics = BatchStatistics::default();
        (features.cast(DType::F32), statistics, Some(tape))
    }

    /// What `encoded` holds, and what it leaves out.
    pub(super) fn features_of(&self, encoded: &Encoded, chunk: &Chunk) -> Features {
        let inner = |features: &Tensor<2>| features.clone().inner();
        let (image, statistics) = match &encoded.image {
            Some(image) => (inner(image), encoded.statistics.clone()),
            None => self.image_features(chunk),
        };
        Features {
            image,
            text: encoded
                .text
                .as_ref()
                .map_or_else(|| self.text_features(chunk), inner),
            statistics,
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
            match &model.visual {
                ImageEncoder::VisionTransformer(chain) => tape.back(chain, &mut found, &mut grads),
                ImageEncoder::Siglip(chain) => tape.back(chain, &mut found, &mut grads),
                ImageEncoder::ModifiedResNet(_) => {}
            }
        }
        for tape in self.text_tapes {
            tape.back(&model.text, &mut found, &mut grads);
        }
        scaled(grads, model, 1.0 / scale)
    }
}
