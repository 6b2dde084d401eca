//! Products of numbers rounded to bf16 on a processor's matrix unit, Intel's AMX.
//!
//! The unit has eight tiles of 16 rows of 64 bytes. One instruction multiplies a tile of 16 rows of 32 numbers by one of 32
//! rows of 16, and adds the product to a tile of sums in f32. Factors are packed into such tiles first, some hundred rows and
//! columns at a time, so that they stay in a core's own cache. The instructions have no stable names in Rust, hence the
//! assembly.
//!
//! # References
//! Intel, 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18: programming with AMX.

#![allow(unsafe_code)]

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::{
    arch::asm,
    cell::RefCell,
    marker::PhantomData,
    mem::{MaybeUninit, transmute},
    ops::Range,
    sync::OnceLock,
};

use super::{Matrix, MatrixMut, Number, Numbers, Place};

/// Rows of a tile, and columns of a tile of sums.
const SIDE: usize = 16;

/// Numbers that an instruction adds up: those of a left factor's row.
const DEPTH: usize = 32;

/// Rows and columns of the sums that are in tiles at once: two tiles by two, so that each that is loaded serves twice.
const PANEL: usize = 2 * SIDE;

/// Panels of a factor that are packed at once, and how deep they are: 768 KiB of each factor, where processors with this
/// unit have 2 MiB a core.
const PANELS: usize = 512 / PANEL;
const STEPS: usize = 768 / DEPTH;

/// Numbers in bf16: of a left factor a row in each line, of a right one two rows in each, whose numbers alternate.
type Tile = [__m512i; SIDE];

/// A panel's two tiles of the same numbers to add up.
type Step = [Tile; 2];

/// Which factor's tiles are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Factor {
    Left,
    Right,
}

/// Packed factors, which product after product of a thread uses: panel by panel, each of some steps.
#[derive(Default)]
struct Room {
    left: Vec<Step>,
    right: Vec<Step>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// That the processor has the unit and this process may use it.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// `None` without the unit.
    pub(super) fn find() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            // Leaf 7 tells of bf16 in tiles, and of tiles.
            let wanted = 1 << 22 | 1 << 24;
            let unit = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted;
            let vectors = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bf16");
            unit && vectors && permitted()
        });
        found.then_some(Self(()))
    }

    /// `scale * a * b` to `out`, or added to it, as the caller has seen to fit.
    pub(super) fn multiply<T: Number>(
        self,
        out: MatrixMut<'_>,
        place: Place,
        scale: f32,
        a: Matrix<'_>,
        b: Matrix<'_, T>,
    ) {
        ROOM.with_borrow_mut(|room| {
            let tiles = Configured::new(self);
            // SAFETY: `find` saw all features that the function is compiled for.
            unsafe { multiply(&tiles, room, out, place, scale, a, b.t()) }
        });
    }
}

/// Asks the system for the tiles, which a process has from then on.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call gives this process the right to use the tiles, and does nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// This thread's tiles, of 16 rows of 64 bytes each, until they are let go of.
struct Configured(PhantomData<*const ()>);

impl Configured {
    fn new(_: Tiles) -> Self {
        let mut configuration = [0_u8; 64];
        // The one palette that there is, then bytes a row and rows of eight tiles.
        configuration[0] = 1;
        for tile in 0..8 {
            configuration[16 + 2 * tile] = 64;
            configuration[48 + tile] = SIDE as u8;
        }
        // SAFETY: `Tiles` says that the unit may be used. The instruction reads the 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Self(PhantomData)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: nobody needs what is in the tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The product of a left and a right panel, row by row.
fn product(_: &Configured, left: &[Step], right: &[Step]) -> [[__m512; 2]; PANEL] {
    assert!(left.len() == right.len() && !left.is_empty());
    let mut sums = MaybeUninit::<[[__m512; 2]; PANEL]>::uninit();
    // SAFETY: both slices have as many steps of 2 KiB as are counted down. `sums` is 32 rows of 128 bytes, of which a tile
    // is half of 16, and four tiles are all of it. The first argument says that this thread's tiles are configured, and no other
    // code uses them.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left} + {line}]",
            "tileloadd tmm6, [{right} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{left} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 2112], tmm3",
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            steps = inout(reg) left.len() => _,
            sums = in(reg) sums.as_mut_ptr(),
            line = in(reg) size_of::<__m512i>(),
            row = in(reg) size_of::<[__m512; 2]>(),
            options(nostack),
        );
        sums.assume_init()
    }
}

/// `scale * a * b` to `out`, or added to it, given the columns of `b`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn multiply<T: Number>(
    tiles: &Configured,
    room: &mut Room,
    mut out: MatrixMut<'_>,
    place: Place,
    scale: f32,
    a: Matrix<'_>,
    columns: Matrix<'_, T>,
) {
    let Room { left, right } = room;
    for steps in blocks(a.columns.div_ceil(DEPTH), STEPS) {
        let place = if steps.start == 0 {
            place
        } else {
            Place::AddedTo
        };
        for down in blocks(a.rows.div_ceil(PANEL), PANELS) {
            pack(a, down.clone(), steps.clone(), Factor::Left, left);
            for across in blocks(columns.rows.div_ceil(PANEL), PANELS) {
                pack(columns, across.clone(), steps.clone(), Factor::Right, right);
                for (row, left) in down.clone().zip(left.chunks_exact(steps.len())) {
                    for (column, right) in across.clone().zip(right.chunks_exact(steps.len())) {
                        let sums = product(tiles, left, right);
                        put(&mut out, [row * PANEL, column * PANEL], place, scale, &sums);
                    }
                }
            }
        }
    }
}

/// Parts of `0..count`, of `size` but for the last.
fn blocks(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count)
        .step_by(size)
        .map(move |start| start..(start + size).min(count))
}

/// Replaces `to` by panels of the matrix's rows, each with so many steps of its columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack<T: Number>(
    matrix: Matrix<'_, T>,
    panels: Range<usize>,
    steps: Range<usize>,
    factor: Factor,
    to: &mut Vec<Step>,
) {
    let zeros = [[_mm512_setzero_si512(); SIDE]; 2];
    to.resize(panels.len() * steps.len(), zeros);
    // The inner loop goes along the matrix's memory.
    if matrix.column_stride == 1 {
        for (panel, to) in panels.zip(to.chunks_exact_mut(steps.len())) {
            for (step, to) in steps.clone().zip(to) {
                *to = pack_step(matrix, panel, step, factor);
            }
        }
    } else {
        for (at, step) in steps.clone().enumerate() {
            for (panel, to) in panels.clone().zip(to.chunks_exact_mut(steps.len())) {
                to[at] = pack_step(matrix, panel, step, factor);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_step<T: Number>(matrix: Matrix<'_, T>, panel: usize, step: usize, factor: Factor) -> Step {
    let columns = step * DEPTH..((step + 1) * DEPTH).min(matrix.columns);
    let [start, middle, end] = [0, SIDE, PANEL].map(|rows| (panel * PANEL + rows).min(matrix.rows));
    [
        pack_tile(matrix, start..middle, columns.clone(), factor),
        pack_tile(matrix, middle..end, columns, factor),
    ]
}

/// At most 16 rows of at most 32 numbers, and zeros beside them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_tile<T: Number>(
    matrix: Matrix<'_, T>,
    rows: Range<usize>,
    columns: Range<usize>,
    factor: Factor,
) -> Tile {
    let mut tile = [_mm512_setzero_si512(); SIDE];
    let by_rows = matrix.column_stride == 1;
    if by_rows {
        for (line, row) in tile.iter_mut().zip(rows) {
            let row = &matrix.data[row * matrix.row_stride..][columns.clone()];
            let (low, high) = row.split_at(row.len().min(SIDE));
            let low = _mm512_castsi256_si512(sixteen(low));
            *line = _mm512_inserti64x4::<1>(low, sixteen(high));
        }
    } else if !rows.is_empty() {
        for (line, column) in tile.iter_mut().zip(columns.clone().step_by(2)) {
            let even = &matrix.data[column * matrix.column_stride..][rows.clone()];
            *line = _mm512_cvtepu16_epi32(sixteen(even));
            if column + 1 < columns.end {
                let odd = &matrix.data[(column + 1) * matrix.column_stride..][rows.clone()];
                let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(sixteen(odd)));
                *line = _mm512_or_si512(*line, odd);
            }
        }
    }
    if by_rows == (factor == Factor::Left) {
        tile
    } else {
        transposed(&tile)
    }
}

/// At most 16 numbers in bf16, and zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn sixteen<T: Number>(numbers: &[T]) -> __m256i {
    // SAFETY: what the mask leaves out isn't read. Both vectors are 32 bytes of any value.
    unsafe {
        match T::numbers(numbers) {
            Numbers::F32(numbers) => {
                let numbers = _mm512_maskz_loadu_ps(first(numbers.len()), numbers.as_ptr());
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(numbers))
            }
            Numbers::Bf16(numbers) => {
                _mm256_maskz_loadu_epi16(first(numbers.len()), numbers.as_ptr().cast())
            }
        }
    }
}

/// A mask of the first of sixteen lanes.
fn first(lanes: usize) -> u16 {
    if lanes < SIDE {
        (1 << lanes) - 1
    } else {
        u16::MAX
    }
}

/// Sixteen rows of sixteen pairs as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: &Tile) -> Tile {
    // Each quarter of a vector becomes a column, first of two rows, then of four.
    let mut twos = *rows;
    for (twos, rows) in twos.chunks_exact_mut(2).zip(rows.chunks_exact(2)) {
        twos[0] = _mm512_unpacklo_epi32(rows[0], rows[1]);
        twos[1] = _mm512_unpackhi_epi32(rows[0], rows[1]);
    }
    let mut fours = twos;
    for (fours, twos) in fours.chunks_exact_mut(4).zip(twos.chunks_exact(4)) {
        fours[0] = _mm512_unpacklo_epi64(twos[0], twos[2]);
        fours[1] = _mm512_unpackhi_epi64(twos[0], twos[2]);
        fours[2] = _mm512_unpacklo_epi64(twos[1], twos[3]);
        fours[3] = _mm512_unpackhi_epi64(twos[1], twos[3]);
    }
    // Then the quarters of four vectors come together.
    let mut columns = fours;
    for at in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|rows| fours[rows + at]);
        let even_ab = _mm512_shuffle_i32x4::<0x88>(a, b);
        let even_cd = _mm512_shuffle_i32x4::<0x88>(c, d);
        let odd_ab = _mm512_shuffle_i32x4::<0xdd>(a, b);
        let odd_cd = _mm512_shuffle_i32x4::<0xdd>(c, d);
        columns[at] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        columns[at + 4] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        columns[at + 8] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        columns[at + 12] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    columns
}

/// Panels' sums to the part of `out` that begins in this row and column, as far as it goes.
#[inline]
#[target_feature(enable = "avx512f")]
fn put(
    out: &mut MatrixMut<'_>,
    [row, column]: [usize; 2],
    place: Place,
    scale: f32,
    sums: &[[__m512; 2]; PANEL],
) {
    let [rows, columns] = [out.rows - row, out.columns - column].map(|rest| rest.min(PANEL));
    let to = &mut out.data[row * out.row_stride + column..];
    let scale = _mm512_set1_ps(scale);
    let masks = [columns.min(SIDE), columns.saturating_sub(SIDE)].map(first);
    for (to, sums) in to.chunks_mut(out.row_stride).zip(sums).take(rows) {
        let (low, high) = to[..columns].split_at_mut(columns.min(SIDE));
        for ((to, sums), mask) in [low, high].into_iter().zip(sums).zip(masks) {
            let to = to.as_mut_ptr().cast::<f32>();
            // SAFETY: what the mask leaves out is neither read nor written, and what is read holds numbers: the caller has seen to
            // that, or it was written before.
            unsafe {
                let old = match place {
                    Place::Replaced => _mm512_setzero_ps(),
                    Place::AddedTo => _mm512_maskz_loadu_ps(mask, to),
                };
                _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(*sums, scale, old));
            }
        }
    }
}
