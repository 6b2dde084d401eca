//! `clip caption`: captions that a CoCa model writes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clip_model::{Captioner, Captioning, Draws, Search};
use clip_zeroshot::ClipEncoders;
use serde_json::json;

use crate::{
    device::DeviceName,
    model::EncoderArgs,
    numbers, output,
    pictures::{self, Pictures},
    usage::WrongUsage,
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("drawn").args(["top_k", "top_p"])))]
pub(crate) struct Args {
    /// Images (jpg, png, webp, gif or bmp): files, folders, globs, or `-` for a list on stdin, a path a line.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    model: EncoderArgs,
    /// Search for the best caption with so many at a time. 2 find what OpenCLIP's `generate` does.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = numbers::from_one::<usize>(), conflicts_with = "drawn")]
    beams: usize,
    /// Draw each token from the K most probable ones instead; 1 takes the most probable.
    #[arg(long, value_name = "K", value_parser = numbers::from_one::<usize>())]
    top_k: Option<usize>,
    /// Draw each token from the most probable ones that have this share of all probability together.
    #[arg(long, value_name = "SHARE", value_parser = numbers::share)]
    top_p: Option<f64>,
    /// How evenly tokens are drawn: below 1, probable ones more often.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = numbers::positive, requires = "drawn")]
    temperature: f64,
    /// The same seed draws the same captions.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "drawn")]
    seed: u64,
    /// Most tokens of a caption, its start and its end included. By default 30, or the model's context where that is less.
    #[arg(long, value_name = "N", value_parser = numbers::from_one::<usize>())]
    longest: Option<usize>,
    /// Print one JSON object an image.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let images = pictures::find(&args.images)?;
    let encoders = args.model.load(device)?;
    let how = encoders.captioning()?;
    let mut captioner = Captioner::new(args.change(how, encoders.context_length())?);
    let bad = pictures::in_batches(&images, Pictures::new(&encoders), |positions, pixels| {
        let paths = positions.iter().map(|&at| images[at].as_path());
        args.write(&encoders, &mut captioner, paths, pixels)
    })?;
    if bad > 0 {
        bail!("{bad} of {} images could not be captioned", images.len());
    }
    Ok(())
}

impl Args {
    /// What the flags change of how a model with so much context writes captions.
    fn change(&self, how: Captioning, context: usize) -> Result<Captioning> {
        let draws = Draws {
            temperature: self.temperature,
            seed: self.seed,
        };
        let search = match (self.top_k, self.top_p) {
            (Some(tokens), _) => Search::TopK(tokens, draws),
            (None, Some(share)) => Search::TopP(share, draws),
            (None, None) => Search::Beams(self.beams),
        };
        let longest = self.longest.unwrap_or(how.longest);
        if !(3..=context).contains(&longest) {
            let reason = format!(
                "--longest {longest} must be from 3, for a start, a word and an end, to the model's context of {context} tokens"
            );
            return Err(WrongUsage(reason).into());
        }
        Ok(Captioning {
            search,
            longest,
            shortest: how.shortest.min(longest - 1),
            ..how
        })
    }

    fn write<'a>(
        &self,
        encoders: &ClipEncoders,
        captioner: &mut Captioner,
        paths: impl Iterator<Item = &'a Path>,
        pixels: Vec<u8>,
    ) -> Result<()> {
        let captions = encoders.write_captions(captioner, pixels);
        for (path, caption) in paths.zip(captions) {
            let path = path.display().to_string();
            if self.json {
                output::line(&json!({ "image": path, "caption": caption }).to_string())?;
            } else {
                output::line(&format!("{path}: {caption}"))?;
            }
        }
        Ok(())
    }
}
