use anyhow::{Context, Result};
use clip_zeroshot::{
    ClassNames, ClassifierHead, ClipEncoders, DuplicateNames, EncodeTexts, PROMPT_BATCH, Prompts,
    Templates, encode_all,
};

use super::{Place, Task, noise};

fn load(place: &Place, preset: &str) -> Result<ClipEncoders> {
    let dir = place.model(preset);
    let dir = dir.to_str().context("the folder's name is not UTF-8")?;
    let encoders = ClipEncoders::load(dir, &place.started.device)?;
    Ok(encoders.with_precision(place.setup.precision))
}

/// Mean cost of some texts, each at its own length.
fn flop_per_text(encoders: &ClipEncoders, texts: &[String]) -> Option<f64> {
    let flop = texts.iter().map(|text| {
        let tokens = encoders.text_length(text);
        encoders.config().text_flops(tokens)
    });
    Some(flop.sum::<Option<f64>>()? / texts.len() as f64)
}

pub(super) struct Images {
    place: Place,
    encoders: ClipEncoders,
    pixels: Vec<u8>,
    batch: usize,
    flop: Option<f64>,
}

impl Images {
    pub(super) fn new(place: Place, preset: &str, batch: usize) -> Result<Self> {
        let encoders = load(&place, preset)?;
        let side = encoders.image_size();
        Ok(Self {
            place,
            pixels: noise(batch * side * side * 3),
            batch,
            flop: encoders.config().image_flops(),
            encoders,
        })
    }
}

impl Task for Images {
    fn run(&mut self) -> Result<u64> {
        let features = self.encoders.encode_images(self.pixels.clone());
        self.place.sync()?;
        drop(features);
        Ok(self.batch as u64)
    }

    fn flop(&self) -> Option<f64> {
        self.flop
    }
}

pub(super) struct Texts {
    place: Place,
    encoders: ClipEncoders,
    captions: Vec<String>,
    flop: Option<f64>,
}

impl Texts {
    pub(super) fn new(place: Place, preset: &str, batch: usize) -> Result<Self> {
        let encoders = load(&place, preset)?;
        let captions = place.captions(batch)?;
        let flop = flop_per_text(&encoders, &captions);
        Ok(Self {
            place,
            encoders,
            captions,
            flop,
        })
    }
}

impl Task for Texts {
    fn run(&mut self) -> Result<u64> {
        let features = encode_all(&self.encoders, &self.captions, PROMPT_BATCH)?;
        self.place.sync()?;
        drop(features);
        Ok(self.captions.len() as u64)
    }

    fn flop(&self) -> Option<f64> {
        self.flop
    }
}

pub(super) struct Head {
    place: Place,
    encoders: ClipEncoders,
    names: ClassNames,
    templates: Templates,
    prompts: u64,
    flop: Option<f64>,
}

impl Head {
    pub(super) fn new(place: Place, preset: &str) -> Result<Self> {
        let encoders = load(&place, preset)?;
        let names = ClassNames::from_file(&place.file("classes.txt"), DuplicateNames::Refuse)?;
        let templates = Templates::from_file(&place.file("templates.txt"))?;
        let prompts = Prompts::new(&names, &templates);
        let flop = flop_per_text(&encoders, prompts.texts());
        Ok(Self {
            place,
            encoders,
            prompts: prompts.texts().len() as u64,
            names,
            templates,
            flop,
        })
    }
}

impl Task for Head {
    fn run(&mut self) -> Result<u64> {
        let head = ClassifierHead::build(&self.encoders, &self.names, &self.templates)?;
        self.place.sync()?;
        drop(head);
        Ok(self.prompts)
    }

    fn flop(&self) -> Option<f64> {
        self.flop
    }
}
