//! Tiles: which instruction sets there are, which tiles each can do, and which to take.
//!
//! A new instruction set is one file with its vectors and its table of kernels, and one row in
//! [`ISAS`] and [`kernels_of`].

mod kernel;
mod scalar;
mod transpose;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::ops::Range;
use std::sync::OnceLock;

pub use kernel::{CHAIN, Column, Finish, MAX_COLUMNS, Rows, Step, Sum, Tile};

use crate::error::Error;
use crate::parallel::even_parts;
use crate::view::{Element, Memory};

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86 with 512-bit registers.
    Avx512,
    /// x86 with 256-bit registers and fused multiply-add.
    Avx2,
    /// Whatever the build's baseline has.
    Scalar,
}

/// Every instruction set, fastest first.
pub const ISAS: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Scalar];

impl Isa {
    /// The name that `FALTUNG_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Scalar => "scalar",
        }
    }
}

/// The instruction sets of this machine, fastest first.
pub fn available() -> Vec<Isa> {
    ISAS.into_iter().filter(|&isa| kernels_of::<f32>(isa).is_some()).collect()
}

/// The instruction set in use: the fastest, or what `FALTUNG_ISA` names. Decided once a process.
pub fn isa() -> Result<Isa, Error> {
    static CHOICE: OnceLock<Result<Isa, Error>> = OnceLock::new();
    CHOICE
        .get_or_init(|| {
            let available = available();
            match std::env::var("FALTUNG_ISA") {
                Ok(name) if !name.is_empty() => {
                    available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
                        let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
                        Error::Isa { value: name, available: names.join(", ") }
                    })
                }
                _ => Ok(available[0]),
            }
        })
        .clone()
}

/// A kernel for one tile shape.
///
/// Its contract is that of [`kernel::run`].
pub type Kernel<T> = unsafe fn(&Tile<'_, T>);

/// The kernels of one instruction set.
#[derive(Debug)]
pub struct Kernels<T: 'static> {
    /// Which.
    pub isa: Isa,
    /// Elements of a vector.
    pub lanes: usize,
    /// Transposes as many vectors as one has elements: see [`transpose::square`].
    square: unsafe fn((*const T, usize), (*mut T, usize)),
    /// `table[columns - 1][rows - 1]`
    table: &'static [&'static [Kernel<T>]],
    /// The same tiles with products of vectors, lane by lane.
    dots: &'static [&'static [Kernel<T>]],
}

/// An element that has tile kernels.
pub trait Tiled: Element {
    /// The one of two tables that is for this element.
    fn pick<'a>(single: &'a Kernels<f32>, double: &'a Kernels<f64>) -> &'a Kernels<Self>;
}

impl Tiled for f32 {
    fn pick<'a>(single: &'a Kernels<f32>, _: &'a Kernels<f64>) -> &'a Kernels<f32> {
        single
    }
}

impl Tiled for f64 {
    fn pick<'a>(_: &'a Kernels<f32>, double: &'a Kernels<f64>) -> &'a Kernels<f64> {
        double
    }
}

/// The kernels of `isa`, if this machine has it.
pub fn kernels_of<T: Tiled>(isa: Isa) -> Option<&'static Kernels<T>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernels) = x86_64::kernels(isa) {
        return Some(kernels);
    }
    (isa == Isa::Scalar).then(scalar::kernels)
}

/// The kernels of the instruction set in use.
pub fn kernels<T: Tiled>() -> Result<&'static Kernels<T>, Error> {
    Ok(kernels_of(isa()?).expect("`isa` names what this machine has"))
}

/// How rows and vectors of columns are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileShape {
    /// Rows of a tile at most; groups of rows are made as even as can be.
    pub rows: usize,
    /// Vectors of columns; the last tile has what is left.
    pub columns: usize,
}

impl<T: Tiled> Kernels<T> {
    /// The tile shape that takes the fewest cycles for `rows` rows and `vectors` vectors of columns,
    /// with at most `most_rows` rows in a tile.
    pub fn choose(&self, rows: usize, vectors: usize, most_rows: usize) -> TileShape {
        let mut best = (f64::INFINITY, TileShape { rows: 1, columns: 1 });
        for (i, column) in self.table.iter().enumerate() {
            let shape = TileShape { rows: column.len().min(most_rows), columns: i + 1 };
            let (whole, rest) = (vectors / shape.columns, vectors % shape.columns);
            let cycles: f64 = even_parts(0..rows, shape.rows)
                .map(|group| {
                    let whole = whole as f64 * self.cycles(group.len(), shape.columns);
                    whole + if rest > 0 { self.cycles(group.len(), rest) } else { 0.0 }
                })
                .sum();
            if cycles < best.0 {
                best = (cycles, shape);
            }
        }
        best.1
    }

    /// Cycles that a tap of a tile takes on a core with two FMA pipes and two load ports, which
    /// today's have: the longest of its multiply-adds, its loads (a vector of 64 bytes at an odd
    /// address is two) and the latency of one chain, and a little for the loop.
    fn cycles(&self, rows: usize, columns: usize) -> f64 {
        let load = 1.0 + (self.lanes * size_of::<T>()) as f64 / 64.0;
        let multiply = (rows * columns) as f64 / 2.0;
        let load = (rows as f64 + columns as f64 * load) / 2.0;
        multiply.max(load).max(4.0) + 0.5
    }

    /// The largest tiles, as (rows, elements of columns).
    pub fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        self.table.iter().enumerate().map(|(i, c)| (c.len(), (i + 1) * self.lanes))
    }

    /// Transposes a matrix: `to[j * to_pitch + i] = from[i * pitch + j]` for `i` below `rows` and `j`
    /// below `columns`. Both are rounded up to whole vectors: so much is read and written.
    pub fn transpose(
        &self,
        (from, pitch): (&[T], usize),
        (to, to_pitch): (&mut [T], usize),
        (rows, columns): (usize, usize),
    ) {
        let (rows, columns) =
            (rows.next_multiple_of(self.lanes), columns.next_multiple_of(self.lanes));
        if rows * columns == 0 {
            return;
        }
        assert!((rows - 1) * pitch + columns <= from.len(), "a matrix to transpose");
        assert!((columns - 1) * to_pitch + rows <= to.len(), "room for the transposed matrix");
        for j in (0..columns).step_by(self.lanes) {
            for i in (0..rows).step_by(self.lanes) {
                // SAFETY: the table is only reached through `kernels_of`, which checked the CPU; the
                // last elements of both blocks lie before those just seen to be there.
                unsafe {
                    let from = from.as_ptr().add(i * pitch + j);
                    let to = to.as_mut_ptr().add(j * to_pitch + i);
                    (self.square)((from, pitch), (to, to_pitch));
                }
            }
        }
    }

    /// Elements that the sums of any tile need at most.
    pub fn most_sums(&self) -> usize {
        self.tiles().map(|(rows, columns)| rows * columns).max().unwrap_or(0)
    }
}

/// Two operands and the sum that contracts them, with the reach of that sum in each: what is needed
/// to compute tiles without leaving either.
#[derive(Clone, Debug)]
pub struct Contraction<'a, T> {
    a: Memory<'a, T>,
    a_row: isize,
    b: Memory<'a, T>,
    sum: Sum<'a>,
    a_reach: (isize, isize),
    b_reach: (isize, isize),
}

/// Where sums of a tile go: a vector of each column of each row.
#[derive(Debug)]
pub struct Results<'a, T> {
    /// From the first vector on.
    pub sums: &'a mut [T],
    /// Elements between rows.
    pub row: usize,
    /// Elements between columns.
    pub column: usize,
}

impl<'a, T: Tiled> Contraction<'a, T> {
    /// Of rows `a_row` elements apart in `a` with columns in `b`.
    pub fn new(a: Memory<'a, T>, a_row: isize, b: Memory<'a, T>, sum: Sum<'a>) -> Self {
        assert!(sum.taps == 0 || !sum.steps.is_empty(), "taps without steps");
        let (a_reach, b_reach) = (sum.reach(|step| step.a), sum.reach(|step| step.b));
        Contraction { a, a_row, b, sum, a_reach, b_reach }
    }

    /// Computes the tile of `rows` rows from element `a` of A on, and of `columns`. `totals` is
    /// scratch of [`most_sums`](Kernels::most_sums) elements.
    ///
    /// # Safety
    /// Every column's `to` must be writable for `rows` rows of one vector each, which nothing else
    /// accesses meanwhile, and `finish.bias`, if not null, readable for `rows` numbers.
    #[inline]
    pub unsafe fn tile_to(
        &self,
        kernels: &Kernels<T>,
        (a, rows): (isize, usize),
        columns: &[Column<T>],
        (totals, finish): (&mut [T], Finish<T>),
    ) {
        let kernel = kernels.table[columns.len() - 1][rows - 1];
        // SAFETY: the table's kernels read single elements of A; the rest is the caller's word.
        unsafe {
            self.call(kernel, (a, rows), columns, (totals, finish), (kernels.lanes, 1, false))
        }
    }

    /// Sums a tile into `totals`, a vector of each column of each row in this order, and on from there
    /// into `results`, if there are some. It adds to what `totals` hold unless it is the `first`.
    /// With `dot`, products are of vectors, lane by lane.
    pub fn total(
        &self,
        kernels: &Kernels<T>,
        (a, rows): (isize, usize),
        columns: &[isize],
        (totals, results): (&mut [T], Option<Results<'_, T>>),
        (first, dot): (bool, bool),
    ) {
        let lanes = kernels.lanes;
        let own = (totals.as_mut_ptr(), columns.len() * lanes, lanes);
        let (to, row, step) = results.map_or(own, |results| {
            let last = (rows - 1) * results.row + (columns.len() - 1) * results.column;
            assert!(results.sums.len() >= last + lanes, "room for the results");
            (results.sums.as_mut_ptr(), results.row, results.column)
        });
        let row = (row * size_of::<T>()) as isize;
        let mut tiles = [Column::NOWHERE; MAX_COLUMNS];
        for (v, (column, &from)) in tiles.iter_mut().zip(columns).enumerate() {
            *column = Column { from, to: Rows { first: to.wrapping_add(v * step), row } };
        }
        let table = if dot { kernels.dots } else { kernels.table };
        let kernel = table[columns.len() - 1][rows - 1];
        let finish = Finish { bias: std::ptr::null(), clip: None };
        let form = (lanes, if dot { lanes } else { 1 }, !first);
        // SAFETY: results were just seen to have room for each row of each column, and `call` sees
        // to it that the totals have, where they are the results themselves; there is no bias.
        unsafe { self.call(kernel, (a, rows), &tiles[..columns.len()], (totals, finish), form) }
    }

    /// Calls a kernel that reads `width` elements of each row of A a step.
    ///
    /// # Safety
    /// As for [`tile_to`](Self::tile_to).
    #[inline(always)]
    unsafe fn call(
        &self,
        kernel: Kernel<T>,
        (a, rows): (isize, usize),
        columns: &[Column<T>],
        (totals, finish): (&mut [T], Finish<T>),
        (lanes, width, resume): (usize, usize, bool),
    ) {
        assert!(totals.len() >= rows * columns.len() * lanes);
        let mut tile = Tile {
            a: std::ptr::null(),
            a_row: self.a_row * size_of::<T>() as isize,
            b: std::ptr::null(),
            columns,
            sum: self.sum,
            totals: totals.as_mut_ptr(),
            resume,
            finish,
        };
        if self.sum.taps > 0 {
            let last_row = self.a_row * (rows as isize - 1);
            let (first, last) = self.a_reach;
            let last = last + width as isize - 1;
            tile.a = self.a.at(a, first + last_row.min(0), last + last_row.max(0));
            let low = columns.iter().fold(isize::MAX, |low, column| low.min(column.from));
            let high = columns.iter().fold(isize::MIN, |high, column| high.max(column.from));
            let lanes = lanes as isize;
            tile.b = self.b.at(0, low + self.b_reach.0, high + lanes - 1 + self.b_reach.1);
        }
        // SAFETY: the table is only reached through `kernels_of`, which checked the CPU; both `at`
        // above checked every address that the sum reaches (with no taps, it reaches none); the
        // caller vouches for `to` and `bias`.
        unsafe { kernel(&tile) }
    }

    /// Computes a tile as [`tile_to`](Self::tile_to) does, of vectors that start at `columns`, into
    /// `sums`, row by row.
    pub fn tile(
        &self,
        kernels: &Kernels<T>,
        (a, rows): (isize, usize),
        columns: &[isize],
        sums: &mut [T],
    ) {
        let row = columns.len() * kernels.lanes;
        let sums = &mut sums[..rows * row];
        let (first, row) = (sums.as_mut_ptr(), (row * size_of::<T>()) as isize);
        let columns: Vec<Column<T>> = columns
            .iter()
            .enumerate()
            .map(|(v, &from)| {
                let first = first.wrapping_add(v * kernels.lanes);
                Column { from, to: Rows { first, row } }
            })
            .collect();
        let finish = Finish { bias: std::ptr::null(), clip: None };
        let mut totals = vec![T::default(); kernels.most_sums()];
        // SAFETY: `sums` was cut to the tile's size and is borrowed for it alone; there is no bias.
        unsafe { self.tile_to(kernels, (a, rows), &columns, (&mut totals, finish)) }
    }
}

impl Sum<'_> {
    /// The least and the greatest offset that the sum adds to an operand.
    fn reach(&self, of: impl Fn(&Step) -> isize) -> (isize, isize) {
        let (mut low, mut high) = (isize::MAX, isize::MIN);
        let mut cover = |steps: &[Step], periods: Range<isize>| {
            for step in steps {
                for period in [periods.start, periods.end - 1] {
                    let offset = of(step) + period * of(&self.period);
                    (low, high) = (low.min(offset), high.max(offset));
                }
            }
        };
        if self.taps > 0 {
            let whole = (self.taps / self.steps.len()) as isize;
            if whole > 0 {
                cover(self.steps, 0..whole);
            }
            cover(&self.steps[..self.taps % self.steps.len()], whole..whole + 1);
        }
        (low, high)
    }
}
