use burn::module::Module;

use super::Transformer;

/// Which layers of an encoder train where all but its last groups are locked: those have no gradient, and training
/// leaves them as they are.
///
/// Groups are counted from the input on. The first is the stem, which is all that comes before the blocks; each block
/// is one, with a norm right after the last in that one's; and the head is the last: what makes features of the blocks'
/// tokens or places. Some encoders have no head that is locked.
///
/// # References
/// Zhai et al. 2021, [Zero-Shot Transfer with Locked-image Text Tuning](https://arxiv.org/abs/2111.07991); OpenCLIP's
/// `--lock-image-unlocked-groups` and `--lock-text-unlocked-layers`.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockedGroups {
    first_trained: usize,
    blocks: usize,
}

impl LockedGroups {
    /// Of a stem, so many blocks and a head, all but the last `unlocked`.
    pub(super) fn of(blocks: usize, unlocked: usize) -> Self {
        Self {
            first_trained: (blocks + 2).saturating_sub(unlocked),
            blocks,
        }
    }

    /// Of a stem and so many blocks, all but the last `unlocked`.
    pub(super) fn without_head(blocks: usize, unlocked: usize) -> Self {
        Self {
            first_trained: (blocks + 1).saturating_sub(unlocked),
            blocks,
        }
    }

    /// Whether the group of that number, from 0 for the stem, isn't locked.
    fn trains(self, group: usize) -> bool {
        self.first_trained <= group
    }

    /// Locks, or not, what comes before the blocks.
    pub(super) fn stem<M: Module>(self, module: M) -> M {
        module.set_require_grad(self.trains(0))
    }

    /// Locks, or not, the block of that place, from 0, or a part of it.
    pub(super) fn block<M: Module>(self, place: usize, module: M) -> M {
        module.set_require_grad(self.trains(place + 1))
    }

    /// Locks the first of all blocks.
    pub(super) fn blocks<M: Module>(self, blocks: Vec<M>) -> Vec<M> {
        self.blocks_from(0, blocks)
    }

    /// Locks the first of blocks that follow one another, from that place on.
    pub(super) fn blocks_from<M: Module>(self, place: usize, blocks: Vec<M>) -> Vec<M> {
        let lock = |(place, block)| self.block(place, block);
        (place..).zip(blocks).map(lock).collect()
    }

    /// Locks the first blocks of a transformer.
    pub(super) fn transformer(self, transformer: Transformer) -> Transformer {
        Transformer {
            resblocks: self.blocks(transformer.resblocks),
        }
    }

    /// Locks, or not, what follows the last block and is in its group.
    pub(super) fn last_block<M: Module>(self, module: M) -> M {
        module.set_require_grad(self.trains(self.blocks))
    }

    /// Locks, or not, the head.
    pub(super) fn head<M: Module>(self, module: M) -> M {
        module.set_require_grad(self.trains(self.blocks + 1))
    }
}
