use std::{
    alloc,
    sync::{
        Mutex,
        atomic::{AtomicIsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;

#[global_allocator]
static ALLOCATOR: ThreadCached = ThreadCached;

/// A layout that nothing else here has.
const COUNTED: Layout = match Layout::from_size_align(40_960, 128) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// Of that layout: threads that are joined have given back what they kept.
static LIVE: AtomicIsize = AtomicIsize::new(0);

/// One test counts what the other makes.
static ALONE: Mutex<()> = Mutex::new(());

/// The system's allocator, which counts blocks of one layout.
pub(super) struct System;

// SAFETY: all is the system's.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for System {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout == COUNTED {
            LIVE.fetch_add(1, Ordering::SeqCst);
        }
        unsafe { alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout == COUNTED {
            LIVE.fetch_sub(1, Ordering::SeqCst);
        }
        unsafe { alloc::System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { alloc::System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        unsafe { alloc::System.realloc(block, layout, new_size) }
    }
}

/// A block of this allocator, full of one byte.
struct Block {
    at: *mut u8,
    layout: Layout,
    byte: u8,
}

// SAFETY: nobody else has it.
#[allow(unsafe_code)]
unsafe impl Send for Block {}

#[allow(unsafe_code)]
impl Block {
    fn new(layout: Layout, byte: u8, zeroed: bool) -> Self {
        // SAFETY: the layout isn't empty, and only what was asked for is touched.
        let at = unsafe {
            if zeroed {
                ALLOCATOR.alloc_zeroed(layout)
            } else {
                ALLOCATOR.alloc(layout)
            }
        };
        assert!(!at.is_null() && at.addr().is_multiple_of(layout.align()));
        let mut block = Self {
            at,
            layout,
            byte: 0,
        };
        if zeroed {
            block.check();
        }
        block.byte = byte;
        unsafe { at.write_bytes(byte, layout.size()) };
        block
    }

    /// That nobody else has written to it.
    fn check(&self) {
        // SAFETY: it was written when it was made.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) };
        assert!(
            bytes.iter().all(|byte| *byte == self.byte),
            "{:?}",
            self.layout
        );
    }

    fn resize(&mut self, size: usize) {
        let kept = self.layout.size().min(size);
        // SAFETY: it is of this layout, and the new one is no larger than those that are made here.
        self.at = unsafe { ALLOCATOR.realloc(self.at, self.layout, size) };
        assert!(self.at.addr().is_multiple_of(self.layout.align()));
        self.layout = Layout::from_size_align(kept, self.layout.align()).unwrap();
        self.check();
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        unsafe { self.at.write_bytes(self.byte, size) };
    }
}

#[allow(unsafe_code)]
impl Drop for Block {
    fn drop(&mut self) {
        self.check();
        // SAFETY: it is of this layout, and goes with this.
        unsafe { ALLOCATOR.dealloc(self.at, self.layout) };
    }
}

fn draw(rng: &mut ChaCha8Rng) -> Layout {
    let largest = 1 << rng.random_range(1..19);
    let align = 1 << rng.random_range(0..10);
    Layout::from_size_align(rng.random_range(1..largest), align).unwrap()
}

/// Makes, resizes, frees and hands on blocks of all sizes.
fn work(seed: u64, received: &Receiver<Block>, send: &[Sender<Block>]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut blocks = Vec::new();
    for step in 0..4_000 {
        blocks.push(Block::new(draw(&mut rng), step as u8, rng.random()));
        let at = rng.random_range(0..blocks.len());
        match rng.random_range(0..4) {
            0 => blocks[at].resize(draw(&mut rng).size()),
            1 => drop(blocks.swap_remove(at)),
            2 => {
                let to = &send[rng.random_range(0..send.len())];
                // Who has ended takes no more.
                let _ = to.send(blocks.swap_remove(at));
            }
            _ => {}
        }
        blocks.extend(received.try_recv());
        if blocks.len() > 200 {
            blocks.drain(..100);
        }
    }
}

/// Each of four threads finds in its blocks what was written there.
#[test]
fn no_two_have_the_same_memory() {
    let _alone = ALONE.lock();
    let (send, receive): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel()).unzip();
    let spawn = |(seed, received): (usize, Receiver<Block>)| {
        let send = send.clone();
        thread::spawn(move || work(seed as u64, &received, &send))
    };
    let threads: Vec<_> = receive.into_iter().enumerate().map(spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_thread_keeps_few_of_a_size_and_gives_them_back_when_it_ends() {
    let _alone = ALONE.lock();
    let live = || LIVE.load(Ordering::SeqCst);
    let before = live();
    let thread = thread::spawn(move || {
        for _ in 0..2 {
            let blocks: Vec<_> = (0..10).map(|_| Block::new(COUNTED, 7, false)).collect();
            assert_eq!(live() - before, 10);
            drop(blocks);
            assert_eq!(live() - before, 2);
        }
        let _again = Block::new(COUNTED, 7, false);
        assert_eq!(live() - before, 2, "one of those kept");
    });
    thread.join().unwrap();
    assert_eq!(live(), before);
}
