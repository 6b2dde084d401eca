//! Protobuf's encoding, as much of it as ONNX's messages need.
//!
//! # References
//! [protobuf.dev](https://protobuf.dev/programming-guides/encoding/).

use std::io::{self, Write};

use crate::weights::{Weight, Weights};

/// A message under construction. Weights have their place in it, but are read when it is written: it may be larger than
/// memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Weight(Weight),
}

/// How a field's value is written.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Length = 2,
    Fixed32 = 5,
}

impl Message {
    pub(crate) fn int(mut self, field: u32, value: i64) -> Self {
        self.tag(field, Wire::Varint);
        self.varint(value as u64);
        self
    }

    /// A repeated field, a tag for each value: what parsers of any version read.
    pub(crate) fn ints(self, field: u32, values: impl IntoIterator<Item = i64>) -> Self {
        let values = values.into_iter();
        values.fold(self, |message, value| message.int(field, value))
    }

    pub(crate) fn float(mut self, field: u32, value: f32) -> Self {
        self.tag(field, Wire::Fixed32);
        self.tail().extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, Wire::Length);
        self.varint(value.len() as u64);
        self.tail().extend(value);
        self
    }

    pub(crate) fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn texts(self, field: u32, values: &[&str]) -> Self {
        let values = values.iter();
        values.fold(self, |message, value| message.text(field, value))
    }

    pub(crate) fn message(mut self, field: u32, value: Self) -> Self {
        self.tag(field, Wire::Length);
        self.varint(value.len());
        for piece in value.0 {
            match piece {
                Piece::Bytes(bytes) => self.tail().extend(bytes),
                weight @ Piece::Weight(_) => self.0.push(weight),
            }
        }
        self
    }

    pub(crate) fn messages(self, field: u32, values: impl IntoIterator<Item = Self>) -> Self {
        let values = values.into_iter();
        values.fold(self, |message, value| message.message(field, value))
    }

    /// A weight's bytes.
    pub(crate) fn weight(mut self, field: u32, value: Weight) -> Self {
        self.tag(field, Wire::Length);
        self.varint(value.bytes);
        self.0.push(Piece::Weight(value));
        self
    }

    /// In bytes.
    pub(crate) fn len(&self) -> u64 {
        let lengths = self.0.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Weight(weight) => weight.bytes,
        });
        lengths.sum()
    }

    pub(crate) fn write(&self, weights: &Weights<'_>, out: &mut impl Write) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => out.write_all(bytes)?,
                Piece::Weight(weight) => out.write_all(&weights.read(weight))?,
            }
        }
        Ok(())
    }

    fn tag(&mut self, field: u32, wire: Wire) {
        self.varint(u64::from(field << 3 | wire as u32));
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        let tail = self.tail();
        while value >= 0x80 {
            tail.push(value as u8 | 0x80);
            value >>= 7;
        }
        tail.push(value as u8);
    }

    /// The bytes that are written last so far.
    fn tail(&mut self) -> &mut Vec<u8> {
        if !matches!(self.0.last(), Some(Piece::Bytes(_))) {
            self.0.push(Piece::Bytes(Vec::new()));
        }
        match self.0.last_mut() {
            Some(Piece::Bytes(bytes)) => bytes,
            _ => unreachable!("pushed above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: &Message) -> &[u8] {
        match message.0.as_slice() {
            [Piece::Bytes(bytes)] => bytes,
            _ => panic!("bytes alone"),
        }
    }

    /// The examples of protobuf's own description of its encoding, and the ten bytes of a negative number.
    #[test]
    fn fields_are_encoded_as_protobuf_describes() {
        let number = Message::default().int(1, 150);
        assert_eq!(bytes(&number), [0x08, 0x96, 0x01]);
        let text = Message::default().text(2, "testing");
        assert_eq!(bytes(&text), b"\x12\x07testing");
        let outer = Message::default().message(3, number);
        assert_eq!(bytes(&outer), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(outer.len(), 5);
        let negative = Message::default().int(1, -1);
        let mut expected = vec![0x08];
        expected.extend([0xff; 9]);
        expected.push(0x01);
        assert_eq!(bytes(&negative), expected);
        let float = Message::default().float(2, 1.0);
        assert_eq!(bytes(&float), [0x15, 0, 0, 0x80, 0x3f]);
    }
}
