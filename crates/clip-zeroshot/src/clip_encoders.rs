use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, TensorData},
};
use clip_data::{EvalLoader, EvalNeeds, ImageResizer, LoaderConfig, Resize, ShardSet, Tokenizer};
use clip_files::sha256::Parts;
use clip_model::{
    Captioner, Captioning, Clip, ClipConfig, Interpolation, Precision, Preprocess, ResizeMode,
    TextConfig, encoder::TextEnd, weights::weights_bytes,
};

use crate::{EncodeTexts, ZeroShotError};

/// A model ready for use: both encoders with all that must precede them, tokens and normalised pixels.
///
/// It is cheap to make from the parts of a run, on the half-trained model too; [`load`](Self::load) makes it from
/// a model directory. It works without autodiff, whatever the model was given with.
pub struct ClipEncoders {
    pub(crate) config: ClipConfig,
    pub(crate) model: Clip,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) preprocess: Preprocess,
    device: Device,
    precision: Precision,
    hash: OnceLock<String>,
    stops: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl ClipEncoders {
    /// Joins a model with the tokenizer and the preprocessing that it was trained with.
    ///
    /// # Errors
    /// [`ZeroShotError::WrongTokenizer`] when the tokenizer's vocabulary is not the model's, [`ZeroShotError::WrongPadding`]
    /// when its padding is not.
    pub fn new(
        config: &ClipConfig,
        model: &Clip,
        tokenizer: impl Into<Arc<Tokenizer>>,
        preprocess: impl Into<Preprocess>,
    ) -> Result<Self, ZeroShotError> {
        let preprocess = preprocess.into();
        Self::named(
            "the model",
            config.clone(),
            model,
            tokenizer.into(),
            preprocess,
        )
    }

    /// The encoders of a model that `origin` names in errors.
    pub(crate) fn named(
        origin: &str,
        config: ClipConfig,
        model: &Clip,
        tokenizer: Arc<Tokenizer>,
        preprocess: Preprocess,
    ) -> Result<Self, ZeroShotError> {
        check_tokenizer(origin, &config.text_cfg, &tokenizer)?;
        let model = model.valid();
        Ok(Self {
            config,
            device: model.device(),
            model,
            tokenizer,
            preprocess,
            precision: Precision::F32,
            hash: OnceLock::new(),
            stops: None,
        })
    }

    /// Encoders that ask before each batch of images or texts whether to stop: if `stops` says yes, the work ends with
    /// [`ZeroShotError::Stopped`].
    pub fn stopping_when(self, stops: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            stops: Some(Arc::new(stops)),
            ..self
        }
    }

    /// # Errors
    /// [`ZeroShotError::Stopped`].
    pub(crate) fn goes_on(&self) -> Result<(), ZeroShotError> {
        match &self.stops {
            Some(stops) if stops() => Err(ZeroShotError::Stopped),
            _ => Ok(()),
        }
    }

    /// Encoders that compute in another precision, of those whose weights are f32. Features are f32 whatever it is; to
    /// a [head](crate::ClassifierHead) and to every cache it is another model.
    pub fn with_precision(self, precision: Precision) -> Self {
        if precision == Precision::F32 {
            return self;
        }
        Self {
            model: precision.copy(&self.model),
            precision,
            hash: OnceLock::new(),
            ..self
        }
    }

    /// The architecture.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Side of the images that the model takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.config.vision_cfg.image_size
    }

    /// What makes the images that the model takes of others.
    pub fn resizer(&self) -> ImageResizer {
        ImageResizer::with(self.image_size(), resize(&self.preprocess))
    }

    /// Most tokens of a text, start and end included.
    pub fn context_length(&self) -> usize {
        self.config.text_cfg.context_length
    }

    /// Where the model computes, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The factor between cosines and logits, `exp(logit_scale)`. Waits for the device.
    pub fn temperature_factor(&self) -> f32 {
        self.model.temperature_factor()
    }

    /// What is added to every logit, in a model that SigLIP's loss trained. Waits for the device.
    pub fn logit_bias(&self) -> Option<f32> {
        self.model.bias_of_logits()
    }

    /// A loader of shards at the model's image size, `config` deciding the rest.
    ///
    /// # Errors
    /// Those of [`EvalLoader::new`].
    pub fn loader(
        &self,
        shards: ShardSet,
        needs: EvalNeeds,
        config: LoaderConfig,
    ) -> Result<EvalLoader, ZeroShotError> {
        let config = LoaderConfig {
            image_size: self.image_size(),
            context_length: self.context_length(),
            resize: resize(&self.preprocess),
            ..config
        };
        Ok(EvalLoader::new(shards, needs, config)?)
    }

    /// Image features, not normalised. The bytes travel to the device and are normalised there.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, image_size, image_size, 3]`, red, green and blue from 0 to 255
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If the bytes are not those of whole images of [`image_size`](Self::image_size).
    pub fn encode_images(&self, pixels: Vec<u8>) -> Tensor<2> {
        self.model.encode_image(self.normalised(pixels))
    }

    /// Image features before the projection into the joint space, and after it; neither normalised.
    ///
    /// # Shapes
    /// - `pixels`: as [`encode_images`](Self::encode_images)
    /// - returns `[batch, width]` and `[batch, embed_dim]`
    ///
    /// # Panics
    /// As [`encode_images`](Self::encode_images).
    pub fn encode_images_twofold(&self, pixels: Vec<u8>) -> [Tensor<2>; 2] {
        self.model.encode_image_twofold(self.normalised(pixels))
    }

    /// How a model that writes captions begins with it: by the words of its own tokenizer, no longer than its context.
    ///
    /// # Errors
    /// [`ZeroShotError::NoCaptions`] of a model that writes none.
    pub fn captioning(&self) -> Result<Captioning, ZeroShotError> {
        if self.model.text_decoder.is_none() {
            return Err(ZeroShotError::NoCaptions {
                reason: "it has no decoder: take a CoCa model, such as coca_ViT-B-32",
            });
        }
        let Some([start, end]) = self.tokenizer.start_and_end() else {
            return Err(ZeroShotError::NoCaptions {
                reason: "its tokenizer has no start and end that are known: take one of CLIP's kind",
            });
        };
        let how = Captioning::new(start as i32, end as i32);
        let longest = how.longest.min(self.context_length());
        Ok(Captioning {
            longest,
            shortest: how.shortest.min(longest - 1),
            ..how
        })
    }

    /// A caption of each image, in the tokenizer's words.
    ///
    /// # Shapes
    /// - `pixels`: as [`encode_images`](Self::encode_images)
    ///
    /// # Panics
    /// As [`encode_images`](Self::encode_images), and if the model writes no captions.
    pub fn write_captions(&self, captioner: &mut Captioner, pixels: Vec<u8>) -> Vec<String> {
        let captions = captioner.write(&self.model, self.normalised(pixels));
        let text = |ids: Vec<i32>| {
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            self.tokenizer.decode(&ids)
        };
        captions.into_iter().map(text).collect()
    }

    /// `[batch, 3, image_size, image_size]`
    fn normalised(&self, pixels: Vec<u8>) -> Tensor<4> {
        let side = self.image_size();
        assert!(
            !pixels.is_empty() && pixels.len().is_multiple_of(side * side * 3),
            "{} bytes are no whole images of {side} by {side} pixels",
            pixels.len()
        );
        self.preprocess.norm().to_tensor(pixels, side, &self.device)
    }

    /// How many of some texts are longer than the context, so that the model does not see their ends.
    pub fn count_truncated<T: AsRef<str>>(&self, texts: &[T]) -> usize {
        let cut = |text: &&T| {
            self.tokenizer
                .encode(text.as_ref(), self.context_length())
                .truncated
        };
        texts.iter().filter(cut).count()
    }
}

/// The loader's words for a model's resizing.
pub fn resize(preprocess: &Preprocess) -> Resize {
    Resize {
        squash: preprocess.resize_mode == ResizeMode::Squash,
        bilinear: preprocess.interpolation == Interpolation::Bilinear,
    }
}

/// Refuses a tokenizer whose ids a text encoder takes for others; `origin` names the model in the error.
///
/// # Errors
/// [`ZeroShotError::WrongTokenizer`] where the token embedding has no row for an id, or the end of a text is another;
/// [`ZeroShotError::WrongPadding`].
pub fn check_tokenizer(
    origin: &str,
    text: &TextConfig,
    tokenizer: &Tokenizer,
) -> Result<(), ZeroShotError> {
    if !tokenizer.fits(text.vocab_size) {
        return Err(ZeroShotError::WrongTokenizer {
            origin: origin.to_owned(),
            tokenizer: tokenizer.vocab_size(),
            model: text.vocab_size,
        });
    }
    match text.end() {
        TextEnd::BeforePadding(padding) if i64::from(padding) != i64::from(tokenizer.pad_id()) => {
            Err(ZeroShotError::WrongPadding {
                origin: origin.to_owned(),
                tokenizer: tokenizer.pad_id(),
                model: padding,
            })
        }
        _ => Ok(()),
    }
}

impl EncodeTexts for ClipEncoders {
    /// Texts are padded to the longest of them, where what follows a text's end changes nothing.
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, ZeroShotError> {
        self.goes_on()?;
        let encoded: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| self.tokenizer.encode(text, self.context_length()).ids)
            .collect();
        let rows = encoded.iter().map(Vec::as_slice);
        let (tokens, length) = self.tokenizer.pad(rows, self.context_length());
        if tokens.is_empty() {
            return Err(ZeroShotError::NoSamples);
        }
        let end = self.model.text.end();
        let rows = tokens.chunks(length);
        let longest = rows
            .clone()
            .map(|row| end.length(row))
            .max()
            .unwrap_or(length);
        let tokens: Vec<i32> = rows.flat_map(|row| &row[..longest]).copied().collect();
        let tokens = TensorData::new(tokens, [texts.len(), longest]);
        let tokens = Tensor::<2, Int>::from_data(tokens, &self.device);
        Ok(self.model.encode_text(tokens))
    }

    /// Computed the first time it is asked for: it costs a pass over all weights.
    fn model_hash(&self) -> String {
        let hash = || {
            let config = (&self.config, &self.preprocess);
            let config = serde_json::to_vec(&config).unwrap_or_default();
            let tokenizer = self.tokenizer.to_json();
            let hash = Parts::default()
                .part(&weights_bytes(&self.model))
                .part(&config)
                .part(tokenizer.as_bytes());
            // Weights that half a precision holds exactly are the same numbers in each.
            let hash = match self.precision {
                Precision::F32 => hash,
                half => hash.part(half.to_string().as_bytes()),
            };
            hash.finish()
        };
        self.hash.get_or_init(hash).clone()
    }

    fn text_length(&self, text: &str) -> usize {
        self.tokenizer.encode(text, self.context_length()).ids.len()
    }
}

impl fmt::Debug for ClipEncoders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClipEncoders")
            .field("config", &self.config)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}
