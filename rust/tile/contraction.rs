//! Computing tiles without leaving their operands.

use std::marker::PhantomData;

use super::kernel::{Bias, Column, Finish, MOST_RAMP_ROWS, Rows, Tile};
use super::sum::{Placed, Segment, Sum};
use super::{Kernels, Tiled};
use crate::memory::LINE;
use crate::view::Memory;

/// Two operands and the sum that contracts them.
#[derive(Clone, Debug)]
pub struct Contraction<'a, T> {
    /// The operand that is read a number at a time, a row of a tile.
    pub a: Memory<'a, T>,
    /// The operand that is read a vector at a time.
    pub b: Memory<'a, T>,
    /// What is summed.
    pub sum: &'a Sum,
}

/// What a strip's tiles ask for on the way.
#[derive(Clone, Copy, Debug)]
pub enum Next<T> {
    /// Nothing.
    Nothing,
    /// The rows of A behind these, for those that are read once: a cache line a step, of tiles of more than
    /// [`MOST_RAMP_ROWS`] rows.
    Rows,
    /// What lies from here on, which need not be memory: so too.
    From(*const T),
    /// What lies so many elements behind the vectors of each step, which need not be memory: of tiles of up to
    /// [`MOST_RAMP_ROWS`] rows.
    Vectors(isize),
}

/// A row of tiles: some rows of A, and vectors of columns that fill whole tiles.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, T> {
    /// The first row, in elements of A.
    pub a: isize,
    /// How many rows.
    pub rows: usize,
    /// What is added to where the columns start in B.
    pub b: isize,
    /// Vectors of columns, a whole number of tiles.
    pub columns: &'a [Column],
    /// The least and the greatest of where they start.
    pub from: (isize, isize),
    /// Vectors of a tile.
    pub vectors: usize,
    /// What is asked for on the way.
    pub next: Next<T>,
    /// Where totals are kept between chains: see [`row_vectors`](Self::row_vectors).
    pub totals: *mut T,
}

impl<T> Strip<'_, T> {
    /// Vectors from a row of totals to the next: an odd number, so that no two rows share a set of the
    /// first-level cache.
    pub fn row_vectors(columns: usize) -> usize {
        columns | 1
    }
}

/// What is done with totals after the last chain.
#[derive(Clone, Copy, Debug)]
pub struct Ending<T> {
    /// Bias and bounds.
    pub finish: Finish<T>,
    /// Where results go; `None` leaves them with the totals.
    pub out: Option<Rows<T>>,
}

/// Most vectors of a tile.
pub const MAX_COLUMNS: usize = 8;

/// Where sums of a tile go: a vector of each column of each row.
#[derive(Debug)]
pub struct Results<'a, T> {
    rows: Rows<T>,
    /// Bytes between columns.
    column: isize,
    /// How many rows and columns there is room for.
    size: (usize, usize),
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T> Results<'a, T> {
    /// In a slice from its first element on, for so many rows and columns of `lanes` elements, with so many
    /// elements from one to the next.
    pub fn of(
        sums: &'a mut [T],
        (row, column): (usize, usize),
        size: (usize, usize),
        lanes: usize,
    ) -> Self {
        let last = (size.0 - 1) * row + (size.1 - 1) * column;
        assert!(sums.len() >= last + lanes, "room for the results");
        let bytes = |elements: usize| (elements * size_of::<T>()) as isize;
        let rows = Rows { first: sums.as_mut_ptr(), row: bytes(row) };
        Results { rows, column: bytes(column), size, memory: PhantomData }
    }

    /// In an array of the caller, for so many rows, and columns that follow each other without a gap.
    ///
    /// # Safety
    /// Each row must be writable for `columns` vectors of `lanes` elements, and nothing else may access
    /// them for `'a`.
    pub unsafe fn at(rows: Rows<T>, size: (usize, usize), lanes: usize) -> Self {
        let column = (lanes * size_of::<T>()) as isize;
        Results { rows, column, size, memory: PhantomData }
    }
}

impl<T: Tiled> Contraction<'_, T> {
    /// Adds chain `chain` of the sum to the totals of a strip; with the last, results go where
    /// `ending` says.
    ///
    /// # Safety
    /// `strip.totals` must be writable for [`row_vectors`](Strip::row_vectors) vectors of each row, and
    /// nothing else may access them meanwhile. `ending.out` must be writable for a vector of each
    /// column and row, and its bias readable for each row or for a vector of each column.
    // A call would pass `strip` and `ending` in memory, from where pairs of numbers are loaded that were stored one
    // by one: such a load waits for all stores before it, those of the last tile's sums among them (6 % of the time of
    // a 3x3 layer by Winograd's tiles on 256 channels; Sapphire Rapids).
    #[inline(always)]
    pub unsafe fn chain(
        &self,
        kernels: &Kernels<T>,
        chain: usize,
        strip: &Strip<'_, T>,
        ending: &Ending<T>,
    ) {
        let sum = self.sum;
        let size = size_of::<T>() as isize;
        let lanes = kernels.lanes as isize;
        assert!(sum.rows.is_none_or(|rows| rows == strip.rows && rows <= MOST_RAMP_ROWS));
        let (mut a, mut b) = (std::ptr::null(), std::ptr::null());
        let mut segments: &[Segment] = &[];
        let mut ahead = match strip.next {
            Next::From(next) => next,
            _ => std::ptr::null(),
        };
        if let Some(placed) = sum.chain(chain, strip.rows) {
            let Placed { at, a: (first, last), .. } = placed;
            a = self.a.at(strip.a + at.a, first, last);
            let (first, last) = (strip.from.0 + placed.b.0, strip.from.1 + placed.b.1);
            b = self.b.at(strip.b + at.b, first, last + lanes - 1);
            segments = placed.segments;
            if matches!(strip.next, Next::Rows) {
                let lines: usize = segments.iter().map(|segment| segment.steps.len()).sum();
                let tiles = strip.columns.len() / strip.vectors;
                let next = a.wrapping_offset(strip.rows as isize * sum.a_row - at.a);
                ahead = next.wrapping_byte_add(chain * tiles * lines * LINE);
            }
        }
        let later = match strip.next {
            Next::Vectors(later) => later * size,
            _ => 0,
        };
        let tile = Tile {
            ahead,
            later,
            a,
            a_row: sum.a_row * size,
            b,
            columns: strip.columns,
            steps: &sum.steps,
            segments,
            totals: strip.totals,
            totals_row: Strip::<T>::row_vectors(strip.columns.len()) as isize * lanes * size,
            first: chain == 0,
            finish: (chain + 1 == sum.chains()).then_some(ending.finish),
            out: ending.out,
        };
        // SAFETY: the table is only reached through `kernels_of`, which checked the CPU; both `at`
        // above checked every address that the chain reaches (a sum without taps reaches none); the
        // caller vouches for the rest.
        unsafe { kernels.table[strip.vectors - 1][strip.rows - 1](&tile) }
    }

    /// Adds chain `chain` of the sum to `totals`, or sets them where it is the `first`, for a tile of
    /// `rows` rows from element `a` of A on and vectors that start at `columns` in B. Totals are as a
    /// [`Strip`] has them; with `results`, they go there instead. With `dot`, products are of vectors,
    /// lane by lane.
    pub fn total(
        &self,
        (kernels, chain): (&Kernels<T>, usize),
        (a, rows): (isize, usize),
        columns: &[isize],
        (totals, results): (&mut [T], Option<Results<'_, T>>),
        (first, dot): (bool, bool),
    ) {
        let (lanes, size) = (kernels.lanes, size_of::<T>());
        let totals_row = Strip::<T>::row_vectors(columns.len()) * lanes;
        assert!(totals.len() >= rows * totals_row, "room for the totals");
        let mut list = [Column::default(); MAX_COLUMNS];
        let mut out = None;
        if let Some(results) = results {
            assert!(rows <= results.size.0 && columns.len() <= results.size.1);
            out = Some(results.rows);
            list.iter_mut().zip(0..).for_each(|(column, v)| column.to = v * results.column);
        }
        list.iter_mut().zip(columns).for_each(|(column, &from)| column.from = from);
        let low = *columns.iter().min().expect("a tile has columns");
        let high = *columns.iter().max().expect("a tile has columns");
        let width = if dot { lanes as isize } else { 1 };
        let table = if dot { kernels.dots } else { kernels.table };
        let kernel = table[columns.len() - 1][rows - 1];
        let finish = Finish { bias: Bias::None, clip: None };
        let placed = self.sum.chain(chain, rows).expect("a sum of positions has steps");
        let at = placed.at;
        let tile = Tile {
            ahead: std::ptr::null(),
            later: 0,
            a: self.a.at(a + at.a, placed.a.0, placed.a.1 + width - 1),
            a_row: self.sum.a_row * size as isize,
            b: self.b.at(at.b, low + placed.b.0, high + lanes as isize - 1 + placed.b.1),
            columns: &list[..columns.len()],
            steps: &self.sum.steps,
            segments: placed.segments,
            totals: totals.as_mut_ptr(),
            totals_row: (totals_row * size) as isize,
            first,
            finish: out.map(|_| finish),
            out,
        };
        // SAFETY: the table is only reached through `kernels_of`, which checked the CPU; both `at`
        // above checked every address that the chain reaches; totals and results were just seen to
        // have room for each row, and are this call's alone; there is no bias.
        unsafe { kernel(&tile) }
    }

    /// Computes the tile of `rows` rows from element `a` of A on, of vectors that start at `columns`
    /// in B, into `sums`, row by row: for tests and benches.
    pub fn tile(
        &self,
        kernels: &Kernels<T>,
        (a, rows): (isize, usize),
        columns: &[isize],
        sums: &mut [T],
    ) {
        let vector = |v: usize| (v * kernels.lanes * size_of::<T>()) as isize;
        let place = |(v, &from)| Column { from, to: vector(v) };
        let list: Vec<Column> = columns.iter().enumerate().map(place).collect();
        let sums = &mut sums[..rows * columns.len() * kernels.lanes];
        let mut totals = vec![T::default(); kernels.most_totals()];
        let strip = Strip {
            a,
            rows,
            b: 0,
            columns: &list,
            from: (*columns.iter().min().unwrap_or(&0), *columns.iter().max().unwrap_or(&0)),
            vectors: columns.len(),
            next: Next::Nothing,
            totals: totals.as_mut_ptr(),
        };
        let finish = Finish { bias: Bias::None, clip: None };
        let out = Rows { first: sums.as_mut_ptr(), row: vector(columns.len()) };
        let ending = Ending { finish, out: Some(out) };
        for chain in 0..self.sum.chains() {
            // SAFETY: `sums` was cut to the tile's size, `totals` has room for any strip, and both
            // are borrowed for this alone; there is no bias.
            unsafe { self.chain(kernels, chain, &strip, &ending) }
        }
    }
}
