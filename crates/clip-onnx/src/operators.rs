//! ONNX's operators by short names. Shapes are told by 0 and -1, so that a batch may have any size.

use crate::{
    graph::{Graph, Value},
    onnx::{Attribute, ElementType},
};

impl Graph<'_> {
    pub(crate) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], &[])
    }

    pub(crate) fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], &[])
    }

    /// Each number times one.
    pub(crate) fn scale(&mut self, x: &Value, factor: f64) -> Value {
        let factor = self.float(factor);
        self.mul(x, &factor)
    }

    /// Each number plus one.
    pub(crate) fn shift(&mut self, x: &Value, summand: f64) -> Value {
        let summand = self.float(summand);
        self.add(x, &summand)
    }

    pub(crate) fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", &[a, b], &[])
    }

    pub(crate) fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", &[x], &[("axis", Attribute::Int(-1))])
    }

    /// 0 keeps an axis, -1 is what is left.
    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    pub(crate) fn transpose(&mut self, x: &Value, axes: &[i64]) -> Value {
        self.node("Transpose", &[x], &[("perm", Attribute::Ints(axes))])
    }

    /// Parts side by side along the last axis.
    pub(crate) fn split<const N: usize>(&mut self, x: &Value, sizes: [usize; N]) -> [Value; N] {
        let sizes = self.ints(&sizes.map(|size| size as i64));
        self.nodes_of("Split", &[x, &sizes], &[("axis", Attribute::Int(-1))])
    }

    pub(crate) fn concat(&mut self, parts: &[&Value], axis: i64) -> Value {
        self.node("Concat", parts, &[("axis", Attribute::Int(axis))])
    }

    /// Rows by their places along an axis.
    pub(crate) fn gather(&mut self, x: &Value, places: &Value, axis: i64) -> Value {
        self.node("Gather", &[x, places], &[("axis", Attribute::Int(axis))])
    }

    /// The length of one axis, `[1]`.
    pub(crate) fn length(&mut self, x: &Value, axis: i64) -> Value {
        let range = [
            ("start", Attribute::Int(axis)),
            ("end", Attribute::Int(axis + 1)),
        ];
        self.node("Shape", &[x], &range)
    }

    /// The beginning of each of the axes, up to the length of each.
    pub(crate) fn beginning(&mut self, x: &Value, lengths: &Value, axes: &[i64]) -> Value {
        let starts = self.ints(&vec![0; axes.len()]);
        let axes = self.ints(axes);
        self.node("Slice", &[x, &starts, lengths, &axes], &[])
    }

    /// All but the first along an axis.
    pub(crate) fn without_first(&mut self, x: &Value, axis: i64) -> Value {
        let [start, end, axis] = [1, i64::MAX, axis].map(|value| self.ints(&[value]));
        self.node("Slice", &[x, &start, &end, &axis], &[])
    }

    pub(crate) fn mean(&mut self, x: &Value, axes: &[i64], keep_axes: bool) -> Value {
        let attributes = [
            ("axes", Attribute::Ints(axes)),
            ("keepdims", Attribute::Int(keep_axes.into())),
        ];
        self.node("ReduceMean", &[x], &attributes)
    }

    /// The place of the highest in each row, the first if there are several: `[batch, tokens]` to `[batch, 1]`.
    pub(crate) fn argmax(&mut self, x: &Value) -> Value {
        self.node("ArgMax", &[x], &[("axis", Attribute::Int(1))])
    }

    pub(crate) fn cast(&mut self, x: &Value, to: ElementType) -> Value {
        self.node("Cast", &[x], &[("to", Attribute::Int(to as i64))])
    }
}
