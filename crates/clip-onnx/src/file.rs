//! A graph as one file, or as two where one would be too large.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::Path,
};

use crate::{
    OnnxError,
    graph::Graph,
    onnx,
    proto::Message,
    weights::{Weight, Weights},
};

/// Most bytes of a protobuf message that its parsers take: 2 GiB less one.
pub(crate) const LARGEST_MESSAGE: u64 = i32::MAX as u64;
/// What a weight's place in a file of its own is a multiple of, so that it can be mapped into memory. 4096: `onnx.proto3`.
const PAGE: u64 = 4096;

/// What a file says of itself.
const ABOUT: &str = "One of a CLIP model's two encoders. Outputs are L2-normalised. A logit is exp(logit_scale) times the \
    dot product of an image's and a text's, plus logit_bias where the metadata has one.";

/// Writes a graph as one file, or as two if it is larger than `limit`, in bytes.
pub(crate) fn write(
    graph: &Graph<'_>,
    metadata: &[(&str, String)],
    path: &Path,
    limit: u64,
) -> Result<(), OnnxError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let element_type = graph.weights.element_type();
    let inside = graph.message(&name, |_, weight| onnx::weight(weight, element_type));
    let inside = onnx::model(inside, ABOUT, metadata);
    if inside.len() <= limit {
        return Ok(
            write_message(&inside, graph.weights, path).map_err(clip_files::io("write", path))?
        );
    }
    let data = path.with_added_extension("data");
    let data_name = data.file_name().unwrap_or_default().to_string_lossy();
    let offsets = offsets(graph.stored_weights());
    let outside = graph.message(&name, |number, weight| {
        onnx::external_weight(weight, element_type, &data_name, offsets[number])
    });
    let outside = onnx::model(outside, ABOUT, metadata);
    write_data(graph, &offsets, &data).map_err(clip_files::io("write", &data))?;
    Ok(write_message(&outside, graph.weights, path).map_err(clip_files::io("write", path))?)
}

fn write_message(message: &Message, weights: Weights<'_>, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    message.write(&weights, &mut file)?;
    file.flush()
}

fn write_data(graph: &Graph<'_>, offsets: &[u64], path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (weight, offset) in graph.stored_weights().iter().zip(offsets) {
        file.seek(SeekFrom::Start(*offset))?;
        file.write_all(&graph.weights.read(weight))?;
    }
    file.flush()
}

/// Where each weight begins: on a page of its own, one after the other.
fn offsets(weights: &[Weight]) -> Vec<u64> {
    let mut end = 0_u64;
    let offsets = weights.iter().map(|weight| {
        let offset = end.next_multiple_of(PAGE);
        end = offset + weight.bytes;
        offset
    });
    offsets.collect()
}
