use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::Path,
};

use super::{
    FileKind, Stored,
    archive::Archive,
    pickle::{Id, Pickle, Refusal, Tensor, Value},
};
use crate::{ModelError, weights::state_dict::byte_size};

/// Longest pickle that is read: it holds names and shapes, which take kilobytes.
const MAX_PICKLE: u64 = 64 << 20;

/// Most values that are visited for tensors, so that values which share their parts cost no more than others.
const MAX_VISITS: usize = 1 << 20;

/// Bytes of all tensors together, in multiples of the file's: tied weights share a storage, and hardly anything else does.
const MOST_SHARED: u64 = 4;

/// Modules within modules, of which CLIP has seven.
const MAX_DEPTH: usize = 32;

/// Longest name of a tensor; CLIP's have up to 60 bytes.
const MAX_NAME: usize = 512;

/// The magic number of what PyTorch wrote before it wrote archives.
const BEFORE_ARCHIVES: [u8; 4] = [0x8a, 0x0a, 0x6c, 0xfc];

/// Where the tensors of an archive of PyTorch's are.
pub(super) fn open(path: &Path) -> Result<(FileKind, BTreeMap<String, Stored>), ModelError> {
    let mut archive = TorchArchive::open(path)?;
    let pickle = archive.pickle()?;
    let (kind, tensors) = tensors(&pickle).map_err(|reason| refusal(path, reason))?;
    let mut storages = HashMap::new();
    let mut numbers = 0_u64;
    let mut found = BTreeMap::new();
    for (name, tensor) in tensors {
        let key = &tensor.storage.key;
        let size = byte_size(tensor.storage.dtype);
        let (start, held) = match storages.get(key) {
            Some(found) => *found,
            None => archive.storage(key)?,
        };
        storages.insert(key.clone(), (start, held));
        // What one mention of a storage says of it needn't be what another does.
        let needed = (tensor.storage.elements as u64).saturating_mul(size as u64);
        if held < needed {
            let reason =
                format!("its storage {key} has {held} bytes, but its tensors need {needed}");
            return Err(malformed(path, reason));
        }
        let bytes = tensor.shape.iter().fold(size as u64, |bytes, length| {
            bytes.saturating_mul(*length as u64)
        });
        numbers = numbers.saturating_add(bytes);
        if numbers > archive.length.saturating_mul(MOST_SHARED) {
            let reason =
                "its tensors, which share their numbers, are many times as large as the file";
            return Err(malformed(path, reason));
        }
        let stored = Stored {
            file: path.to_owned(),
            dtype: tensor.storage.dtype,
            shape: tensor.shape.clone(),
            strides: (!is_row_major(&tensor.shape, &tensor.strides))
                .then(|| tensor.strides.clone()),
            offset: start + (tensor.offset * size) as u64,
        };
        found.insert(name, stored);
    }
    Ok((kind, found))
}

/// Says what a pickle outside of an archive is.
pub(super) fn refuse_bare_pickle(path: &Path) -> ModelError {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PICKLE).read_to_end(&mut bytes));
    if let Err(error) = read {
        return clip_files::io("read", path)(error).into();
    }
    if bytes.get(2..6) == Some(&BEFORE_ARCHIVES) {
        let reason = "it was written by PyTorch before 1.6 or without its zip format: save it again by \
            torch.save(torch.load(FILE, weights_only=True), FILE)";
        return malformed(path, reason);
    }
    match Pickle::parse(&bytes) {
        Err(forbidden @ Refusal::Forbidden(_)) => refusal(path, forbidden),
        _ => ModelError::UnknownWeights {
            path: path.to_owned(),
        },
    }
}

fn malformed(path: &Path, reason: impl Into<String>) -> ModelError {
    refusal(path, Refusal::Malformed(reason.into()))
}

fn refusal(path: &Path, refusal: Refusal) -> ModelError {
    let path = path.to_owned();
    match refusal {
        Refusal::Forbidden(object) => ModelError::ForbiddenPickle { path, object },
        Refusal::Malformed(reason) => ModelError::TorchSyntax { path, reason },
    }
}

struct TorchArchive<'a> {
    path: &'a Path,
    zip: Archive,
    /// Folder of all entries, such as `archive/`.
    root: String,
    /// Bytes of the file.
    length: u64,
}

impl<'a> TorchArchive<'a> {
    fn open(path: &'a Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(clip_files::io("read", path))?;
        let length = file.metadata().map_err(clip_files::io("read", path))?.len();
        let zip = Archive::open(file)
            .map_err(|error| malformed(path, format!("as a zip archive: {error}")))?;
        let roots = zip.names().filter_map(|name| name.strip_suffix("data.pkl"));
        let roots = roots.filter(|root| root.is_empty() || root.ends_with('/'));
        let Some(root) = roots.min_by_key(|root| root.len()).map(str::to_owned) else {
            return Err(ModelError::UnknownWeights {
                path: path.to_owned(),
            });
        };
        let mut archive = Self {
            path,
            zip,
            root,
            length,
        };
        let order = archive.read("byteorder", 16)?;
        if order.is_some_and(|order| order.trim_ascii() == b"big") {
            let reason = "it was written on a big-endian machine: save it again on another";
            return Err(malformed(path, reason));
        }
        Ok(archive)
    }

    fn pickle(&mut self) -> Result<Pickle, ModelError> {
        // The root was found by this entry; if it is gone since, an empty pickle is refused.
        let bytes = self.read("data.pkl", MAX_PICKLE)?.unwrap_or_default();
        Pickle::parse(&bytes).map_err(|reason| refusal(self.path, reason))
    }

    /// Where in the file a storage starts, and how many bytes it has.
    fn storage(&mut self, key: &str) -> Result<(u64, u64), ModelError> {
        let name = format!("{}data/{key}", self.root);
        match self.zip.locate(&name) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(malformed(self.path, format!("it has no entry {name}"))),
            Err(error) => Err(self.entry_error(&name, &error)),
        }
    }

    /// A small entry, if it is there.
    fn read(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ModelError> {
        let name = format!("{}{name}", self.root);
        let read = self.zip.read(&name, limit);
        read.map_err(|error| self.entry_error(&name, &error))
    }

    fn entry_error(&self, name: &str, error: &std::io::Error) -> ModelError {
        malformed(self.path, format!("its entry {name}: {error}"))
    }
}

/// The weights of a pickle by name: a dictionary of tensors, the `state_dict` of a training checkpoint, or all that
/// hangs on a TorchScript module.
fn tensors(pickle: &Pickle) -> Result<(FileKind, BTreeMap<String, &Tensor>), Refusal> {
    let (kind, root) = match pickle.get(pickle.root) {
        Value::Object(Some(attributes)) => (FileKind::TorchScript, *attributes),
        Value::Dict(_) => {
            let inner = pickle.entry(pickle.root, "state_dict");
            let inner = inner.filter(|inner| matches!(pickle.get(*inner), Value::Dict(_)));
            (FileKind::PyTorch, inner.unwrap_or(pickle.root))
        }
        _ => {
            let reason = "it holds neither a dictionary of tensors nor a TorchScript module";
            return Err(Refusal::Malformed(reason.to_owned()));
        }
    };
    let mut walk = Walk {
        pickle,
        visits: 0,
        found: BTreeMap::new(),
    };
    walk.dict(root, "", 0)?;
    if walk.found.is_empty() {
        let reason = "it holds no tensors, neither at its top nor under `state_dict`";
        return Err(Refusal::Malformed(reason.to_owned()));
    }
    Ok((kind, walk.found))
}

struct Walk<'a> {
    pickle: &'a Pickle,
    visits: usize,
    found: BTreeMap<String, &'a Tensor>,
}

impl Walk<'_> {
    /// Tensors of a dictionary and, in TorchScript, of the modules in it.
    fn dict(&mut self, dict: Id, prefix: &str, depth: usize) -> Result<(), Refusal> {
        let Value::Dict(items) = self.pickle.get(dict) else {
            return Ok(());
        };
        if depth > MAX_DEPTH {
            let reason = format!("its modules are nested more than {MAX_DEPTH} deep");
            return Err(Refusal::Malformed(reason));
        }
        for (key, value) in items {
            self.visits += 1;
            if self.visits > MAX_VISITS {
                let reason = format!("it holds more than {MAX_VISITS} values");
                return Err(Refusal::Malformed(reason));
            }
            let Value::Text(key) = self.pickle.get(*key) else {
                continue;
            };
            if prefix.len() + key.len() > MAX_NAME {
                let reason = format!("it holds a name of more than {MAX_NAME} bytes");
                return Err(Refusal::Malformed(reason));
            }
            match self.pickle.get(*value) {
                Value::Tensor(tensor) => {
                    self.found.insert(format!("{prefix}{key}"), tensor);
                }
                Value::Object(Some(attributes)) => {
                    self.dict(*attributes, &format!("{prefix}{key}."), depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(length, stride)| {
        let fits = *length <= 1 || *stride == expected;
        expected *= length;
        fits
    })
}
