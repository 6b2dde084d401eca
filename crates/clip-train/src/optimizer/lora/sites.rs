//! Where a model's adapters are.

use std::{collections::HashMap, ops::Range};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup, ParamId},
    tensor::Tensor,
};
use clip_model::{
    Clip,
    weights::{is_buffer, parameter_names},
};

use super::{
    super::groups::Layer,
    config::{LoraConfig, Target, refused},
};
use crate::TrainError;

/// A matrix that gets an adapter, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Of the whole matrix, `[from, to]`.
    pub(super) matrix: ParamId,
    /// `OpenCLIP`'s for the matrix.
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) from: usize,
    /// All of `to`, or those of queries, keys or values.
    pub(super) columns: Range<usize>,
    /// Whether they are all.
    pub(super) is_whole: bool,
}

/// The sites of a model in which nothing is locked but what a run locks, or all is that `lora` leaves as it is.
pub(super) fn sites(model: &Clip, lora: &LoraConfig) -> Vec<Site> {
    let mut matrices = Matrices::default();
    model.visit(&mut matrices);
    let names: HashMap<ParamId, String> = parameter_names(model).into_iter().collect();
    let mut sites = Vec::new();
    for Matrix {
        id,
        field,
        shape: [from, to],
    } in matrices.found
    {
        let name = &names[&id];
        if is_named(name, lora) {
            continue;
        }
        let targets = targets_of(&field);
        let columns = to / targets.len().max(1);
        for (at, target) in targets.iter().enumerate() {
            if lora.targets.contains(target) {
                sites.push(Site {
                    matrix: id,
                    name: name.clone(),
                    target: *target,
                    from,
                    columns: at * columns..(at + 1) * columns,
                    is_whole: targets.len() == 1,
                });
            }
        }
    }
    sites
}

/// The model with all locked that isn't trained, and that has no adapter. `locked` are the image and the text encoder
/// that the run wants left as they are, at least in part.
pub(super) fn lock(
    model: Clip,
    lora: &LoraConfig,
    [image_locked, text_locked]: [bool; 2],
) -> Result<Clip, TrainError> {
    let names = parameter_names(&model);
    for part in &lora.train {
        if !names.iter().any(|(_, name)| has_part(name, part)) {
            return Err(refused(format!(
                "`lora.train` has {part:?}, which no parameter's name has between its dots; `clip weights inspect` \
                 lists the names"
            )));
        }
    }
    let sites = sites(&model, lora);
    for site in &sites {
        let smallest = site.from.min(site.columns.len());
        if lora.rank > smallest {
            return Err(refused(format!(
                "`lora.rank` is {}, and {} of {} has no more than {smallest} rows or columns: take a smaller rank",
                lora.rank, site.target, site.name
            )));
        }
    }
    let named = |name: &str| lora.logit_scale && is_logit(name) || is_named(name, lora);
    let trained: Vec<&(ParamId, String)> = names
        .iter()
        .filter(|(id, name)| named(name) || sites.iter().any(|site| site.matrix == *id))
        .collect();
    for (encoder, locked) in [("image", image_locked), ("text", text_locked)] {
        let is_own = |(_, name): &&(ParamId, String)| encoder_of(name) == Some(encoder);
        let trains = trained.iter().copied().any(|named| is_own(&named));
        if !trains && !locked {
            return Err(refused(format!(
                "the {encoder} encoder has nothing to adapt: no block of it has one of the matrices that \
                 `lora.targets` names; set `lock_{encoder} = true` to leave it as it is"
            )));
        }
        let mut own = names.iter().filter(is_own);
        if trains && own.any(|(_, name)| is_buffer(name)) {
            return Err(refused(format!(
                "the {encoder} encoder has batch norms, whose statistics would go on changing, beside the adapters; \
                 set `lock_{encoder} = true` to leave it as it is"
            )));
        }
    }
    if sites.is_empty() {
        return Err(refused(
            "nothing is left to adapt: `lora.targets` is empty, or all such matrices are locked or in `lora.train`",
        ));
    }
    let trained = trained.into_iter().map(|(id, _)| *id).collect();
    Ok(model
        .no_grad()
        .set_require_grad_group(ParamGroup::from_ids(trained), true))
}

/// Whose parameter it is, if one of both's.
fn encoder_of(name: &str) -> Option<&'static str> {
    if name.starts_with("visual.") {
        Some("image")
    } else if name.starts_with("text_decoder.") || is_logit(name) {
        None
    } else {
        Some("text")
    }
}

fn is_logit(name: &str) -> bool {
    ["logit_scale", "logit_bias"].contains(&name)
}

fn is_named(name: &str, lora: &LoraConfig) -> bool {
    lora.train.iter().any(|part| has_part(name, part))
}

/// Whether `part` is in `name` with a dot, the beginning or the end on both sides.
fn has_part(name: &str, part: &str) -> bool {
    format!(".{name}.").contains(&format!(".{part}."))
}

/// What a block's linear layer is, by its field.
fn targets_of(field: &str) -> &'static [Target] {
    match field {
        "in_proj" | "qkv" => &[Target::QProj, Target::KProj, Target::VProj],
        "q_proj" | "query" => &[Target::QProj],
        "k_proj" | "key" => &[Target::KProj],
        "v_proj" | "value" => &[Target::VProj],
        "out_proj" | "proj" | "output" => &[Target::OutProj],
        "c_fc" | "fc1" | "fc1_g" | "fc1_x" | "w0" | "w1" => &[Target::CFc],
        "c_proj" | "fc2" | "w2" => &[Target::CProj],
        _ => &[],
    }
}

/// Weights of the linear layers in blocks that aren't locked.
#[derive(Default)]
struct Matrices {
    path: Vec<String>,
    container: Vec<String>,
    found: Vec<Matrix>,
}

struct Matrix {
    id: ParamId,
    /// That of the layer in its block.
    field: String,
    shape: [usize; 2],
}

impl ModuleVisitor for Matrices {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.container.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.container.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_linear = self
            .container
            .last()
            .is_some_and(|of| of == "Struct:Linear");
        let in_block = matches!(Layer::of(&self.path), Layer::At(1..));
        let [.., field, _] = &self.path[..] else {
            return;
        };
        if let (&[from, to], true) = (
            param.lazy_shape().as_slice(),
            is_linear && in_block && param.is_require_grad(),
        ) {
            self.found.push(Matrix {
                id: param.id,
                field: field.clone(),
                shape: [from, to],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::Device;
    use clip_model::ClipConfig;

    use super::*;

    fn blank(preset: &str) -> Clip {
        let config = ClipConfig::load(preset).unwrap();
        config.init_blank(&Device::flex().autodiff())
    }

    fn of_resnet(change: impl FnOnce(&mut LoraConfig), locked: [bool; 2]) -> Result<usize, String> {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 2,
            "head_width": 16}, "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 8, "heads": 2,
            "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let mut lora = LoraConfig::default();
        change(&mut lora);
        let mut model = config.init_blank(&Device::flex().autodiff());
        if locked[1] {
            model.text = model.text.lock(0);
        }
        let model = lock(model, &lora, locked).map_err(|error| error.to_string())?;
        Ok(sites(&model, &lora).len())
    }

    #[test]
    fn every_kind_of_block_has_its_matrices_found() {
        let all = LoraConfig::default();
        // How many blocks the image and the text encoder have, with how many matrices each: three of a fused product,
        // two of a gated MLP's first. A decoder's are last, of which half attend to images.
        for (preset, image, text, decoder) in [
            ("ViT-B-32", 12 * 6, 12 * 6, 0),
            ("ViT-B-16-SigLIP", 12 * 6, 12 * 6, 0),
            ("EVA02-B-16", 12 * 7, 12 * 6, 0),
            ("EVA01-g-14", 40 * 6, 12 * 6, 0),
            ("convnext_base", 36 * 2, 12 * 6, 0),
            ("ViTamin-B", 14 * 7, 12 * 6, 0),
            ("xlm-roberta-base-ViT-B-32", 12 * 6, 12 * 6, 0),
            ("nllb-clip-base", 12 * 6, 12 * 6, 0),
            ("PE-Core-B-16", 12 * 6, 24 * 6, 0),
            ("coca_ViT-B-32", 12 * 6, 12 * 6, 24 * 6),
        ] {
            let model = lock(blank(preset), &all, [false; 2]).unwrap();
            let mut found = BTreeMap::new();
            for site in sites(&model, &all) {
                let part = site.name.split('.').next().unwrap();
                let tower = match part {
                    "visual" | "text_decoder" => part,
                    _ => "text",
                };
                *found.entry(tower.to_owned()).or_insert(0) += 1;
            }
            let of = |tower: &str| found.get(tower).copied().unwrap_or_default();
            let found = (of("visual"), of("text"), of("text_decoder"));
            assert_eq!(found, (image, text, decoder), "{preset}");
        }
    }

    #[test]
    fn what_is_locked_already_has_no_adapter() {
        let mut model = blank("ViT-B-32");
        // The projection, and the last two blocks.
        model.text = model.text.lock(3);
        model.visual = model.visual.lock(0);
        let lora = LoraConfig::default();
        let model = lock(model, &lora, [true; 2]).unwrap();
        let names = sites(&model, &lora).into_iter().map(|site| site.name);
        let names: Vec<String> = names.collect();
        assert_eq!(names.len(), 2 * 6, "{names:?}");
        let is_last = |name: &String| name.starts_with("transformer.resblocks.1");
        assert!(names.iter().all(is_last), "{names:?}");
    }

    #[test]
    fn an_encoder_without_anything_to_adapt_is_refused_and_may_be_locked() {
        let error = of_resnet(|_| (), [false; 2]).unwrap_err();
        assert!(
            error.contains("the image encoder has nothing to adapt"),
            "{error}"
        );
        assert!(error.contains("lock_image = true"), "{error}");
        assert_eq!(of_resnet(|_| (), [true, false]), Ok(6));
        let train = |lora: &mut LoraConfig| lora.train = vec!["visual.attnpool".to_owned()];
        let error = of_resnet(train, [true, false]).unwrap_err();
        assert!(error.contains("batch norms"), "{error}");
        let error = of_resnet(|_| (), [true; 2]).unwrap_err();
        assert!(error.contains("nothing is left to adapt"), "{error}");
    }

    #[test]
    fn a_rank_and_a_name_that_do_not_fit_are_told() {
        let error = of_resnet(|lora| lora.rank = 9, [true, false]).unwrap_err();
        assert!(
            error.contains("`lora.rank` is 9") && error.contains("no more than 8"),
            "{error}"
        );
        for (part, known) in [
            ("ln_final", true),
            ("transformer.resblocks.0", true),
            ("ln", false),
        ] {
            let train = |lora: &mut LoraConfig| {
                lora.train = vec![part.to_owned(), "logit_scale".to_owned()];
            };
            let found = of_resnet(train, [true, false]);
            match (part, known) {
                (_, false) => assert!(found.unwrap_err().contains("\"ln\""), "{part}"),
                // The only block is trained as it is.
                ("transformer.resblocks.0", _) => {
                    assert!(found.unwrap_err().contains("nothing is left to adapt"));
                }
                _ => assert_eq!(found, Ok(6)),
            }
        }
    }
}
