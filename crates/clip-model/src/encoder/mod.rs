//! The image encoders, the text encoders and the transformer they share.

mod activation;
mod attention;
mod attention_pool;
mod batch_norm;
mod block;
mod chain;
mod coca;
mod convnext;
mod convolution;
mod eva;
mod fastvit;
mod hugging_face;
mod image;
mod locked;
mod modified_resnet;
mod passes;
mod sequences;
mod siglip;
mod text;
mod text_encoder;
mod timm_head;
mod timm_vit;
mod training_draws;
mod vision;
mod vitamin;

pub use activation::Activation;
pub use attention::MultiHeadAttention;
pub use attention_pool::AttentionPool2d;
pub use batch_norm::{BATCH_NORM_EPSILON, BatchNorm, BatchStatistics, Statistics};
pub use block::{LAYER_NORM_EPSILON, LayerScale, Mlp, ResidualAttentionBlock, Transformer};
pub use chain::Chain;
pub use coca::{
    AttentionalPooler, COCA_PADDING, CocaTextTransformer, CrossAttentionBlock,
    MultimodalTransformer, PoolerAttention, PoolerProjections,
};
pub use convnext::{
    ConvNeXt, ConvNeXtBlock, ConvNeXtDownsample, ConvNeXtNorm, ConvNeXtShape, ConvNeXtStage,
    ConvNeXtStem, ConvNeXtTrunk,
};
pub use convolution::BiasedConvolution;
pub use eva::{
    Eva, EvaAttention, EvaBlock, EvaFamily, EvaMlp, EvaProjections, EvaShape, EvaTrunk,
    FusedProjections, SeparateProjections, SwiGlu,
};
pub use fastvit::{
    AttentionBlock, ChannelScale, ConvMlp, ConvNorm, FASTVIT_EPSILON, FastVit, FastVitBlock,
    FastVitDownsample, FastVitHead, FastVitNorm, FastVitShape, FastVitStage, FastVitStageShape,
    FastVitTrunk, LargeKernelConvolution, MobileOneBlock, PositionEncoding, RepMixer,
    RepMixerBlock, SqueezeExcite,
};
pub use hugging_face::{
    HfAttention, HfFamily, HfProjection, HfTextEncoder, HfTextShape, HfTransformer, M2m100,
    M2m100Layer, PADDING, Roberta, RobertaEmbeddings, RobertaEncoder, RobertaLayer,
};
pub use image::ImageEncoder;
use locked::LockedGroups;
pub use modified_resnet::{Bottleneck, Convolution, Downsample, ModifiedResNet};
pub use passes::{BlockGradients, Kept, ScoreMask};
pub use siglip::{AttentionPoolLatent, SIGLIP_EPSILON, SiglipShape, SiglipVisionTransformer};
pub use text::{EmbeddedCaptions, TextProjection, TextTransformer};
pub use text_encoder::{TextEncoder, TextEnd};
pub use timm_head::{TimmHead, TimmProjection};
pub use timm_vit::{
    ConvStem, ConvStemLayer, TimmPatchEmbed, TimmVisionTransformer, TimmVitShape, TimmVitStem,
    TimmVitTrunk,
};
pub use training_draws::TrainingDraws;
pub(crate) use training_draws::rising;
pub use vision::{PatchEmbedding, VisionTransformer};
pub use vitamin::{
    GeGlu, HybridEmbed, MbConvBlock, MbConvStages, MbConvStem, PooledPath, StridedConv,
    VITAMIN_DEPTHS, VITAMIN_EPSILON, ViTamin, ViTaminBlock, ViTaminShape, ViTaminTrunk,
};
