//! The messages of an ONNX file, each with the numbers of its fields.
//!
//! # References
//! [onnx.proto3](https://github.com/onnx/onnx/blob/v1.16.0/onnx/onnx.proto3), IR version 8.

use crate::{proto::Message, weights::Weight};

/// Of the operators: the first with `LayerNormalization`. Old runtimes know no later ones.
const OPSET: i64 = 17;
/// Of the format: the one that came with the operators' version.
const IR_VERSION: i64 = 8;

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ElementType {
    Float = 1,
    Int32 = 6,
    Int64 = 7,
    Float16 = 10,
    BFloat16 = 16,
}

/// A node's setting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Ints(&'a [i64]),
}

impl Attribute<'_> {
    /// `AttributeProto`: name 1, f 2, i 3, ints 8, type 20.
    fn message(self, name: &str) -> Message {
        let message = Message::default().text(1, name);
        match self {
            Self::Float(value) => message.float(2, value).int(20, 1),
            Self::Int(value) => message.int(3, value).int(20, 2),
            Self::Ints(values) => message.ints(8, values.iter().copied()).int(20, 7),
        }
    }
}

/// One axis of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Axis<'a> {
    Fixed(usize),
    /// Any length, by a name.
    Free(&'a str),
}

/// `NodeProto`: input 1, output 2, name 3, `op_type` 4, attribute 5.
pub(crate) fn node(
    operator: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[(&str, Attribute<'_>)],
) -> Message {
    let attributes = attributes.iter();
    Message::default()
        .texts(1, inputs)
        .texts(2, outputs)
        .text(3, outputs[0])
        .text(4, operator)
        .messages(5, attributes.map(|(name, value)| value.message(name)))
}

/// `TensorProto`: dims 1, `data_type` 2, name 8; numbers are to follow.
fn tensor(name: &str, element_type: ElementType, shape: &[usize]) -> Message {
    let shape = shape.iter().map(|&length| length as i64);
    Message::default()
        .ints(1, shape)
        .int(2, element_type as i64)
        .text(8, name)
}

/// `TensorProto` of numbers, little-endian: `raw_data` 9.
pub(crate) fn constant(
    name: &str,
    element_type: ElementType,
    shape: &[usize],
    bytes: &[u8],
) -> Message {
    tensor(name, element_type, shape).bytes(9, bytes)
}

/// `TensorProto` of a weight: `raw_data` 9.
pub(crate) fn weight(weight: &Weight, element_type: ElementType) -> Message {
    tensor(&weight.name, element_type, &weight.shape).weight(9, weight.clone())
}

/// `TensorProto` of a weight in a file beside: `external_data` 13, `data_location` 14, which is 1 then.
pub(crate) fn external_weight(
    weight: &Weight,
    element_type: ElementType,
    file: &str,
    offset: u64,
) -> Message {
    let entries = [
        entry("location", file),
        entry("offset", &offset.to_string()),
        entry("length", &weight.bytes.to_string()),
    ];
    tensor(&weight.name, element_type, &weight.shape)
        .messages(13, entries)
        .int(14, 1)
}

/// `ValueInfoProto`: name 1, type 2, `doc_string` 3. `TypeProto`: `tensor_type` 1, of `elem_type` 1 and shape 2.
/// `TensorShapeProto`: dim 1, a `dim_value` 1 or a `dim_param` 2.
pub(crate) fn value(
    name: &str,
    element_type: ElementType,
    shape: &[Axis<'_>],
    about: &str,
) -> Message {
    let axes = shape.iter().map(|axis| match axis {
        Axis::Fixed(length) => Message::default().int(1, *length as i64),
        Axis::Free(name) => Message::default().text(2, name),
    });
    let tensor = Message::default()
        .int(1, element_type as i64)
        .message(2, Message::default().messages(1, axes));
    Message::default()
        .text(1, name)
        .message(2, Message::default().message(1, tensor))
        .text(3, about)
}

/// `GraphProto`: node 1, name 2, initializer 5, input 11, output 12.
pub(crate) fn graph(
    name: &str,
    nodes: impl IntoIterator<Item = Message>,
    initializers: impl IntoIterator<Item = Message>,
    [input, output]: [Message; 2],
) -> Message {
    Message::default()
        .messages(1, nodes)
        .text(2, name)
        .messages(5, initializers)
        .message(11, input)
        .message(12, output)
}

/// `ModelProto`: `ir_version` 1, `producer_name` 2, `producer_version` 3, `doc_string` 6, graph 7, `opset_import` 8 with a
/// version 2, `metadata_props` 14.
pub(crate) fn model(graph: Message, about: &str, metadata: &[(&str, String)]) -> Message {
    Message::default()
        .int(1, IR_VERSION)
        .text(2, "clip")
        .text(3, env!("CARGO_PKG_VERSION"))
        .text(6, about)
        .message(7, graph)
        .message(8, Message::default().int(2, OPSET))
        .messages(14, metadata.iter().map(|(key, value)| entry(key, value)))
}

/// `StringStringEntryProto`: key 1, value 2.
fn entry(key: &str, value: &str) -> Message {
    Message::default().text(1, key).text(2, value)
}
