use burn::{
    module::Param,
    tensor::{Int, Tensor},
};
use clip_model::{
    Clip,
    loss::{ContrastiveBatch, ContrastiveLoss, Groups},
};
use clip_train::config::{Duplicates, RunConfig};
use clip_zeroshot::ShardFeatures;

/// The run's loss on pairs that it doesn't train on.
pub(super) struct ValLoss {
    loss: ContrastiveLoss,
    duplicates: Duplicates,
    batch: usize,
}

impl ValLoss {
    pub(super) fn new(run: &RunConfig) -> Self {
        Self {
            loss: run.loss.into(),
            duplicates: run.duplicates,
            batch: run.batch,
        }
    }

    /// The mean over all pairs, each an image with its first caption, in nats: of batches of training's size, the last of
    /// which has what is left and weighs as much less. So OpenCLIP's `clip_val_loss` is computed.
    ///
    /// # Shapes
    /// - captions: `[captions, embed_dim]`, the features of all captions of the shards
    pub(super) fn of(&self, model: &Clip, shards: &ShardFeatures, captions: &Tensor<2>) -> f64 {
        let firsts = first_captions(&shards.image_of_caption);
        let batches = firsts.chunks(self.batch).zip((0..).step_by(self.batch));
        let losses = batches.map(|(firsts, start)| {
            let batch = firsts.len();
            let rows: Vec<i64> = firsts.iter().map(|&at| at as i64).collect();
            let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &captions.device());
            let groups = match self.duplicates {
                Duplicates::Negatives => None,
                Duplicates::Positives => {
                    let captions = firsts.iter().map(|&at| &shards.captions[at]);
                    Some(Groups::alone(batch).join_equal(captions))
                }
            };
            let images = shards.images.clone().narrow(0, start, batch);
            let captions = captions.clone().select(0, rows);
            let pairs = ContrastiveBatch::new(images, captions, model.logit_scale.val())
                .with_bias(model.logit_bias.as_ref().map(Param::val))
                .with_groups(groups);
            let mean = self.loss.with_gradients(pairs).loss.into_scalar::<f32>();
            f64::from(mean) * batch as f64
        });
        losses.sum::<f64>() / firsts.len() as f64
    }
}

/// The place of each image's first caption, images in order.
fn first_captions(image_of_caption: &[usize]) -> Vec<usize> {
    let is_first = |&at: &usize| at == 0 || image_of_caption[at] != image_of_caption[at - 1];
    (0..image_of_caption.len()).filter(is_first).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use clip_data::FaultReport;
    use clip_model::{ClipConfig, loss::InfoNce};

    use super::*;

    /// Seven images, of which every other has two captions.
    fn shards(images: &Tensor<2>) -> ShardFeatures {
        ShardFeatures {
            images: images.clone(),
            unprojected: None,
            keys: (0..7).map(|image| format!("{image}")).collect(),
            captions: "a b b c d d a e f f"
                .split(' ')
                .map(str::to_owned)
                .collect(),
            image_of_caption: vec![0, 0, 1, 2, 2, 3, 4, 4, 5, 6],
            classes: vec![None; 7],
            faults: FaultReport::default(),
        }
    }

    #[test]
    fn it_is_the_mean_over_all_pairs_in_batches_of_first_captions() {
        let device = Device::flex();
        let model = ClipConfig::load("ViT-Nano-6-36").unwrap().init(0, &device);
        let random = |rows| Tensor::<2>::random([rows, 8], Distribution::Default, &device);
        let (images, captions) = (random(7), random(10));
        let of = |batch, duplicates| {
            let run = RunConfig {
                batch,
                duplicates,
                ..RunConfig::default()
            };
            ValLoss::new(&run).of(&model, &shards(&images), &captions)
        };
        let plain = |rows: &[i64], firsts: &[i64], groups| -> f64 {
            let chosen = |features: &Tensor<2>, rows: &[i64]| {
                features.clone().select(0, Tensor::from_ints(rows, &device))
            };
            let (images, captions) = (chosen(&images, rows), chosen(&captions, firsts));
            let pairs = ContrastiveBatch::new(images, captions, model.logit_scale.val());
            let loss = InfoNce::default().forward(pairs.with_groups(groups));
            f64::from(loss.into_scalar::<f32>())
        };
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
        };
        // The captions "a", "b", "c" and "d", then "a", "f" and "f". `cumulative_loss += total_loss * batch_size`, over
        // `num_samples`, in open_clip_train's `evaluate`.
        let batches = [
            plain(&[0, 1, 2, 3], &[0, 2, 3, 5], None),
            plain(&[4, 5, 6], &[6, 8, 9], None),
        ];
        let expected = (batches[0] * 4.0 + batches[1] * 3.0) / 7.0;
        close(of(4, Duplicates::Negatives), expected);
        // Of a pair by itself there is nothing to lose.
        let batches = [
            plain(&[0, 1, 2], &[0, 2, 3], None),
            plain(&[3, 4, 5], &[5, 6, 8], None),
        ];
        let expected = (batches[0] + batches[1]) * 3.0 / 7.0;
        close(of(3, Duplicates::Negatives), expected);
        // All pairs, fewer than training's; "a" and "f" stand among them twice.
        let all = |groups| plain(&[0, 1, 2, 3, 4, 5, 6], &[0, 2, 3, 5, 6, 8, 9], groups);
        close(of(256, Duplicates::Negatives), all(None));
        close(of(7, Duplicates::Negatives), all(None));
        let groups = Groups::alone(7).join_equal(["a", "b", "c", "d", "a", "f", "f"]);
        close(of(256, Duplicates::Positives), all(Some(groups)));
    }
}
