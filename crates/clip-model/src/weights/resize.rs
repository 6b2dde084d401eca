//! Positional embeddings for another size of image or text.
//!
//! # References
//! OpenCLIP, `open_clip/model.py`, `resize_pos_embed` and `resize_text_pos_embed`; PyTorch's
//! `torch.nn.functional.interpolate`, whose arithmetic both use.

/// Patches' embeddings for another grid, the class token's, if there is one, as it was: bicubic, and antialiased where the
/// grid shrinks.
///
/// # Shapes
/// - `embedding`: `[1 + from * from, width]`, or one less without class token, row by row
/// - returns `[1 + to * to, width]`, or one less
pub(super) fn resize_image_positions(
    embedding: &[f32],
    width: usize,
    from: usize,
    to: usize,
) -> Vec<f32> {
    let (class, patches) = embedding.split_at(embedding.len() - from * from * width);
    let weights = bicubic(from, to);
    // Columns of each row first, then rows, as PyTorch does.
    let rows: Vec<f32> = patches
        .chunks_exact(from * width)
        .flat_map(|row| combine(row, width, &weights))
        .collect();
    let resized = combine(&rows, to * width, &weights);
    [class, &resized].concat()
}

/// Tokens' embeddings for another context: linear, as OpenCLIP does it, without antialiasing.
///
/// # Shapes
/// - `embedding`: `[from, width]`; returns `[to, width]`
pub(super) fn resize_text_positions(
    embedding: &[f32],
    width: usize,
    from: usize,
    to: usize,
) -> Vec<f32> {
    combine(embedding, width, &linear(from, to))
}

/// What an output position is made of: the first input position, and a weight for it and each after it.
type Weights = (usize, Vec<f32>);

/// Weighted sums of rows of `width` numbers.
fn combine(rows: &[f32], width: usize, weights: &[Weights]) -> Vec<f32> {
    let mut out = vec![0.0; weights.len() * width];
    for (sum, (first, weights)) in out.chunks_exact_mut(width).zip(weights) {
        let rows = rows.chunks_exact(width).skip(*first);
        for (row, weight) in rows.zip(weights) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
    }
    out
}

/// PyTorch's `_upsample_bicubic2d_aa` along one axis: Keys 1981 with a = -0.5, its width that of an output position
/// where there are fewer of those.
fn bicubic(from: usize, to: usize) -> Vec<Weights> {
    const SUPPORT: f64 = 2.0;
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    let position = |at: usize| {
        let center = scale * (at as f64 + 0.5);
        let first = (center - support + 0.5).max(0.0) as usize;
        let last = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..last)
            .map(|input| keys((input as f64 - center + 0.5) / stretch))
            .collect();
        let total: f64 = weights.iter().sum();
        let weights = weights.iter().map(|weight| (weight / total) as f32);
        (first, weights.collect())
    };
    (0..to).map(position).collect()
}

fn keys(x: f64) -> f64 {
    const A: f64 = -0.5; // Pillow's, and PyTorch's where it antialiases
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * A - 4.0 * A
    } else {
        0.0
    }
}

/// PyTorch's `upsample_linear1d` with `align_corners=False`.
fn linear(from: usize, to: usize) -> Vec<Weights> {
    let scale = from as f64 / to as f64;
    let position = |at: usize| {
        let center = (scale * (at as f64 + 0.5) - 0.5).max(0.0);
        let first = (center as usize).min(from - 1);
        let share = (center - first as f64) as f32;
        if first + 1 < from {
            (first, vec![1.0 - share, share])
        } else {
            (first, vec![1.0])
        }
    };
    (0..to).map(position).collect()
}
