//! Memory for results and to work in: from the start of a cache line on, and kept for the next call.
//!
//! Fresh pages cost more than many a convolution: 1x1 from 64 to 256 channels of 56 x 56 took 1.41 ms
//! with a result of new pages each time and 0.62 ms with one that was there (Sapphire Rapids, float32).
//! The system's allocator gives such blocks back to the kernel whenever they lie at the end of its heap,
//! which results of a loop do.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Mutex;

use crate::error::Error;
use crate::number::Element;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Bytes from which a block is kept when it is given back: less comes from the allocator without new
/// pages.
pub const LEAST_KEPT: usize = 64 << 10;

/// Bytes of all blocks that are kept, and of the largest. The oldest go first.
const MOST_KEPT: usize = 64 << 20;
const LARGEST_KEPT: usize = MOST_KEPT / 2;

/// Scratch of a thread that is kept between calls, in bytes: a slab and what goes with it. Larger
/// ones go back at once.
const KEPT_SCRATCH: usize = 4 << 20;

/// A block of memory that starts at a cache line: zeros, or what an earlier owner left.
#[derive(Debug)]
pub struct Block(Place);

/// Where a block is. In the line before it lies its [`Header`].
#[derive(Clone, Copy, Debug)]
struct Place(NonNull<u8>);

#[derive(Clone, Copy)]
struct Header {
    /// What the allocator gave.
    whole: NonNull<u8>,
    layout: Layout,
    /// Bytes of the block.
    len: usize,
}

// SAFETY: memory may be given back by any thread.
unsafe impl Send for Place {}
// SAFETY: shared, it tells where it is and no more.
unsafe impl Sync for Place {}

impl Place {
    fn header(self) -> Header {
        // SAFETY: `Block::new` wrote it.
        unsafe { self.0.sub(LINE).cast::<Header>().read() }
    }

    /// Gives the memory back to the allocator.
    ///
    /// # Safety
    /// It must not be used any more.
    unsafe fn free(self) {
        let Header { whole, layout, .. } = self.header();
        // SAFETY: the allocator gave it with this layout.
        unsafe { dealloc(whole.as_ptr(), layout) }
    }
}

/// Blocks given back, the oldest first. Who finds them locked does without, so that no thread waits, and a
/// child that was forked meanwhile does not wait for good.
struct Kept(Mutex<Vec<Place>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl Kept {
    /// The latest of `len` bytes or a little more.
    fn take(&self, len: usize) -> Option<Place> {
        let mut places = self.0.try_lock().ok()?;
        // A fifth of a block may lie idle: results of a loop are often of nearly the same size.
        let fits = |place: &Place| (len..=len / 4 * 5).contains(&place.header().len);
        let i = places.iter().rposition(fits)?;
        Some(places.remove(i))
    }

    /// Keeps a block, which is not used any more, or frees it.
    fn give(&self, place: Place) {
        let len = place.header().len;
        if let (LEAST_KEPT..=LARGEST_KEPT, Ok(mut places)) = (len, self.0.try_lock()) {
            let mut total = len + places.iter().map(|place| place.header().len).sum::<usize>();
            while total > MOST_KEPT {
                let oldest = places.remove(0);
                total -= oldest.header().len;
                // SAFETY: it was given back.
                unsafe { oldest.free() }
            }
            places.push(place);
        } else {
            // SAFETY: the caller has done with it.
            unsafe { place.free() }
        }
    }
}

impl Block {
    /// Of `len` bytes or a little more, or `None` if there is no such memory.
    pub fn new(len: usize) -> Option<Block> {
        if len >= LEAST_KEPT
            && let Some(place) = KEPT.take(len)
        {
            return Some(Block(place));
        }
        // With a line for the header, and one that alignment may skip: asked to align zeros by itself, the
        // allocator would write them, and so touch every page.
        let layout = Layout::from_size_align(len.checked_add(2 * LINE)?, align_of::<u64>()).ok()?;
        // SAFETY: the layout holds two lines at least.
        let whole = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        large_pages(whole.addr().get(), layout.size());
        // SAFETY: the first whole line starts within the first 64 bytes, so that it, a header's, and `len`
        // bytes behind are in the layout.
        unsafe {
            let first = whole.add(whole.as_ptr().align_offset(LINE) + LINE);
            first.sub(LINE).cast::<Header>().write(Header { whole, layout, len });
            Some(Block(Place(first)))
        }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.0.header().len
    }

    /// The first byte.
    pub fn first(&self) -> *mut u8 {
        self.0.0.as_ptr()
    }

    /// The first byte, which now stands for the block.
    pub fn into_raw(self) -> *mut u8 {
        std::mem::ManuallyDrop::new(self).first()
    }

    /// The block of a first byte.
    ///
    /// # Safety
    /// It must be what [`into_raw`](Self::into_raw) gave, and this be its only use from now on.
    pub unsafe fn from_raw(first: NonNull<u8>) -> Self {
        Block(Place(first))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        KEPT.give(self.0);
    }
}

/// Elements to work with, from the start of a cache line on.
#[derive(Debug, Default)]
pub struct Workspace(Option<Block>);

impl Workspace {
    /// Of `len` elements, or an error that names `what` they are for. What they hold is left over from
    /// earlier owners.
    pub fn new<T: Element>(what: &'static str, len: usize) -> Result<Self, Error> {
        let bytes = len as u128 * size_of::<T>() as u128;
        let block = usize::try_from(bytes).ok().and_then(Block::new);
        Ok(Workspace(Some(block.ok_or(Error::NoMemory { what, bytes })?)))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, Block::bytes)
    }

    /// Its elements.
    pub fn elements<T: Element>(&self) -> &[T] {
        let Some(block) = &self.0 else { return &[] };
        // SAFETY: a block is aligned for any element and was zeros, so that it is initialised; every bit
        // pattern is an element; and it is borrowed with the workspace.
        unsafe { std::slice::from_raw_parts(block.first().cast(), block.bytes() / size_of::<T>()) }
    }

    /// Its elements, to be written.
    pub fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        let Some(block) = &self.0 else { return &mut [] };
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(block.first().cast(), block.bytes() / size_of::<T>())
        }
    }
}

/// Calls `work` with `len` elements of this thread's scratch memory, aligned to a cache line. What
/// they hold is left over from earlier calls.
pub fn with_scratch<T: Element, R>(
    len: usize,
    work: impl FnOnce(&mut [T]) -> R,
) -> Result<R, Error> {
    thread_local!(static SCRATCH: RefCell<Workspace> = RefCell::default());
    // Taken out rather than borrowed: should `work` come back here, it finds an empty one.
    let mut scratch = SCRATCH.take();
    if scratch.bytes() < len.saturating_mul(size_of::<T>()) {
        // Replaced rather than grown: what it holds is not worth a copy.
        drop(scratch);
        scratch = Workspace::new::<T>("the staged input", len)?;
    }
    let result = work(&mut scratch.elements_mut()[..len]);
    if scratch.bytes() <= KEPT_SCRATCH {
        SCRATCH.set(scratch);
    }
    Ok(result)
}

/// Calls `work` with this thread's scratch memory in parts of so many elements, one behind the other.
pub fn with_parts<T: Element, R, const N: usize>(
    sizes: [usize; N],
    work: impl FnOnce([&mut [T]; N]) -> R,
) -> Result<R, Error> {
    let len = sizes.into_iter().fold(0, usize::saturating_add);
    with_scratch(len, |scratch: &mut [T]| {
        let mut left = scratch;
        work(sizes.map(|n| left.split_off_mut(..n).expect("room for all parts")))
    })
}

/// Asks for large pages where whole ones fit, as NumPy does for its arrays: 64 MiB in pages of 4 KiB take
/// 11 ms to be had.
#[cfg(target_os = "linux")]
fn large_pages(start: usize, len: usize) {
    const PAGE: usize = 2 << 20;
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(start: usize, len: usize, advice: i32) -> i32;
    }
    let (first, last) = (start.next_multiple_of(PAGE), (start + len) / PAGE * PAGE);
    if first < last {
        // SAFETY: pages of memory that is ours; whatever the answer, it can be used as before.
        unsafe { madvise(first, last - first, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn large_pages(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_start_at_a_line_and_hold_zeros_or_what_was_left() {
        for len in [0, 1, 63, 64, 1000, LEAST_KEPT, (5 << 20) + 1] {
            let mut space = Workspace::new::<f32>("a test", len).unwrap();
            assert!(
                space.bytes() >= 4 * len
                    && space.elements::<f32>().as_ptr().addr().is_multiple_of(LINE)
            );
            space.elements_mut::<f32>().fill(7.0);
        }
        assert!(Workspace::default().elements::<f64>().is_empty());
        assert_eq!(
            Workspace::new::<f64>("a test", usize::MAX).unwrap_err(),
            Error::NoMemory { what: "a test", bytes: 8 * usize::MAX as u128 }
        );
    }

    #[test]
    fn what_is_given_back_is_kept_up_to_a_bound() {
        let kept = Kept(Mutex::new(Vec::new()));
        let len = 3 << 20;
        let place = || std::mem::ManuallyDrop::new(Block::new(len).unwrap()).0;
        let (first, second) = (place(), place());
        assert_ne!(first.0, second.0);
        kept.give(first);
        kept.give(second);
        // The latest first; a little smaller will do, larger or much smaller not.
        assert!(kept.take(2 * len).is_none() && kept.take(len / 2).is_none());
        assert_eq!(kept.take(len - 1000).map(|place| place.0), Some(second.0));
        for _ in 0..40 {
            kept.give(place());
        }
        let total: usize = kept.0.lock().unwrap().iter().map(|place| place.header().len).sum();
        assert!((MOST_KEPT - 2 * len..=MOST_KEPT).contains(&total), "{total}");
        let locked = kept.0.lock().unwrap();
        assert!(kept.take(len).is_none());
        kept.give(second);
        drop(locked);
    }

    #[test]
    fn a_first_byte_stands_for_its_block() {
        let block = Block::new(1000).unwrap();
        let raw = NonNull::new(block.into_raw()).unwrap();
        // SAFETY: of the line before.
        assert_eq!(unsafe { Block::from_raw(raw) }.bytes(), 1000);
    }

    #[test]
    fn scratch_is_aligned_and_may_nest() {
        with_scratch::<f32, _>(100, |outer| {
            assert_eq!(outer.as_ptr() as usize % 64, 0);
            outer.fill(1.0);
            with_scratch::<f64, _>(50, |inner| inner.fill(2.0)).unwrap();
            assert!(outer.iter().all(|&v| v == 1.0));
        })
        .unwrap();
    }
}
