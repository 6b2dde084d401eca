use crate::key::{Direction, VAL_LOSS, is_zeroshot, of_own_weights};

/// A number that an evaluation measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The key that files hold it under, such as `i2t_r1`.
    pub key: String,
    /// What it is.
    pub kind: Kind,
    /// The number.
    pub value: f64,
}

/// What a number of an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A share from 0 to 1: the higher the better.
    Share,
    /// A rank from 1: the lower the better.
    Rank,
    /// A loss, in nats: the lower the better.
    Loss,
}

impl Measured {
    /// A number under its key.
    pub fn new(key: impl Into<String>, kind: Kind, value: f64) -> Self {
        Self {
            key: key.into(),
            kind,
            value,
        }
    }
}

impl Kind {
    /// What stands under a key of `metrics.jsonl`, for whoever reads it back and knows no more; `None` of a key that no
    /// evaluation gives. A labelled set's numbers are shares, whatever its user called it.
    pub fn of_key(key: &str) -> Option<Self> {
        let key = of_own_weights(key);
        if is_zeroshot(key) {
            return Some(Self::Share);
        }
        if key == VAL_LOSS {
            return Some(Self::Loss);
        }
        Direction::of_key(key)?;
        Some(if key.ends_with("_rank") {
            Self::Rank
        } else {
            Self::Share
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_its_kind_and_a_labelled_sets_name_does_not() {
        for (kind, keys) in [
            (
                Some(Kind::Share),
                &[
                    "i2t_r1",
                    "ema_t2i_r5",
                    "zeroshot_top1_blossoms",
                    "ema_zeroshot_top5_my_rank",
                ][..],
            ),
            (
                Some(Kind::Rank),
                &["i2t_median_rank", "ema_t2i_median_rank"],
            ),
            (Some(Kind::Loss), &["val_loss", "ema_val_loss"]),
            (None, &["loss", "lr", "data_wait", "step", "my_number"]),
        ] {
            for key in keys {
                assert_eq!(Kind::of_key(key), kind, "{key}");
            }
        }
    }
}
