//! What GPU backends keep between runs.

use std::path::PathBuf;

/// Has CubeCL keep in the user's cache folder which of several kernels was the fastest for a shape, and kernels that were
/// compiled to PTX or SPIR-V: a later run on `cuda` or `vulkan` starts without compiling and trying, and one on plain `wgpu`
/// without trying, since kernels in WGSL are not kept, unless by a driver. By itself CubeCL keeps them in the `target` of the
/// package around the current folder, and recompiles. A `cubecl.toml` decides all else.
///
/// Has an effect before the first device starts only.
#[cfg(feature = "gpu")]
pub(crate) fn keep() {
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};

    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Global;
    }
    CubeClRuntimeConfig::try_set(config);
}

/// Where they are kept.
#[cfg(feature = "gpu")]
#[allow(clippy::unnecessary_wraps, reason = "a build without GPUs has none")]
pub(crate) fn kept_in() -> Option<PathBuf> {
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    Some(CubeClRuntimeConfig::get().environment.path.root())
}

/// A processor compiles nothing at run time.
#[cfg(not(feature = "gpu"))]
pub(crate) fn keep() {}

#[cfg(not(feature = "gpu"))]
pub(crate) fn kept_in() -> Option<PathBuf> {
    None
}
