//! Sums that the compiler may keep in vectors: eight at a time, which are added at the end.

/// Numbers that are a task, where a pass over a tensor is shared by threads.
pub(crate) const TASK: usize = 1 << 14;

/// Fewer numbers take less time than to wake a thread.
pub(crate) const ALONE: usize = 1 << 17;

/// As many numbers as a vector of AVX2 holds.
const LANES: usize = 8;

/// The sum of `term` over slices of one length.
#[inline(always)]
pub(crate) fn sum<const N: usize>(slices: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let split = slices.map(<[f32]>::as_chunks::<LANES>);
    for at in 0..slices[0].len() / LANES {
        let vectors = split.map(|(chunks, _)| chunks[at]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(vectors.map(|vector| vector[lane]));
        }
    }
    let rests = split.map(|(_, rest)| rest);
    let rest = (0..rests[0].len()).map(|at| term(rests.map(|rest| rest[at])));
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

/// The largest number; that of no numbers is minus infinity.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *number);
        }
    }
    let all = lanes.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, larger)
}

/// Adds each row of `rows` to `sum`.
#[inline(always)]
pub(crate) fn add_rows(sum: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sum.len()) {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// Runs `work` with the widest vectors of this processor: what is inlined into it is compiled for each width.
#[inline(always)]
pub(crate) fn vectorized<T>(work: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_counted() {
        let row: Vec<f32> = (0..19).map(|at| at as f32).collect();
        assert_eq!(sum([&row, &row], |[a, b]| a + b), 342.0);
        assert_eq!(sum([&row[..3]], |[a]| a), 3.0);
        assert_eq!(largest(&row), 18.0);
        assert_eq!(largest(&row[..3]), 2.0);
        let mut sums = [1.0, 1.0];
        add_rows(&mut sums, &row[..6]);
        assert_eq!(sums, [7.0, 10.0]);
    }
}
