use clip_files::IoError;

/// What can go wrong when a model is written as ONNX.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// There is no ONNX form of an encoder here.
    #[error(
        "`{encoder}` can't be written as ONNX: CLIP's own encoders, SigLIP's, ConvNeXt's, MobileCLIP's and ViTamin's can; \
         `--format openclip` writes this model for OpenCLIP"
    )]
    NoForm {
        /// timm's or Hugging Face's name of it, or CoCa's.
        encoder: String,
    },
    /// A number would be infinite as what it is to be written as.
    #[error("{tensor} has {number}, more than the `--dtype` can hold: `f32` and `bf16` do")]
    Beyond {
        /// OpenCLIP's name, or timm's of what several become at inference.
        tensor: String,
        /// The number.
        number: f32,
    },
    /// A file could not be written.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl OnnxError {
    pub(crate) fn no_form(encoder: &str) -> Self {
        Self::NoForm {
            encoder: encoder.to_owned(),
        }
    }
}
