use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Shards that hold more than the `sizes.json` beside them counts.
#[derive(Debug, Default)]
pub(crate) struct Surplus(Mutex<BTreeSet<usize>>);

impl Surplus {
    /// Counts the shard if it is a new one; how many there are now, if that is worth saying: 1, 10, 100 and so on.
    pub(crate) fn note(&self, shard: usize) -> Option<usize> {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !shards.insert(shard) {
            return None;
        }
        let number = shards.len();
        let said = number == 10_usize.pow(number.ilog10());
        said.then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_counts_once_and_tenfold_numbers_are_said() {
        let surplus = Surplus::default();
        let said: Vec<usize> = (0..3)
            .flat_map(|_| 0..250)
            .filter_map(|shard| surplus.note(shard))
            .collect();
        assert_eq!(said, [1, 10, 100]);
    }
}
