//! Runs of numbers, read and written: from what arrays hold to what is computed with, and back.
//!
//! The loops are plain, and compiled twice: for the build's baseline, and for AVX2, which has vectors of most
//! conversions. Those of halves have instructions of their own. Both give the same bits.

use crate::number::{Element, F16, Scalar, Stored};

/// A run of elements to read: where they go, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// The index of the first one's place.
    pub to: usize,
    /// How many.
    pub len: usize,
    /// Byte offset of the first, and bytes to the next; `None` is padding.
    pub from: Option<(isize, isize)>,
}

impl Run {
    /// Whether `next` reads on where this ends.
    pub fn goes_on(&self, next: &Run) -> bool {
        let from = match (self.from, next.from) {
            (Some((at, step)), Some((next, next_step))) => {
                next_step == step && next == at + step * self.len as isize
            }
            (None, None) => true,
            _ => false,
        };
        from && next.to == self.to + self.len
    }
}

/// Defines a function that calls another of the same arguments, compiled for AVX2 where this machine has it.
/// `WIDE` tells that other one so.
macro_rules! widest {
    ($(#[$doc:meta])* $name:ident = $plain:ident($($argument:ident: $type:ty),*)) => {
        $(#[$doc])*
        #[inline]
        pub unsafe fn $name<S: Stored, T: Element>($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,f16c")]
                unsafe fn wide<S: Stored, T: Element>($($argument: $type),*) {
                    // SAFETY: the caller vouches for every element.
                    unsafe { $plain::<S, T, true>($($argument),*) }
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                    // SAFETY: the CPU has all of these; the caller vouches for every element.
                    return unsafe { wide::<S, T>($($argument),*) };
                }
            }
            // SAFETY: the caller vouches for every element.
            unsafe { $plain::<S, T, false>($($argument),*) }
        }
    };
}

widest! {
    /// Reads runs of `S`, with their bytes in the other order if `swapped`, byte offsets of which count from
    /// `from`; what comes from nowhere is `padding`.
    ///
    /// # Safety
    /// Each element of them must be readable.
    read_runs = read_all(from: *const u8, swapped: bool, runs: &[Run], padding: T, to: &mut [T])
}

widest! {
    /// Writes elements as `S`, `step` bytes apart.
    ///
    /// # Safety
    /// Each of them must be writable.
    write_run = write_all(to: *mut u8, step: isize, from: &[T])
}

widest! {
    /// Adds elements to numbers that are stored as `S`, `step` bytes apart.
    ///
    /// # Safety
    /// Each of them must be writable.
    add_run = add_all(to: *mut u8, step: isize, from: &[T])
}

/// # Safety
/// As for [`read_runs`]; if `WIDE`, the CPU must have AVX2 and F16C.
#[inline(always)]
unsafe fn read_all<S: Stored, T: Element, const WIDE: bool>(
    from: *const u8,
    swapped: bool,
    runs: &[Run],
    padding: T,
    to: &mut [T],
) {
    for run in runs {
        let to = &mut to[run.to..run.to + run.len];
        match run.from {
            // SAFETY: the caller vouches for every element.
            Some((at, step)) => unsafe {
                let from = from.wrapping_offset(at);
                if swapped {
                    read_run::<S, T, WIDE>(from, step, to, |number: S| number.swap_bytes().load());
                } else if step == size_of::<S>() as isize && S::SCALAR.same_bits(T::SCALAR) {
                    copy(from.cast::<T>(), to.as_mut_ptr(), to.len());
                } else if WIDE && step == size_of::<S>() as isize && is_half::<S, T>() {
                    read_halves(from.cast(), to);
                } else {
                    read_run::<S, T, WIDE>(from, step, to, S::load);
                }
            },
            None => to.fill(padding),
        }
    }
}

/// Reads `to.len()` elements of `S`, `step` bytes apart.
///
/// # Safety
/// Each of them must be readable.
#[inline(always)]
unsafe fn read_run<S: Stored, T: Element, const WIDE: bool>(
    mut from: *const u8,
    step: isize,
    to: &mut [T],
    load: impl Fn(S) -> T,
) {
    // SAFETY: the caller vouches for every element; `read_unaligned` needs no alignment.
    let read = |from: *const u8| unsafe { load(from.cast::<S>().read_unaligned()) };
    let size = size_of::<S>();
    // The common steps are written out so that they compile to vector loads and shuffles.
    if step == size as isize {
        for (i, t) in to.iter_mut().enumerate() {
            *t = read(from.wrapping_add(i * size));
        }
    } else if step == 2 * size as isize && size == size_of::<u32>() {
        // Pairs, of which the first number is wanted: they are loaded as vectors and cut, where numbers by
        // themselves are put together one by one. Behind the last there may be nothing.
        let Some((last, others)) = to.split_last_mut() else { return };
        *last = read(from.wrapping_add(2 * others.len() * size));
        for (i, t) in others.iter_mut().enumerate() {
            // SAFETY: the first half is a number, and as another follows, what lies between is of the same
            // array; `S` has as many bytes as the half that is kept.
            *t = load(unsafe {
                let pair = from.wrapping_add(2 * i * size).cast::<u64>().read_unaligned();
                let first = (u64::from_le(pair) as u32).to_le();
                std::mem::transmute_copy::<u32, S>(&first)
            });
        }
    } else if step == 2 * size as isize {
        for (i, t) in to.iter_mut().enumerate() {
            *t = read(from.wrapping_add(2 * i * size));
        }
    } else {
        for t in to {
            *t = read(from);
            from = from.wrapping_offset(step);
        }
    }
}

/// # Safety
/// As for [`write_run`]; if `WIDE`, the CPU must have AVX2 and F16C.
#[inline(always)]
unsafe fn write_all<S: Stored, T: Element, const WIDE: bool>(to: *mut u8, step: isize, from: &[T]) {
    let size = size_of::<S>() as isize;
    // SAFETY: the caller vouches for every element; so in all of these.
    unsafe {
        if step == size && S::SCALAR.same_bits(T::SCALAR) {
            copy(from.as_ptr(), to.cast(), from.len());
        } else if WIDE && step == size && is_half::<S, T>() {
            write_halves(to.cast(), from);
        } else if is_cut::<S, T>()
            && from.iter().fold(true, |all, value| all & (value.to_f64().abs() < HALF_RANGE))
        {
            // A choice for each of them, as a cast that stops at the ends of a range makes, would keep the loop
            // from vectors. SAFETY: all were just seen to fit.
            let cut = |value: &T| S::of_i64(value.to_f64().to_int_unchecked::<i32>().into());
            put(to, step, from.iter().map(cut));
        } else {
            put(to, step, from.iter().map(|value| value.store::<S>()));
        }
    }
}

/// Writes numbers `step` bytes apart.
///
/// # Safety
/// Each of them must be writable.
#[inline(always)]
unsafe fn put<S: Copy>(mut to: *mut u8, step: isize, values: impl Iterator<Item = S>) {
    // Written out so that it compiles to vectors.
    if step == size_of::<S>() as isize {
        for (i, value) in values.enumerate() {
            // SAFETY: the caller vouches for every number; so in the other loop.
            unsafe { to.cast::<S>().add(i).write_unaligned(value) }
        }
        return;
    }
    for value in values {
        // SAFETY: as above.
        unsafe { to.cast::<S>().write_unaligned(value) }
        to = to.wrapping_offset(step);
    }
}

/// # Safety
/// As for [`add_run`].
#[inline(always)]
unsafe fn add_all<S: Stored, T: Element, const WIDE: bool>(
    mut to: *mut u8,
    step: isize,
    from: &[T],
) {
    for &value in from {
        let at = to.cast::<S>();
        // SAFETY: the caller vouches for every element.
        unsafe { at.write_unaligned(at.read_unaligned().load::<T>().add(value).store()) }
        to = to.wrapping_offset(step);
    }
}

/// Floats of less magnitude are integers of 32 bits when they are cut, for which vectors have a cast.
const HALF_RANGE: f64 = 2_147_483_648.0;

/// Whether singles are stored as halves, for which there are instructions.
const fn is_half<S: Stored, T: Element>() -> bool {
    matches!((S::SCALAR, T::SCALAR), (Scalar::F16, Scalar::F32))
}

/// Whether floats are stored as integers.
const fn is_cut<S: Stored, T: Element>() -> bool {
    let cut = S::SCALAR.is_integer() && !matches!(S::SCALAR, Scalar::Bool);
    cut && !T::SCALAR.is_integer()
}

#[cfg(target_arch = "x86_64")]
mod halves {
    use std::arch::x86_64::*;

    use super::{Element, F16, Stored, is_half};

    /// Halves of a vector of singles.
    const LANES: usize = 8;

    /// Reads halves as singles, which `T` must be.
    ///
    /// # Safety
    /// The CPU must have F16C, and `from` be readable for as many as `to` holds.
    #[inline]
    #[target_feature(enable = "avx,f16c")]
    pub unsafe fn read_halves<T: Element>(from: *const F16, to: &mut [T]) {
        assert!(is_half::<F16, T>());
        let whole = to.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            // SAFETY: both hold so many whole vectors, and `T` is a single, as just asserted.
            unsafe {
                let halves = _mm_loadu_si128(from.add(i).cast());
                _mm256_storeu_ps(to.as_mut_ptr().add(i).cast(), _mm256_cvtph_ps(halves));
            }
        }
        for (i, to) in to.iter_mut().enumerate().skip(whole) {
            // SAFETY: the caller vouches for it.
            *to = unsafe { from.add(i).read_unaligned() }.load();
        }
    }

    /// Writes singles, which `T` must be, as halves: to the nearest, of two the even one.
    ///
    /// # Safety
    /// The CPU must have F16C, and `to` be writable for as many as `from` holds.
    #[inline]
    #[target_feature(enable = "avx,f16c")]
    pub unsafe fn write_halves<T: Element>(to: *mut F16, from: &[T]) {
        assert!(is_half::<F16, T>());
        let whole = from.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            // SAFETY: both hold so many whole vectors, and `T` is a single, as just asserted.
            unsafe {
                let singles = _mm256_loadu_ps(from.as_ptr().add(i).cast());
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(singles);
                _mm_storeu_si128(to.add(i).cast(), halves);
            }
        }
        for (i, &single) in from.iter().enumerate().skip(whole) {
            // SAFETY: the caller vouches for it.
            unsafe { to.add(i).write_unaligned(single.store()) }
        }
    }
}
#[cfg(target_arch = "x86_64")]
use halves::{read_halves, write_halves};

/// Where there are no such instructions, nothing is compiled as if there were.
#[cfg(not(target_arch = "x86_64"))]
mod halves {
    use super::{Element, F16};

    /// # Safety
    /// None is needed.
    pub unsafe fn read_halves<T: Element>(_: *const F16, _: &mut [T]) {
        unreachable!("WIDE is for x86 alone")
    }

    /// # Safety
    /// None is needed.
    pub unsafe fn write_halves<T: Element>(_: *mut F16, _: &[T]) {
        unreachable!("WIDE is for x86 alone")
    }
}
#[cfg(not(target_arch = "x86_64"))]
use halves::{read_halves, write_halves};

/// Copies `len` elements of any alignment; a short run costs a few moves rather than a call.
///
/// # Safety
/// Both must hold `len` elements, and not overlap.
#[inline(always)]
pub unsafe fn copy<T: Copy>(from: *const T, to: *mut T, len: usize) {
    let (from, to, bytes) = (from.cast::<u8>(), to.cast::<u8>(), len * size_of::<T>());
    // Two blocks that overlap in the middle cover every length between one and two of them.
    macro_rules! ends {
        ($block:literal) => {{
            type Block = [u8; $block];
            let (a, b) = (from.cast::<Block>(), from.wrapping_add(bytes - $block).cast::<Block>());
            // SAFETY: both blocks lie within the run, which is no shorter than one.
            unsafe {
                let (a, b) = (a.read_unaligned(), b.read_unaligned());
                to.cast::<Block>().write_unaligned(a);
                to.add(bytes - $block).cast::<Block>().write_unaligned(b);
            }
        }};
    }
    match bytes {
        0 => {}
        4..8 => ends!(4),
        8..16 => ends!(8),
        16..32 => ends!(16),
        32..=64 => ends!(32),
        // SAFETY: the caller vouches for both.
        _ => unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) },
    }
}

/// Writes the elements of some rows in turns: the first of each, the second of each, and so on. A row may have
/// one element less than the first.
pub fn interleave<T: Copy>(rows: &[&[T]], to: &mut [T]) {
    match *rows {
        [a, b] => {
            // Written out so that it compiles to vectors.
            let (pairs, last) = to.as_chunks_mut::<2>();
            for (to, (&a, &b)) in pairs.iter_mut().zip(a.iter().zip(b)) {
                *to = [a, b];
            }
            if let ([to], Some(&a)) = (last, a.last()) {
                *to = a;
            }
        }
        _ => {
            for (i, row) in rows.iter().enumerate() {
                to[i..].iter_mut().step_by(rows.len()).zip(*row).for_each(|(to, &from)| *to = from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways of compiling give, bit for bit, in runs with a rest.
    #[test]
    fn instructions_for_halves_give_the_same_bits() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let mut plain = vec![0f32; halves.len()];
        let mut singles = vec![0f32; halves.len()];
        let runs = [Run { to: 0, len: halves.len(), from: Some((0, 2)) }];
        // SAFETY: all runs are of the arrays' lengths.
        unsafe {
            let from = halves.as_ptr().cast();
            read_runs::<F16, f32>(from, false, &runs, 0.0, &mut singles);
            read_all::<F16, f32, false>(from, false, &runs, 0.0, &mut plain);
        }
        assert!(singles.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()));
        // Singles of every exponent around those of halves, and whatever mantissa rounds.
        let singles: Vec<f32> =
            (0..=u32::MAX).step_by(99_991).map(f32::from_bits).chain(singles).collect();
        let (mut wide, mut plain) = (vec![0u16; singles.len()], vec![0u16; singles.len()]);
        // SAFETY: as above.
        unsafe {
            write_run::<F16, f32>(wide.as_mut_ptr().cast(), 2, &singles);
            write_all::<F16, f32, false>(plain.as_mut_ptr().cast(), 2, &singles);
        }
        assert_eq!(wide, plain);
    }
}
