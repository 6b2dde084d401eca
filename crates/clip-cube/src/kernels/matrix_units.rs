//! What a GPU multiplies small matrices with ("tensor cores").

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{client::Client, features::MmaConfig, prelude::*},
    tensor::DType,
};

/// The side of a tile that they multiply at once.
pub(crate) const TILE: usize = 16;
/// Threads that they take a tile from.
pub(crate) const PLANE: u32 = 32;

/// Whether a device has them for tiles of this precision, which is bf16 or f16, summed in f32.
pub(crate) fn multiply(client: &Client, dtype: DType) -> bool {
    if !matches!(dtype, DType::BF16 | DType::F16) {
        return false;
    }
    let of = dtype_to_storage_type(dtype);
    let product = MmaConfig {
        a_type: of,
        b_type: of,
        cd_type: f32::elem_type_native(),
        m: TILE as u32,
        n: TILE as u32,
        k: TILE as u32,
    };
    let properties = client.properties();
    let hardware = &properties.hardware;
    properties.features.matmul.cmma.contains(&product)
        && (hardware.plane_size_min, hardware.plane_size_max) == (PLANE, PLANE)
}
