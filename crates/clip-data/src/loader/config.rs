use serde::{Deserialize, Serialize};

use crate::{Augment, DataError, RandomResizedCrop, Resize, sequence::Sampling};

/// How shards become batches.
///
/// Whatever the shards hold, the bytes that wait are at most `shuffle_bytes`, and for each worker eight times a file of
/// at most 64 MiB and some small ones, and one decoded image of at most 25 million pixels, beside the batches that are
/// ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Samples a batch. 256: the largest that trains small models on a CPU in 3 GiB.
    pub batch: usize,
    /// Side of the images in pixels. 224, as the paper's base models.
    pub image_size: usize,
    /// Most tokens of a caption, start and end included. 77, as in the paper.
    pub context_length: usize,
    /// Draws as many shards an epoch with replacement, by their weights. No, as in the paper: each is seen as often.
    pub with_replacement: bool,
    /// This replica among `world_size`, counted from 0.
    pub rank: usize,
    /// Replicas that share each epoch without overlap. 1.
    pub world_size: usize,
    /// Decides order, crops and the captions drawn. 0.
    pub seed: u64,
    /// Samples among which the next is drawn. 2,000: two shards of the usual size mix, in some 100 MB of photographs.
    pub shuffle_buffer: usize,
    /// Encoded bytes that the shuffle buffer may hold; beyond, samples are read again when they are drawn.
    /// 512 MiB: five times what photographs off the web need. The order doesn't depend on it.
    pub shuffle_bytes: usize,
    /// Threads that decode. 0: one a core.
    pub workers: usize,
    /// Batches ready before they are asked for. 2: one at work, one to hide a slow shard.
    pub prefetch: usize,
    /// Seconds after which a source that gives nothing ends the stream. 600: a server that is asked again and again
    /// gives up sooner by itself, so this is for disks that hang.
    pub stall_seconds: u64,
    /// Share of bad samples above which the stream stops. 0.1: web crawls lose a few per cent, broken shards more.
    pub max_bad_share: f64,
    /// Share of an image's area that training sees. 0.9 to 1, as in `OpenCLIP`.
    pub crop_scale: (f32, f32),
    /// Changes beside the crop. None.
    pub augment: Augment,
    /// How evaluation sees an image. The paper's.
    pub resize: Resize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 256,
            image_size: 224,
            context_length: 77,
            with_replacement: false,
            rank: 0,
            world_size: 1,
            seed: 0,
            shuffle_buffer: 2_000,
            shuffle_bytes: 512 << 20,
            workers: 0,
            prefetch: 2,
            stall_seconds: 600,
            max_bad_share: 0.1,
            crop_scale: RandomResizedCrop::default().scale,
            augment: Augment::default(),
            resize: Resize::default(),
        }
    }
}

impl LoaderConfig {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// [`DataError::BadSetting`] with the first that isn't.
    pub fn validate(&self) -> Result<(), DataError> {
        let (low, high) = self.crop_scale;
        let checks = [
            (
                "batch",
                self.batch.to_string(),
                self.batch > 0,
                "must be at least 1",
            ),
            (
                "image_size",
                self.image_size.to_string(),
                // Far beyond any model, and safe to multiply.
                (1..=8192).contains(&self.image_size),
                "must be between 1 and 8192 pixels",
            ),
            (
                "context_length",
                self.context_length.to_string(),
                self.context_length >= 3,
                "must hold the start token, a word and the end token: at least 3",
            ),
            (
                "rank",
                self.rank.to_string(),
                self.rank < self.world_size,
                "must be below world_size, which is at least 1",
            ),
            (
                "stall_seconds",
                self.stall_seconds.to_string(),
                self.stall_seconds > 0,
                "must be at least 1",
            ),
            (
                "max_bad_share",
                self.max_bad_share.to_string(),
                (0.0..=1.0).contains(&self.max_bad_share),
                "must be between 0 and 1 (`data.max_bad_share` of a run, `--max-bad-share` of an evaluation)",
            ),
            (
                "data.crop_scale",
                format!("{low}, {high}"),
                0.0 < low && low <= high && high <= 1.0,
                "must be two shares of the area in rising order, above 0 and at most 1",
            ),
        ];
        for (name, value, good, reason) in checks {
            if !good {
                return Err(DataError::setting(name, value, reason));
            }
        }
        if let Some((name, share)) = self.augment.out_of_range() {
            let reason = "every share must be between 0 and 1, and the hue's at most 0.5";
            return Err(DataError::setting(name, share, reason));
        }
        if self.augment.jitters_by_halves() {
            return Err(DataError::setting(
                "data.augment.color_jitter_prob",
                self.augment.color_jitter_prob,
                "`color_jitter` and the share of images that it changes do nothing without each other: set both, such as \
                 `color_jitter = [0.32, 0.32, 0.32, 0.08]` and `color_jitter_prob = 0.8`, or neither",
            ));
        }
        Ok(())
    }

    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            seed: self.seed,
            with_replacement: self.with_replacement,
            rank: self.rank as u64,
            world_size: self.world_size as u64,
        }
    }

    pub(super) fn threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        LoaderConfig::default().validate().unwrap();
        let name = |config: LoaderConfig| config.validate().unwrap_err().to_string();
        let batch = LoaderConfig {
            batch: 0,
            ..LoaderConfig::default()
        };
        assert_eq!(name(batch), "batch = 0: must be at least 1");
        let share = LoaderConfig {
            max_bad_share: f64::NAN,
            ..LoaderConfig::default()
        };
        assert!(name(share).contains("`--max-bad-share` of an evaluation"));
        let mut hue = LoaderConfig::default();
        hue.augment.color_jitter[3] = 0.6;
        assert!(name(hue.clone()).starts_with("data.augment.color_jitter = 0.6: "));
        hue.augment.color_jitter[3] = 0.5;
        let without_share = name(hue.clone());
        assert!(
            without_share.starts_with("data.augment.color_jitter_prob = 0: ")
                && without_share.contains("set both"),
            "{without_share}"
        );
        hue.augment.color_jitter_prob = 0.8;
        hue.validate().unwrap();
        hue.augment.color_jitter = [0.0; 4];
        assert!(name(hue).starts_with("data.augment.color_jitter_prob = 0.8: "));
        let flip = LoaderConfig {
            augment: Augment {
                flip_prob: 2.0,
                ..Augment::default()
            },
            ..LoaderConfig::default()
        };
        assert!(name(flip).starts_with("data.augment.flip_prob = 2: "));
    }
}
