//! The sizes of blocks that are kept.

use std::alloc::Layout;

/// The logarithms of the smallest size and of the largest.
const SMALLEST: u32 = 5;
const LARGEST: u32 = 16;

/// Bytes that a thread keeps of a size, unless two blocks are more.
const KEPT: usize = 16 << 10;

/// Sizes between a power of two and the next.
const STEPS: usize = 4;

/// What `malloc` aligns to, and what a cache line or two are aligned to.
const ALIGNMENTS: [usize; 2] = [16, 128];

/// Sizes that are kept, of each alignment.
const SIZES: usize = (LARGEST - SMALLEST) as usize * STEPS + 1;

/// A size and an alignment of which blocks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    index: usize,
    layout: Layout,
}

impl Class {
    /// How many there are.
    pub(crate) const COUNT: usize = ALIGNMENTS.len() * SIZES;

    /// Of the blocks for such a layout; none for what is too large or aligned to more than cache lines.
    #[inline]
    pub(crate) fn of(layout: Layout) -> Option<Self> {
        let alignment = ALIGNMENTS.iter().position(|&most| layout.align() <= most)?;
        if layout.size() > 1 << LARGEST {
            return None;
        }
        let size = layout.size().max(1 << SMALLEST);
        // The power of two that is smaller than any size of the same steps.
        let power = (size - 1).ilog2().max(SMALLEST - 1);
        let step = (1 << power) / STEPS;
        let steps = (size - (1 << power)).div_ceil(step);
        let index = (power + 1 - SMALLEST) as usize * STEPS + steps - STEPS;
        let size = (1 << power) + steps * step;
        let layout = Layout::from_size_align(size, ALIGNMENTS[alignment]).ok()?;
        Some(Self {
            index: alignment * SIZES + index,
            layout,
        })
    }

    /// Below [`COUNT`](Self::COUNT), and no other class's.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// What its blocks have.
    pub(crate) fn layout(self) -> Layout {
        self.layout
    }

    /// How many blocks a thread keeps.
    pub(crate) fn most(self) -> usize {
        (KEPT / self.layout.size()).max(2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_class_holds_what_was_asked_for_and_wastes_a_quarter_at_most() {
        let mut layouts = HashMap::new();
        for align in [1, 8, 16, 32, 64, 128] {
            for size in 0..=1 << LARGEST {
                let asked = Layout::from_size_align(size, align).unwrap();
                let class = Class::of(asked).unwrap();
                let given = class.layout();
                assert!(given.size() >= size && given.align() >= align, "{asked:?}");
                let waste = given.size() - size;
                assert!(size <= 32 || 4 * waste < size, "{asked:?} gets {given:?}");
                assert!(class.index() < Class::COUNT);
                assert_eq!(*layouts.entry(class.index()).or_insert(given), given);
            }
        }
        assert_eq!(layouts.len(), Class::COUNT);
    }

    #[test]
    fn what_is_large_or_aligned_to_pages_has_none() {
        for (size, align) in [((1 << LARGEST) + 1, 1), (1, 256), (usize::MAX >> 1, 1)] {
            let asked = Layout::from_size_align(size, align).unwrap();
            assert_eq!(Class::of(asked), None, "{asked:?}");
        }
    }
}
