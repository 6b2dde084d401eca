use std::ops::Range;

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{DType, Device, Int, Tensor},
};
use clip_model::{
    Clip, Precision,
    encoder::{BatchStatistics, EmbeddedCaptions, ImageEncoder, TextEncoder, TrainingDraws},
    loss::ContrastiveGradients,
};

use super::{
    batch::PairBatch,
    captioning::{lost, on_device, told},
    captions::Buckets,
    gradients::{collect, moved, scaled, trains},
    tape::Tape,
    teacher::Teacher,
    tokens::TokenGradients,
};

/// Some rows of a batch, on a device.
struct Chunk {
    rows: Range<usize>,
    images: Tensor<4>,
    draws: TrainingDraws,
    captions: Buckets,
}

/// `[rows, embed_dim]`, not normalised, off the graph, on the main device.
pub(super) struct Features {
    pub(super) image: Tensor<2>,
    pub(super) text: Tensor<2>,
    /// Those of the teacher's images and texts, if there is one.
    pub(super) teacher: Option<[Tensor<2>; 2]>,
    pub(super) statistics: BatchStatistics,
}

/// The model on one device, and how it encodes chunks there.
pub(super) struct Encoder<'a> {
    batch: &'a PairBatch,
    /// On this encoder's device, in the step's precision. In f32 on the main one it shares the parameters, else they are
    /// copies.
    model: Clip,
    /// The same, off the graph.
    inference: Clip,
    /// Another model on this encoder's device, whose features are found too.
    teacher: Option<&'a Teacher>,
    /// The main device, which gets all that comes of a chunk.
    main: Device,
    is_elsewhere: bool,
    options: Options,
    image_trains: bool,
    text_trains: bool,
    /// What a decoder's loss is divided by: the tokens of the whole batch.
    told: f64,
}

/// How a step encodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) text_buckets: usize,
    pub(super) precision: Precision,
    pub(super) recompute: bool,
    /// What the mean of a decoder's loss is multiplied by, beside the contrastive loss.
    pub(super) caption_weight: f64,
}

/// A chunk's features on a graph of their own; a locked tower has none.
pub(super) struct Encoded {
    chunk: Chunk,
    /// The same parameters in that graph: threads that share a graph wait for each other.
    model: Clip,
    image: Option<Tensor<2>>,
    text: Option<Tensor<2>>,
    /// `[1]`: the chunk's part of a decoder's mean loss, if the model has a decoder.
    caption: Option<Tensor<1>>,
    image_tape: Option<Tape>,
    text_tapes: Vec<Tape>,
    /// Of each bucket the tokens that were looked up, with which its graph begins.
    looked_up: Vec<Tensor<3>>,
    statistics: BatchStatistics,
}

/// What a chunk's backward pass found.
#[derive(Default)]
pub(super) struct ChunkGradients {
    /// By all parameters but the token embedding.
    pub(super) parameters: GradientsParams,
    pub(super) tokens: TokenGradients,
    /// `[1]`: the chunk's part of a decoder's mean loss, off the graph.
    pub(super) caption: Option<Tensor<1>>,
}

impl<'a> Encoder<'a> {
    /// Of the main device's model, on `device` or, without one, where the model is.
    pub(super) fn new(
        model: &Clip,
        device: Option<&Device>,
        teacher: Option<&'a Teacher>,
        batch: &'a PairBatch,
        options: Options,
    ) -> Self {
        let main = model.device();
        let elsewhere = device.filter(|device| (*device).clone().inner() != main.clone().inner());
        let model = match elsewhere {
            // A clone shares the running statistics of batch norms, which Burn moves where they are.
            Some(device) => model.valid().train().fork(device),
            None => model.clone(),
        };
        let model = options.precision.copy(&model);
        Self {
            inference: model.valid(),
            image_trains: trains(&model.visual),
            text_trains: trains(&model.text),
            told: told(&batch.captions).max(1) as f64,
            is_elsewhere: elsewhere.is_some(),
            model,
            teacher,
            main,
            batch,
            options,
        }
    }

    fn load(&self, rows: Range<usize>) -> Chunk {
        let device = self.model.device();
        let buckets = self.options.text_buckets;
        let PairBatch {
            images,
            captions,
            patches,
            paths,
            ..
        } = self.batch;
        Chunk {
            images: images.rows(rows.clone(), &device),
            draws: TrainingDraws {
                patches: patches
                    .as_ref()
                    .map(|patches| patches.rows(rows.clone(), &device)),
                paths: paths
                    .as_ref()
                    .map(|paths| paths.rows(rows.clone(), &device)),
            },
            captions: captions.of(&self.model.text, rows.clone(), buckets, &device),
            rows,
        }
    }

    /// The features alone.
    pub(super) fn features(&self, rows: Range<usize>) -> Features {
        let chunk = self.load(rows);
        let (image, statistics) = self.image_features(&chunk);
        self.on_main(image, self.text_features(&chunk), statistics, &chunk)
    }

    fn on_main(
        &self,
        image: Tensor<2>,
        text: Tensor<2>,
        statistics: BatchStatistics,
        chunk: &Chunk,
    ) -> Features {
        let buckets = self.options.text_buckets;
        let taught = self
            .teacher
            .map(|teacher| teacher.encode(self.batch, chunk.rows.clone(), &chunk.images, buckets));
        let to_main = |features: Tensor<2>| features.to_device(&self.main);
        Features {
            image: to_main(image),
            text: to_main(text),
            teacher: taught.map(|features| features.map(to_main)),
            statistics: statistics.to_device(&self.main),
        }
    }

    /// Without graph. A locked encoder's batch norms use their running statistics: training leaves it as it is. One without
    /// any leaves out what is drawn all the same, as the reference does.
    fn image_features(&self, chunk: &Chunk) -> (Tensor<2>, BatchStatistics) {
        let images = chunk.images.clone().inner();
        if !self.image_trains && self.inference.visual.has_batch_norms() {
            return (
                self.inference.encode_image(images),
                BatchStatistics::default(),
            );
        }
        let draws = chunk.draws.clone().inner();
        self.inference.encode_image_in_training(images, draws)
    }

    fn text_features(&self, chunk: &Chunk) -> Tensor<2> {
        let encode = |tokens: &Tensor<2, Int>| self.inference.encode_text(tokens.clone());
        chunk.captions.inner().encode(encode)
    }

    /// The features with their graph.
    pub(super) fn encode(&self, rows: Range<usize>) -> Encoded {
        let model = self.model.clone().fork(&self.model.device());
        let mut encoded = Encoded {
            chunk: self.load(rows),
            image: None,
            text: None,
            caption: None,
            image_tape: None,
            text_tapes: Vec::new(),
            looked_up: Vec::new(),
            statistics: BatchStatistics::default(),
            model,
        };
        if encoded.model.text_decoder.is_some() {
            self.encode_with_decoder(&mut encoded);
            return encoded;
        }
        let (model, chunk) = (&encoded.model, &encoded.chunk);
        if self.image_trains {
            let (images, draws) = (chunk.images.clone(), chunk.draws.clone());
            let (features, statistics, tape) = self.encode_images(model, images, draws);
            encoded.image = Some(features);
            encoded.statistics = statistics;
            encoded.image_tape = tape;
        }
        if self.text_trains {
            let features = chunk.captions.encode(|tokens| {
                let (captions, leaf) = model.text.embed_as_leaf(tokens);
                encoded.looked_up.push(leaf);
                let (features, tape) = self.encode_captions(&model.text, &captions);
                encoded.text_tapes.extend(tape);
                features
            });
            encoded.text = Some(features.cast(DType::F32));
        }
        encoded
    }

    /// The same of a CoCa model, whose decoder reads the tokens of both towers, of a locked one off the graph.
    fn encode_with_decoder(&self, encoded: &mut Encoded) {
        let (model, chunk) = (&encoded.model, &encoded.chunk);
        let Some(decoder) = &model.text_decoder else {
            return;
        };
        let (images, patches) = (chunk.images.clone(), chunk.draws.patches.clone());
        let image_tokens = if self.image_trains {
            let (features, tokens, tape) = self.encode_image_tokens(model, images, patches);
            encoded.image = Some(features.cast(DType::F32));
            encoded.image_tape = tape;
            tokens
        } else {
            let visual = &self.inference.visual;
            let patches = patches.map(Tensor::inner);
            let (_, tokens) = visual.forward_with_tokens(images.inner(), patches);
            Tensor::from_inner(tokens)
        };
        let device = image_tokens.device();
        let mut losses = Vec::new();
        let mut buckets = chunk.captions.ids().iter().zip(chunk.captions.rows());
        let mut write = |text_tokens| {
            // invariant: buckets are encoded in their order, once each.
            let (ids, rows) = buckets.next().expect("invariant: a bucket");
            let rows = on_device(rows.clone(), &device);
            let image = image_tokens.clone().select(0, rows);
            losses.extend(lost(decoder, &image, text_tokens, ids));
        };
        if self.text_trains {
            let features = chunk.captions.encode(|tokens| {
                let (captions, leaf) = model.text.embed_as_leaf(tokens);
                encoded.looked_up.push(leaf);
                let (features, tokens) = model.text.forward_with_tokens(&captions);
                write(tokens);
                features
            });
            encoded.text = Some(features.cast(DType::F32));
        } else {
            let text = &self.inference.text;
            chunk.captions.inner().encode(|tokens| {
                let (features, tokens) = text.forward_with_tokens(&text.embed(tokens));
                write(Tensor::from_inner(tokens));
                features
            });
        }
        let sum = losses.into_iter().reduce(|a, b| a + b);
        encoded.caption = sum.map(|sum| sum.div_scalar(self.told));
    }

    /// Features and tokens of a vision transformer: no other has a decoder.
    fn encode_image_tokens(
        &self,
        model: &Clip,
        images: Tensor<4>,
        patches: Option<Tensor<2, Int>>,
    ) -> (Tensor<2>, Tensor<3>, Option<Tape>) {
        let recompute = self.options.recompute;
        match (&model.visual, &self.inference.visual) {
            (
                ImageEncoder::VisionTransformer(chain),
                ImageEncoder::VisionTransformer(inference),
            ) if Tape::serves(chain, recompute) => {
                let input = (images, patches);
                let (x, tape) = Tape::record_tokens(chain, inference, &input, recompute);
                let (features, tokens) = chain.head_with_tokens(x);
                (features, tokens, Some(tape))
            }
            (visual, _) => {
                let (features, tokens) = visual.forward_with_tokens(images, patches);
                (features, tokens, None)
            }
        }
    }

    /// Convolutional networks have no blocks like these, and EVA's have blocks of their own: they keep their whole graph, as
    /// residual networks do in the reference.
    fn encode_images(
        &self,
        model: &Clip,
        images: Tensor<4>,
        draws: TrainingDraws,
    ) -> (Tensor<2>, BatchStatistics, Option<Tape>) {
        let recompute = self.options.recompute;
        let (features, tape) = match (&model.visual, &self.inference.visual) {
            (
                ImageEncoder::VisionTransformer(chain),
                ImageEncoder::VisionTransformer(inference),
            ) if Tape::serves(chain, recompute) => {
                Tape::record(chain, inference, &(images, draws.patches), recompute)
            }
            (ImageEncoder::Siglip(chain), ImageEncoder::Siglip(inference))
                if Tape::serves(chain, recompute) =>
            {
                Tape::record(chain, inference, &images, recompute)
            }
            _ => {
                let (features, statistics) = model.encode_image_in_training(images, draws);
                return (features, statistics, None);
            }
        };
        let statistics = BatchStatistics::default();
        (features.cast(DType::F32), statistics, Some(tape))
    }

    /// Hugging Face's text encoders have no blocks like these: they keep their whole graph.
    fn encode_captions(
        &self,
        text: &TextEncoder,
        captions: &EmbeddedCaptions,
    ) -> (Tensor<2>, Option<Tape>) {
        let recompute = self.options.recompute;
        match (text, &self.inference.text) {
            (TextEncoder::Transformer(chain), TextEncoder::Transformer(inference))
                if Tape::serves(chain, recompute) =>
            {
                let (features, tape) = Tape::record(chain, inference, captions, recompute);
                (features, Some(tape))
            }
            _ => (text.forward_embedded(captions), None),
        }
    }

    /// What `encoded` holds, and what it leaves out.
    pub(super) fn features_of(&self, encoded: &Encoded) -> Features {
        let inner = |features: &Tensor<2>| features.clone().inner();
        let (image, statistics) = match &encoded.image {
            Some(image) => (inner(image), encoded.statistics.clone()),
            None => self.image_features(&encoded.chunk),
        };
        let text = match &encoded.text {
            Some(text) => inner(text),
            None => self.text_features(&encoded.chunk),
        };
        self.on_main(image, text, statistics, &encoded.chunk)
    }

    /// Gradients by the parameters of `sum(features * their gradient)`, in f32, on the main device. On the way they are
    /// `scale` times as large, which is for numbers of little range.
    pub(super) fn back(
        &self,
        encoded: Encoded,
        found: &ContrastiveGradients,
        scale: f64,
    ) -> ChunkGradients {
        let grads = encoded.back(found, scale, self.options.caption_weight);
        if !self.is_elsewhere {
            return grads;
        }
        ChunkGradients {
            caption: grads.caption.map(|loss| loss.to_device(&self.main)),
            parameters: moved(grads.parameters, &self.model, &self.main),
            tokens: grads.tokens.moved(&self.main),
        }
    }
}

impl Encoded {
    fn back(self, found: &ContrastiveGradients, scale: f64, caption_weight: f64) -> ChunkGradients {
        let Range { start, end } = self.chunk.rows;
        let device = self.model.device();
        let sides = [(&self.image, &found.image), (&self.text, &found.text)];
        let caption = self.caption.as_ref();
        let of_caption = caption.map(|loss| loss.clone().mul_scalar(caption_weight * scale));
        let sum = sides
            .into_iter()
            .filter_map(|(features, grad)| {
                let features = features.as_ref()?;
                let grad = grad
                    .clone()
                    .narrow(0, start, end - start)
                    .to_device(&device);
                let grad = Tensor::from_inner(grad.mul_scalar(scale));
                Some((features.clone() * grad).sum())
            })
            .chain(of_caption)
            .reduce(|a, b| a + b);
        let mut grads = ChunkGradients {
            caption: caption.map(|loss| loss.clone().inner()),
            ..ChunkGradients::default()
        };
        let Some(sum) = sum else {
            return grads;
        };
        let mut found = sum.backward();
        let model = &self.model;
        let parameters = &mut grads.parameters;
        collect(&mut found, model, parameters);
        if let Some(tape) = self.image_tape {
            match &model.visual {
                ImageEncoder::VisionTransformer(chain) => tape.back(chain, &mut found, parameters),
                ImageEncoder::Siglip(chain) => tape.back(chain, &mut found, parameters),
                ImageEncoder::ModifiedResNet(_)
                | ImageEncoder::ConvNeXt(_)
                | ImageEncoder::Eva(_)
                | ImageEncoder::FastVit(_)
                | ImageEncoder::TimmVit(_)
                | ImageEncoder::ViTamin(_) => None,
            };
        }
        let mut tapes = self.text_tapes.into_iter();
        for (leaf, ids) in self.looked_up.iter().zip(self.chunk.captions.ids()) {
            // A bucket's tokens are where its tape begins, or on the graph that all share.
            let grad = match (tapes.next(), &model.text) {
                (Some(tape), TextEncoder::Transformer(chain)) => {
                    let of_stem = tape.back(chain, &mut found, parameters);
                    of_stem.and_then(|mut of_stem| leaf.grad_remove(&mut of_stem))
                }
                _ => leaf.grad_remove(&mut found),
            };
            if let Some(grad) = grad {
                grads.tokens.push(ids, grad);
            }
        }
        let is_scaled = scale.to_bits() != 1.0_f64.to_bits();
        // A power of two: exact as f32, and so is its inverse.
        let unscale = || Tensor::from_floats([(1.0 / scale) as f32], &device.clone().inner());
        grads.parameters = scaled(grads.parameters, model, is_scaled.then(unscale));
        if is_scaled {
            grads.tokens = grads.tokens.scaled(1.0 / scale);
        }
        grads
    }
}
