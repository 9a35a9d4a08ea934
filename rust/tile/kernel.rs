//! The one loop that does the arithmetic, generic over vector, rows and columns.

use super::sum::{Segment, Step};
use super::vector::{Level, Vector};
use crate::memory::LINE;

/// Most rows of a tile some of whose steps only some rows take: see [`Segment::rows`].
pub const MOST_RAMP_ROWS: usize = 8;

/// A vector of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Where it starts in B, in elements.
    pub from: isize,
    /// Where the first row's results go, in bytes.
    pub to: isize,
}

/// Where the results of a tile's rows go: rows `row` bytes apart, to which each column adds its
/// [`to`](Column::to).
#[derive(Clone, Copy, Debug)]
pub struct Rows<T> {
    /// The first row's.
    pub first: *mut T,
    /// Bytes to the next row's.
    pub row: isize,
}

/// Numbers to add to finished sums.
#[derive(Clone, Copy, Debug)]
pub enum Bias<T> {
    /// None.
    None,
    /// One a row, from here on, so many elements apart.
    Rows(*const T, usize),
    /// One a lane of the columns, which go on from here.
    Lanes(*const T),
}

/// What is done to a total before it is written for the last time.
#[derive(Clone, Copy, Debug)]
pub struct Finish<T> {
    /// Added first.
    pub bias: Bias<T>,
    /// Bounds to keep between.
    pub clip: Option<(T, T)>,
}

/// One chain of the sums of neighbouring tiles:
///
/// `acc[m][v] = sum over steps t of A[m * a_row + a(t)] * B[columns[v] + b(t) ..]`,
///
/// added to the totals of the chains before it.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a, T> {
    /// Row operand.
    pub a: *const T,
    /// Bytes between rows of A.
    pub a_row: isize,
    /// Column operand.
    pub b: *const T,
    /// Vectors of columns: as many tiles as they fill, `NV` in each.
    pub columns: &'a [Column],
    /// What will be wanted next, asked for on the way, a cache line a step; null for nothing. Tiles of up
    /// to [`MOST_RAMP_ROWS`] rows never ask.
    pub ahead: *const T,
    /// Bytes from the vectors of a step to those that are asked for with it; 0 for nothing. Only tiles of up to
    /// [`MOST_RAMP_ROWS`] rows, all of which take the step, ask for these.
    pub later: isize,
    /// Steps of the sum.
    pub steps: &'a [Step],
    /// Which of them this chain takes, in order, and in which rows.
    pub segments: &'a [Segment],
    /// Totals between chains, a vector of each column of each row. Not in the result itself: rows of
    /// it that lie a power of two apart would drive each other out of the cache.
    pub totals: *mut T,
    /// Bytes between rows of totals.
    pub totals_row: isize,
    /// Whether this is the first chain: there are no totals yet.
    pub first: bool,
    /// If it is the last: what is done at the end.
    pub finish: Option<Finish<T>>,
    /// Where results go then; `None` leaves them in `totals`.
    pub out: Option<Rows<T>>,
}

/// Computes a chain of tiles of `MR` rows and `NV` vectors. With `DOT`, a step multiplies a vector of
/// each row of A, lane by lane, instead of one element of it.
///
/// # Safety
/// The CPU must have the instructions of `V`; A and B must be readable at every address that the chain
/// visits; `totals` must be writable for a vector of each column of `MR` rows and, after the first
/// chain, hold those of the last; `out` must be writable for `MR` rows of a vector of each column, and
/// the bias readable.
#[inline(always)]
pub unsafe fn run<V: Vector, const MR: usize, const NV: usize, const DOT: bool>(
    tile: &Tile<'_, V::Element>,
) {
    let vector = (V::LANES * size_of::<V::Element>()) as isize;
    let rows = multiples(tile.a_row);
    for (i, columns) in tile.columns.as_chunks::<NV>().0.iter().enumerate() {
        let from: [isize; NV] = std::array::from_fn(|v| columns[v].from);
        let totals: Places<V::Element, NV> = Places {
            rows: Rows { first: tile.totals, row: tile.totals_row },
            columns: std::array::from_fn(|v| (i * NV + v) as isize * vector),
        };
        // SAFETY: the caller vouches for the instructions and every address.
        unsafe {
            let mut acc = [[V::zero(); NV]; MR];
            for segment in tile.segments {
                let steps = &tile.steps[segment.steps.clone()];
                let (start, end) = (segment.rows.start, segment.rows.end);
                if MR > MOST_RAMP_ROWS && !tile.ahead.is_null() {
                    let ahead = tile.ahead.wrapping_byte_add(i * steps.len() * LINE);
                    for (line, step) in steps.iter().enumerate() {
                        V::prefetch(ahead.wrapping_byte_add(line * LINE).cast(), Level::Second);
                        add::<V, MR, NV, DOT>(tile, step, (&rows, &from), &mut acc, |_| true);
                    }
                } else if MR <= MOST_RAMP_ROWS && tile.later != 0 && start == 0 && end >= MR {
                    for step in steps {
                        let at = tile.b.wrapping_offset(step.b).wrapping_byte_offset(tile.later);
                        for from in from {
                            V::prefetch(at.wrapping_offset(from).cast(), Level::First);
                        }
                        add::<V, MR, NV, DOT>(tile, step, (&rows, &from), &mut acc, |_| true);
                    }
                } else if MR > MOST_RAMP_ROWS || (start == 0 && end >= MR) {
                    for step in steps {
                        add::<V, MR, NV, DOT>(tile, step, (&rows, &from), &mut acc, |_| true);
                    }
                } else {
                    for step in steps {
                        add::<V, MR, NV, DOT>(tile, step, (&rows, &from), &mut acc, |m| {
                            start <= m && m < end
                        });
                    }
                }
            }
            let to = match tile.out {
                Some(rows) if tile.finish.is_some() => {
                    Places { rows, columns: std::array::from_fn(|v| columns[v].to) }
                }
                _ => totals,
            };
            // What is added to a sum is added once: not in the result, where columns may overlap.
            let finish = tile
                .finish
                .filter(|finish| finish.clip.is_some() || !matches!(finish.bias, Bias::None));
            let sums = if finish.is_some() { totals } else { to };
            // Two plain loops over the array: an iterator over it, or a choice in each of its elements,
            // would keep it in memory.
            if tile.first {
                for (m, row) in acc.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        sum.store(sums.at(m, v));
                    }
                }
            } else {
                for (m, row) in acc.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        V::load(totals.at(m, v)).add(sum).store(sums.at(m, v));
                    }
                }
            }
            if let Some(Finish { bias, clip }) = finish {
                for m in 0..MR {
                    for v in 0..NV {
                        let mut total = V::load(totals.at(m, v));
                        total = match bias {
                            Bias::None => total,
                            Bias::Rows(bias, step) => total.add(V::splat(bias.add(m * step))),
                            Bias::Lanes(bias) => {
                                total.add(V::load(bias.add((i * NV + v) * V::LANES)))
                            }
                        };
                        if let Some((low, high)) = clip {
                            total = total.clip(V::splat(&low), V::splat(&high));
                        }
                        total.store(to.at(m, v));
                    }
                }
            }
        }
    }
}

/// Where the vectors of a tile go.
#[derive(Clone, Copy)]
struct Places<T: Copy, const NV: usize> {
    rows: Rows<T>,
    /// What each column adds, in bytes.
    columns: [isize; NV],
}

impl<T: Copy, const NV: usize> Places<T, NV> {
    #[inline(always)]
    fn at(&self, m: usize, v: usize) -> *mut T {
        self.rows.first.wrapping_byte_offset(m as isize * self.rows.row + self.columns[v])
    }
}

/// Rows whose addresses are a base and a number in a register, which a load adds by itself.
const NEAR: usize = 5;

/// 0, 1, 2... times the distance of rows, and at the end the distance to the next base.
#[inline(always)]
fn multiples(row: isize) -> [isize; NEAR + 1] {
    std::array::from_fn(|i| row * i as isize)
}

/// Adds the products of one step to the sums of the rows that take it.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn add<V: Vector, const MR: usize, const NV: usize, const DOT: bool>(
    tile: &Tile<'_, V::Element>,
    step: &Step,
    (rows, from): (&[isize; NEAR + 1], &[isize; NV]),
    acc: &mut [[V; NV]; MR],
    takes: impl Fn(usize) -> bool,
) {
    let at = tile.b.wrapping_offset(step.b);
    // An addition a row would take ports that multiply-adds need.
    let mut base = tile.a.wrapping_offset(step.a);
    // SAFETY: the caller vouches for the instructions and every address.
    unsafe {
        let columns: [V; NV] = std::array::from_fn(|v| V::load(at.wrapping_offset(from[v])));
        for (m, sums) in acc.iter_mut().enumerate() {
            if m > 0 && m % NEAR == 0 {
                base = base.wrapping_byte_offset(rows[NEAR]);
            }
            if takes(m) {
                let row = base.wrapping_byte_offset(rows[m % NEAR]);
                let factor = if DOT { V::load(row) } else { V::splat(row) };
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = factor.mul_add(column, *sum);
                }
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
