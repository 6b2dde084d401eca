//! `clip embed`: features to a file.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Tensor;
use clip_model::{l2_normalize, weights::write_safetensors};
use clip_zeroshot::{ClipEncoders, PROMPT_BATCH, encode_all};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::{
    device::DeviceName,
    model::EncoderArgs,
    output,
    pictures::{self, Pictures},
    usage::WrongUsage,
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("inputs").required(true).multiple(true).args(["images", "texts"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: EncoderArgs,
    /// Images (jpg, png, webp, gif or bmp): files, folders, globs, or `-` for a list on stdin, a path a line. Their features
    /// become `image_features`, `[images, embed_dim]`, and their paths `image_paths`, a JSON list as bytes.
    #[arg(long, value_name = "IMAGE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// A file with one text a line, or `-` for stdin. Their features become `text_features`, `[lines, embed_dim]`.
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

/// How often it is said how far the images are.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Features as they stand in the file. Those of millions of images are gigabytes: they are held once.
struct Features {
    name: &'static str,
    width: usize,
    bytes: Vec<u8>,
}

impl Features {
    /// Room for so many rows.
    fn new(name: &'static str, rows: usize, encoders: &ClipEncoders) -> Self {
        let width = encoders.config().embed_dim;
        Self {
            name,
            width,
            bytes: Vec::with_capacity(rows * width * size_of::<f32>()),
        }
    }

    /// `[rows, embed_dim]`.
    fn shape(&self) -> [usize; 2] {
        let rows = self.bytes.len() / (self.width * size_of::<f32>());
        [rows, self.width]
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
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    if args.texts.as_ref().is_some_and(is_stdin) && args.images.iter().any(is_stdin) {
        let reason = "--images and --texts both read stdin: give a file for one of them";
        return Err(WrongUsage(reason.to_owned()).into());
    }
    clip_files::check_writable(&args.out)?;
    let texts = args.texts.as_deref().map(read_lines).transpose()?;
    let images = match args.images.as_slice() {
        [] => Vec::new(),
        named => pictures::find(named)?,
    };
    let encoders = args.model.load(device)?;
    let mut tensors = Vec::new();
    let mut read = Vec::new();
    if !images.is_empty() {
        let (features, paths) = encode_images(&encoders, &images)?;
        ensure!(
            !paths.is_empty(),
            "none of the images could be read, so nothing is written"
        );
        tensors.push(features);
        read = paths;
    }
    if let Some(texts) = &texts {
        tensors.push(encode_texts(&encoders, texts)?);
    }
    write(&args.out, &tensors, &read)?;
    print(&args.out, &tensors, args.json)?;
    let bad = images.len() - read.len();
    if bad > 0 {
        bail!(
            "{bad} of {} images could not be read: {} has no rows of them",
            images.len(),
            args.out.display()
        );
    }
    Ok(())
}

fn write(out: &Path, tensors: &[Features], images: &[String]) -> Result<()> {
    // No metadata, which readers refuse beyond 100 MB: paths of a million images.
    let paths = json!(images).to_string();
    let named = (!images.is_empty()).then_some((
        "image_paths",
        Dtype::U8,
        vec![paths.len()],
        paths.as_bytes(),
    ));
    let features = tensors.iter().map(|tensor| {
        (
            tensor.name,
            Dtype::F32,
            tensor.shape().to_vec(),
            tensor.bytes.as_slice(),
        )
    });
    let views = features.chain(named).map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(dtype, shape, bytes);
        // invariant: the shape was just made from the bytes.
        (name, view.expect("invariant: bytes fit their shape"))
    });
    clip_files::replace_with(out, |partial| write_safetensors(partial, views, []))?;
    Ok(())
}

fn print(out: &Path, tensors: &[Features], as_json: bool) -> Result<()> {
    if as_json {
        let mut shapes = json!({ "out": out.display().to_string() });
        for tensor in tensors {
            shapes[tensor.name] = json!(tensor.shape());
        }
        return output::line(&shapes.to_string());
    }
    for tensor in tensors {
        output::line(&format!("{} {:?}", tensor.name, tensor.shape()))?;
    }
    Ok(())
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| {
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

fn encode_texts(encoders: &ClipEncoders, texts: &[String]) -> Result<Features> {
    let truncated = encoders.count_truncated(texts);
    if truncated > 0 {
        log::warn!(
            "{truncated} of {} texts are longer than {} tokens: the model does not see their ends",
            texts.len(),
            encoders.context_length()
        );
    }
    let mut features = Features::new("text_features", texts.len(), encoders);
    for part in texts.chunks(TEXTS) {
        features.add(encode_all(encoders, part, PROMPT_BATCH)?)?;
    }
    Ok(features)
}

/// Features of the images that can be read, and their paths. The others are named.
fn encode_images(encoders: &ClipEncoders, images: &[PathBuf]) -> Result<(Features, Vec<String>)> {
    let mut features = Features::new("image_features", images.len(), encoders);
    let mut paths = Vec::new();
    let mut told = Instant::now();
    pictures::in_batches(images, Pictures::new(encoders), |positions, pixels| {
        features.add(encoders.encode_images(pixels))?;
        let read = positions.iter();
        paths.extend(read.map(|&at| images[at].display().to_string()));
        if told.elapsed() >= TELL_EVERY {
            log::info!("{} of {} images encoded", paths.len(), images.len());
            told = Instant::now();
        }
        Ok(())
    })?;
    Ok((features, paths))
}
