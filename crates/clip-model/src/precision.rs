use std::{fmt, str::FromStr};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, FloatDType, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::Clip;

/// What a model's matrix products and activations are computed in. Norms, softmax, normalisation and losses are
/// in f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of fraction.
    #[default]
    F32,
    /// 8 bits of fraction, the range of f32.
    Bf16,
    /// 11 bits of fraction, from 6e-8 to 65,504.
    F16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::Bf16, Self::F16];
        let found = all.into_iter().find(|one| one.to_string() == name);
        found.ok_or_else(|| format!("there is no precision `{name}`: it is f32, bf16 or f16"))
    }
}

impl Precision {
    /// Whether a device computes in it.
    pub fn is_supported(self, device: &Device) -> bool {
        device.supports_dtype(self.dtype())
    }

    /// A copy of a model that computes in this precision, in a graph of its own.
    ///
    /// The model keeps its f32 weights: gradients of the copy are theirs, once they are f32 again. Norms stay f32 in the
    /// copy, and so do embeddings: a frequent token's gradient is a sum of hundreds, of which half precision would lose
    /// the end.
    pub fn copy(self, model: &Clip) -> Clip {
        let model = model.clone().fork(&model.device());
        match self {
            Self::F32 => model,
            Self::Bf16 | Self::F16 => {
                let mut cast = Cast::to(self.dtype());
                let Clip {
                    visual,
                    text,
                    text_decoder,
                    ..
                } = model;
                Clip {
                    visual: visual.map(&mut cast),
                    text: text.map(&mut cast),
                    text_decoder: text_decoder.map(|decoder| decoder.map(&mut cast)),
                    ..model
                }
            }
        }
    }

    /// The type of the numbers that are computed.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}

/// Brings weights to another type, but for those that stay f32.
pub(crate) struct Cast {
    dtype: FloatDType,
    /// Whether the module at hand stays f32.
    stays: bool,
}

impl Cast {
    pub(crate) fn to(dtype: FloatDType) -> Self {
        Self {
            dtype,
            stays: false,
        }
    }
}

impl ModuleMapper for Cast {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.stays =
            ["Struct:LayerNorm", "Struct:BatchNorm", "Struct:Embedding"].contains(&container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.stays = false;
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.stays {
            return param;
        }
        param.map(|tensor| {
            let trained = tensor.is_require_grad();
            cast(tensor.set_require_grad(false), self.dtype).set_require_grad(trained)
        })
    }
}

/// On all threads, where there is a kernel for it.
fn cast<const D: usize>(weights: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if dtype == FloatDType::BF16 {
        let on_graph = weights.is_autodiff();
        let numbers = if on_graph {
            weights.clone().inner()
        } else {
            weights.clone()
        };
        if clip_kernels::computes_on(&numbers) {
            let rounded = clip_kernels::round_to_bf16(numbers);
            return if on_graph {
                Tensor::from_inner(rounded)
            } else {
                rounded
            };
        }
    }
    weights.cast(dtype)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Distribution, Int};

    use super::*;
    use crate::{ClipConfig, encoder::ImageEncoder, l2_normalize};

    #[test]
    fn names_are_read_and_written() {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
            let json = serde_json::to_string(&precision).unwrap();
            assert_eq!(json, format!("\"{precision}\""));
        }
        let error = "fp8".parse::<Precision>().unwrap_err();
        assert!(error.contains("f32, bf16 or f16"), "{error}");
    }

    #[test]
    fn a_copy_in_half_precision_gives_nearly_the_same_features_in_f32() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12,
            "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
        let device = Device::flex();
        let model = ClipConfig::from_json(json, "test")
            .unwrap()
            .init(2, &device);
        let images = Tensor::random([3, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        let tokens =
            Tensor::<2, Int>::from_data([[48, 5, 9, 49], [48, 7, 49, 0], [48, 3, 4, 49]], &device);
        let features = |model: &Clip| {
            let image = model.encode_image(images.clone());
            Tensor::cat(vec![image, model.encode_text(tokens.clone())], 0)
        };
        let want = l2_normalize(features(&model));
        // One and a half decimal digits less for three bits less of fraction.
        for (precision, least) in [
            (Precision::F32, 0.999_999),
            (Precision::F16, 0.9999),
            (Precision::Bf16, 0.999),
        ] {
            assert!(precision.is_supported(&device));
            let copy = precision.copy(&model);
            let got = features(&copy);
            assert_eq!(got.dtype(), DType::F32);
            let cosines = (l2_normalize(got) * want.clone()).sum_dim(1);
            let least_found: f32 = cosines.min().into_scalar();
            assert!(least_found > least, "{precision:?}: {least_found}");
            let visual = |model: &Clip| match &model.visual {
                ImageEncoder::VisionTransformer(visual) => visual.clone(),
                _ => panic!("a vision transformer"),
            };
            let norm = visual(&copy).ln_pre.unwrap();
            assert_eq!(norm.gamma.val().dtype(), DType::F32);
            let embedding = copy.text.token_embedding().weight.val();
            assert_eq!(embedding.dtype(), DType::F32);
            let dtype = precision.dtype().into();
            assert_eq!(visual(&copy).proj.val().dtype(), dtype);
            assert_eq!(visual(&model).proj.val().dtype(), DType::F32);
        }
    }
}
