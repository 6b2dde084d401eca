//! What a configuration may not say.

use std::collections::BTreeSet;

use clip_metrics::{Kind, averaged_key};

use super::{LabelledSet, Loss, RunConfig};
use crate::{Decay, LoraConfig, OptimizerKind, TrainError};

/// Beyond what any machine has cores for.
const MOST_THREADS: usize = 1024;
/// Two years.
const MOST_MINUTES: f64 = 1e6;

impl RunConfig {
    /// Checks that every number is in range.
    ///
    /// # Errors
    /// [`TrainError::Config`] with the first key that isn't.
    pub fn validate(&self) -> Result<(), TrainError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            ("batch", self.batch > 1, "needs at least 2 pairs to compare"),
            ("epochs", positive(self.epochs), "must be above 0"),
            ("steps", self.steps != Some(0), "must be above 0"),
            ("lr", positive(self.lr), "must be above 0"),
            (
                "schedule",
                match self.schedule {
                    Decay::ConstantCooldown { power, lr_end, .. } => {
                        positive(power) && lr_end.is_finite() && lr_end >= 0.0
                    }
                    Decay::Cosine {} | Decay::Constant {} => true,
                },
                "needs a `power` above 0 and an `lr_end` that isn't negative",
            ),
            (
                "threads",
                self.threads <= MOST_THREADS,
                "must be at most 1024",
            ),
            (
                "data.workers",
                self.data.workers <= MOST_THREADS,
                "must be at most 1024",
            ),
            (
                "patch_dropout",
                self.patch_dropout
                    .is_none_or(|share| (0.0..1.0).contains(&share)),
                "must be in [0, 1)",
            ),
            (
                "lock_text",
                !(self.lock_image
                    && self.lock_text
                    && self.lock_image_unlocked_groups == 0
                    && self.lock_text_unlocked_layers == 0),
                "and `lock_image` leave nothing to train; unlock a group of one of them",
            ),
            ("eval.batch", self.eval.batch > 0, "must be at least 1"),
            (
                "distill",
                self.distill.is_none() || self.loss == Loss::InfoNce,
                "needs `loss = \"infonce\"`: a teacher's probabilities are of a softmax",
            ),
            (
                "ema",
                self.ema.is_none_or(|decay| (0.0..1.0).contains(&decay)),
                "must be in [0, 1)",
            ),
        ];
        let mut checks = checks
            .into_iter()
            .chain(self.optimizer_numbers())
            .chain(self.losses())
            .chain(self.adapters())
            .chain(self.intervals())
            .chain(self.checkpoints())
            .chain(self.normalisation())
            .chain(self.labelled_sets());
        match checks.find(|(_, good, _)| !good) {
            Some((key, _, reason)) => Err(TrainError::Config {
                origin: "the configuration".to_owned(),
                reason: format!("`{key}` {reason}"),
            }),
            None => Ok(()),
        }
    }

    /// What must hold of the optimizer's numbers.
    fn optimizer_numbers(&self) -> [(&'static str, bool, &'static str); 6] {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f32| (0.0..1.0).contains(&value);
        let optimizer = &self.optimizer;
        [
            (
                "optimizer.beta_1",
                share(optimizer.beta_1),
                "must be in [0, 1)",
            ),
            (
                "optimizer.beta_2",
                share(optimizer.beta_2),
                "must be in [0, 1)",
            ),
            (
                "optimizer.epsilon",
                positive(f64::from(optimizer.epsilon)),
                "must be above 0",
            ),
            (
                "optimizer.weight_decay",
                optimizer.weight_decay.is_finite() && optimizer.weight_decay >= 0.0,
                "must not be negative",
            ),
            (
                "optimizer.grad_clip_norm",
                optimizer.grad_clip_norm.is_none_or(positive),
                "must be above 0",
            ),
            (
                "optimizer.layer_decay",
                optimizer
                    .layer_decay
                    .is_none_or(|decay| decay > 0.0 && decay <= 1.0),
                "must be in (0, 1]",
            ),
        ]
    }

    /// What must hold of a CoCa model's losses.
    fn losses(&self) -> [(&'static str, bool, &'static str); 3] {
        let weights = self.coca_weights();
        let good = |weight: f64| weight.is_finite() && weight >= 0.0;
        [
            (
                "coca_contrastive_loss_weight",
                good(weights.contrastive),
                "must not be negative",
            ),
            (
                "coca_caption_loss_weight",
                good(weights.caption),
                "must not be negative",
            ),
            (
                "coca_caption_loss_weight",
                weights.contrastive + weights.caption > 0.0,
                "and `coca_contrastive_loss_weight` are both 0, which leaves nothing to learn",
            ),
        ]
    }

    /// What must hold of low-rank adapters.
    fn adapters(&self) -> [(&'static str, bool, &'static str); 4] {
        let holds = |good: fn(&LoraConfig) -> bool| self.lora.as_ref().is_none_or(good);
        let is_lamb = self.optimizer.kind == OptimizerKind::Lamb;
        [
            (
                "lora.rank",
                holds(|lora| lora.rank > 0),
                "must be at least 1",
            ),
            (
                "lora.alpha",
                holds(|lora| lora.alpha.is_finite() && lora.alpha > 0.0),
                "must be above 0",
            ),
            (
                "lora.targets",
                holds(|lora| !lora.targets.is_empty()),
                "must name a matrix: q_proj, k_proj, v_proj, out_proj, c_fc, c_proj",
            ),
            (
                "optimizer.kind",
                !(self.lora.is_some() && is_lamb),
                "must be \"adamw\" or \"lion\" with `lora`: LAMB's steps are as large as what they change, and adapters \
                 begin at 0",
            ),
        ]
    }

    /// What must hold of how often a run is evaluated and saved.
    fn intervals(&self) -> [(&'static str, bool, &'static str); 4] {
        let (eval, checkpoint) = (&self.eval, &self.checkpoint);
        let good = |epochs: f64| epochs.is_finite() && epochs >= 0.0;
        [
            ("eval.epochs", good(eval.epochs), "must not be negative"),
            (
                "eval.epochs",
                !(eval.epochs > 0.0 && eval.steps > 0),
                "and `eval.steps` are two answers to one question: set one of them to 0",
            ),
            (
                "checkpoint.epochs",
                good(checkpoint.epochs),
                "must not be negative",
            ),
            (
                "checkpoint.epochs",
                !(checkpoint.epochs > 0.0 && checkpoint.steps > 0),
                "and `checkpoint.steps` are two answers to one question: set one of them to 0",
            ),
        ]
    }

    /// What must hold of when and where the run is saved.
    fn checkpoints(&self) -> [(&'static str, bool, &'static str); 2] {
        [
            (
                "checkpoint.minutes",
                self.checkpoint
                    .minutes
                    .is_none_or(|minutes| minutes > 0.0 && minutes <= MOST_MINUTES),
                "must be above 0, and no more than a million",
            ),
            (
                "checkpoint.mirror",
                self.checkpoint.mirror.as_deref() != Some(""),
                "must name a folder, or an address at s3://, gs:// or az://",
            ),
        ]
    }

    /// What must hold of how images are normalised.
    fn normalisation(&self) -> [(&'static str, bool, &'static str); 2] {
        let norm = self.preprocess.unwrap_or_default();
        [
            (
                "preprocess.mean",
                norm.mean.iter().all(|mean| mean.is_finite()),
                "must be finite",
            ),
            (
                "preprocess.std",
                norm.std.iter().all(|std| std.is_finite() && *std > 0.0),
                "must be above 0, and finite",
            ),
        ]
    }

    /// What must hold of the sets that are classified by name.
    fn labelled_sets(&self) -> [(&'static str, bool, &'static str); 2] {
        let sets = &self.data.zeroshot;
        let is_whole = |set: &LabelledSet| {
            let files = [&set.classes, &set.templates];
            !set.shards.is_empty() && files.iter().all(|file| !file.as_os_str().is_empty())
        };
        let names: BTreeSet<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        [
            (
                "data.zeroshot",
                sets.iter().all(is_whole),
                "needs `shards`, `classes` and `templates` in each set",
            ),
            (
                "data.zeroshot",
                names.len() == sets.len(),
                "has two sets of one `name`, of which one accuracy would hide the other",
            ),
        ]
    }

    /// Checks that `checkpoint.best` is one of `keys`, which an evaluation gives, and a share: of those the highest is the
    /// best.
    ///
    /// # Errors
    /// [`TrainError::Config`] with the keys that it may be.
    pub fn validate_best(&self, keys: &[(String, Kind)]) -> Result<(), TrainError> {
        let Some(best) = &self.checkpoint.best else {
            return Ok(());
        };
        let shares = keys.iter().filter(|(_, kind)| *kind == Kind::Share);
        let averaged = shares.clone().map(|(key, _)| averaged_key(key));
        let averaged = averaged.filter(|_| self.ema.is_some());
        let shares = shares.map(|(key, _)| key.clone());
        let shares: Vec<String> = shares.chain(averaged).collect();
        if shares.contains(best) {
            return Ok(());
        }
        Err(TrainError::Config {
            origin: "`checkpoint.best`".to_owned(),
            reason: if shares.is_empty() {
                format!(
                    "{best:?} is never found, for nothing is evaluated; give `data.val` (`--val`)"
                )
            } else {
                format!(
                    "{best:?} is no share that an evaluation gives; these are: {}",
                    shares.join(", ")
                )
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labelled_sets_are_whole_and_have_names_of_their_own() {
        let set = |name: &str, templates: &str| LabelledSet {
            name: name.to_owned(),
            shards: "a.tar".to_owned(),
            classes: "names.txt".into(),
            templates: templates.into(),
            allow_duplicates: false,
        };
        let refused = |sets: Vec<LabelledSet>| {
            let mut config = RunConfig::default();
            config.data.zeroshot = sets;
            config.validate().err().map(|error| error.to_string())
        };
        let whole = set("pets", "t.txt");
        assert_eq!(refused(vec![whole.clone(), set("cars", "t.txt")]), None);
        let twice = refused(vec![whole.clone(), whole]).unwrap();
        assert!(twice.contains("two sets of one `name`"), "{twice}");
        let torn = refused(vec![set("pets", "")]).unwrap();
        assert!(torn.contains("`templates` in each set"), "{torn}");
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        RunConfig::default().validate().unwrap();
        let mut config = RunConfig::default();
        config.optimizer.beta_2 = 1.0;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`optimizer.beta_2`"), "{error}");
        for (key, set) in [
            ("threads", |config: &mut RunConfig| config.threads = 1 << 20),
            ("eval.epochs", |config| config.eval.epochs = -1.0),
            ("checkpoint.epochs", |config| {
                config.checkpoint.epochs = f64::INFINITY;
            }),
            ("checkpoint.epochs", |config| {
                config.checkpoint.epochs = 1.0;
                config.checkpoint.steps = 1;
            }),
            ("eval.epochs", |config| {
                config.eval.epochs = 0.5;
                config.eval.steps = 10;
            }),
            ("checkpoint.minutes", |config| {
                config.checkpoint.minutes = Some(1e18);
            }),
            ("schedule", |config| {
                config.schedule = Decay::ConstantCooldown {
                    steps: 10,
                    power: 1.0,
                    lr_end: f64::NAN,
                };
            }),
            ("preprocess.mean", |config| {
                let preprocess = config.preprocess.get_or_insert_default();
                preprocess.mean[1] = f32::INFINITY;
            }),
            ("preprocess.std", |config| {
                config.preprocess.get_or_insert_default().std[2] = 0.0;
            }),
        ] as [(&str, fn(&mut RunConfig)); 9]
        {
            let mut config = RunConfig::default();
            set(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn the_best_is_a_share_that_is_found() {
        let keys = [
            ("i2t_r1", Kind::Share),
            ("i2t_median_rank", Kind::Rank),
            ("val_loss", Kind::Loss),
        ]
        .map(|(key, kind)| (key.to_owned(), kind));
        let mut config = RunConfig::default();
        config.validate_best(&[]).unwrap();
        config.checkpoint.best = Some("i2t_r1".to_owned());
        config.validate_best(&keys).unwrap();
        let error = config.validate_best(&[]).unwrap_err().to_string();
        assert!(error.contains("--val"), "{error}");
        for wrong in ["i2t_median_rank", "val_loss", "i2t_r2", "ema_i2t_r1"] {
            config.checkpoint.best = Some(wrong.to_owned());
            let error = config.validate_best(&keys).unwrap_err().to_string();
            assert!(error.ends_with("these are: i2t_r1"), "{error}");
        }
        config.checkpoint.best = Some("ema_i2t_r1".to_owned());
        config.ema = Some(0.99);
        config.validate_best(&keys).unwrap();
    }

    #[test]
    fn a_run_that_trains_nothing_is_refused() {
        let mut config = RunConfig {
            lock_image: true,
            lock_text: true,
            ..RunConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("leave nothing to train"), "{error}");
        config.lock_text_unlocked_layers = 1;
        config.validate().unwrap();
    }
}
