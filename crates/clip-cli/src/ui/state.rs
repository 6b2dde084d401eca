//! What the page's requests ask of the model. Each method computes on the calling thread.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use clip_data::{FaultKind, MAX_NAMED_PIXELS, decode_within};
use clip_zeroshot::{ClassNames, Classifier, ClipEncoders, Templates};
use serde_json::{Value, json};

use crate::{classes, pictures::Pictures, search};

/// Labels and images shown.
const TOP: usize = 48;
/// Labels of one request: more is no page of a person's own labels.
const MOST_LABELS: usize = 1000;

/// An indexed folder.
pub(super) struct Folder {
    /// Canonical.
    pub(super) dir: PathBuf,
    pub(super) index: search::Index,
}

/// The model and the folder behind the page.
pub(super) struct State {
    model: String,
    folder: Option<Folder>,
    /// One request at a time: the model uses all of the machine for one.
    engine: Mutex<Engine>,
}

struct Engine {
    encoders: ClipEncoders,
    pictures: Pictures,
    /// The classifier of the last labels: a person drops many pictures on the same ones.
    classifier: Option<(Vec<String>, Classifier)>,
}

/// Why a request gets no answer: the fault of who asks, or ours.
pub(super) enum Refusal {
    Request(String),
    NotFound(String),
    Failure(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

impl State {
    pub(super) fn new(encoders: ClipEncoders, model: &str, folder: Option<Folder>) -> Self {
        Self {
            model: model.to_owned(),
            folder,
            engine: Mutex::new(Engine {
                pictures: Pictures::new(&encoders),
                encoders,
                classifier: None,
            }),
        }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic leaves the model as it was: it is only read.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the page shows at its head.
    pub(super) fn about(&self) -> Value {
        let folder = self.folder.as_ref();
        json!({
            "model": self.model,
            "folder": folder.map(|folder| folder.dir.display().to_string()),
            "images": folder.map(|folder| folder.index.images().len()),
        })
    }

    /// Probabilities of labels, given one a line, for an image file.
    pub(super) fn classify(&self, labels: &str, image: &[u8]) -> Result<Value, Refusal> {
        let labels: Vec<String> = labels
            .lines()
            .map(str::trim)
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect();
        if labels.len() > MOST_LABELS {
            return Err(Refusal::Request(format!("more than {MOST_LABELS} labels")));
        }
        let names = ClassNames::from_list(&labels, "the labels");
        let names = names.map_err(|error| Refusal::Request(error.to_string()))?;
        let mut engine = self.engine();
        let pixels = engine.pixels(image)?;
        if !matches!(&engine.classifier, Some((known, _)) if *known == labels) {
            let templates = Templates::default();
            let classifier = classes::classifier(&engine.encoders, &names, &templates, None)?;
            let classifier = classifier.with_bias(engine.encoders.logit_bias());
            engine.classifier = Some((labels, classifier));
        }
        let Some((_, classifier)) = &engine.classifier else {
            return Ok(Value::Null);
        };
        let found = classifier.top_k(engine.encoders.encode_images(pixels), TOP)?;
        let found = found.first().into_iter().flatten();
        Ok(found
            .map(|found| json!({ "label": found.name, "probability": found.probability }))
            .collect())
    }

    /// The indexed images nearest to a text.
    pub(super) fn search_text(&self, text: &str) -> Result<Value, Refusal> {
        if text.trim().is_empty() {
            return Err(Refusal::Request("the query is empty".to_owned()));
        }
        let feature = search::text_feature(&self.engine().encoders, text)?;
        self.search(&feature)
    }

    /// The indexed images nearest to an image file.
    pub(super) fn search_image(&self, image: &[u8]) -> Result<Value, Refusal> {
        let mut engine = self.engine();
        let pixels = engine.pixels(image)?;
        let feature = engine.encoders.encode_images(pixels);
        drop(engine);
        self.search(&feature.try_into_vec_as::<f32>()?)
    }

    fn search(&self, feature: &[f32]) -> Result<Value, Refusal> {
        let Some(folder) = &self.folder else {
            let reason = "no folder is being searched: start `clip ui` with --dir";
            return Err(Refusal::NotFound(reason.to_owned()));
        };
        let images = folder.index.images();
        let (found, _) = search::unchanged(&folder.dir, images, TOP, |k| {
            folder.index.search(feature, k)
        })?;
        let found = found.into_iter().map(|found| {
            let path = &images[found.position].path;
            json!({ "id": found.position, "path": path, "cosine": found.cosine })
        });
        Ok(found.collect())
    }

    /// An indexed image's file, by its position in the index: nothing else has one.
    pub(super) fn image(&self, position: &str) -> Result<(Vec<u8>, &'static str), Refusal> {
        let nothing = || Refusal::NotFound("there is no such image".to_owned());
        let folder = self.folder.as_ref().ok_or_else(nothing)?;
        let position: usize = position.parse().map_err(|_| nothing())?;
        let image = folder.index.images().get(position).ok_or_else(nothing)?;
        let path = search::resolve(&folder.dir, image).ok_or_else(nothing)?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let kind = match extension.unwrap_or_default().to_ascii_lowercase().as_str() {
            "png" => "image/png",
            "webp" => "image/webp",
            "gif" => "image/gif",
            "bmp" => "image/bmp",
            _ => "image/jpeg",
        };
        Ok((std::fs::read(path).map_err(|_| nothing())?, kind))
    }
}

impl Engine {
    fn pixels(&mut self, image: &[u8]) -> Result<Vec<u8>, Refusal> {
        let decoded = decode_within(image, MAX_NAMED_PIXELS).map_err(|kind| {
            Refusal::Request(match kind {
                FaultKind::TooLarge => format!(
                    "the image is too large: reduce it to at most {MAX_NAMED_PIXELS} pixels"
                ),
                _ => "this is no image that can be read: give a jpg, png, webp, gif or bmp"
                    .to_owned(),
            })
        })?;
        Ok(self.pictures.square(&decoded))
    }
}
