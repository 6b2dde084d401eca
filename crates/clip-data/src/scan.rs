use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{DataError, ShardItem, ShardSet, source::Bodies};

/// Items read before they are worked on together: enough for every core, however uneven they are.
const CHUNK: usize = 1024;

/// Bytes after which a chunk ends early, so that memory is bounded whatever the shards hold.
const CHUNK_BYTES: usize = 128 << 20;

/// Items, each with its shard.
type Chunk = Vec<(usize, ShardItem)>;

/// All items of a set in its order, in chunks, each with its shard.
///
/// A thread reads ahead by a chunk while the tools work on the one before with all cores. What they make of it never
/// depends on timing.
pub(crate) struct Chunks {
    /// `None` once it ended.
    chunks: Option<Receiver<Result<Chunk, DataError>>>,
    reader: Option<JoinHandle<()>>,
}

impl Chunks {
    pub(crate) fn new(shards: &ShardSet) -> Self {
        Self::reading(shards, Bodies::All)
    }

    /// A set's items, without their images.
    pub(crate) fn without_images(shards: &ShardSet) -> Self {
        Self::reading(shards, Bodies::Text)
    }

    fn reading(shards: &ShardSet, bodies: Bodies) -> Self {
        // One chunk waits to be taken, while the next is read.
        let (send, chunks) = bounded(1);
        let (shards, failed) = (shards.clone(), send.clone());
        let reader = Builder::new().name("clip-scan".to_owned()).spawn(move || {
            if let Err(error) = read(&shards, bodies, &send) {
                send.send(Err(error)).ok();
            }
        });
        let reader = reader.map_err(|error| {
            let error = clip_files::io("start the thread", "clip-scan")(error);
            failed.send(Err(error.into())).ok();
        });
        Self {
            chunks: Some(chunks),
            reader: reader.ok(),
        }
    }

    fn end(&mut self) -> std::thread::Result<()> {
        // A reader that waits to hand over a chunk learns that nobody takes it.
        self.chunks = None;
        self.reader.take().map_or(Ok(()), JoinHandle::join)
    }
}

/// Hands over the set chunk by chunk, until nobody takes them.
fn read(
    shards: &ShardSet,
    bodies: Bodies,
    chunks: &Sender<Result<Chunk, DataError>>,
) -> Result<(), DataError> {
    let mut chunk = Chunk::with_capacity(CHUNK);
    let mut bytes = 0;
    for shard in 0..shards.len() {
        log::debug!("reading {}", shards.name(shard));
        let mut reader = shards.open(shard)?;
        reader.read_bodies(bodies);
        for item in reader {
            bytes += item.held_bytes();
            chunk.push((shard, item));
            if chunk.len() == CHUNK || bytes >= CHUNK_BYTES {
                let whole = std::mem::replace(&mut chunk, Chunk::with_capacity(CHUNK));
                if chunks.send(Ok(whole)).is_err() {
                    return Ok(());
                }
                bytes = 0;
            }
        }
    }
    if !chunk.is_empty() {
        chunks.send(Ok(chunk)).ok();
    }
    Ok(())
}

impl Iterator for Chunks {
    type Item = Result<Chunk, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.chunks.as_ref()?.recv().ok();
        // Nothing follows what can't be read.
        if !matches!(chunk, Some(Ok(_)))
            && let Err(panic) = self.end()
        {
            std::panic::resume_unwind(panic);
        }
        chunk
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // Its panic, if there was one, was that of the iteration.
        self.end().ok();
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
    fn a_set_need_not_be_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[1500, 1500, 1500]);
        let mut chunks = Chunks::new(&set);
        assert_eq!(chunks.next().unwrap().unwrap().len(), CHUNK);
        // Waits for the reader, which waits to hand over its third chunk.
        drop(chunks);
    }

    #[test]
    fn a_shard_that_cannot_be_opened_ends_the_set() {
        let set = ShardSet::from_paths(vec!["gone.tar".into(), "gone too.tar".into()]);
        let mut chunks = Chunks::new(&set);
        assert!(chunks.next().unwrap().is_err());
        assert!(chunks.next().is_none());
    }
}
