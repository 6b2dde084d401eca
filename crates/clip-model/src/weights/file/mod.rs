//! Files of weights, whoever wrote them, as tensors by name.

mod archive;
mod pickle;
mod safetensors;
mod torch;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use ::safetensors::Dtype;

use super::locate::weights_in;
use super::state_dict::{HostTensor, StateDict, byte_size};
use crate::ModelError;

/// What a file of weights is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A safetensors file, or the index of several.
    Safetensors,
    /// What `torch.save` wrote: a dictionary of tensors, or a training checkpoint that holds one.
    PyTorch,
    /// A program and its weights, as OpenAI published its models.
    TorchScript,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "a PyTorch state dict",
            Self::TorchScript => "a TorchScript archive",
        })
    }
}

/// The tensors of a file of weights, not yet read.
#[derive(Debug)]
pub struct WeightsFile {
    kind: FileKind,
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

/// Where in which file a tensor's numbers are.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Elements between neighbours on each axis; nothing for row-major.
    strides: Option<Vec<usize>>,
    /// Of the first element, in bytes.
    offset: u64,
}

impl WeightsFile {
    /// Recognises a file by its content and lists its tensors: safetensors, the index of a sharded model, and what
    /// `torch.save` and `torch.jit.save` write. A pickle is parsed, and nothing in it is run. Of a folder, it is the file
    /// that belongs to the configuration there, or the only one.
    ///
    /// # Errors
    /// [`ModelError::NoCheckpoint`] if a folder has none; [`ModelError::UnknownWeights`] if it is none of these; [`ModelError::WeightsSyntax`] or
    /// [`ModelError::TorchSyntax`] if it is damaged; [`ModelError::ForbiddenPickle`] naming what it asks for.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let found;
        let path = if path.is_dir() {
            found = weights_in(path)?;
            &found
        } else {
            path
        };
        let start = start(path)?;
        let (kind, tensors) = if start.first() == Some(&b'{') {
            open_index(path)?
        } else {
            open_one(path, &start)?
        };
        Ok(Self {
            kind,
            path: path.to_owned(),
            tensors: rename_all(tensors),
        })
    }

    /// What the file is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Name, type of the numbers and shape of each tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors
            .iter()
            .map(|(name, stored)| (name.as_str(), stored.dtype, stored.shape.as_slice()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads the numbers of all tensors that `wanted` says yes to.
    pub(crate) fn read(&self, wanted: impl Fn(&str) -> bool) -> Result<StateDict, ModelError> {
        let mut open: Option<(&Path, File)> = None;
        let mut state = StateDict::new();
        for (name, stored) in self.tensors.iter().filter(|(name, _)| wanted(name)) {
            if open.as_ref().is_none_or(|(path, _)| *path != stored.file) {
                let file =
                    File::open(&stored.file).map_err(clip_files::io("read", &stored.file))?;
                open = Some((&stored.file, file));
            }
            // invariant: opened just above.
            let (_, file) = open.as_mut().expect("invariant: the file is open");
            let tensor = stored.read(file);
            let tensor = tensor.map_err(clip_files::io("read", &stored.file))?;
            state.insert(name.clone(), tensor);
        }
        Ok(state)
    }
}

impl Stored {
    /// Where the tensors of a safetensors file are, by name.
    pub(super) fn in_safetensors(path: &Path) -> Result<BTreeMap<String, Self>, ModelError> {
        safetensors::open(path)
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many elements lie between the first and the last, both included.
    fn extent(&self) -> usize {
        match &self.strides {
            _ if self.elements() == 0 => 0,
            None => self.elements(),
            Some(strides) => {
                let last = self.shape.iter().zip(strides);
                1 + last
                    .map(|(length, stride)| (length - 1) * stride)
                    .sum::<usize>()
            }
        }
    }

    /// Its numbers, from the file that holds it; nothing if they aren't floats or counts.
    pub(super) fn read_f32(&self, file: &mut File) -> std::io::Result<Option<Vec<f32>>> {
        if self.dtype != Dtype::F32 || self.strides.is_some() {
            return Ok(self.read(file)?.to_f32());
        }
        let mut numbers = vec![0.0; self.elements()];
        file.seek(SeekFrom::Start(self.offset))?;
        file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(Some(numbers))
    }

    fn read(&self, file: &mut File) -> std::io::Result<HostTensor> {
        let size = byte_size(self.dtype);
        let mut bytes = vec![0; self.extent() * size];
        file.seek(SeekFrom::Start(self.offset))?;
        file.read_exact(&mut bytes)?;
        if let Some(strides) = &self.strides {
            bytes = gather(&bytes, &self.shape, strides, size);
        }
        Ok(HostTensor {
            dtype: self.dtype,
            shape: self.shape.clone(),
            bytes,
        })
    }
}

/// The elements in row-major order.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let elements: usize = shape.iter().product();
    let mut out = Vec::with_capacity(elements * size);
    for element in 0..elements {
        let mut rest = element;
        let mut at = 0;
        for (length, stride) in shape.iter().zip(strides).rev() {
            at += rest % length * stride;
            rest /= length;
        }
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
    }
    out
}

/// The first bytes, by which a file is recognised.
fn start(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(clip_files::io("read", path))?;
    file.take(9)
        .read_to_end(&mut start)
        .map_err(clip_files::io("read", path))?;
    Ok(start)
}

/// A file that holds numbers itself.
fn open_one(path: &Path, start: &[u8]) -> Result<(FileKind, BTreeMap<String, Stored>), ModelError> {
    match start {
        // A header's length in eight bytes, of which no sensible one fills the last four, then JSON.
        [_, _, _, _, 0, 0, 0, 0, b'{'] => Ok((FileKind::Safetensors, safetensors::open(path)?)),
        [b'P', b'K', 3, 4, ..] => torch::open(path),
        [0x80, ..] => Err(torch::refuse_bare_pickle(path)),
        _ => Err(ModelError::UnknownWeights {
            path: path.to_owned(),
        }),
    }
}

/// Hugging Face's index of a model in several files: `{"weight_map": {"tensor": "file", ...}}`.
fn open_index(path: &Path) -> Result<(FileKind, BTreeMap<String, Stored>), ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let json = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
    let index: Index = serde_json::from_str(&json).map_err(|_| ModelError::UnknownWeights {
        path: path.to_owned(),
    })?;
    let syntax = |reason: String| ModelError::WeightsSyntax {
        path: path.to_owned(),
        reason,
    };
    let mut kind = FileKind::Safetensors;
    let mut files: BTreeMap<&str, BTreeMap<String, Stored>> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, file) in &index.weight_map {
        if file.contains(['/', '\\']) || file.starts_with('.') {
            let reason = format!("it names the shard `{file}`, which is not a file beside it");
            return Err(syntax(reason));
        }
        if !files.contains_key(file.as_str()) {
            // An index among them, or the index itself, is none of the files that hold numbers.
            let shard = path.with_file_name(file);
            let (kind_of_shard, held) = open_one(&shard, &start(&shard)?)?;
            kind = kind_of_shard;
            files.insert(file, rename_all(held));
        }
        let Some(stored) = files.get(file.as_str()).and_then(|shard| shard.get(name)) else {
            return Err(syntax(format!("its shard `{file}` holds no tensor {name}")));
        };
        tensors.insert(name.clone(), stored.clone());
    }
    Ok((kind, tensors))
}

/// Without the prefix of PyTorch's distributed training, which either all of a checkpoint's names have or none.
fn rename_all(tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    const PREFIX: &str = "module.";
    if !tensors.keys().all(|name| name.starts_with(PREFIX)) {
        return tensors;
    }
    let strip = |name: String| name[PREFIX.len()..].to_owned();
    tensors
        .into_iter()
        .map(|(name, stored)| (strip(name), stored))
        .collect()
}
