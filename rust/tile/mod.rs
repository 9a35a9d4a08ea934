//! Tiles: which instruction sets there are, which tiles each can do, and which to take.
//!
//! A new instruction set is one file with its vectors and its table of kernels, and one row in
//! [`ISAS`] and [`kernels_of`].

mod channels;
mod contraction;
mod kernel;
mod pieces;
mod scalar;
mod shape;
mod slide;
mod sum;
mod transpose;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::sync::OnceLock;

pub(crate) use scalar::Array;
pub(crate) use vector::{Level, Vector};

pub use channels::{MOST_LINES, NOWHERE, Row, Stretch, Stretches, Stretching};
pub use contraction::{Contraction, Ending, MAX_COLUMNS, Next, Results, Strip};
pub use kernel::{Bias, Column, Finish, MOST_RAMP_ROWS, Rows, Tile};
pub use pieces::Piece;
pub use shape::{NOMINAL, Registers, TileShape};
pub use slide::{
    Ahead, MOST_STRIDE, MOST_VECTORS, Slide, SlideInPlace, Slides, Sliding, SlidingInPlace,
    is_masked,
};
pub use sum::{ALL_ROWS, CHAIN, Segment, Step, Sum};

use crate::error::Error;
use crate::number::Quad;
use crate::view::{Element, Memory};

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86 with 512-bit registers, and integers of all sizes in them.
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
    /// `table[columns - 1][rows - 1]`
    table: &'static [&'static [Kernel<T>]],
    /// The same tiles with products of vectors, lane by lane.
    dots: &'static [&'static [Kernel<T>]],
    /// Windows that slide down a plane.
    slides: &'static [Slides<T>],
    /// Outputs of vectors of channels.
    stretches: &'static [Stretches<T>],
    transpose: transpose::Transpose<T>,
    sum: pieces::Summing<T>,
}

/// The kernels of one instruction set, for each element that it has them for in any case.
#[derive(Debug)]
pub struct Tables {
    single: Kernels<f32>,
    double: Kernels<f64>,
    int: Kernels<i32>,
    long: Kernels<i64>,
}

/// An element that has tile kernels.
pub trait Tiled: Element {
    /// Those of an instruction set, if this machine has them.
    fn kernels_of(isa: Isa) -> Option<&'static Kernels<Self>>;
}

macro_rules! tiled {
    ($($element:ident: $table:ident),*) => {$(
        impl Tiled for $element {
            fn kernels_of(isa: Isa) -> Option<&'static Kernels<$element>> {
                #[cfg(target_arch = "x86_64")]
                if let Some(tables) = x86_64::tables(isa) {
                    return Some(&tables.$table);
                }
                (isa == Isa::Scalar).then_some(&scalar::TABLES.$table)
            }
        }
    )*};
}

tiled!(f32: single, f64: double, i32: int, i64: long);

macro_rules! tiled_quads {
    ($($signed:literal: $quads:ident, $portable:ident),*) => {$(
        impl Tiled for Quad<$signed> {
            fn kernels_of(isa: Isa) -> Option<&'static Kernels<Self>> {
                #[cfg(target_arch = "x86_64")]
                if isa != Isa::Scalar {
                    return x86_64::$quads(isa);
                }
                (isa == Isa::Scalar).then_some(&scalar::$portable)
            }
        }
    )*};
}

tiled_quads!(true: signed_quads, SIGNED_QUADS, false: unsigned_quads, UNSIGNED_QUADS);

/// The kernels of `isa`, if this machine has it. Those of quads are for dot-product instructions, which it may
/// have not.
pub fn kernels_of<T: Tiled>(isa: Isa) -> Option<&'static Kernels<T>> {
    T::kernels_of(isa)
}

/// The kernels of the instruction set in use, of elements that each has.
pub fn kernels<T: Tiled>() -> Result<&'static Kernels<T>, Error> {
    Ok(kernels_of(isa()?).expect("`isa` names what this machine has"))
}

impl<T: Tiled> Kernels<T> {
    /// What estimates of cycles depend on.
    pub fn registers(&self) -> Registers {
        let mut rows = [0; MAX_COLUMNS];
        rows.iter_mut().zip(self.table).for_each(|(most, column)| *most = column.len());
        Registers { rows, across: (self.lanes * size_of::<T>()) as f64 / 64.0 }
    }

    /// [`Registers::choose`] for these.
    pub fn choose(&self, rows: usize, runs: &[usize], limits: (usize, bool)) -> (TileShape, f64) {
        self.registers().choose(rows, runs, limits)
    }

    /// Transposes a matrix of `rows` rows of `columns` elements: element (i, j) of `from`, the rows of
    /// which are `pitch` elements apart, goes to element i of row j of `to`, the rows of which are so
    /// many bytes apart.
    ///
    /// # Safety
    /// Every row of `to` must be writable for `rows` elements, of any alignment.
    #[inline]
    pub unsafe fn transpose(
        &self,
        (from, pitch): (&[T], usize),
        (rows, columns): (usize, usize),
        (to, row): (*mut T, isize),
    ) {
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * pitch + columns <= from.len());
        let pitch = pitch as isize;
        let matrix = transpose::Matrix { from: from.as_ptr(), pitch, rows, columns, to, row };
        // SAFETY: `from` holds every element, as just asserted; the caller vouches for `to`; and the
        // table is only reached through `kernels_of`, which checked the CPU.
        unsafe { (self.transpose)(&matrix) }
    }

    /// The same from element `at` of a caller's array on, with rows of `to` so many elements apart.
    pub fn transposed(
        &self,
        (from, at, pitch): (&Memory<'_, T>, isize, isize),
        (rows, columns): (usize, usize),
        (to, row): (&mut [T], usize),
    ) {
        if rows == 0 || columns == 0 {
            return;
        }
        let last_row = (rows as isize - 1) * pitch;
        let from = from.at(at, last_row.min(0), last_row.max(0) + columns as isize - 1);
        assert!((columns - 1) * row + rows <= to.len());
        if columns == 1 && pitch == 1 {
            // SAFETY: `at` and the assertion checked both; `to` is borrowed for this alone.
            unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), rows) }
            return;
        }
        let row = (row * size_of::<T>()) as isize;
        let matrix = transpose::Matrix { from, pitch, rows, columns, to: to.as_mut_ptr(), row };
        // SAFETY: `at` and the assertion checked every address; as for `transpose`.
        unsafe { (self.transpose)(&matrix) }
    }

    /// Sums pieces of `from` into `to`, the length of which is a multiple of [`lanes`](Self::lanes): for each of `bases`
    /// in turn, all pieces.
    #[inline]
    pub fn sum(&self, (from, bases, pieces): (&[T], &[usize], &[Piece]), to: &mut [T]) {
        assert!(to.len().is_multiple_of(self.lanes));
        let (low, high) = bases.iter().fold((usize::MAX, 0), |(l, h), &b| (l.min(b), h.max(b)));
        if low > high {
            to.fill(T::default());
            return;
        }
        for piece in pieces {
            let inside = piece.first < piece.end
                && low as isize + piece.from + piece.first as isize >= 0
                && high as isize + piece.from + (piece.end as isize) <= from.len() as isize
                && piece.end <= to.len();
            assert!(inside, "piece outside of its rows");
        }
        let (from, len, to) = (from.as_ptr(), to.len(), to.as_mut_ptr());
        // SAFETY: `from` holds each piece from each base, as just asserted; `to` is borrowed for this alone, and the
        // table is only reached through `kernels_of`, which checked the CPU.
        unsafe { (self.sum)(&pieces::Pieces { from, bases, pieces, to, len }) }
    }

    /// The functions for windows of `kernel` rows that are `stride` apart.
    pub fn slides(&self, kernel: usize, stride: usize) -> Option<&'static Slides<T>> {
        self.slides.iter().find(|slides| (slides.kernel, slides.stride) == (kernel, stride))
    }

    /// The functions for rows of `taps` taps whose windows are `stride` inputs apart, or those for any.
    pub fn stretches(&self, taps: usize, stride: usize) -> Option<&'static Stretches<T>> {
        let of = |taps, stride| {
            self.stretches.iter().find(move |of| (of.taps, of.stride) == (taps, stride))
        };
        of(taps, stride).or_else(|| of(0, 0))
    }

    /// The largest tiles, as (rows, elements of columns).
    pub fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        self.table.iter().enumerate().map(|(i, c)| (c.len(), (i + 1) * self.lanes))
    }

    /// Elements that the totals of any strip need.
    pub fn most_totals(&self) -> usize {
        let rows = self.table.iter().map(|rows| rows.len()).max().unwrap_or(0);
        rows * Strip::<T>::row_vectors(STRIP) * self.lanes
    }
}

/// Most vectors of a strip: so many that a group of rows, once in the first-level cache, serves many
/// tiles, and so few that their totals stay in the second.
pub const STRIP: usize = 64;
