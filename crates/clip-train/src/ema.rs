use clip_model::{Clip, interpolate};

/// A second set of weights: the exponential moving average of a model's over its steps.
///
/// It starts as a copy. Early on it follows faster, with a decay of `(1 + step) / (10 + step)`, or the first weights
/// would weigh on it for as long as a full window.
///
/// # References
/// Polyak & Juditsky 1992; the warm-up is that of TensorFlow's `ExponentialMovingAverage`.
#[derive(Clone, Debug)]
pub struct Ema {
    /// On the device without autodiff.
    model: Clip,
    decay: f64,
}

impl Ema {
    /// Starts from `model`, which is on a device without autodiff; `decay` is in `[0, 1)`.
    pub fn new(model: Clip, decay: f64) -> Self {
        Self { model, decay }
    }

    /// Takes in the weights after `step`, counted from 1. Running statistics of batch norms are
    /// averaged too; only their count of batches is taken as it is in `model`.
    pub fn update(&mut self, model: Clip, step: u64) {
        let early = (1 + step) as f64 / (10 + step) as f64;
        self.model = interpolate(&self.model, model, 1.0 - self.decay.min(early));
    }

    /// The averaged model.
    pub fn model(&self) -> &Clip {
        &self.model
    }

    /// Puts other weights in place of the average.
    ///
    /// # Errors
    /// What `change` fails with.
    pub fn try_map<E>(self, change: impl FnOnce(Clip) -> Result<Clip, E>) -> Result<Self, E> {
        Ok(Self {
            model: change(self.model)?,
            ..self
        })
    }

    /// The averaged model.
    pub fn into_model(self) -> Clip {
        self.model
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use clip_model::ClipConfig;

    use super::*;

    fn model(seed: u64) -> Clip {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 16,
            "head_width": 8, "patch_size": 4}, "text_cfg": {"context_length": 6,
            "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}}"#;
        ClipConfig::from_json(json, "test")
            .unwrap()
            .init(seed, &Device::flex())
    }

    fn values(model: &Clip) -> Vec<f32> {
        let values = model.text.token_embedding().weight.val().into_data();
        values.try_to_vec().unwrap()
    }

    #[test]
    fn it_is_the_weighted_mean_of_all_steps() {
        let steps: Vec<Clip> = (0..4).map(model).collect();
        let mut ema = Ema::new(steps[0].clone(), 0.25);
        let mut expected = values(&steps[0]);
        for (step, model) in (1..).zip(&steps[1..]) {
            ema.update(model.clone(), step);
            // (1 + 1) / (10 + 1) is below the decay, (1 + 3) / (10 + 3) above it.
            let decay = 0.25_f64.min((1 + step) as f64 / (10 + step) as f64) as f32;
            for (mean, value) in expected.iter_mut().zip(values(model)) {
                *mean = *mean * decay + value * (1.0 - decay);
            }
        }
        for (got, want) in values(ema.model()).iter().zip(expected) {
            assert!((got - want).abs() < 1e-7, "{got}, not {want}");
        }
    }
}
