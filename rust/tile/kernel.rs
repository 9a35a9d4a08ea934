//! The one loop that does the arithmetic, generic over vector, rows and columns.

use super::vector::Vector;

/// Most vectors in the columns of a tile.
pub const MAX_COLUMNS: usize = 8;

/// Taps that are summed in one chain of fused multiply-adds before the chain is added to the total.
///
/// It is part of what results are, so it is the same for every machine, dtype and tile. A shorter
/// chain rounds less (the error of a chain of n random terms grows as the square root of n), a
/// longer one adds to the totals less often: with 256 the additions cost about 1 % of a tile's time.
pub const CHAIN: usize = 256;

/// What one tap adds to the addresses of both operands, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// To the row operand A.
    pub a: isize,
    /// To the column operand B.
    pub b: isize,
}

/// The sum that every element of a tile is: a period of taps, repeated.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    /// Steps of one period, in order. A chain ends at every [`CHAIN`]th and at the last of them.
    pub steps: &'a [Step],
    /// Taps in all; the last period may be cut short.
    pub taps: usize,
    /// What a period adds to the addresses.
    pub period: Step,
}

/// Where a vector of each row goes: rows `row` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<T> {
    /// The first row's.
    pub first: *mut T,
    /// Bytes to the next row's.
    pub row: isize,
}

/// A vector of columns: where it starts in B, and where its sums go.
#[derive(Clone, Copy, Debug)]
pub struct Column<T> {
    /// Elements from the start of B.
    pub from: isize,
    /// The first row's sums, and the others'.
    pub to: Rows<T>,
}

impl<T> Column<T> {
    /// A column that no tile has.
    pub const NOWHERE: Self = Column { from: 0, to: Rows { first: std::ptr::null_mut(), row: 0 } };
}

/// What is done to a total before it is written for the last time.
#[derive(Clone, Copy, Debug)]
pub struct Finish<T> {
    /// A number to add for each row, or null.
    pub bias: *const T,
    /// Bounds to keep between.
    pub clip: Option<(T, T)>,
}

/// A tile to compute: `to[m][v] = sum over t of A[m * a_row + a(t)] * B[columns[v] + b(t) ..]`.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a, T> {
    /// Row operand.
    pub a: *const T,
    /// Bytes between rows of A.
    pub a_row: isize,
    /// Column operand.
    pub b: *const T,
    /// `NV` vectors of columns.
    pub columns: &'a [Column<T>],
    /// What is summed.
    pub sum: Sum<'a>,
    /// Totals between chains, a vector of each column of each row. Not in the result itself: rows of
    /// it that lie a power of two apart would drive each other out of the cache.
    pub totals: *mut T,
    /// Whether `totals` hold what earlier tiles summed, to which this one adds.
    pub resume: bool,
    /// What is done at the end.
    pub finish: Finish<T>,
}

/// Computes a tile of `MR` rows and `NV` vectors. With `DOT`, a step multiplies a vector of each row
/// of A, lane by lane, instead of one element of it.
///
/// # Safety
/// The CPU must have the instructions of `V`; A and B must be readable at every address that the sum
/// visits; `totals` must be writable for `MR * NV` vectors, each column's `to` for `MR` rows of one
/// vector, and `bias`, if not null, readable for `MR` numbers.
#[inline(always)]
pub unsafe fn run<V: Vector, const MR: usize, const NV: usize, const DOT: bool>(
    tile: &Tile<'_, V::Element>,
) {
    let columns: &[Column<V::Element>; NV] = tile.columns.try_into().expect("`NV` columns");
    let from: [isize; NV] = std::array::from_fn(|v| columns[v].from);
    let (mut a, mut b) = (tile.a, tile.b);
    let mut left = tile.sum.taps;
    let mut first = !tile.resume;
    while left > 0 || first {
        let period = &tile.sum.steps[..left.min(tile.sum.steps.len())];
        left -= period.len();
        let mut start = 0;
        while start < period.len() || first {
            let chain = &period[start..period.len().min(start + CHAIN)];
            start += CHAIN;
            let last = left == 0 && start >= period.len();
            // SAFETY: the caller vouches for the instructions and every address of the sum.
            unsafe {
                let mut acc = [[V::zero(); NV]; MR];
                for step in chain {
                    let at = b.wrapping_offset(step.b);
                    let columns: [V; NV] =
                        std::array::from_fn(|v| V::load(at.wrapping_offset(from[v])));
                    let mut row = a.wrapping_offset(step.a);
                    for sums in &mut acc {
                        let factor = if DOT { V::load(row) } else { V::splat(row) };
                        row = row.wrapping_byte_offset(tile.a_row);
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = factor.mul_add(column, *sum);
                        }
                    }
                }
                // Plain loops over the array: an iterator over it would keep it in memory.
                for (m, row) in acc.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        let total = tile.totals.add((m * NV + v) * V::LANES);
                        let sum = if first { sum } else { V::load(total).add(sum) };
                        let to = &columns[v].to;
                        let row = to.first.wrapping_byte_offset(m as isize * to.row);
                        sum.store(if last { row } else { total });
                    }
                }
            }
            first = false;
        }
        a = a.wrapping_offset(tile.sum.period.a);
        b = b.wrapping_offset(tile.sum.period.b);
    }
    let Finish { bias, clip } = &tile.finish;
    if bias.is_null() && clip.is_none() {
        return;
    }
    for m in 0..MR {
        for Column { to, .. } in columns {
            let to = to.first.wrapping_byte_offset(m as isize * to.row);
            // SAFETY: the caller vouches for `to` and `bias`; the total was stored above.
            unsafe {
                let mut total = V::load(to);
                if !bias.is_null() {
                    total = total.add(V::splat(bias.add(m)));
                }
                if let Some((low, high)) = clip {
                    total = total.clip(V::splat(low), V::splat(high));
                }
                total.store(to);
            }
        }
    }
}

/// A table of [`run`] for one instruction set, `table[columns - 1][rows - 1]`, from a function that
/// is generic over rows, columns, and the form of the product.
macro_rules! table {
    ($run:ident, $dot:literal, $($columns:literal: [$($rows:literal)*]),*) => {
        &[$(&[$($run::<$rows, $columns, $dot>),*]),*]
    };
}
pub(super) use table;
