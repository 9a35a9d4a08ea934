//! The transforms of the adjoint, which the gradient of weights is computed with.
//!
//! Of `y = A ((G w) * (B d))`, the gradient of `w` is `G' ((B d) * (A' g))` with `g` that of `y`: at each point a
//! product of the input's value and the gradient's, summed over all tiles before the one transform by `G'`.

use std::any::Any;

use super::engine::{
    Analysis, Checked, Engine, Matrix, Place, Planes, Spread, engine, finite, transform,
};
use super::form::{Form, TAPS};
use super::vector::Deal;
use crate::tile::{Array, Isa, Tiled};

/// The transform of the gradients of some tiles' outputs, in vectors of output channels.
#[derive(Clone, Copy, Debug)]
struct Spreading<'a, T> {
    forms: &'a [Form],
    /// The first position's.
    from: *const T,
    /// Where each tile has those of its outputs, from there on.
    tiles: &'a [isize],
    /// Outputs of a tile.
    outputs: usize,
    /// Vectors of a tile's output.
    vectors: usize,
    /// Where those of the first tile at the first point go; the next tile's follow.
    to: *mut T,
    /// Elements between points.
    pitch: usize,
}

/// The transform of sums at points to those of taps.
#[derive(Clone, Copy, Debug)]
struct Gathering<'a, T> {
    forms: &'a [Form],
    /// Of each row: points, or taps, of so many vectors.
    from: *const T,
    to: *mut T,
    rows: usize,
    vectors: usize,
    points: usize,
    taps: usize,
}

/// What one instruction set does for an element.
///
/// # Safety
/// The CPU must have the instruction set, and what is read and written must be memory.
#[derive(Debug)]
struct Adjoint<T> {
    spread: unsafe fn(&Spreading<'_, T>),
    gather: unsafe fn(&Gathering<'_, T>) -> bool,
}

/// The transforms with which gradients of weights are computed, on the CPU's instruction set.
#[derive(Debug)]
pub struct Transforms<T: 'static> {
    engine: &'static Engine<T>,
    adjoint: &'static Adjoint<T>,
    forms: Vec<Form>,
    /// Points of a tile.
    pub points: usize,
    /// Its outputs.
    pub outputs: usize,
    /// Taps of the kernel.
    pub taps: usize,
}

impl<T: Tiled> Transforms<T> {
    /// Of an instruction set that the CPU has, of some axes.
    pub fn new(isa: Isa, forms: Vec<Form>) -> Self {
        let count = |of: fn(Form) -> usize| forms.iter().copied().map(of).product();
        let (points, outputs, taps) = (count(Form::points), count(Form::outputs), count(|_| TAPS));
        Transforms { engine: engine(isa), adjoint: adjoint(isa), forms, points, outputs, taps }
    }

    /// Transforms vectors of tiles of an input's plane, whose elements lie at `offsets` from `from` on and
    /// follow one another, to planes of points, so many elements apart.
    pub fn analyse(
        &self,
        (from, offsets): (&[T], &[isize]),
        places: &[Place],
        (to, pitch): (&mut [T], usize),
    ) {
        let lanes = self.engine.lanes;
        let last = places.iter().map(|place| place.flat.max(place.slab)).max().unwrap_or(0);
        let first = places.iter().map(|place| place.flat.min(place.slab)).min().unwrap_or(0);
        let end = last as usize + lanes;
        assert!(first >= 0 && offsets.len() == self.points);
        assert!(offsets.iter().all(|&offset| offset >= 0 && offset as usize + end <= from.len()));
        assert!((self.points - 1) * pitch + end <= to.len());
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        let analysis = Analysis { forms: &self.forms, from, offsets, places, to, pitch };
        // SAFETY: the instruction set is this CPU's, as `new` demands; every vector was just seen to be there.
        unsafe { (self.engine.analyse)(&analysis) }
    }

    /// Transforms the gradients of tiles' outputs, each `width` neighbours: those of the outputs of a tile lie at its
    /// `offsets` from `from` on. To `[point][tile][channel]`, points so many elements apart.
    pub fn spread(
        &self,
        (from, offsets): (&[T], &[isize]),
        width: usize,
        (to, pitch): (&mut [T], usize),
    ) {
        let (lanes, outputs) = (self.engine.lanes, self.outputs);
        let tiles = offsets.len() / outputs;
        assert!(width.is_multiple_of(lanes) && offsets.len().is_multiple_of(outputs));
        assert!(offsets.iter().all(|&offset| offset >= 0 && offset as usize + width <= from.len()));
        assert!((self.points - 1) * pitch + tiles * width <= to.len());
        let spreading = Spreading {
            forms: &self.forms,
            from: from.as_ptr(),
            tiles: offsets,
            outputs,
            vectors: width / lanes,
            to: to.as_mut_ptr(),
            pitch,
        };
        // SAFETY: as above.
        unsafe { (self.adjoint.spread)(&spreading) }
    }

    /// Transforms sums at points, `[row][point][column]` of `width` columns, to `[row][tap][column]`. Whether all
    /// are finite.
    pub fn gather(&self, from: &[T], (rows, width): (usize, usize), to: &mut [T]) -> bool {
        let (points, taps, lanes) = (self.points, self.taps, self.engine.lanes);
        assert!(width.is_multiple_of(lanes));
        assert!(rows * points * width <= from.len() && rows * taps * width <= to.len());
        let gathering = Gathering {
            forms: &self.forms,
            from: from.as_ptr(),
            to: to.as_mut_ptr(),
            rows,
            vectors: width / lanes,
            points,
            taps,
        };
        // SAFETY: as above.
        unsafe { (self.adjoint.gather)(&gathering) }
    }
}

#[inline(always)]
unsafe fn spread<V: Deal>(s: &Spreading<'_, V::Element>) {
    for (tile, offsets) in s.tiles.chunks_exact(s.outputs).enumerate() {
        for vector in 0..s.vectors {
            // SAFETY: the caller vouches for the instructions and every vector.
            unsafe {
                let from = Spread { from: s.from.add(vector * V::LANES), offsets };
                let first = s.to.add((tile * s.vectors + vector) * V::LANES);
                let mut to = Planes { first, pitch: s.pitch };
                transform::<V>(Matrix::Outputs, s.forms, &from, &mut to);
            }
        }
    }
}

#[inline(always)]
unsafe fn gather<V: Deal>(g: &Gathering<'_, V::Element>) -> bool {
    let pitch = g.vectors * V::LANES;
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let mut to = Checked { planes: Planes { first: g.to, pitch }, odd: V::zero() };
        for row in 0..g.rows {
            for vector in 0..g.vectors {
                let at = |each: usize| row * each * pitch + vector * V::LANES;
                let from = Planes { first: g.from.add(at(g.points)).cast_mut(), pitch };
                to.planes.first = g.to.add(at(g.taps));
                transform::<V>(Matrix::Taps, g.forms, &from, &mut to);
            }
        }
        finite(to.odd)
    }
}

/// The functions above, compiled with the features of one instruction set.
macro_rules! adjoints {
    ($module:ident, [$($features:tt)*], $single:ty, $double:ty) => {
        mod $module {
            use super::*;
            pub mod single {
                use super::*;
                adjoints!(@one f32, [$($features)*], $single);
            }
            pub mod double {
                use super::*;
                adjoints!(@one f64, [$($features)*], $double);
            }
        }
    };
    (@one $element:ident, [$($features:tt)*], $vector:ty) => {
        type E = $element;
        // SAFETY of both: they are only reached through `adjoint` with an instruction set that the CPU
        // has; the callers vouch for the memory.
        $($features)*
        unsafe fn spread(s: &Spreading<'_, E>) {
            // SAFETY: as told above; so in the other.
            unsafe { super::super::spread::<$vector>(s) }
        }
        $($features)*
        unsafe fn gather(g: &Gathering<'_, E>) -> bool {
            // SAFETY: as above.
            unsafe { super::super::gather::<$vector>(g) }
        }
        pub static ADJOINT: Adjoint<E> = Adjoint { spread, gather };
    };
}

adjoints!(portable, [], Array<f32, 4>, Array<f64, 2>);
#[cfg(target_arch = "x86_64")]
adjoints!(
    avx2,
    [#[target_feature(enable = "avx2,fma")]],
    std::arch::x86_64::__m256,
    std::arch::x86_64::__m256d
);
#[cfg(target_arch = "x86_64")]
adjoints!(
    avx512,
    [#[target_feature(enable = "avx512f")]],
    std::arch::x86_64::__m512,
    std::arch::x86_64::__m512d
);

/// Those of an instruction set that the CPU has.
fn adjoint<T: Tiled>(isa: Isa) -> &'static Adjoint<T> {
    let adjoints: [&dyn Any; 2] = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => [&avx512::single::ADJOINT, &avx512::double::ADJOINT],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => [&avx2::single::ADJOINT, &avx2::double::ADJOINT],
        _ => [&portable::single::ADJOINT, &portable::double::ADJOINT],
    };
    let adjoint = adjoints.into_iter().find_map(|adjoint| adjoint.downcast_ref());
    adjoint.expect("transforms are of these two")
}
