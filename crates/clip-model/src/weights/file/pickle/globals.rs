use safetensors::Dtype;

use super::{Refusal, Result};

/// What a name stands for, of those that are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::weights::file) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    StorageType(Dtype),
    /// A class of the TorchScript program beside the pickle.
    ScriptClass,
    /// TorchScript's wrappers of lists and dictionaries, which give back their first argument.
    Wrapper,
    /// A type, a size or a device: metadata.
    Metadata,
}

/// The names that weights need. `torch.load(weights_only=True)` has the same idea and a longer list.
pub(super) fn global(module: &str, name: &str) -> Result<Global> {
    let global = match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("collections", "OrderedDict") => Global::OrderedDict,
        (
            "torch.jit._pickle",
            "restore_type_tag" | "build_intlist" | "build_tensorlist" | "build_doublelist"
            | "build_boollist",
        ) => Global::Wrapper,
        ("torch", "Size" | "device") => Global::Metadata,
        ("torch", _) => match storage_type(name) {
            Some(dtype) => Global::StorageType(dtype),
            None => return Err(Refusal::Forbidden(format!("{module}.{name}"))),
        },
        // Such as `__torch__.multimodal.model.multimodal_transformer Multimodal`; its code is never looked at.
        _ if module == "__torch__" || module.starts_with("__torch__.") => Global::ScriptClass,
        _ => return Err(Refusal::Forbidden(format!("{module}.{name}"))),
    };
    Ok(global)
}

fn storage_type(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}
