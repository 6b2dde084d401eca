use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::{
    ClassNames, EncodeTexts, Prompts, Templates, ZeroShotError,
    encoder::{PROMPT_BATCH, encode_by_length},
    features::{finite_rows, from_host, normalize_in_place},
    head_file,
};

/// What a head depends on. Two heads with one key are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadKey {
    /// Hash of the model, from [`EncodeTexts::model_hash`].
    pub model: String,
    /// SHA-256 of the class names.
    pub names: String,
    /// SHA-256 of the templates.
    pub templates: String,
}

impl HeadKey {
    /// The key of the head that would be built from these.
    pub fn new<E: EncodeTexts + ?Sized>(
        encoder: &E,
        names: &ClassNames,
        templates: &Templates,
    ) -> Self {
        Self {
            model: encoder.model_hash(),
            names: names.hash(),
            templates: templates.hash(),
        }
    }
}

/// A zero-shot classifier: one direction in the joint space for each class.
///
/// # References
/// Radford et al. 2021, sections 3.1.2 and 3.1.4; OpenCLIP's `build_zero_shot_classifier`.
#[derive(Clone, Debug)]
pub struct ClassifierHead {
    weights: Tensor<2>,
    names: Vec<String>,
}

impl ClassifierHead {
    /// Encodes every name in every template; normalises each prompt's feature, averages a class's, and
    /// normalises the average.
    ///
    /// The head is on the device of the encoder's features. Averages are made in f64, and no more than one
    /// batch of prompts is held at a time.
    ///
    /// # Errors
    /// The encoder's, and [`ZeroShotError::NotFinite`] naming the prompt whose feature is not finite.
    pub fn build<E: EncodeTexts + ?Sized>(
        encoder: &E,
        names: &ClassNames,
        templates: &Templates,
    ) -> Result<Self, ZeroShotError> {
        let (head, _) = Self::build_each(encoder, names, templates, false)?;
        Ok(head)
    }

    /// The head of all templates and, if asked for, the head of each template alone, from one encoding.
    pub(crate) fn build_each<E: EncodeTexts + ?Sized>(
        encoder: &E,
        names: &ClassNames,
        templates: &Templates,
        alone: bool,
    ) -> Result<(Self, Vec<Self>), ZeroShotError> {
        let prompts = Prompts::new(names, templates);
        let classes = names.len();
        let mut sums: Vec<f64> = Vec::new();
        let mut singles: Vec<Vec<f32>> = vec![Vec::new(); if alone { templates.len() } else { 0 }];
        let mut device = None;
        let mut embed_dim = 0;
        encode_by_length(
            encoder,
            prompts.texts(),
            PROMPT_BATCH,
            |positions, features| {
                device.get_or_insert_with(|| features.device());
                [_, embed_dim] = features.dims();
                sums.resize(classes * embed_dim, 0.0);
                let rows = finite_rows(features, |row| {
                    format!(
                        "the feature of the prompt `{}`",
                        prompts.texts()[positions[row]]
                    )
                })?;
                for (row, &position) in rows.chunks_exact(embed_dim).zip(positions) {
                    let (class, template) = prompts.class_and_template(position);
                    let mut direction: Vec<f64> = row.iter().map(|&value| value.into()).collect();
                    normalize_in_place(&mut direction);
                    if let Some(single) = singles.get_mut(template) {
                        single.resize(classes * embed_dim, 0.0);
                        put_column(single, class, classes, &direction);
                    }
                    let sum = &mut sums[class * embed_dim..][..embed_dim];
                    for (sum, value) in sum.iter_mut().zip(direction) {
                        *sum += value;
                    }
                }
                Ok(())
            },
        )?;
        // There is a class and a template, so there was a batch.
        let device = device.ok_or(ZeroShotError::NoSamples)?;
        let mut weights = vec![0.0; sums.len()];
        for (class, mean) in sums.chunks_exact_mut(embed_dim.max(1)).enumerate() {
            // The length goes away, so the sum serves as the mean.
            normalize_in_place(mean);
            put_column(&mut weights, class, classes, mean);
        }

        let head = |weights| Self {
            weights: from_host(weights, [embed_dim, classes], &device),
            names: names.as_slice().to_vec(),
        };
        Ok((head(weights), singles.into_iter().map(head).collect()))
    }

    /// The head from a file if that has the right key, else a new one, written to the file.
    ///
    /// A damaged or stale file is replaced. Returns whether the file was used.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`save`](Self::save).
    pub fn load_or_build<E: EncodeTexts + ?Sized>(
        path: &Path,
        encoder: &E,
        names: &ClassNames,
        templates: &Templates,
        device: &Device,
    ) -> Result<(Self, bool), ZeroShotError> {
        let key = HeadKey::new(encoder, names, templates);
        if let Ok(head) = Self::load(path, &key, device) {
            return Ok((head, true));
        }
        let head = Self::build(encoder, names, templates)?;
        head.save(path, &key)?;
        Ok((head, false))
    }

    /// Writes the head as a safetensors file, whole or not at all. `key` says what it was built from; it is not
    /// part of a head because the model's hash costs a pass over its weights.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`] when the folder can't be written.
    pub fn save(&self, path: &Path, key: &HeadKey) -> Result<(), ZeroShotError> {
        head_file::save(path, self.weights.clone(), &self.names, key)
    }

    /// Reads a head that [`save`](Self::save) wrote, which must have been built from what `expected` says.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], [`ZeroShotError::CorruptHead`], or [`ZeroShotError::StaleHead`] naming what
    /// has changed since.
    pub fn load(path: &Path, expected: &HeadKey, device: &Device) -> Result<Self, ZeroShotError> {
        let (head, key) = Self::load_any(path, device)?;
        for (what, expected, got) in [
            ("model weights", &expected.model, &key.model),
            ("class names", &expected.names, &key.names),
            ("templates", &expected.templates, &key.templates),
        ] {
            if expected != got {
                return Err(ZeroShotError::StaleHead {
                    path: path.to_owned(),
                    what,
                    expected: expected.clone(),
                    got: got.clone(),
                });
            }
        }
        Ok(head)
    }

    /// Reads a head that [`save`](Self::save) wrote, and what it was built from.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`] or [`ZeroShotError::CorruptHead`].
    pub(crate) fn load_any(path: &Path, device: &Device) -> Result<(Self, HeadKey), ZeroShotError> {
        let (weights, names, key) = head_file::load(path, device)?;
        Ok((Self { weights, names }, key))
    }

    /// One column for each class, L2-normalised.
    ///
    /// # Shapes
    /// - `[embed_dim, classes]`
    pub fn weights(&self) -> Tensor<2> {
        self.weights.clone()
    }

    /// The classes' names, in the order of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Moves the head to where the image features are.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            weights: self.weights.to_device(device),
            ..self
        }
    }
}

fn put_column(matrix: &mut [f32], column: usize, columns: usize, values: &[f64]) {
    let places = matrix[column..].iter_mut().step_by(columns);
    for (place, &value) in places.zip(values) {
        *place = value as f32;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{DuplicateNames, encoder::tests::FakeEncoder};

    pub(crate) fn names(text: &str) -> ClassNames {
        ClassNames::from_text(text, "names", DuplicateNames::Refuse).unwrap()
    }

    pub(crate) fn templates(text: &str) -> Templates {
        Templates::from_text(text, "templates").unwrap()
    }

    pub(crate) fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().unwrap()
    }

    fn encoder() -> FakeEncoder {
        FakeEncoder::new([
            ("a cat", vec![3.0, 0.0, 0.0]),
            ("my cat", vec![0.0, 0.2, 0.0]),
            ("a dog", vec![0.0, 0.0, 5.0]),
            ("my dog", vec![0.0, 0.0, 1.0]),
        ])
    }

    #[test]
    fn prompts_count_by_direction_not_by_length() {
        let head = ClassifierHead::build(&encoder(), &names("cat\ndog"), &templates("a {}\nmy {}"))
            .unwrap();
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(head.weights().dims(), [3, 2]);
        assert_eq!(values(head.weights()), [half, 0.0, half, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn permuting_classes_permutes_columns() {
        let templates = templates("a {}\nmy {}");
        let forth = ClassifierHead::build(&encoder(), &names("cat\ndog"), &templates).unwrap();
        let back = ClassifierHead::build(&encoder(), &names("dog\ncat"), &templates).unwrap();
        assert_eq!(values(forth.weights().flip([1])), values(back.weights()));
        assert_eq!(back.names(), ["dog", "cat"]);
    }

    #[test]
    fn a_prompt_whose_feature_is_no_number_is_named() {
        let encoder = FakeEncoder::new([("a cat", vec![1.0, 0.0]), ("a dog", vec![f32::NAN, 0.0])]);
        let error =
            ClassifierHead::build(&encoder, &names("cat\ndog"), &templates("a {}")).unwrap_err();
        assert!(error.to_string().contains("prompt `a dog`"), "{error}");
    }

    #[test]
    fn a_cached_head_is_used_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.safetensors");
        let (names, templates) = (names("cat\ndog"), templates("a {}"));
        let mut encoder = encoder();
        let device = Device::flex();
        let used = |encoder: &FakeEncoder| {
            let (head, used) =
                ClassifierHead::load_or_build(&path, encoder, &names, &templates, &device).unwrap();
            assert_eq!(values(head.weights()), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
            used
        };
        assert!(!used(&encoder));
        assert!(used(&encoder));
        assert_eq!(encoder.asked.borrow().len(), 1);
        encoder.model = "model-2".to_owned();
        assert!(!used(&encoder));
        std::fs::write(&path, "torn").unwrap();
        assert!(!used(&encoder));
        assert!(used(&encoder));
    }
}
