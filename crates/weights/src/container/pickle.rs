//! A pickle, read as data.
//!
//! Python's pickle is a program for a small machine that may call any function. This reader has the
//! machine's stack and memo, but no functions: the few calls that a state dict needs (make a tensor from
//! a storage, a parameter from a tensor, an ordered dict) are recognised by name and become nodes of
//! plain data. Any other name ends the reading with an error that says it.
//!
//! Values are indices into an arena, so nesting and cycles cost nothing to drop, and each opcode adds at
//! most one node: memory is bounded by the pickle's length.
//!
//! Opcodes: CPython `Lib/pickletools.py`. What PyTorch writes: `torch/serialization.py`,
//! `torch/_utils.py`.

use std::collections::HashMap;

/// Longest pickle that is read. Those of the family's files have under 200 KB.
const PICKLE_MAX: usize = 8 << 20;
/// Most steps. A tensor takes about forty, and each makes at most one value.
const STEPS_MAX: usize = 1 << 21;
/// Most nodes, and most values on the stack or remembered. A tensor takes seven nodes, and the family's files have
/// under 2,000 tensors. So a pickle made of nothing but the smallest opcodes takes a few dozen megabytes.
const NODES_MAX: usize = 1 << 17;

/// A value on the stack or in a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// `module.name`, one of the few known ones.
    Global(Global),
    Node(u32),
}

/// The names a state dict may mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    /// With the dtype as an argument, for formats that have no typed storage.
    RebuildTensorWithDtype,
    RebuildParameter,
    /// A storage class or a dtype, by the format's name.
    Format(&'static str),
    Untyped,
}

/// Composite data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    /// Boxed, because it is by far the largest.
    Tensor(Box<Tensor<'a>>),
}

/// Bytes kept in another entry of the archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Storage<'a> {
    /// `None` for untyped storages.
    pub format: Option<&'static str>,
    pub key: &'a str,
    pub values: usize,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor<'a> {
    pub storage: Storage<'a>,
    pub format: &'static str,
    /// In values, from the start of the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// A finished pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub nodes: Vec<Node<'a>>,
    pub root: Value<'a>,
}

impl<'a> Pickle<'a> {
    pub fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.nodes.get(index as usize),
            _ => None,
        }
    }
}

/// Reads a pickle. The error is a sentence for people.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    if bytes.len() > PICKLE_MAX {
        return Err(format!("its pickle has {} bytes, more than {PICKLE_MAX}", bytes.len()));
    }
    let mut machine =
        Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), nodes: vec![] };
    for _ in 0..STEPS_MAX {
        let start = machine.at;
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle { nodes: machine.nodes, root });
        }
        machine.step(opcode).map_err(|e| format!("{e} (at byte {start} of its pickle)"))?;
        let lengths =
            [machine.nodes.len(), machine.stack.len(), machine.marks.len(), machine.memo.len()];
        if lengths.iter().any(|n| *n > NODES_MAX) {
            return Err(format!("its pickle builds more than {NODES_MAX} values"));
        }
    }
    Err(format!("its pickle has more than {STEPS_MAX} steps"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which a MARK was set.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO, FRAME: nothing to do.
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.until_mark()?;
            }
            b'2' => {
                let top = *self.top()?;
                self.stack.push(top);
            }
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => {
                let value = self.byte()?.into();
                self.stack.push(Value::Int(value));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?).into();
                self.stack.push(Value::Int(value));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?).into();
                self.stack.push(Value::Int(value));
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(value));
            }
            // SHORT_BINUNICODE, BINUNICODE and the byte strings of Python 2 and of metadata.
            0x8c | b'U' | b'C' => {
                let len = self.byte()?.into();
                self.text(len)?;
            }
            b'X' | b'T' | b'B' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len as usize)?;
            }
            b')' => self.push_node(Node::Tuple(vec![])),
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub((opcode - 0x84).into());
                let from = from.filter(|&n| n >= self.floor()).ok_or("its stack runs empty")?;
                let items = self.stack.split_off(from);
                self.push_node(Node::Tuple(items));
            }
            b't' => {
                let items = self.until_mark()?;
                self.push_node(Node::Tuple(items));
            }
            b']' => self.push_node(Node::List(vec![])),
            b'l' => {
                let items = self.until_mark()?;
                self.push_node(Node::List(items));
            }
            b'}' => self.push_node(Node::Dict(vec![])),
            b'd' => {
                let items = self.until_mark()?;
                let pairs = pairs(&items)?;
                self.push_node(Node::Dict(pairs));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.until_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.until_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let index = self.byte()?.into();
                self.remember(index)?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?).into();
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let index = self.byte()?.into();
                self.recall(index)?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?).into();
                self.recall(index)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name)?,
                    _ => return Err("it names a function by something other than text".into()),
                }
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => {
                return Err(format!(
                    "it uses the opcode 0x{opcode:02x}, which no state dict needs"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let slice =
            end.and_then(|end| self.bytes.get(self.at..end)).ok_or("its pickle is cut off")?;
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "its pickle is cut off".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(1024).position(|&b| b == b'\n').ok_or("a name has no end")?;
        let line = self.take(len)?;
        self.byte()?;
        str::from_utf8(line).map_err(|_| "a name is no UTF-8".into())
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let bytes = self.take(len)?;
        let text = str::from_utf8(bytes).map_err(|_| "a text is no UTF-8")?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    /// LONG1: a little-endian integer of up to 255 bytes; more than 8 have no meaning here.
    fn long(&mut self) -> Result<(), String> {
        let len = self.byte()?;
        let bytes = self.take(len.into())?;
        if bytes.len() > 8 {
            return Err(format!("it has an integer of {len} bytes"));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut padded = [if negative { 0xff } else { 0 }; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(padded)));
        Ok(())
    }

    /// Height of the stack that belongs to an open MARK.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        if self.stack.len() <= self.floor() {
            return Err("its stack runs empty".into());
        }
        self.stack.pop().ok_or_else(|| "its stack runs empty".into())
    }

    fn top(&self) -> Result<&Value<'a>, String> {
        self.stack.last().ok_or_else(|| "its stack runs empty".into())
    }

    fn until_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("it closes a bracket that it never opened")?;
        Ok(self.stack.split_off(mark))
    }

    fn push_node(&mut self, node: Node<'a>) {
        // The pickle's length bounds the number of nodes far below u32::MAX.
        self.stack.push(Value::Node(self.nodes.len() as u32));
        self.nodes.push(node);
    }

    fn top_node(&mut self) -> Result<&mut Node<'a>, String> {
        match *self.top()? {
            Value::Node(index) => Ok(&mut self.nodes[index as usize]),
            _ => Err("it fills something that is no container".into()),
        }
    }

    fn append(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        match self.top_node()? {
            Node::List(list) => {
                list.extend_from_slice(items);
                Ok(())
            }
            _ => Err("it appends to something that is no list".into()),
        }
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let new = pairs(items)?;
        match self.top_node()? {
            Node::Dict(entries) => {
                entries.extend(new);
                Ok(())
            }
            _ => Err("it sets keys of something that is no dict".into()),
        }
    }

    fn remember(&mut self, index: u64) -> Result<(), String> {
        let top = *self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), String> {
        let value = *self.memo.get(&index).ok_or("it recalls what it never kept")?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = known_global(module, name).ok_or_else(|| {
            format!(
                "it asks for {module}.{name}, which holds no tensor data; nothing was run, but the \
                 file may be malicious"
            )
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// BINPERSID: `("storage", class, key, device, values)`.
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(
                [
                    Value::Text("storage"),
                    Value::Global(class),
                    Value::Text(key),
                    Value::Text(_),
                    Value::Int(values),
                    ..,
                ],
            ) => {
                let format = match class {
                    Global::Format(name) => Some(*name),
                    Global::Untyped => None,
                    _ => return Err("it names a storage class that is none".into()),
                };
                let values =
                    usize::try_from(*values).map_err(|_| "a storage has a negative size")?;
                Storage { format, key, values }
            }
            _ => return Err("it refers to something other than a storage".into()),
        };
        self.push_node(Node::Storage(storage));
        Ok(())
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Node(index) => match &self.nodes[index as usize] {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let Some(items) = self.tuple(arguments) else {
            return Err("it calls without arguments".into());
        };
        let node = match (function, items) {
            (Value::Global(Global::OrderedDict), []) => Node::Dict(vec![]),
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => {
                let tensor = *tensor;
                self.stack.push(tensor);
                return Ok(());
            }
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                self.tensor(*storage, *offset, *shape, *strides, None)?
            }
            (
                Value::Global(Global::RebuildTensorWithDtype),
                [storage, offset, shape, strides, _, _, Value::Global(Global::Format(name)), ..],
            ) => self.tensor(*storage, *offset, *shape, *strides, Some(name))?,
            _ => return Err("it makes a call that is none of a state dict's".into()),
        };
        self.push_node(node);
        Ok(())
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        format: Option<&'static str>,
    ) -> Result<Node<'a>, String> {
        let storage = match storage {
            Value::Node(index) => match &self.nodes[index as usize] {
                Node::Storage(storage) => *storage,
                _ => return Err("a tensor has no storage".into()),
            },
            _ => return Err("a tensor has no storage".into()),
        };
        let sizes = |value| {
            self.tuple(value)
                .filter(|items| items.len() <= 16)
                .and_then(|items| items.iter().map(|v| size(*v)).collect::<Option<Vec<_>>>())
        };
        match (sizes(shape), sizes(strides), size(offset), format.or(storage.format)) {
            (Some(shape), Some(strides), Some(offset), Some(format))
                if shape.len() == strides.len() =>
            {
                let tensor = Tensor { storage, format, offset, shape, strides };
                Ok(Node::Tensor(Box::new(tensor)))
            }
            _ => Err("a tensor has no sound shape, strides, offset or format".into()),
        }
    }

    /// BUILD: sets attributes. A state dict carries its `_metadata` this way, which is not needed.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top_node()? {
            Node::Dict(_) => Ok(()),
            _ => Err("it sets attributes of something that is no dict".into()),
        }
    }
}

fn size(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

fn pairs<'a>(items: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("it sets a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn known_global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorWithDtype,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch.storage" | "torch", "UntypedStorage") => Global::Untyped,
        ("torch", "FloatStorage" | "float32") => Global::Format("f32"),
        ("torch", "HalfStorage" | "float16") => Global::Format("f16"),
        ("torch", "BFloat16Storage" | "bfloat16") => Global::Format("bf16"),
        ("torch", "float8_e4m3fn") => Global::Format("f8_e4m3"),
        ("torch", "float8_e5m2") => Global::Format("f8_e5m2"),
        ("torch", "DoubleStorage" | "float64") => Global::Format("f64"),
        ("torch", "LongStorage" | "int64") => Global::Format("i64"),
        ("torch", "IntStorage" | "int32") => Global::Format("i32"),
        ("torch", "ShortStorage" | "int16") => Global::Format("i16"),
        ("torch", "CharStorage" | "int8") => Global::Format("i8"),
        ("torch", "ByteStorage" | "uint8") => Global::Format("u8"),
        ("torch", "BoolStorage" | "bool") => Global::Format("bool"),
        _ => return None,
    })
}
