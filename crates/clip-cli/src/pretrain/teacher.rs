use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use burn::{module::Module, tensor::Device};
use clip_data::Tokenizer;
use clip_metrics::human_count;
use clip_model::{ClipConfig, encoder::TextEnd, weights::ReadOptions};
use clip_train::{Teacher, config::RunConfig};

use crate::weights;

/// A model that a run learns from beside the captions, and the words that it knows.
pub(super) struct RunTeacher {
    source: String,
    pub(super) teacher: Teacher,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Weights of it.
    pub(super) parameters: usize,
}

impl RunTeacher {
    /// The model that `distill` names, which must see what `student` sees.
    pub(super) fn of(
        run: &RunConfig,
        student: &ClipConfig,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(source) = &run.distill else {
            return Ok(None);
        };
        let about = || format!("cannot learn from {source} (`distill`)");
        let weights = weights::read(source, ReadOptions::default(), device).with_context(about)?;
        suits(&weights.config, student).with_context(about)?;
        let tokenizer = weights::tokenizer::of(&weights)
            .and_then(|found| {
                found.with_context(|| {
                    format!(
                        "put the tokenizer.json of {} beside it",
                        weights.path.display()
                    )
                })
            })
            .with_context(about)?;
        let clip = weights.model(device).no_grad();
        let parameters = clip.num_params();
        log::info!(
            "learning from {source} too ({} parameters)",
            human_count(parameters as u64)
        );
        Ok(Some(Self {
            source: source.clone(),
            teacher: Teacher::new(clip, weights.preprocess.norm()),
            tokenizer: Arc::new(tokenizer),
            parameters,
        }))
    }

    /// Refuses a run whose token ids mean other words to its teacher.
    pub(super) fn reads_as(&self, run: &Tokenizer) -> Result<()> {
        ensure!(
            run.has_same_words(&self.tokenizer),
            "the run's vocabulary is another than that of {} (`distill`): a teacher must know the words that captions are \
             cut into; let the run begin without weights of its own, or with some of the teacher's vocabulary",
            self.source
        );
        Ok(())
    }
}

/// Checks what the shapes of images and captions ask of a teacher.
fn suits(teacher: &ClipConfig, student: &ClipConfig) -> Result<()> {
    let (side, own) = (teacher.vision_cfg.image_size, student.vision_cfg.image_size);
    ensure!(
        side == own,
        "it sees images of {side} pixels, and the preset ones of {own}: take another preset, or `clip weights import \
         --image-size {own}` for a teacher whose positions are resized"
    );
    let (text, own) = (&teacher.text_cfg, &student.text_cfg);
    ensure!(
        text.vocab_size == own.vocab_size,
        "its vocabulary has {} tokens, and the preset's {}: take a preset with the teacher's vocabulary",
        text.vocab_size,
        own.vocab_size
    );
    ensure!(
        text.context_length >= own.context_length,
        "it reads {} tokens at most, and the preset's captions have {}: take a preset with a shorter context",
        text.context_length,
        own.context_length
    );
    // Padding is the run's, as far as its own context.
    ensure!(
        text.end() != TextEnd::Context || text.context_length == own.context_length,
        "it reads captions with their padding, {} tokens, and the preset's have {}: take a preset with the teacher's context",
        text.context_length,
        own.context_length
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_must_see_what_the_student_sees() {
        let preset = |name: &str| ClipConfig::load(name).unwrap();
        let student = preset("ViT-S-32");
        suits(&preset("ViT-B-32"), &student).unwrap();
        for (teacher, told) in [
            ("ViT-L-14-336", "--image-size 224"),
            ("ViT-B-16-SigLIP", "32000 tokens, and the preset's 49408"),
        ] {
            let error = suits(&preset(teacher), &student).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let mut short = preset("ViT-B-32");
        short.text_cfg.context_length = 32;
        let error = suits(&short, &student).unwrap_err().to_string();
        assert!(error.contains("32 tokens at most"), "{error}");

        let (siglip, mut student) = (preset("ViT-B-16-SigLIP"), preset("ViT-B-16-SigLIP"));
        suits(&siglip, &student).unwrap();
        student.text_cfg.context_length = 32;
        let error = suits(&siglip, &student).unwrap_err().to_string();
        assert!(error.contains("with their padding, 64 tokens"), "{error}");
    }
}
