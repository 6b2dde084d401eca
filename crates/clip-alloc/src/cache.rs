//! The freed blocks of a thread.

use std::{alloc::GlobalAlloc, cell::UnsafeCell, ptr::NonNull};

use crate::{System, class::Class};

/// Lists of free blocks, each of which begins with the address of the next.
pub(crate) struct Cache {
    lists: [List; Class::COUNT],
}

#[derive(Clone, Copy)]
struct List {
    first: Option<NonNull<Free>>,
    length: usize,
    /// What its blocks are, once there is one.
    class: Option<Class>,
}

struct Free {
    next: Option<NonNull<Free>>,
}

// A global allocator may have such a variable: what the standard library asks for on its behalf comes from the system
// (`GlobalAlloc`, re-entrance).
thread_local! {
    static CACHE: UnsafeCell<Cache> = const { UnsafeCell::new(Cache::new()) };
}

/// Does something with this thread's cache, which a thread that ends no longer has.
#[inline]
pub(crate) fn with_cache<T>(work: impl FnOnce(&mut Cache) -> T) -> Option<T> {
    // SAFETY: `work` is this crate's and comes back without asking for memory, so there is no other borrow.
    #[allow(unsafe_code)]
    let borrow = |cache: &UnsafeCell<Cache>| work(unsafe { &mut *cache.get() });
    CACHE.try_with(borrow).ok()
}

impl Cache {
    const fn new() -> Self {
        let none = List {
            first: None,
            length: 0,
            class: None,
        };
        Self {
            lists: [none; Class::COUNT],
        }
    }

    /// A block that was kept.
    #[inline]
    pub(crate) fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let list = &mut self.lists[class.index()];
        let free = list.first?;
        // SAFETY: `keep` put it there, and nobody else has the block.
        #[allow(unsafe_code)]
        let next = unsafe { free.read() }.next;
        list.first = next;
        list.length -= 1;
        Some(free.cast())
    }

    /// Keeps a block of that class, unless there are many already; whether it does.
    ///
    /// # Safety
    /// The block is of that class's layout, from `System`, and nobody uses it.
    #[allow(unsafe_code)]
    #[inline]
    pub(crate) unsafe fn keep(&mut self, class: Class, block: NonNull<u8>) -> bool {
        let list = &mut self.lists[class.index()];
        if list.length == class.most() {
            return false;
        }
        let block = block.cast::<Free>();
        // SAFETY: the smallest block has room for an address, and is aligned to more.
        unsafe { block.write(Free { next: list.first }) };
        list.first = Some(block);
        list.length += 1;
        list.class = Some(class);
        true
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for at in 0..self.lists.len() {
            let Some(class) = self.lists[at].class else {
                continue;
            };
            while let Some(block) = self.take(class) {
                // SAFETY: it is of that class, from `System`, and in no list any more.
                #[allow(unsafe_code)]
                unsafe {
                    System.dealloc(block.as_ptr(), class.layout());
                }
            }
        }
    }
}
