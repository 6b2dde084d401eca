use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData},
};

use crate::Clip;

/// One parameter as OpenCLIP stores it.
#[derive(Debug)]
pub(crate) struct NamedParam {
    pub(crate) id: ParamId,
    pub(crate) name: String,
    /// OpenCLIP's shape.
    pub(crate) shape: Vec<usize>,
    /// Whether Burn keeps the matrix transposed: its linear layers are `[d_input, d_output]`.
    pub(crate) transposed: bool,
    /// Burn's tensor, on the host.
    pub(crate) data: Option<TensorData>,
}

/// Names and shapes of all parameters and buffers as OpenCLIP stores them, in the order of the module's fields.
pub fn parameter_shapes(model: &Clip) -> Vec<(String, Vec<usize>)> {
    let params = named_params(model, false).into_iter();
    params.map(|param| (param.name, param.shape)).collect()
}

/// OpenCLIP's names of a model's parameters and buffers, each by what tells it apart in a module.
pub fn parameter_names(model: &Clip) -> Vec<(ParamId, String)> {
    let params = named_params(model, false).into_iter();
    params.map(|param| (param.id, param.name)).collect()
}

/// Whether a name is a batch norm's state, which no gradient moves and which is no parameter when they are counted.
pub fn is_buffer(name: &str) -> bool {
    ["running_mean", "running_var", COUNT]
        .iter()
        .any(|buffer| name.ends_with(buffer))
}

/// Whether a name, or its last field, is a batch norm's count of the batches that it has seen.
pub(crate) fn is_count(name: &str) -> bool {
    name.ends_with(COUNT)
}

/// All parameters, in the order of the module's fields; with their values if `values`.
pub(crate) fn named_params(model: &Clip, values: bool) -> Vec<NamedParam> {
    let mut visitor = NameVisitor {
        path: Vec::new(),
        params: Vec::new(),
        values,
        custom_text: model.custom_text,
    };
    model.visit(&mut visitor);
    visitor.params
}

struct NameVisitor {
    path: Vec<(String, String)>,
    params: Vec<NamedParam>,
    values: bool,
    custom_text: bool,
}

/// Scalars in OpenCLIP, `[1]` here.
const SCALARS: [&str; 3] = ["logit_scale", "logit_bias", COUNT];
/// An integer in OpenCLIP.
const COUNT: &str = "num_batches_tracked";

impl ModuleVisitor for NameVisitor {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let fields = self
            .path
            .iter()
            .filter(|(_, container)| !container.starts_with("Enum:"));
        let path: Vec<&str> = fields.map(|(name, _)| name.as_str()).collect();
        let container = self.path.last().map_or("", |(_, container)| container);
        let name = open_clip_name(&path.join("."), self.custom_text);
        let transposed = D == 2 && container == "Struct:Linear";
        let mut shape = param.lazy_shape().to_vec();
        if transposed {
            shape.reverse();
        }
        if SCALARS.iter().any(|scalar| name.ends_with(scalar)) {
            shape.clear();
        }
        let data = self.values.then(|| param.val().into_data());
        self.params.push(NamedParam {
            id: param.id,
            name,
            shape,
            transposed,
            data,
        });
    }
}

/// The fields carry OpenCLIP's names, so few differ: its text tower has no prefix unless it is custom, its norms say
/// weight and bias, its layer scales gamma, its fused attention product isn't a layer of its own, nor are the products of
/// CoCa's pooling, its downsampling is a sequence, and so are a `ConvNeXt`'s stem and downsampling; an `Eva`'s projections
/// are its attention's own, a `FastVit` has a list of its one convolution, and timm's blocks have timm's names.
fn open_clip_name(path: &str, custom_text: bool) -> String {
    let path = match path.strip_prefix("text.") {
        Some(inside) if !custom_text => inside,
        _ => path,
    };
    let name = path
        .replace(".gamma", ".weight")
        .replace(".beta", ".bias")
        .replace(".scale", ".gamma");
    if HUGGING_FACE.iter().any(|part| name.starts_with(part)) {
        return hugging_face_name(&name);
    }
    if !["visual.trunk.", "visual.head."]
        .iter()
        .any(|timm| name.starts_with(timm))
    {
        return name
            .replace(".in_proj.", ".in_proj_")
            .replace(".attn_pool.attn.q_proj.", ".attn_pool.attn.q_proj_")
            .replace(".attn_pool.attn.k_proj.", ".attn_pool.attn.k_proj_")
            .replace(".attn_pool.attn.v_proj.", ".attn_pool.attn.v_proj_")
            .replace(".downsample.conv.", ".downsample.0.")
            .replace(".downsample.bn.", ".downsample.1.");
    }
    name.replace(".transformer.resblocks.", ".blocks.")
        .replace(".stem.conv.", ".stem.0.")
        .replace(".stem.norm.", ".stem.1.")
        .replace(".downsample.norm.", ".downsample.0.")
        .replace(".downsample.conv.", ".downsample.1.")
        .replace(".downsample.large.", ".downsample.proj.0.")
        .replace(".downsample.pointwise.", ".downsample.proj.1.")
        .replace(".conv_kxk.", ".conv_kxk.0.")
        .replace(".ln_1.", ".norm1.")
        .replace(".ln_2.", ".norm2.")
        .replace(".projections.", ".")
        .replace(".in_proj.", ".qkv.")
        .replace(".out_proj.", ".proj.")
        .replace(".c_fc.", ".fc1.")
        .replace(".c_proj.", ".fc2.")
}

/// Where parameters of Hugging Face's text encoders are.
const HUGGING_FACE: [&str; 5] = [
    "text.transformer.embeddings.",
    "text.transformer.encoder.",
    "text.transformer.pooler.",
    "text.transformer.layers.",
    "text.proj.",
];

/// transformers has a module around each of a layer's parts, and OpenCLIP's projection is a sequence.
fn hugging_face_name(name: &str) -> String {
    name.replace(".embeddings.norm.", ".embeddings.LayerNorm.")
        .replace(".attention.output.", ".attention.output.dense.")
        .replace(".attention.query.", ".attention.self.query.")
        .replace(".attention.key.", ".attention.self.key.")
        .replace(".attention.value.", ".attention.self.value.")
        .replace(".attention_norm.", ".attention.output.LayerNorm.")
        .replace(".mlp.c_fc.", ".intermediate.dense.")
        .replace(".mlp.c_proj.", ".output.dense.")
        .replace(".mlp_norm.", ".output.LayerNorm.")
        .replace(".transformer.pooler.", ".transformer.pooler.dense.")
        .replace(".self_attn.query.", ".self_attn.q_proj.")
        .replace(".self_attn.key.", ".self_attn.k_proj.")
        .replace(".self_attn.value.", ".self_attn.v_proj.")
        .replace(".self_attn.output.", ".self_attn.out_proj.")
        .replace("text.proj.c_fc.", "text.proj.0.")
        .replace("text.proj.c_proj.", "text.proj.2.")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ClipConfig;

    /// Names and shapes of `open_clip_torch` 3.x `CLIP.state_dict()`, one layer each.
    #[test]
    fn names_and_shapes_are_open_clips() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12,
            "vocab_size": 50, "width": 8, "heads": 2, "layers": 1}}"#;
        let model = ClipConfig::from_json(json, "test")
            .unwrap()
            .init(0, &Device::flex());
        let params = named_params(&model, false);
        let shape = |name: &str| {
            let found = params.iter().find(|param| param.name == name);
            found.unwrap_or_else(|| panic!("{name}")).shape.clone()
        };
        assert_eq!(shape("logit_scale"), [0_usize; 0]);
        assert_eq!(shape("positional_embedding"), [12, 8]);
        assert_eq!(shape("token_embedding.weight"), [50, 8]);
        assert_eq!(shape("text_projection"), [8, 16]);
        assert_eq!(shape("ln_final.bias"), [8]);
        assert_eq!(
            shape("transformer.resblocks.0.attn.in_proj_weight"),
            [24, 8]
        );
        assert_eq!(shape("visual.class_embedding"), [32]);
        assert_eq!(shape("visual.conv1.weight"), [32, 3, 8, 8]);
        assert_eq!(shape("visual.proj"), [32, 16]);
        assert_eq!(
            shape("visual.transformer.resblocks.0.mlp.c_fc.weight"),
            [128, 32]
        );
        assert_eq!(
            shape("visual.transformer.resblocks.0.attn.out_proj.bias"),
            [32]
        );
        assert_eq!(shape("visual.transformer.resblocks.0.ln_1.weight"), [32]);
        let blank = ClipConfig::from_json(json, "test").unwrap();
        let blank = parameter_shapes(&blank.init_blank(&Device::flex()));
        assert_eq!(blank, parameter_shapes(&model));
        // Six of the text tower and the temperature, eight of the image tower, twelve a block.
        assert_eq!(params.len(), 6 + 8 + 2 * 12);
    }
}
