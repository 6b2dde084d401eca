use std::fmt;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Low-rank adapters in place of the matrices of the encoders' blocks: `W = W0 + alpha / rank * A B`, of which `A` and
/// `B` are trained and `W0` stays as it is. The model is the merged one at every step, so what is saved needs no
/// adapters.
///
/// # References
/// Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Columns of `A` and rows of `B`. 8: peft's; above that the paper finds little to gain (section 7.2).
    pub rank: usize,
    /// Divided by `rank`, it is what `A B` is multiplied by. 8: peft's. It stays when the rank is changed, and `lr`
    /// with it (section 4.1).
    pub alpha: f64,
    /// Which matrices of each block. All: peft's `all-linear`, for as many parameters in `q_proj` and `v_proj` alone,
    /// which are the paper's, learn less (Dettmers et al. 2023, figure 2; docs/benchmarks.md).
    pub targets: Vec<Target>,
    /// Trains `logit_scale`, and `logit_bias` where there is one. Yes, as in any other run: other data have another
    /// best temperature, which no matrix makes up for.
    pub logit_scale: bool,
    /// Parameters that are trained as they are, without adapters: by `OpenCLIP`'s names, or by parts of them between
    /// dots, such as `visual.proj` or `ln_post`. None, as in the paper; peft's `modules_to_save`.
    pub train: Vec<String>,
}

/// A matrix of a block, by the names that `OpenCLIP` has for most of them; of others it is the one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// To queries; one third of the product that has queries, keys and values side by side.
    QProj,
    /// To keys.
    KProj,
    /// To values.
    VProj,
    /// Behind the attention.
    OutProj,
    /// The MLP's first; both, where one is a gate.
    CFc,
    /// The MLP's last.
    CProj,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OutProj,
        Self::CFc,
        Self::CProj,
    ];
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OutProj => "out_proj",
            Self::CFc => "c_fc",
            Self::CProj => "c_proj",
        })
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            targets: Target::ALL.to_vec(),
            logit_scale: true,
            train: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// What `A B` is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

pub(super) fn refused(reason: impl Into<String>) -> TrainError {
    TrainError::Config {
        origin: "`lora`".to_owned(),
        reason: reason.into(),
    }
}
