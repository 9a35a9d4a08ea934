//! The passes over vectors of tiles: dealing, and the transforms of inputs, weights and products.
//!
//! All are sums in an order that the matrices alone decide, so that the bits are the same with vectors of
//! any width.

use std::any::Any;

use super::form::{INPUT, OUTPUT, OUTPUTS, POINTS, TAPS, WEIGHT, product};
use super::vector::Deal;
use crate::fft::Wave;
use crate::tile::{Array, Isa, Tiled};

/// A vector of tiles: where they are in a plane that is staged, and where in one that is transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first one's first element in the staged plane.
    pub slab: isize,
    /// The first one's place among those of a point.
    pub flat: isize,
}

/// The transform of a plane of the input.
#[derive(Clone, Copy, Debug)]
pub struct Analysis<'a, T> {
    /// The staged plane.
    pub from: *const T,
    /// Where the elements of a tile are, from its place on.
    pub offsets: &'a [isize],
    /// The tiles.
    pub places: &'a [Place],
    /// Where the first point's go.
    pub to: *mut T,
    /// Elements between points.
    pub pitch: usize,
}

/// The transform of the sums of an output channel.
#[derive(Clone, Copy, Debug)]
pub struct Synthesis<'a, T> {
    /// The first point's.
    pub from: *const T,
    /// Elements between points.
    pub pitch: usize,
    /// The tiles.
    pub places: &'a [Place],
    /// A plane for each output of a tile, or for each row of them if they are `dealt`: taken up along the
    /// last axis, so that what follows one another there is one behind the other.
    pub to: *mut T,
    /// Elements between planes.
    pub plane: usize,
    /// Added to each output.
    pub bias: Option<T>,
    /// Bounds to keep between.
    pub clip: Option<(T, T)>,
}

/// The transform of the weights of a vector of output channels, for some input channels.
#[derive(Clone, Copy, Debug)]
pub struct Lift<'a, T> {
    /// The first input channel's weights.
    pub from: *const T,
    /// Where their taps are, from there on.
    pub offsets: &'a [isize],
    /// How many input channels.
    pub channels: usize,
    /// Elements from the weights of one to those of the next.
    pub step: usize,
    /// Where the first point's go.
    pub to: *mut T,
    /// Elements from one input channel to the next there.
    pub row: usize,
    /// Elements between points.
    pub pitch: usize,
}

/// The passes over some axes.
#[derive(Debug)]
pub struct Passes<T> {
    /// The transform of the input.
    ///
    /// # Safety
    /// The CPU must have the instruction set of the engine; so in all of these. A vector must be readable
    /// at each offset of each place, and writable at each place of each point.
    pub analyse: unsafe fn(&Analysis<'_, T>),
    /// The transform of the sums, with outputs apart, or dealt. Whether all results are finite, before bias
    /// and bounds.
    ///
    /// # Safety
    /// A vector must be readable at each place of each point, and as many as a tile has outputs along the
    /// last axis writable at each place of each plane: at its multiple of that, if they are dealt.
    pub synthesise: [unsafe fn(&Synthesis<'_, T>) -> bool; 2],
    /// The transform of weights. Whether all that comes of them is finite.
    ///
    /// # Safety
    /// For each input channel a vector must be readable at each offset, and writable at each point.
    pub lift: unsafe fn(&Lift<'_, T>) -> bool,
}

/// What one instruction set does for an element.
#[derive(Debug)]
pub struct Engine<T> {
    /// Elements of a vector.
    pub lanes: usize,
    /// Over one axis, two and three.
    passes: [Passes<T>; 3],
    /// Deals neighbours out to two planes so many elements apart: `len` vectors to each.
    ///
    /// # Safety
    /// They must be readable, and writable in each plane.
    deal: unsafe fn(from: *const T, len: usize, to: *mut T, plane: usize),
}

impl<T> Engine<T> {
    /// The passes over some axes.
    pub fn passes(&self, axes: usize) -> &Passes<T> {
        &self.passes[axes - 1]
    }

    /// Deals as many elements as `from` has, whole vectors to each of the planes of `to`, one an output of a
    /// tile.
    pub fn deal(&self, from: &[T], to: &mut [T]) {
        let plane = from.len() / OUTPUTS;
        assert!(from.len().is_multiple_of(OUTPUTS * self.lanes) && to.len() >= from.len());
        // SAFETY: the engine is this CPU's, since it comes from `engine`; both were just seen to have
        // so many vectors.
        unsafe {
            (self.deal)(from.as_ptr(), plane / self.lanes, to.as_mut_ptr(), plane);
        }
    }
}

#[inline(always)]
unsafe fn analyse<V: Deal, const AXES: usize, const ALL: usize>(a: &Analysis<'_, V::Element>) {
    let offsets = &a.offsets[..ALL];
    for place in a.places {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            let from = a.from.offset(place.slab);
            let to = a.to.offset(place.flat);
            let mut values = [V::zero(); ALL];
            for axis in 0..AXES {
                let inner = POINTS.pow((AXES - 1 - axis) as u32);
                for line in 0..ALL / POINTS {
                    let first = line / inner * inner * POINTS + line % inner;
                    let mut inputs = [V::zero(); POINTS];
                    for (k, input) in inputs.iter_mut().enumerate() {
                        let at = first + k * inner;
                        *input =
                            if axis == 0 { V::load(from.offset(offsets[at])) } else { values[at] };
                    }
                    for (k, row) in INPUT.iter().enumerate() {
                        let point = product(row, &inputs);
                        let at = first + k * inner;
                        if axis + 1 == AXES {
                            point.store(to.add(at * a.pitch));
                        } else {
                            values[at] = point;
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn synthesise<V: Deal, const AXES: usize, const ALL: usize, const DEALT: bool>(
    s: &Synthesis<'_, V::Element>,
) -> bool {
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let zero = V::zero();
        // What is not finite, times zero, is NaN, and NaN stays.
        let mut odd = zero;
        let bias = s.bias.map(|bias| V::set(bias));
        let clip = s.clip.map(|(low, high)| (V::set(low), V::set(high)));
        for place in s.places {
            let from = s.from.offset(place.flat);
            let mut values = [zero; ALL];
            let mut left = ALL;
            for axis in 0..AXES {
                let inner = POINTS.pow((AXES - 1 - axis) as u32);
                for line in 0..left / POINTS {
                    let (before, after) = (line / inner, line % inner);
                    let mut points = [zero; POINTS];
                    for (k, point) in points.iter_mut().enumerate() {
                        let at = (before * POINTS + k) * inner + after;
                        *point =
                            if axis == 0 { V::load(from.add(at * s.pitch)) } else { values[at] };
                    }
                    let mut outputs = [zero; OUTPUTS];
                    for (output, row) in outputs.iter_mut().zip(&OUTPUT) {
                        *output = product(row, &points);
                    }
                    if axis + 1 < AXES {
                        for (i, &output) in outputs.iter().enumerate() {
                            values[(before * OUTPUTS + i) * inner + after] = output;
                        }
                        continue;
                    }
                    for output in &mut outputs {
                        odd = output.mul_add(zero, odd);
                        if let Some(bias) = bias {
                            *output = output.add(bias);
                        }
                        if let Some((low, high)) = clip {
                            *output = output.clip(low, high);
                        }
                    }
                    if DEALT {
                        let to = s.to.add(before * s.plane);
                        let to = to.offset(place.slab * OUTPUTS as isize);
                        let (first, second) = outputs[0].zip(outputs[1]);
                        first.store(to);
                        second.store(to.add(V::LANES));
                    } else {
                        for (i, output) in outputs.iter().enumerate() {
                            let to = s.to.add((before * OUTPUTS + i) * s.plane);
                            output.store(to.offset(place.slab));
                        }
                    }
                }
                left = left / POINTS * OUTPUTS;
            }
        }
        finite(odd)
    }
}

#[inline(always)]
unsafe fn lift<V: Deal, const AXES: usize, const ALL: usize>(l: &Lift<'_, V::Element>) -> bool {
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let zero = V::zero();
        let mut odd = zero;
        let offsets = &l.offsets[..TAPS.pow(AXES as u32)];
        for channel in 0..l.channels {
            let (from, to) = (l.from.add(channel * l.step), l.to.add(channel * l.row));
            // Taps, of which each axis in turn becomes points.
            let mut values = [zero; ALL];
            for axis in 0..AXES {
                let inner = TAPS.pow((AXES - 1 - axis) as u32);
                let mut next = [zero; ALL];
                for line in 0..POINTS.pow(axis as u32) * inner {
                    let (before, after) = (line / inner, line % inner);
                    let mut taps = [zero; TAPS];
                    for (k, tap) in taps.iter_mut().enumerate() {
                        let at = (before * TAPS + k) * inner + after;
                        *tap =
                            if axis == 0 { V::load(from.offset(offsets[at])) } else { values[at] };
                    }
                    for (k, row) in WEIGHT.iter().enumerate() {
                        let point = product(row, &taps);
                        let at = (before * POINTS + k) * inner + after;
                        if axis + 1 == AXES {
                            odd = point.mul_add(zero, odd);
                            point.store(to.add(at * l.pitch));
                        } else {
                            next[at] = point;
                        }
                    }
                }
                values = next;
            }
        }
        finite(odd)
    }
}

/// Whether no lane is NaN.
///
/// # Safety
/// The CPU must have the instructions.
#[inline(always)]
unsafe fn finite<V: Wave>(odd: V) -> bool {
    let mut lanes = [V::Element::default(); 16];
    // SAFETY: no vector has more lanes; the caller vouches for the instructions.
    unsafe { odd.store(lanes.as_mut_ptr()) };
    lanes == [V::Element::default(); 16]
}

#[inline(always)]
unsafe fn deal<V: Deal>(from: *const V::Element, len: usize, to: *mut V::Element, plane: usize) {
    for i in 0..len {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            let from = from.add(2 * i * V::LANES);
            let (even, odd) = V::load(from).unzip(V::load(from.add(V::LANES)));
            even.store(to.add(i * V::LANES));
            odd.store(to.add(i * V::LANES + plane));
        }
    }
}

/// The engine of one instruction set: the functions above, compiled with its features.
macro_rules! engines {
    ($module:ident, [$($features:tt)*], $single:ty, $double:ty) => {
        mod $module {
            use super::*;
            pub mod single {
                use super::*;
                engines!(@one f32, [$($features)*], $single);
            }
            pub mod double {
                use super::*;
                engines!(@one f64, [$($features)*], $double);
            }
        }
    };
    (@one $element:ident, [$($features:tt)*], $vector:ty) => {
        type E = $element;
        // SAFETY of all: an engine is only reached through `engine` with an instruction set that the
        // CPU has; the callers vouch for the memory.
        $($features)*
        unsafe fn analyse<const AXES: usize, const ALL: usize>(a: &Analysis<'_, E>) {
            // SAFETY: as told above; so in all of these.
            unsafe { super::super::analyse::<$vector, AXES, ALL>(a) }
        }
        $($features)*
        unsafe fn synthesise<const AXES: usize, const ALL: usize, const DEALT: bool>(
            s: &Synthesis<'_, E>,
        ) -> bool {
            // SAFETY: as above.
            unsafe { super::super::synthesise::<$vector, AXES, ALL, DEALT>(s) }
        }
        $($features)*
        unsafe fn lift<const AXES: usize, const ALL: usize>(l: &Lift<'_, E>) -> bool {
            // SAFETY: as above.
            unsafe { super::super::lift::<$vector, AXES, ALL>(l) }
        }
        $($features)*
        unsafe fn deal(from: *const E, len: usize, to: *mut E, plane: usize) {
            // SAFETY: as above.
            unsafe { super::super::deal::<$vector>(from, len, to, plane) }
        }
        const fn passes<const AXES: usize, const ALL: usize>() -> Passes<E> {
            Passes {
                analyse: analyse::<AXES, ALL>,
                synthesise: [synthesise::<AXES, ALL, false>, synthesise::<AXES, ALL, true>],
                lift: lift::<AXES, ALL>,
            }
        }
        pub static ENGINE: Engine<E> = Engine {
            lanes: <$vector as $crate::tile::Vector>::LANES,
            passes: [passes::<1, 4>(), passes::<2, 16>(), passes::<3, 64>()],
            deal,
        };
    };
}

engines!(portable, [], Array<f32, 4>, Array<f64, 2>);
#[cfg(target_arch = "x86_64")]
engines!(
    avx2,
    [#[target_feature(enable = "avx2,fma")]],
    std::arch::x86_64::__m256,
    std::arch::x86_64::__m256d
);
#[cfg(target_arch = "x86_64")]
engines!(
    avx512,
    [#[target_feature(enable = "avx512f")]],
    std::arch::x86_64::__m512,
    std::arch::x86_64::__m512d
);

/// The engine of an instruction set that the CPU has.
pub fn engine<T: Tiled>(isa: Isa) -> &'static Engine<T> {
    let engines: [&dyn Any; 2] = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => [&avx512::single::ENGINE, &avx512::double::ENGINE],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => [&avx2::single::ENGINE, &avx2::double::ENGINE],
        _ => [&portable::single::ENGINE, &portable::double::ENGINE],
    };
    let engine = engines.into_iter().find_map(|engine| engine.downcast_ref());
    engine.expect("the engine computes in these two")
}
