use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use burn::{optim::OptimizerRecord, tensor::Bytes};

use super::lora::AdapterState;
use crate::TrainError;

/// What an optimizer has gathered of its gradients, copied to the host: the optimizer may go on.
#[derive(Debug)]
pub struct OptimizerState {
    /// A digest of the optimizer's kind and the parameters' order and shapes.
    pub(super) of: String,
    pub(super) record: OptimizerRecord,
    /// With [`LoraConfig`](super::LoraConfig).
    pub(super) adapters: Option<AdapterState>,
}

/// A model's adapters as they were when they were copied to the host.
#[derive(Debug)]
pub(crate) struct HostAdapters(AdapterState);

impl HostAdapters {
    /// Writes a safetensors file, in f32: for each adapter `A` `[from, rank]`, `B` `[rank, to]` and the weights that
    /// they stand on, `[from, to]`.
    ///
    /// # Errors
    /// [`TrainError::Io`] when the folder can't be written or the disk is full.
    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        self.0.write(path)
    }
}

impl OptimizerState {
    /// Whose it is, to be told again when it is read.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Its adapters, if it has some, which have a file of their own.
    pub(crate) fn take_adapters(&mut self) -> Option<HostAdapters> {
        self.adapters.take().map(HostAdapters)
    }

    /// Writes it as Burn's record, one tensor after the other, without adapters.
    ///
    /// # Errors
    /// [`TrainError::Io`] when the folder can't be written or the disk is full.
    pub fn write(self, path: &Path) -> Result<(), TrainError> {
        let written = self.record.save(path);
        Ok(written.map_err(|error| clip_files::io("write", path)(system_error(error)))?)
    }

    /// Reads what [`write`](Self::write) wrote of an optimizer, which [`of`](Self::of) told, and what
    /// `HostAdapters::write` wrote of its adapters.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if it is no such file or cut off, [`TrainError::Io`] if it can't be read.
    pub fn read(path: &Path, adapters: Option<&Path>, of: String) -> Result<Self, TrainError> {
        // Not left to be read when it is needed: the checkpoint may be gone by then.
        let bytes = aligned(path).map_err(clip_files::io("read", path))?;
        let record = OptimizerRecord::from_bytes(bytes).map_err(refused)?;
        Ok(Self {
            of,
            record,
            adapters: adapters.map(AdapterState::read).transpose()?,
        })
    }
}

/// The system's error behind one of Burn's, which has it in words alone, with its number: a full disk is known by that.
fn system_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let text = error.to_string();
    let number = text
        .rsplit_once("(os error ")
        .and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
    number.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}

/// A file's bytes, and fewer than 16 zeros after them, where Burn may take numbers of any type to be: others it would copy.
fn aligned(path: &Path) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len() as usize;
    let mut numbers = vec![0_u128; length.div_ceil(size_of::<u128>())];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut numbers);
    file.read_exact(&mut bytes[..length])?;
    Ok(Bytes::from_elems(numbers))
}

pub(super) fn refused(reason: impl ToString) -> TrainError {
    TrainError::OptimizerState {
        reason: reason.to_string(),
    }
}
