//! How much a kernel can be asked for.

/// Cubes along an axis, at most: what every GPU has.
pub(crate) const MOST_CUBES: usize = 65_535;

/// Whether a kernel can count so many of what it reads and writes at once: its `usize` is of 32 bits. (Burn's, which compute
/// what is refused here, count in 64 where a tensor is of more numbers than that.)
pub(crate) fn counts(vectors: usize) -> bool {
    u32::try_from(vectors).is_ok()
}
