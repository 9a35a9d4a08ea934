//! Sums of pieces of rows: what the taps of a kernel made of a row, each moved to where it belongs.

use super::vector::Vector;

/// Vectors whose sums are in registers together.
const VECTORS: usize = 4;

/// A part of a row that is added to some of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the element for sum 0 is, or would be, from each of the bases on.
    pub from: isize,
    /// The first sum that it has an element for.
    pub first: usize,
    /// And the first behind those.
    pub end: usize,
    /// The sums of the first vector that it has elements for, where there is one vector: 0 if there are more.
    bits: u32,
}

/// A bit for each sum from `first` to `end`, of so many lanes from sum `at` on.
#[inline(always)]
fn bits((first, end): (usize, usize), at: usize, lanes: usize) -> u32 {
    let below = |sum: usize| (1u64 << sum.saturating_sub(at).min(lanes)) - 1;
    (below(end) & !below(first)) as u32
}

impl Piece {
    /// Of `len` sums from `first` on, of a row with `places` for sums.
    pub fn new(from: isize, (first, len): (usize, usize), places: usize, lanes: usize) -> Self {
        let end = first + len;
        let bits = if places <= lanes { bits((first, end), 0, lanes) } else { 0 };
        Piece { from, first, end, bits }
    }
}

/// A row of sums: for each of the bases in turn, of all pieces.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a, T> {
    pub from: *const T,
    /// In elements.
    pub bases: &'a [usize],
    pub pieces: &'a [Piece],
    /// As many sums as fill vectors, the last ones of which need no pieces.
    pub to: *mut T,
    pub len: usize,
}

/// Sums pieces.
pub type Summing<T> = unsafe fn(&Pieces<'_, T>);

/// Each sum is added up from zero, in the order of bases and pieces.
///
/// # Safety
/// Every element that a piece has for a sum must be readable, from each base; `len` elements of `to` must be writable,
/// which is a multiple of the lanes of `V`; and the CPU must have its instructions.
#[inline(always)]
pub unsafe fn sum<V: Vector>(sums: &Pieces<'_, V::Element>) {
    let mut at = 0;
    if sums.len == V::LANES {
        // SAFETY: as below; lanes whose bits are set are within the piece, see `Piece::new`.
        unsafe {
            let mut total = V::zero();
            for &base in sums.bases {
                for piece in sums.pieces {
                    let from = sums.from.wrapping_offset(base as isize + piece.from);
                    total = total.add(V::load_some(from, 1, piece.bits));
                }
            }
            return total.store(sums.to);
        }
    }
    // SAFETY: both do no more than the caller vouches for.
    unsafe {
        while at + VECTORS * V::LANES <= sums.len {
            vectors::<V, VECTORS>(sums, at);
            at += VECTORS * V::LANES;
        }
        while at < sums.len {
            vectors::<V, 1>(sums, at);
            at += V::LANES;
        }
    }
}

/// The sums of `NV` vectors from sum `at` on.
///
/// # Safety
/// As for [`sum`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // an iterator over the sums would keep them in memory
unsafe fn vectors<V: Vector, const NV: usize>(sums: &Pieces<'_, V::Element>, at: usize) {
    let end = at + NV * V::LANES;
    // SAFETY: whole vectors are within a piece, and of others only lanes that are; the caller vouches for those, for
    // the instructions, and for vectors of `to`.
    unsafe {
        let mut total = [V::zero(); NV];
        for &base in sums.bases {
            for piece in sums.pieces {
                let from = sums.from.wrapping_offset(base as isize + piece.from + at as isize);
                if piece.first <= at && end <= piece.end {
                    for v in 0..NV {
                        total[v] = total[v].add(V::load(from.wrapping_add(v * V::LANES)));
                    }
                    continue;
                }
                for v in 0..NV {
                    let bits = bits((piece.first, piece.end), at + v * V::LANES, V::LANES);
                    if bits != 0 {
                        let from = from.wrapping_add(v * V::LANES);
                        total[v] = total[v].add(V::load_some(from, 1, bits));
                    }
                }
            }
        }
        for v in 0..NV {
            total[v].store(sums.to.add(at + v * V::LANES));
        }
    }
}
