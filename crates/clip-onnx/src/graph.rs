use std::collections::BTreeMap;

use crate::{
    onnx::{self, Attribute, Axis, ElementType},
    proto::Message,
    weights::{Weight, Weights},
};

/// A tensor of the graph, by its name.
#[derive(Clone, Debug)]
pub(crate) struct Value(String);

/// An encoder's computation, from its input to its output.
pub(crate) struct Graph<'a> {
    pub(crate) weights: Weights<'a>,
    /// In the order in which they can be computed.
    nodes: Vec<Message>,
    /// Numbers that are no weights, by names that tell them.
    constants: BTreeMap<String, Message>,
    stored: Vec<Weight>,
    input: Message,
    output: Message,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(weights: Weights<'a>) -> Self {
        Self {
            weights,
            nodes: Vec::new(),
            constants: BTreeMap::new(),
            stored: Vec::new(),
            input: Message::default(),
            output: Message::default(),
        }
    }

    /// What the encoder is given.
    pub(crate) fn input(
        &mut self,
        name: &str,
        element_type: ElementType,
        shape: &[Axis<'_>],
        about: &str,
    ) -> Value {
        self.input = onnx::value(name, element_type, shape, about);
        Value(name.to_owned())
    }

    /// What the encoder gives.
    pub(crate) fn output(&mut self, name: &str, value: &Value, shape: &[Axis<'_>], about: &str) {
        self.nodes
            .push(onnx::node("Identity", &[&value.0], &[name], &[]));
        self.output = onnx::value(name, ElementType::Float, shape, about);
    }

    /// What an operator makes of its inputs.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Value {
        let [output] = self.nodes_of(operator, inputs, attributes);
        output
    }

    /// The same of an operator with several outputs.
    pub(crate) fn nodes_of<const N: usize>(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
    ) -> [Value; N] {
        let number = self.nodes.len();
        let outputs: [Value; N] = std::array::from_fn(|output| {
            Value(match output {
                0 => format!("{operator}_{number}"),
                _ => format!("{operator}_{number}.{output}"),
            })
        });
        let names = outputs.each_ref().map(|value| value.0.as_str());
        let inputs: Vec<&str> = inputs.iter().map(|value| value.0.as_str()).collect();
        self.nodes
            .push(onnx::node(operator, &inputs, &names, attributes));
        outputs
    }

    /// A weight by OpenCLIP's name and in its shape.
    pub(crate) fn weight(&mut self, name: &str) -> Value {
        self.stored(name, false)
    }

    /// A linear layer's matrix, `[from, to]`, where OpenCLIP's is `[to, from]`.
    pub(crate) fn matrix(&mut self, name: &str) -> Value {
        self.stored(name, true)
    }

    /// In f32, whatever the file has: 16 bits are for its size, and every runtime computes in 32.
    fn stored(&mut self, name: &str, transposed: bool) -> Value {
        self.stored.push(self.weights.weight(name, transposed));
        let stored = Value(name.to_owned());
        match self.weights.element_type() {
            ElementType::Float => stored,
            _ => self.cast(&stored, ElementType::Float),
        }
    }

    /// A row of integers, such as a shape.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(
            format!("{values:?}"),
            ElementType::Int64,
            &[values.len()],
            &bytes,
        )
    }

    /// One integer, which is no row.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        let name = value.to_string();
        self.constant(name, ElementType::Int64, &[], &value.to_le_bytes())
    }

    /// One number.
    pub(crate) fn float(&mut self, value: f64) -> Value {
        let value = value as f32;
        let name = format!("{value:?}f");
        self.constant(name, ElementType::Float, &[], &value.to_le_bytes())
    }

    /// A tensor of numbers that are no weights.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(name.to_owned(), ElementType::Float, shape, &bytes)
    }

    fn constant(
        &mut self,
        name: String,
        element_type: ElementType,
        shape: &[usize],
        bytes: &[u8],
    ) -> Value {
        let constant = self.constants.entry(name.clone());
        constant.or_insert_with_key(|name| onnx::constant(name, element_type, shape, bytes));
        Value(name)
    }

    /// All weights, in the order of [`message`](Self::message).
    pub(crate) fn stored_weights(&self) -> &[Weight] {
        &self.stored
    }

    /// The graph's message. Those of its weights are made by `weight`, by number.
    pub(crate) fn message(
        &self,
        name: &str,
        weight: impl Fn(usize, &Weight) -> Message,
    ) -> Message {
        let constants = self.constants.values().cloned();
        let weights = self.stored.iter().enumerate();
        let initializers = constants.chain(weights.map(|(number, stored)| weight(number, stored)));
        let ends = [self.input.clone(), self.output.clone()];
        onnx::graph(name, self.nodes.iter().cloned(), initializers, ends)
    }
}
