use clip_model::{Interpolation, Preprocess, ResizeMode};
use serde::{Deserialize, Deserializer};

/// [`Preprocess`] as a run's settings give it, where a key that means nothing is a mistake. In a model's file it isn't: that
/// has keys of `OpenCLIP`'s that nothing here needs.
#[derive(Deserialize)]
#[serde(
    remote = "Preprocess",
    default = "Preprocess::default",
    deny_unknown_fields
)]
struct Settings {
    mean: [f32; 3],
    std: [f32; 3],
    interpolation: Interpolation,
    resize_mode: ResizeMode,
}

/// serde knows `with` for a field, not for what is in an `Option`.
#[derive(Deserialize)]
struct Given(#[serde(with = "Settings")] Preprocess);

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Preprocess>, D::Error> {
    let given = Option::<Given>::deserialize(deserializer)?;
    Ok(given.map(|Given(preprocess)| preprocess))
}
