//! Writes a model directory with random weights and the features of some inputs, for
//! `tests/reference/openclip_features.py`: `cargo run --release --example parity -- PRESET DIR`.

use std::{error::Error, path::Path};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Int, Tensor, TensorData},
};
use clip_model::{ClipConfig, Preprocess, encoder::ImageEncoder, weights::ModelDir};
use safetensors::{Dtype, tensor::TensorView};

const BATCH: usize = 2;

/// A number from 0 to 1 that looks like chance.
fn noise(index: usize) -> f32 {
    (index * index / 7 * 7919 % 1013) as f32 / 1013.0
}

/// Moves gains, biases, layer scales and running statistics off the special values they begin with.
#[derive(Default)]
struct Unsettle {
    /// Whether the module at hand is a layer scale of three axes.
    scales: bool,
}

impl ModuleMapper for Unsettle {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.scales = container_type == "Struct:ChannelScale";
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.scales = false;
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D > 1 && !self.scales {
            return param;
        }
        param.map(|values| {
            let count = values.shape().num_elements();
            let shift: Vec<f32> = (0..count).map(|index| 0.1 * noise(index)).collect();
            let shift = TensorData::new(shift, values.shape());
            values.clone() + Tensor::from_data(shift, &values.device())
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [preset, dir] = args.as_slice() else {
        return Err("usage: parity PRESET DIR".into());
    };
    let config = ClipConfig::load(preset)?;
    let device = Device::flex();
    let mut model = config.init(0, &device).map(&mut Unsettle::default());
    // These begin so small that the bias would hide what is projected.
    let head = match &mut model.visual {
        ImageEncoder::Eva(encoder) => Some(&mut encoder.trunk.head),
        ImageEncoder::FastVit(encoder) => Some(&mut encoder.trunk.head.fc),
        _ => None,
    };
    if let Some(head) = head {
        head.weight = head.weight.clone().map(|weight| weight * 1000.0);
    }
    let dir = Path::new(dir);
    ModelDir::save(dir, &config, Preprocess::default(), &model)?;

    let side = config.vision_cfg.image_size;
    let pixels: Vec<f32> = (0..BATCH * 3 * side * side)
        .map(|index| 4.0 * noise(index) - 2.0)
        .collect();
    let (context, vocabulary) = (config.text_cfg.context_length, config.text_cfg.vocab_size);
    let mut tokens = vec![0; BATCH * context];
    for (row, tokens) in tokens.chunks_exact_mut(context).enumerate() {
        let length = context / (row + 2);
        for (place, token) in tokens[..length].iter_mut().enumerate() {
            *token = (noise(97 * row + place) * (vocabulary - 3) as f32) as i32 + 1;
        }
        (tokens[0], tokens[length - 1]) = (vocabulary as i32 - 2, vocabulary as i32 - 1);
    }
    let images = Tensor::<4>::from_data(
        TensorData::new(pixels.clone(), [BATCH, 3, side, side]),
        &device,
    );
    let texts = TensorData::new(tokens.clone(), [BATCH, context]);
    let texts = Tensor::<2, Int>::from_data(texts, &device);
    let image_features = model
        .encode_image(images.clone())
        .into_data()
        .try_to_vec::<f32>()?;
    let text_features = model
        .encode_text(texts.clone())
        .into_data()
        .try_to_vec::<f32>()?;

    let floats =
        |values: Vec<f32>| -> Vec<u8> { values.into_iter().flat_map(f32::to_le_bytes).collect() };
    let tokens: Vec<u8> = tokens.into_iter().flat_map(i32::to_le_bytes).collect();
    let features = vec![BATCH, config.embed_dim];
    let mut arrays = vec![
        (
            "images",
            Dtype::F32,
            vec![BATCH, 3, side, side],
            floats(pixels),
        ),
        ("tokens", Dtype::I32, vec![BATCH, context], tokens),
        (
            "image_features",
            Dtype::F32,
            features.clone(),
            floats(image_features),
        ),
        ("text_features", Dtype::F32, features, floats(text_features)),
    ];
    if model.text_decoder.is_some() {
        let logits = model.caption_logits(images, &texts);
        let shape = logits.dims().to_vec();
        let logits = logits.into_data().try_to_vec::<f32>()?;
        arrays.push(("caption_logits", Dtype::F32, shape, floats(logits)));
    }
    let views = arrays
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(
        dir.join("parity.safetensors"),
        safetensors::serialize(views, None)?,
    )?;
    Ok(())
}
