//! `clip embed`: features to a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use clip_model::{
    l2_normalize,
    weights::{replace_atomically, write_safetensors},
};
use clip_zeroshot::{ClipEncoders, PROMPT_BATCH, encode_all};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::{
    device::DeviceName,
    model::EncoderArgs,
    output,
    pictures::{BATCH, Pictures},
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("inputs").required(true).multiple(true).args(["images", "texts"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: EncoderArgs,
    /// Image files: jpg, png or webp. Their features become `image_features`, `[images, embed_dim]`.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// A file with one text a line. Their features become `text_features`, `[lines, embed_dim]`.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// The safetensors file to write: L2-normalised features as f32.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object with the shapes.
    #[arg(long)]
    json: bool,
}

/// Texts whose features are tensors at once. Those of similar length among them are encoded together.
const TEXTS: usize = 64 * PROMPT_BATCH;

/// A tensor of the file. Those of millions of images are gigabytes: they are held once.
struct Features {
    name: &'static str,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl Features {
    /// Room for so many rows.
    fn new(name: &'static str, rows: usize, encoders: &ClipEncoders) -> Self {
        let shape = [rows, encoders.config().embed_dim];
        Self {
            name,
            shape,
            bytes: Vec::with_capacity(shape[0] * shape[1] * size_of::<f32>()),
        }
    }

    /// Takes the next rows, normalised.
    fn add(&mut self, features: Tensor<2>) -> Result<()> {
        let values = l2_normalize(features).try_into_vec_as::<f32>()?;
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "{} are not finite: the model's weights are damaged",
            self.name
        );
        self.bytes
            .extend(values.into_iter().flat_map(f32::to_le_bytes));
        Ok(())
    }
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let texts = args.texts.as_deref().map(read_lines).transpose()?;
    let encoders = args.model.load(device)?;
    let mut tensors = Vec::new();
    if !args.images.is_empty() {
        tensors.push(encode_images(&encoders, &args.images)?);
    }
    if let Some(texts) = &texts {
        let truncated = encoders.count_truncated(texts);
        if truncated > 0 {
            log::warn!(
                "{truncated} of {} texts are longer than {} tokens: the model does not see their ends",
                texts.len(),
                encoders.context_length()
            );
        }
        let mut features = Features::new("text_features", texts.len(), &encoders);
        for part in texts.chunks(TEXTS) {
            features.add(encode_all(&encoders, part, PROMPT_BATCH)?)?;
        }
        tensors.push(features);
    }
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(Dtype::F32, tensor.shape.to_vec(), &tensor.bytes);
        // invariant: the bytes were just made from a tensor of that shape.
        (tensor.name, view.expect("invariant: bytes fit their shape"))
    });
    replace_atomically(&args.out, |partial| write_safetensors(partial, views, []))?;
    if args.json {
        let mut shapes = json!({ "out": args.out.display().to_string() });
        for tensor in &tensors {
            shapes[tensor.name] = json!(tensor.shape);
        }
        return output::line(&shapes.to_string());
    }
    for Features { name, shape, .. } in &tensors {
        output::line(&format!("{name} {shape:?}"))?;
    }
    Ok(())
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: give a UTF-8 file with one text a line",
            path.display()
        )
    })?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(
        !lines.is_empty(),
        "{} holds no text: write one a line",
        path.display()
    );
    Ok(lines)
}

fn encode_images(encoders: &ClipEncoders, paths: &[PathBuf]) -> Result<Features> {
    let mut pictures = Pictures::new(encoders);
    let mut features = Features::new("image_features", paths.len(), encoders);
    for paths in paths.chunks(BATCH) {
        let mut pixels = Vec::new();
        for path in paths {
            pixels.extend(pictures.read(path)?);
        }
        features.add(encoders.encode_images(pixels))?;
    }
    Ok(features)
}
