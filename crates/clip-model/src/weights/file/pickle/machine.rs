use std::collections::HashMap;

use super::{
    Id, MAX_AXES, Result, Storage, Tensor, Value,
    globals::{Global, global},
    malformed,
};

/// Python's stack machine, as far as weights need it.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// All values, and which of them is the pickle's.
    pub(super) fn run(mut self) -> Result<(Vec<Value>, Id)> {
        while self.step()? {}
        let root = self.pop()?;
        Ok((self.values, root))
    }

    /// Does one operation; false after the last.
    fn step(&mut self) -> Result<bool> {
        let [operation] = self.array()?;
        match operation {
            b'.' => return Ok(false),
            0x80 => {
                let [protocol] = self.array()?;
                if !(2..=5).contains(&protocol) {
                    return malformed(format!("protocol {protocol} is none that PyTorch writes"));
                }
            }
            0x95 => {
                self.array::<8>()?; // The length of a frame, which only a stream needs.
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Other);
            }
            b'K' => {
                let [value] = self.array()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let [length] = self.array()?;
                let value = integer(self.take(length.into())?);
                self.push(value);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8c => {
                let [length] = self.array()?;
                self.text(length.into())?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.take(length.into())?;
                self.push(Value::Other);
            }
            b'C' => {
                let [length] = self.array()?;
                self.take(length.into())?;
                self.push(Value::Other);
            }
            _ => return self.step_on_stack(operation),
        }
        Ok(true)
    }

    /// The operations that take from the stack or the memo.
    fn step_on_stack(&mut self, operation: u8) -> Result<bool> {
        match operation {
            b'(' => self.marks.push(self.stack.len()),
            b')' | b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            0x85..=0x87 => {
                let start = self.below(usize::from(operation - 0x84))?;
                let items = self.stack.split_off(start);
                self.push(Value::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b's' => {
                let start = self.below(2)?;
                let pair = self.stack.split_off(start);
                self.extend_dict(&pair)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'0' => {
                self.pop()?;
            }
            b'q' => {
                let [slot] = self.array()?;
                self.memoize(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.memoize(slot)?;
            }
            0x94 => self.memoize(self.memo.len() as u32)?,
            b'h' => {
                let [slot] = self.array()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            _ => return self.step_on_objects(operation),
        }
        Ok(true)
    }

    /// The operations that Python would run code for.
    fn step_on_objects(&mut self, operation: u8) -> Result<bool> {
        match operation {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = global(module, name)?;
                self.push(Value::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) =
                    (&self.values[module], &self.values[name])
                else {
                    return malformed("a name that is not text");
                };
                let global = global(module, name)?;
                self.push(Value::Global(global));
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(storage));
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            0x81 => {
                let (_, class) = (self.pop()?, self.pop()?);
                let value = match self.values[class] {
                    Value::Global(Global::ScriptClass) => Value::Object(None),
                    Value::Global(Global::OrderedDict) => Value::Dict(Vec::new()),
                    _ => return malformed("an object of something that is no class"),
                };
                self.push(value);
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                match &mut self.values[object] {
                    Value::Object(attributes) => *attributes = Some(state),
                    // The state of a state dict is its `_metadata`, versions of modules.
                    Value::Dict(_) => {}
                    _ => return malformed("the state of something that has none"),
                }
            }
            _ => {
                return malformed(format!(
                    "operation 0x{operation:02x} at byte {}, which PyTorch doesn't write",
                    self.at - 1
                ));
            }
        }
        Ok(true)
    }

    /// Pushes what a call of an allowed name would give.
    fn call(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let Value::Global(global) = self.values[callable] else {
            return malformed("a call of something that is no function");
        };
        let Value::List(arguments) = &self.values[arguments] else {
            return malformed("arguments that are no tuple");
        };
        match (global, arguments.as_slice()) {
            (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = &self.values[*storage] else {
                    return malformed("a tensor without a storage");
                };
                let tensor = Tensor {
                    storage: storage.clone(),
                    offset: self.size(*offset)?,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                tensor.check()?;
                self.push(Value::Tensor(tensor));
            }
            (Global::RebuildParameter | Global::Wrapper, [first, ..]) => self.stack.push(*first),
            (Global::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Global::Metadata, _) => self.push(Value::Other),
            _ => return malformed("a call with other arguments than PyTorch writes"),
        }
        Ok(())
    }

    /// `("storage", type, key, location, elements)`.
    fn storage(&self, id: Id) -> Result<Storage> {
        let Value::List(fields) = &self.values[id] else {
            return malformed("a storage that is no tuple");
        };
        let [_, kind, key, _, elements, ..] = fields.as_slice() else {
            return malformed("a storage with too few fields");
        };
        let (Value::Global(Global::StorageType(dtype)), Value::Text(key)) =
            (&self.values[*kind], &self.values[*key])
        else {
            return malformed("a storage without type or key");
        };
        Ok(Storage {
            key: key.clone(),
            dtype: *dtype,
            elements: self.size(*elements)?,
        })
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.values[id] {
            Value::Int(value) if value >= 0 => Ok(value as usize),
            _ => malformed("a size that is no whole number from 0"),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let Value::List(items) = &self.values[id] else {
            return malformed("sizes that are no tuple");
        };
        if items.len() > MAX_AXES {
            return malformed(format!("a tensor of more than {MAX_AXES} axes"));
        }
        items.iter().map(|item| self.size(*item)).collect()
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id> {
        let start = self.below(1)?;
        Ok(self.stack.split_off(start)[0])
    }

    fn top(&self) -> Result<Id> {
        self.below(1).map(|at| self.stack[at])
    }

    /// Where the last `count` items of the stack start, which must be above the last mark.
    fn below(&self, count: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(start),
            _ => malformed("it takes more than there is"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => malformed("it takes up to a mark that is not there"),
        }
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        let Value::List(list) = &mut self.values[list] else {
            return malformed("an item of something that is no list");
        };
        list.extend(items);
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return malformed("a key without a value");
        };
        match &mut self.values[dict] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return malformed("an item of something that is no dictionary"),
        }
        Ok(())
    }

    fn memoize(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(&id) => self.stack.push(id),
            None => return malformed(format!("it recalls {slot}, which it never stored")),
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(found) = self.bytes[self.at..].first_chunk::<N>() else {
            return malformed("it ends too early");
        };
        self.at += N;
        Ok(*found)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() as u64 {
            return malformed(format!(
                "it ends too early: {length} bytes should follow byte {}",
                self.at
            ));
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    fn text(&mut self, length: u64) -> Result<()> {
        let text = String::from_utf8_lossy(self.take(length)?);
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return malformed("it ends within a name");
        };
        self.at += end + 1;
        match std::str::from_utf8(&rest[..end]) {
            Ok(line) => Ok(line),
            Err(_) => malformed("a name that is not text"),
        }
    }
}

/// A whole number of any length, of which only small ones matter.
pub(super) fn integer(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(value))
}
