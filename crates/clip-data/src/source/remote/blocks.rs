use std::{
    collections::VecDeque,
    io::{Error, Read, Result},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes, BytesMut};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

use super::{RemoteObject, Version};

/// Bytes that are asked for at once: enough that the way to the server and back doesn't count.
const BLOCK: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

/// Blocks that are kept, as columns are read side by side: those of image, caption and key, and one more.
const KEPT: usize = 4;

/// A file on a server that is read at any place, a block at a time.
#[derive(Clone)]
pub(in crate::source) struct Blocks {
    object: RemoteObject,
    version: Version,
    /// By number, the latest last.
    kept: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
}

impl Blocks {
    /// Asks the server how large the file is.
    pub(in crate::source) fn open(object: &RemoteObject) -> Result<Self> {
        let (_, version) = read_range(object, 0, 1, None)?;
        Ok(Self {
            object: object.clone(),
            version,
            kept: Arc::default(),
        })
    }

    fn block(&self, number: u64) -> Result<Bytes> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = kept().iter().find(|(kept, _)| *kept == number) {
            return Ok(block.clone());
        }
        let start = number * BLOCK;
        let (block, _) = read_range(
            &self.object,
            start,
            start + BLOCK,
            Some(self.version.clone()),
        )?;
        let block = Bytes::from(block);
        let mut kept = kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((number, block.clone()));
        Ok(block)
    }

    /// What a block holds from `position` on; nothing at the end of the file.
    fn rest(&self, position: u64) -> Result<Bytes> {
        if position >= self.version.size {
            return Ok(Bytes::new());
        }
        let mut block = self.block(position / BLOCK)?;
        block.advance(((position % BLOCK) as usize).min(block.len()));
        Ok(block)
    }
}

fn read_range(
    object: &RemoteObject,
    start: u64,
    end: u64,
    version: Option<Version>,
) -> Result<(Vec<u8>, Version)> {
    let (mut body, fetch) = object.fetch(start, Some(end), version)?;
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)?;
    let lost = || Error::other("the transfer ended without a reason; please report this");
    let runtime = object.client.runtime.as_ref().ok_or_else(lost)?;
    let version = runtime.block_on(fetch).ok().flatten().ok_or_else(lost)?;
    Ok((bytes, version))
}

impl Length for Blocks {
    fn len(&self) -> u64 {
        self.version.size
    }
}

impl ChunkReader for Blocks {
    type T = Rest;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        Ok(Rest {
            blocks: self.clone(),
            position: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        let mut first = self.rest(start)?;
        if first.len() >= length {
            first.truncate(length);
            return Ok(first);
        }
        let mut bytes = BytesMut::from(first);
        while bytes.len() < length {
            let next = self.rest(start + bytes.len() as u64)?;
            if next.is_empty() {
                return Err(ParquetError::EOF("the file ends early".to_owned()));
            }
            bytes.extend_from_slice(&next[..next.len().min(length - bytes.len())]);
        }
        Ok(bytes.freeze())
    }
}

/// The file from a place on.
pub(in crate::source) struct Rest {
    blocks: Blocks,
    position: u64,
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let there = self.blocks.rest(self.position)?;
        let read = buffer.len().min(there.len());
        buffer[..read].copy_from_slice(&there[..read]);
        self.position += read as u64;
        Ok(read)
    }
}
