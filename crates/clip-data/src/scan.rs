use crate::{DataError, ShardItem, ShardReader, ShardSet};

/// Items read before they are worked on together: enough for every core, however uneven they are.
const CHUNK: usize = 1024;

/// Bytes after which a chunk ends early, so that memory is bounded whatever the shards hold.
const CHUNK_BYTES: usize = 128 << 20;

/// All items of a set in its order, in chunks, each with its shard.
///
/// The tools read on one thread and work on a chunk with all cores, so their results never depend on timing.
pub(crate) struct Chunks<'a> {
    shards: &'a ShardSet,
    shard: usize,
    reader: Option<ShardReader>,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(shards: &'a ShardSet) -> Self {
        Self {
            shards,
            shard: 0,
            reader: None,
        }
    }

    fn read(&mut self) -> Result<Option<(usize, ShardItem)>, DataError> {
        while self.shard < self.shards.len() {
            if self.reader.is_none() {
                log::debug!("reading {}", self.shards.name(self.shard));
                self.reader = Some(self.shards.open(self.shard)?);
            }
            if let Some(item) = self.reader.as_mut().and_then(Iterator::next) {
                return Ok(Some((self.shard, item)));
            }
            self.reader = None;
            self.shard += 1;
        }
        Ok(None)
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Vec<(usize, ShardItem)>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut bytes = 0;
        while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
            match self.read() {
                Ok(Some((shard, item))) => {
                    if let ShardItem::Sample(sample) = &item {
                        bytes += sample.held_bytes();
                    }
                    chunk.push((shard, item));
                }
                Ok(None) => break,
                Err(error) => {
                    // Nothing follows what can't be read.
                    self.shard = self.shards.len();
                    return Some(Err(error));
                }
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shards;

    #[test]
    fn chunks_hold_every_item_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[700, 0, 600]);
        let chunks: Vec<_> = Chunks::new(&set).map(Result::unwrap).collect();
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1024, 276]);
        let keys = chunks.iter().flatten().map(|(shard, item)| match item {
            ShardItem::Sample(sample) => (*shard, sample.key.clone()),
            ShardItem::Fault(..) => panic!("{item:?}"),
        });
        let expected = (0..1300).map(|n| (if n < 700 { 0 } else { 2 }, format!("k{n}")));
        assert!(keys.eq(expected));
    }

    #[test]
    fn a_shard_that_cannot_be_opened_ends_the_set() {
        let set = ShardSet::from_paths(vec!["gone.tar".into(), "gone too.tar".into()]);
        let mut chunks = Chunks::new(&set);
        assert!(chunks.next().unwrap().is_err());
        assert!(chunks.next().is_none());
    }
}
