//! What a vector of elements can do: all that a tile kernel asks of an instruction set.

use crate::view::Element;

/// A cache that a line is asked into.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Nearest to the registers.
    First,
    /// The same, for a line that will be written.
    Written,
    /// A core's own, behind it.
    Second,
}

/// A register of [`LANES`](Vector::LANES) elements.
///
/// # Safety
/// `load` and `store` of an implementation touch exactly `LANES` elements, `load_some` and `store_some` those
/// whose bits are set, and none needs alignment.
pub unsafe trait Vector: Copy {
    /// What it holds.
    type Element: Element;
    /// How many it holds.
    const LANES: usize;

    /// All lanes zero.
    ///
    /// # Safety
    /// The CPU must have the instructions of this vector type; so for all that follow.
    unsafe fn zero() -> Self;

    /// Elements from memory.
    ///
    /// # Safety
    /// `LANES` elements from `from` on must be readable.
    unsafe fn load(from: *const Self::Element) -> Self;

    /// Elements to memory.
    ///
    /// # Safety
    /// `LANES` elements from `to` on must be writable.
    unsafe fn store(self, to: *mut Self::Element);

    /// Every `stride`th element from memory, zero where it is missing: bit `i` tells whether element
    /// `from + i` is there. A stride is 1 or 2.
    ///
    /// # Safety
    /// Elements whose bits are set must be readable.
    unsafe fn load_some(from: *const Self::Element, stride: usize, bits: u32) -> Self;

    /// Lanes whose bits are set to memory.
    ///
    /// # Safety
    /// Their elements from `to` on must be writable.
    unsafe fn store_some(self, to: *mut Self::Element, bits: u32);

    /// Asks for the cache line of an address, whatever it is, where the CPU can be asked.
    #[inline(always)]
    fn prefetch(_: *const u8, _: Level) {}

    /// One element in every lane.
    ///
    /// # Safety
    /// The element must be readable.
    unsafe fn splat(from: *const Self::Element) -> Self;

    /// Lane-wise sum.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn add(self, other: Self) -> Self;

    /// Lane-wise self * factor + addend, rounded once.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// Lane-wise self, but `low` where that is greater, then `high` where that is less. NaN stays.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn clip(self, low: Self, high: Self) -> Self;
}
