//! `clip weights`: what weights there are.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use clip_model::{
    ClipConfig,
    weights::{WEIGHTS_FILE, parameter_shapes},
};
use safetensors::SafeTensors;
use serde::Serialize;

use crate::{device, output};

#[derive(clap::Subcommand)]
pub(crate) enum Weights {
    /// Count parameters and list tensors, of a preset, a model directory or a safetensors file.
    Inspect(InspectArgs),
}

#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// A preset, a JSON file of one, a model directory or a safetensors file.
    #[arg(value_name = "PRESET|DIR|FILE")]
    what: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    /// Numbers in all tensors.
    params: usize,
    tensors: Vec<TensorInfo>,
}

#[derive(Serialize)]
struct TensorInfo {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Inspected {
    fn new(tensors: impl Iterator<Item = TensorInfo>) -> Self {
        let mut tensors: Vec<TensorInfo> = tensors.collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let params = tensors
            .iter()
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum();
        Self { params, tensors }
    }
}

pub(crate) fn run(weights: &Weights) -> Result<()> {
    let Weights::Inspect(args) = weights;
    let found = inspect(&args.what)?;
    if args.json {
        return output::line(&serde_json::to_string(&found)?);
    }
    let rows: Vec<_> = found
        .tensors
        .iter()
        .map(|tensor| {
            let shape = format!("{:?}", tensor.shape);
            [tensor.name.clone(), tensor.dtype.clone(), shape]
        })
        .collect();
    output::table(&rows)?;
    output::line(&format!(
        "{} tensors, {} parameters",
        found.tensors.len(),
        found.params
    ))
}

fn inspect(what: &str) -> Result<Inspected> {
    let path = Path::new(what);
    if path.is_dir() {
        let file = path.join(WEIGHTS_FILE);
        let read = read(&file);
        return read.with_context(|| format!("{what} is no model directory with usable weights"));
    }
    if path.is_file() && path.extension().is_none_or(|extension| extension != "json") {
        return read(path);
    }
    let config = ClipConfig::load(what)?;
    // Tensors have no place but a device, and any serves.
    let model = config.init_blank(&device::open(None)?.device);
    let tensors = parameter_shapes(&model).into_iter();
    Ok(Inspected::new(tensors.map(|(name, shape)| TensorInfo {
        name,
        dtype: "F32".to_owned(),
        shape,
    })))
}

fn read(path: &Path) -> Result<Inspected> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_bytes(&bytes, path)
}

fn from_bytes(bytes: &[u8], path: &Path) -> Result<Inspected> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        anyhow!(
            "{} is not a readable safetensors file ({error}): fetch or convert it again",
            path.display()
        )
    })?;
    Ok(Inspected::new(file.iter().map(|(name, tensor)| {
        TensorInfo {
            name: name.to_owned(),
            dtype: format!("{:?}", tensor.dtype()),
            shape: tensor.shape().to_vec(),
        }
    })))
}
