use std::collections::BTreeMap;

use super::{FaultKind, FaultReport};
use crate::{DataError, ShardSet};

/// Samples after which the share of bad ones is judged: fewer are too few to tell a broken set from bad luck.
const JUDGED_FROM: u64 = 200;

/// Of each kind, the first fault of so many shards is logged,
const SHARDS_LOGGED: u64 = 20;

/// and then, of all shards together, every one that is a multiple of this.
const LOG_EVERY: u64 = 1000;

/// Counts a stream's samples, logs its faults and says when there are too many.
#[derive(Debug)]
pub(crate) struct FaultLog {
    total: FaultReport,
    fresh: FaultReport,
    max_bad_share: f64,
    good_this_epoch: u64,
    /// Whether this pass is counted from its beginning: a rest of it says little of the data.
    whole_pass: bool,
    logged: BTreeMap<FaultKind, Logged>,
}

/// Faults of a kind.
#[derive(Debug, Default)]
struct Logged {
    faults: u64,
    shards: u64,
}

impl FaultLog {
    pub(crate) fn new(max_bad_share: f64) -> Self {
        Self {
            total: FaultReport::default(),
            fresh: FaultReport::default(),
            max_bad_share,
            good_this_epoch: 0,
            whole_pass: true,
            logged: BTreeMap::new(),
        }
    }

    /// Of a stream that goes on within a pass, whose share of bad samples was judged up to there.
    pub(crate) fn within_a_pass(max_bad_share: f64) -> Self {
        Self {
            whole_pass: false,
            ..Self::new(max_bad_share)
        }
    }

    pub(crate) fn good(&mut self, caption_truncated: bool) {
        self.good_this_epoch += 1;
        for report in [&mut self.total, &mut self.fresh] {
            report.samples += 1;
            report.truncated_captions += u64::from(caption_truncated);
        }
    }

    /// Counts and logs a bad sample.
    ///
    /// # Errors
    /// [`DataError::TooManyBad`] once enough samples were seen.
    pub(crate) fn fault(
        &mut self,
        shard: &str,
        kind: FaultKind,
        key: &str,
    ) -> Result<(), DataError> {
        self.fresh.fault(shard, kind);
        self.fresh.example(shard, key);
        self.total.example(shard, key);
        let count = self.total.fault(shard, kind);
        let logged = self.logged.entry(kind).or_default();
        logged.faults += 1;
        logged.shards += u64::from(count == 1);
        if (count == 1 && logged.shards <= SHARDS_LOGGED) || logged.faults.is_multiple_of(LOG_EVERY)
        {
            let number = logged.faults;
            // What a whole shard lacks has no key.
            let sample = match key {
                "" => String::new(),
                key => format!("sample `{key}` "),
            };
            log::warn!("{shard}: {sample}skipped: {kind} (number {number} of this kind)");
        }
        if self.total.samples >= JUDGED_FROM {
            self.judge()?;
        }
        Ok(())
    }

    /// Ends a pass over the data, whose shards are named if none gave anything. Of the rest of a pass, few samples are
    /// as little to judge by as anywhere.
    ///
    /// # Errors
    /// [`DataError::TooManyBad`], [`DataError::NothingUsable`].
    pub(crate) fn epoch(&mut self, shards: &ShardSet) -> Result<(), DataError> {
        self.total.epochs += 1;
        self.fresh.epochs += 1;
        let whole_pass = std::mem::replace(&mut self.whole_pass, true);
        if whole_pass || self.total.samples >= JUDGED_FROM {
            self.judge()?;
        } else {
            // By chance it holds more bad samples than its share, and would weigh on the passes that follow.
            self.total = FaultReport::default();
        }
        if std::mem::take(&mut self.good_this_epoch) == 0 && whole_pass {
            return Err(self.total.nothing_usable(shards));
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), DataError> {
        // What a wrong `sizes.json` alone knows of is no sample, and says nothing of the data.
        let kinds = self.total.shards.values();
        let absent: u64 = kinds
            .filter_map(|kinds| kinds.get(&FaultKind::Absent))
            .sum();
        let (bad, samples) = (self.total.bad() - absent, self.total.samples - absent);
        if bad as f64 > self.max_bad_share * samples as f64 {
            return Err(DataError::TooManyBad {
                bad,
                samples,
                allowed: self.max_bad_share,
                worst: self.total.worst_shards(3),
                remedy: self.total.remedy(),
            });
        }
        Ok(())
    }

    /// What was counted since the last call.
    pub(crate) fn take_fresh(&mut self) -> FaultReport {
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> ShardSet {
        ShardSet::from_paths(Vec::new())
    }

    #[test]
    fn the_share_is_judged_after_enough_samples_or_an_epoch() {
        let mut log = FaultLog::new(0.1);
        for _ in 0..100 {
            log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        }
        let error = log.epoch(&none()).unwrap_err().to_string();
        assert!(
            error.contains("100 of 100") && error.contains("a.tar (100 bad json)"),
            "{error}"
        );

        let mut log = FaultLog::new(0.1);
        for _ in 0..21 {
            log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        }
        for _ in 0..178 {
            log.good(false);
        }
        assert!(log.fault("a.tar", FaultKind::BadJson, "k").is_err());
    }

    #[test]
    fn the_rest_of_a_pass_is_judged_after_enough_samples_alone() {
        let mut log = FaultLog::within_a_pass(0.1);
        log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        log.epoch(&none()).unwrap();
        // What follows is a whole pass, judged by itself: first by 1 of 11, then by 2 of 12.
        for _ in 0..10 {
            log.good(false);
        }
        log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        log.epoch(&none()).unwrap();
        log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        assert!(log.epoch(&none()).is_err());

        let mut log = FaultLog::within_a_pass(0.1);
        for _ in 0..180 {
            log.good(false);
        }
        for _ in 0..20 {
            log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        }
        log.epoch(&none()).unwrap();
        let mut log = FaultLog::within_a_pass(0.1);
        for _ in 0..21 {
            log.fault("a.tar", FaultKind::BadJson, "k").unwrap();
        }
        for _ in 0..179 {
            log.good(false);
        }
        assert!(log.epoch(&none()).is_err());
    }

    #[test]
    fn what_a_wrong_count_alone_knows_of_is_not_judged() {
        let mut log = FaultLog::new(0.1);
        log.good(false);
        for _ in 0..300 {
            log.fault("a.tar", FaultKind::Absent, "").unwrap();
        }
        log.epoch(&none()).unwrap();
        assert_eq!(log.take_fresh().bad(), 300);
    }

    #[test]
    fn shards_without_a_sample_are_named() {
        let names = ["a.tar", "b.tar", "c.tar", "d.tar"].map(Into::into);
        let set = ShardSet::from_paths(names.to_vec());
        let error = FaultLog::new(1.0).epoch(&set).unwrap_err().to_string();
        let named = "a.tar, b.tar, c.tar (no sample) and 1 more";
        assert!(error.ends_with(named), "{error}");
    }

    #[test]
    fn a_pass_without_a_usable_sample_ends_even_when_all_may_be_bad() {
        let mut log = FaultLog::new(1.0);
        log.fault("a.tar", FaultKind::NoImage, "k").unwrap();
        assert!(matches!(
            log.epoch(&none()),
            Err(DataError::NothingUsable { .. })
        ));
    }
}
