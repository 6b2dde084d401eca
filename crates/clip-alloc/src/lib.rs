//! Memory for programs whose threads each compute on a core of their own, and ask for the same step after step.
//!
//! Threads that share a heap wait for each other, and a heap for each thread keeps memory that the others can't use. So
//! small blocks stay with the thread that freed them ([`ThreadCached`]), and large ones come from the one heap of the
//! system, which is to keep what a step frees ([`keep_freed_memory`]).

mod cache;
mod class;
mod heap;

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

// The tests count what it gives.
#[cfg(not(test))]
use std::alloc::System;
#[cfg(test)]
use tests::System;

use cache::with_cache;
use class::Class;
pub use heap::keep_freed_memory;

/// The system's allocator, but for blocks of up to 64 KiB that the calling thread has freed: those it gets again first.
///
/// A thread keeps 16 KiB of each size, or two blocks of the largest, and gives them back when it ends.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: clip_alloc::ThreadCached = clip_alloc::ThreadCached;
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadCached;

// SAFETY: a block of a class comes from `System` with the class's layout, which is no smaller and no less aligned than what
// was asked for. The class follows from the layout alone, which is the same when the block is freed: so it is kept with
// blocks of its class, or goes back to `System` with the layout that it came with. Others are `System`'s alone.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for ThreadCached {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = Class::of(layout) else {
            return unsafe { System.alloc(layout) };
        };
        match with_cache(|cache| cache.take(class)).flatten() {
            Some(block) => block.as_ptr(),
            None => unsafe { System.alloc(class.layout()) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = Class::of(layout) else {
            return unsafe { System.dealloc(block, layout) };
        };
        let kept = unsafe { NonNull::new_unchecked(block) };
        let is_kept = with_cache(|cache| unsafe { cache.keep(class, kept) });
        if is_kept != Some(true) {
            unsafe { System.dealloc(block, class.layout()) };
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Class::of(layout).is_none() {
            return unsafe { System.alloc_zeroed(layout) };
        }
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The caller has made sure that this is a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (Class::of(layout), Class::of(new)) {
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            (old, wanted) if old == wanted => block,
            _ => {
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    let kept = layout.size().min(new_size);
                    unsafe { block.copy_to_nonoverlapping(moved, kept) };
                    unsafe { self.dealloc(block, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests;
