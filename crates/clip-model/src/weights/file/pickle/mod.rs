//! A reader of Python pickles that knows the few objects weights are made of, and runs nothing.
//!
//! # References
//! The operations: `CPython`, `Lib/pickletools.py`. The objects: PyTorch, `torch/_weights_only_unpickler.py`, and
//! `torch/csrc/jit/serialization/pickler.cpp` for TorchScript.

mod globals;
mod machine;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use safetensors::Dtype;

use self::{globals::Global, machine::Machine};

/// Most axes of a tensor; weights have up to four.
const MAX_AXES: usize = 8;

/// Index of a value in [`Pickle::values`].
pub(super) type Id = usize;

/// What a pickle builds. Values refer to each other by index, as they may be shared and even contain themselves.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// None, a truth value, a float, bytes, a device: what no weights depend on.
    Other,
    Int(i64),
    Text(Rc<str>),
    /// A tuple or a list.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
    /// A TorchScript object and its attributes.
    Object(Option<Id>),
}

/// Numbers in the archive.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) key: Rc<str>,
    pub(super) dtype: Dtype,
    pub(super) elements: usize,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    /// Of the first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Why a pickle was not read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It asks for a Python object that no weights need.
    Forbidden(String),
    /// It isn't well formed, or has what weights never have.
    Malformed(String),
}

type Result<T> = std::result::Result<T, Refusal>;

fn malformed<T>(reason: impl Into<String>) -> Result<T> {
    Err(Refusal::Malformed(reason.into()))
}

/// A pickle that has been read.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    /// Reads a pickle of protocol 2 or later. Time and memory are proportional to its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let (values, root) = Machine::new(bytes).run()?;
        Ok(Self { values, root })
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// The value of a dictionary's key.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(items) = self.get(dict) else {
            return None;
        };
        // A key given twice has its last value.
        let found = items.iter().rev();
        let mut found = found
            .filter(|(name, _)| matches!(self.get(*name), Value::Text(text) if **text == *key));
        found.next().map(|(_, value)| *value)
    }
}

impl Tensor {
    /// Whether every element lies in the storage, and none is there for two: weights are never expanded views, and
    /// those could claim any size.
    fn check(&self) -> Result<()> {
        let Self {
            storage,
            offset,
            shape,
            strides,
        } = self;
        if shape.len() != strides.len() {
            return malformed(format!(
                "a tensor of shape {shape:?} with strides {strides:?}"
            ));
        }
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, length| product.checked_mul(*length));
        let mut axes = shape.iter().zip(strides);
        let last = axes.try_fold(*offset, |last, (length, stride)| {
            last.checked_add(length.saturating_sub(1).checked_mul(*stride)?)
        });
        match (elements, last) {
            (Some(0), _) if *offset <= storage.elements => Ok(()),
            (Some(elements), Some(last))
                if elements <= storage.elements && last < storage.elements =>
            {
                Ok(())
            }
            _ => malformed(format!(
                "a tensor of shape {shape:?} at {offset}, but its storage has {} elements",
                storage.elements
            )),
        }
    }
}
