//! `clip weights inspect`: what weights there are.

use std::path::Path;

use anyhow::{Result, ensure};
use clip_model::{
    ClipConfig,
    weights::{WeightsFile, is_buffer, parameter_shapes, without_local_dir},
};
use clip_train::CheckpointModel;
use serde::Serialize;

use crate::{device, output};

/// Parameters of a model whose shapes are listed, which takes memory for all of them. The largest that was published
/// has 18 billion (EVA-CLIP-18B).
const MOST_PARAMETERS: usize = 100_000_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A preset, a JSON file of one, a folder with a model, or a file of weights: safetensors (or the index of
    /// several), PyTorch or TorchScript; or a checkpoint of a run, RUN/checkpoints/step-N.
    #[arg(value_name = "PRESET|DIR|FILE")]
    what: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    /// Numbers in all tensors but buffers.
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
            .filter(|tensor| !is_buffer(&tensor.name))
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum();
        Self { params, tensors }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
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
    let what = without_local_dir(what);
    let of_run = CheckpointModel::open(Path::new(what))?;
    let path = of_run
        .as_ref()
        .map_or(Path::new(what), |model| &model.weights);
    // The index of several files is JSON too, and named so by all who write one.
    let is_config = path
        .extension()
        .is_some_and(|extension| extension == "json")
        && !what.ends_with(".index.json");
    if path.is_dir() || (path.is_file() && !is_config) {
        let file = WeightsFile::open(path)?;
        return Ok(Inspected::new(file.tensors().map(
            |(name, dtype, shape)| TensorInfo {
                name: name.to_owned(),
                dtype: format!("{dtype:?}"),
                shape: shape.to_vec(),
            },
        )));
    }
    let config = ClipConfig::load(what)?;
    let parameters = config.num_params();
    ensure!(
        parameters <= MOST_PARAMETERS,
        "{what} describes a model of {parameters} parameters, and at most {MOST_PARAMETERS} are listed: reduce its \
         widths or its layers"
    );
    // Tensors have no place but a device, and any serves.
    let model = config.init_blank(&device::open(None)?.device);
    let tensors = parameter_shapes(&model).into_iter();
    Ok(Inspected::new(tensors.map(|(name, shape)| TensorInfo {
        name,
        dtype: "F32".to_owned(),
        shape,
    })))
}
