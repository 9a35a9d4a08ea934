//! The passes over vectors of tiles: dealing, and the transforms of inputs, weights and products.
//!
//! All are sums in an order that the matrices alone decide, so that the bits are the same with vectors of
//! any width.

use std::any::Any;
use std::mem::MaybeUninit;

use super::form::{FOUR, Form, TAPS, TWO, product, turned};
use super::vector::Deal;
use crate::fft::Wave;
use crate::tile::{Array, Isa, Tiled, Vector};

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
    /// The transform of each axis.
    pub forms: &'a [Form],
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
    /// The transform of each axis.
    pub forms: &'a [Form],
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

/// The transform of the sums of some neighbouring tiles, a vector of output channels each.
#[derive(Clone, Copy, Debug)]
pub struct Across<'a, T> {
    /// The transform of each axis.
    pub forms: &'a [Form],
    /// The first tile's at the first point.
    pub from: *const T,
    /// Elements between points.
    pub pitch: usize,
    /// Elements between tiles.
    pub step: usize,
    /// How many tiles.
    pub tiles: usize,
    /// A plane of vectors for each output of a tile, or for each row of them if they are `dealt`: then the first
    /// ones of `width` tiles, the second ones of these, and so on, and the next `width` tiles.
    pub to: *mut T,
    /// Tiles whose outputs alternate.
    pub width: usize,
    /// Elements between planes.
    pub plane: usize,
    /// Added to the outputs: a vector.
    pub bias: Option<*const T>,
    /// Bounds to keep between.
    pub clip: Option<(T, T)>,
}

/// The transform of the weights of a vector of output channels, for some input channels.
#[derive(Clone, Copy, Debug)]
pub struct Lift<'a, T> {
    /// The transform of each axis.
    pub forms: &'a [Form],
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

/// What one instruction set does for an element.
///
/// # Safety
/// The CPU must have the instruction set of the engine, for all of these.
#[derive(Debug)]
pub struct Engine<T> {
    /// Elements of a vector.
    pub lanes: usize,
    /// The transform of the input.
    ///
    /// # Safety
    /// A vector must be readable at each offset of each place, and writable at each place of each point.
    pub analyse: unsafe fn(&Analysis<'_, T>),
    /// The transform of the sums, with outputs apart, or dealt. Whether all results are finite, before bias
    /// and bounds.
    ///
    /// # Safety
    /// A vector must be readable at each place of each point, and as many as a tile has outputs along the
    /// last axis writable at each place of each plane: at its multiple of that, if they are dealt.
    pub synthesise: [unsafe fn(&Synthesis<'_, T>) -> bool; 2],
    /// The transform of sums of neighbouring output channels, with outputs apart, or dealt. Whether all results
    /// are finite, before bias and bounds.
    ///
    /// # Safety
    /// Tiles must be a multiple of their width. A vector must be readable for each tile at each point, and one
    /// writable for each of its outputs; and one readable at the bias.
    pub across: [unsafe fn(&Across<'_, T>) -> bool; 2],
    /// The transform of weights. Whether all that comes of them is finite.
    ///
    /// # Safety
    /// For each input channel a vector must be readable at each offset, and writable at each point.
    pub lift: unsafe fn(&Lift<'_, T>) -> bool,
    /// Deals neighbours out to as many planes as a tile has outputs, so many elements apart: `len` vectors to
    /// each.
    ///
    /// # Safety
    /// They must be readable, and writable in each plane.
    deal: unsafe fn(form: Form, from: *const T, len: usize, to: *mut T, plane: usize),
    /// Copies blocks of neighbours.
    ///
    /// # Safety
    /// Each block must be readable and writable, and a vector more behind it.
    copy: unsafe fn(&Copied<T>),
}

/// Blocks of neighbours that are copied: for each of some rows, `count` of them to each of `ways` planes in turn, or
/// from there.
#[derive(Clone, Copy, Debug)]
struct Copied<T> {
    /// The first block.
    from: *const T,
    to: *mut T,
    /// Elements of a block.
    width: usize,
    /// How many, of each way.
    count: usize,
    ways: usize,
    /// Elements from a block to the next of its way, and to the one of the next way: where they come from, and
    /// where they go.
    next: (usize, usize),
    way: (usize, usize),
}

impl<T> Engine<T> {
    /// Deals as many elements as `from` has, whole vectors to each of the planes of `to`, one an output of a
    /// tile of the last axis.
    pub fn deal(&self, form: Form, from: &[T], to: &mut [T]) {
        let plane = from.len() / form.outputs();
        assert!(from.len().is_multiple_of(form.outputs() * self.lanes) && to.len() >= from.len());
        // SAFETY: the engine is this CPU's, since it comes from `engine`; both were just seen to have
        // so many vectors.
        unsafe {
            (self.deal)(form, from.as_ptr(), plane / self.lanes, to.as_mut_ptr(), plane);
        }
    }

    /// The same of blocks of `width` elements in place of elements, of rows that start at such places: `count`
    /// blocks of each to each plane.
    pub fn deal_blocks(
        &self,
        form: Form,
        (from, rows): (&[T], &[usize]),
        (width, count): (usize, usize),
        to: &mut [T],
    ) {
        let ways = form.outputs();
        let plane = from.len() / ways;
        for &row in rows {
            let (first, len) = (row / ways, count * width);
            assert!(row + ways * len + self.lanes <= from.len() && to.len() >= from.len());
            assert!(first + len + self.lanes <= plane);
            let blocks = Copied {
                from: from[row..].as_ptr(),
                to: to[first..].as_mut_ptr(),
                width,
                count,
                ways,
                next: (ways * width, width),
                way: (width, plane),
            };
            // SAFETY: the engine is this CPU's; each plane has room for the row's part and a vector more, as just
            // asserted.
            unsafe { (self.copy)(&blocks) }
        }
    }

    /// The inverse, for one row: from planes so many elements apart.
    pub fn weave(
        &self,
        form: Form,
        (from, plane): (&[T], usize),
        (width, count): (usize, usize),
        to: &mut [T],
    ) {
        let (ways, len) = (form.outputs(), count * width);
        assert!((ways - 1) * plane + len + self.lanes <= from.len());
        assert!(ways * len + self.lanes <= to.len());
        let blocks = Copied {
            from: from.as_ptr(),
            to: to.as_mut_ptr(),
            width,
            count,
            ways,
            next: (width, ways * width),
            way: (plane, width),
        };
        // SAFETY: as above.
        unsafe { (self.copy)(&blocks) }
    }
}

/// Most values of a tile between the transforms of two axes: points of three axes.
const MOST: usize = Form::Four.points().pow(3);

/// One of a form's matrices, or of those of its adjoint.
#[derive(Clone, Copy)]
pub(super) enum Matrix {
    Input,
    Weight,
    Output,
    /// From outputs to points.
    Outputs,
    /// From points to taps.
    Taps,
}

impl Matrix {
    /// Values that an axis has before it is multiplied, and after.
    const fn lens(self, form: Form) -> (usize, usize) {
        match self {
            Matrix::Input => (form.points(), form.points()),
            Matrix::Weight => (TAPS, form.points()),
            Matrix::Output => (form.points(), form.outputs()),
            Matrix::Outputs => (form.outputs(), form.points()),
            Matrix::Taps => (form.points(), TAPS),
        }
    }
}

/// Where the values of a vector of tiles come from: a number for each, in C order of its axes. (A closure
/// would be a function without the instruction set, and every instruction in it a call.)
pub(super) trait Source<V> {
    /// Value `at`.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and what the source is made of must be readable.
    unsafe fn value(&self, at: usize) -> V;
}

/// Where they go.
pub(super) trait Sink<V> {
    /// Takes the values of a line, the first of which is value `at`, and so many `apart`.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and what the sink is made of must be writable.
    unsafe fn take(&mut self, at: usize, apart: usize, line: &mut [V]);
}

/// Values at offsets from a first element.
pub(super) struct Spread<'a, E> {
    pub from: *const E,
    pub offsets: &'a [isize],
}

impl<V: Vector> Source<V> for Spread<'_, V::Element> {
    #[inline(always)]
    unsafe fn value(&self, at: usize) -> V {
        // SAFETY: the caller vouches for the instructions and the memory; so in all of these.
        unsafe { V::load(self.from.offset(self.offsets[at])) }
    }
}

/// Values in planes, so many elements apart.
pub(super) struct Planes<E> {
    pub first: *mut E,
    pub pitch: usize,
}

impl<V: Vector> Source<V> for Planes<V::Element> {
    #[inline(always)]
    unsafe fn value(&self, at: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load(self.first.add(at * self.pitch)) }
    }
}

impl<V: Vector> Sink<V> for Planes<V::Element> {
    #[inline(always)]
    unsafe fn take(&mut self, at: usize, apart: usize, line: &mut [V]) {
        for (i, value) in line.iter().enumerate() {
            // SAFETY: as above.
            unsafe { value.store(self.first.add((at + i * apart) * self.pitch)) }
        }
    }
}

/// Vectors one behind the other, between the transforms of two axes.
#[derive(Clone, Copy)]
struct Kept<V>(*mut V);

impl<V: Copy> Source<V> for Kept<V> {
    #[inline(always)]
    unsafe fn value(&self, at: usize) -> V {
        // SAFETY: as above.
        unsafe { *self.0.add(at) }
    }
}

impl<V: Copy> Sink<V> for Kept<V> {
    #[inline(always)]
    unsafe fn take(&mut self, at: usize, apart: usize, line: &mut [V]) {
        for (i, &value) in line.iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.0.add(at + i * apart).write(value) }
        }
    }
}

/// Transforms a vector of tiles: each axis in turn.
///
/// # Safety
/// As for the source and the sink.
#[inline(always)]
pub(super) unsafe fn transform<V: Wave>(
    matrix: Matrix,
    forms: &[Form],
    from: &impl Source<V>,
    to: &mut impl Sink<V>,
) {
    let mut values = [const { MaybeUninit::<[V; MOST]>::uninit() }; 2];
    let [mut first, mut second] = values.each_mut().map(|values| Kept(values.as_mut_ptr().cast()));
    // SAFETY: of at most three axes, no more values than `MOST` lie between two of them, each of which is
    // written before it is read; the caller vouches for the rest.
    unsafe {
        match *forms {
            [f] => along(matrix, f, (1, 1), from, to),
            [f, g] => {
                let ((_, before), (inner, _)) = (matrix.lens(f), matrix.lens(g));
                along(matrix, f, (1, inner), from, &mut first);
                along(matrix, g, (before, 1), &first, to);
            }
            [f, g, h] => {
                let [(_, before), (middle, after), (inner, _)] =
                    [matrix.lens(f), matrix.lens(g), matrix.lens(h)];
                along(matrix, f, (1, middle * inner), from, &mut first);
                along(matrix, g, (before, inner), &first, &mut second);
                along(matrix, h, (before * after, 1), &second, to);
            }
            _ => unreachable!("one to three axes are transformed"),
        }
    }
}

/// Multiplies each line along an axis, with so many values before it and within it in C order, by a matrix of
/// a form.
///
/// # Safety
/// As for the source and the sink.
#[inline(always)]
unsafe fn along<V: Wave>(
    matrix: Matrix,
    form: Form,
    lens: (usize, usize),
    from: &impl Source<V>,
    to: &mut impl Sink<V>,
) {
    // SAFETY: the caller vouches for it.
    unsafe {
        match (form, matrix) {
            (Form::Two, Matrix::Input) => lines(&TWO.input, lens, from, to),
            (Form::Two, Matrix::Weight) => lines(&TWO.weight, lens, from, to),
            (Form::Two, Matrix::Output) => lines(&TWO.output, lens, from, to),
            (Form::Two, Matrix::Outputs) => lines(&const { turned(&TWO.output) }, lens, from, to),
            (Form::Two, Matrix::Taps) => lines(&const { turned(&TWO.weight) }, lens, from, to),
            (Form::Four, Matrix::Input) => lines(&FOUR.input, lens, from, to),
            (Form::Four, Matrix::Weight) => lines(&FOUR.weight, lens, from, to),
            (Form::Four, Matrix::Output) => lines(&FOUR.output, lens, from, to),
            (Form::Four, Matrix::Outputs) => lines(&const { turned(&FOUR.output) }, lens, from, to),
            (Form::Four, Matrix::Taps) => lines(&const { turned(&FOUR.weight) }, lens, from, to),
        }
    }
}

/// See [`along`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn lines<V: Wave, const ROWS: usize, const COLUMNS: usize>(
    matrix: &[[f64; COLUMNS]; ROWS],
    (before, within): (usize, usize),
    from: &impl Source<V>,
    to: &mut impl Sink<V>,
) {
    // SAFETY: the caller vouches for it.
    unsafe {
        for outer in 0..before {
            for inner in 0..within {
                let mut line = [V::zero(); COLUMNS];
                for (k, value) in line.iter_mut().enumerate() {
                    *value = from.value((outer * COLUMNS + k) * within + inner);
                }
                let mut results = [V::zero(); ROWS];
                for (result, row) in results.iter_mut().zip(matrix) {
                    *result = product(row, &line);
                }
                to.take(outer * ROWS * within + inner, within, &mut results);
            }
        }
    }
}

#[inline(always)]
unsafe fn analyse<V: Deal>(a: &Analysis<'_, V::Element>) {
    for place in a.places {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            let from = Spread { from: a.from.offset(place.slab), offsets: a.offsets };
            let mut to = Planes { first: a.to.offset(place.flat), pitch: a.pitch };
            transform::<V>(Matrix::Input, a.forms, &from, &mut to);
        }
    }
}

/// Results of a vector of tiles.
struct Results<V: Vector, const DEALT: bool> {
    /// The first one of the first plane.
    first: *mut V::Element,
    /// Elements between planes.
    plane: usize,
    bias: Option<V>,
    clip: Option<(V, V)>,
    /// Zero, or NaN where something is not finite: that, times zero, is NaN, and NaN stays.
    odd: V,
}

impl<V: Deal, const DEALT: bool> Results<V, DEALT> {
    /// Looks at some outputs, and adds the bias and keeps the bounds.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    #[inline(always)]
    unsafe fn touch(&mut self, line: &mut [V]) {
        for output in line {
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                self.odd = output.mul_add(V::zero(), self.odd);
                if let Some(bias) = self.bias {
                    *output = output.add(bias);
                }
                if let Some((low, high)) = self.clip {
                    *output = output.clip(low, high);
                }
            }
        }
    }
}

impl<V: Deal, const DEALT: bool> Sink<V> for Results<V, DEALT> {
    #[inline(always)]
    unsafe fn take(&mut self, at: usize, _: usize, line: &mut [V]) {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            self.touch(line);
            if DEALT {
                take_up(line, self.first.add(at / line.len() * self.plane));
            } else {
                for (i, output) in line.iter().enumerate() {
                    output.store(self.first.add((at + i) * self.plane));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn synthesise<V: Deal, const DEALT: bool>(s: &Synthesis<'_, V::Element>) -> bool {
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let mut to = Results::<V, DEALT> {
            first: s.to,
            plane: s.plane,
            bias: None,
            clip: None,
            odd: V::zero(),
        };
        if let Some(bias) = s.bias {
            to.bias = Some(V::set(bias));
        }
        if let Some((low, high)) = s.clip {
            to.clip = Some((V::set(low), V::set(high)));
        }
        let outputs = match s.forms.last() {
            Some(form) if DEALT => form.outputs() as isize,
            _ => 1,
        };
        for place in s.places {
            let from = Planes { first: s.from.offset(place.flat).cast_mut(), pitch: s.pitch };
            to.first = s.to.offset(place.slab * outputs);
            transform(Matrix::Output, s.forms, &from, &mut to);
        }
        finite(to.odd)
    }
}

/// Results of a tile, a vector of output channels each.
struct Vectors<V: Vector, const DEALT: bool> {
    results: Results<V, false>,
    /// Elements between its outputs along the last axis, if they are dealt.
    apart: usize,
}

impl<V: Deal, const DEALT: bool> Sink<V> for Vectors<V, DEALT> {
    #[inline(always)]
    unsafe fn take(&mut self, at: usize, _: usize, line: &mut [V]) {
        let Results { first, plane, .. } = self.results;
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            self.results.touch(line);
            let (behind, apart) = if DEALT { (at / line.len(), self.apart) } else { (at, plane) };
            for (i, output) in line.iter().enumerate() {
                output.store(first.add(behind * plane + i * apart));
            }
        }
    }
}

#[inline(always)]
unsafe fn across<V: Deal, const DEALT: bool>(a: &Across<'_, V::Element>) -> bool {
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let mut results =
            Results { first: a.to, plane: a.plane, bias: None, clip: None, odd: V::zero() };
        if let Some(bias) = a.bias {
            results.bias = Some(V::load(bias));
        }
        if let Some((low, high)) = a.clip {
            results.clip = Some((V::set(low), V::set(high)));
        }
        let mut to = Vectors::<V, DEALT> { results, apart: a.width * V::LANES };
        let outputs = match a.forms.last() {
            Some(form) if DEALT => form.outputs(),
            _ => 1,
        };
        for first in (0..a.tiles).step_by(a.width) {
            for tile in first..first + a.width {
                let from = Planes { first: a.from.add(tile * a.step).cast_mut(), pitch: a.pitch };
                to.results.first = a.to.add((first * (outputs - 1) + tile) * V::LANES);
                transform(Matrix::Output, a.forms, &from, &mut to);
            }
        }
        finite(to.results.odd)
    }
}

/// Planes of values that are looked at: `odd` as of [`Results`].
pub(super) struct Checked<V: Vector> {
    pub planes: Planes<V::Element>,
    pub odd: V,
}

impl<V: Vector> Sink<V> for Checked<V> {
    #[inline(always)]
    unsafe fn take(&mut self, at: usize, apart: usize, line: &mut [V]) {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            for value in line.iter() {
                self.odd = value.mul_add(V::zero(), self.odd);
            }
            self.planes.take(at, apart, line);
        }
    }
}

#[inline(always)]
unsafe fn lift<V: Deal>(l: &Lift<'_, V::Element>) -> bool {
    // SAFETY: the caller vouches for the instructions and every vector.
    unsafe {
        let planes = Planes { first: l.to, pitch: l.pitch };
        let mut to = Checked { planes, odd: V::zero() };
        for channel in 0..l.channels {
            let from = Spread { from: l.from.add(channel * l.step), offsets: l.offsets };
            to.planes.first = l.to.add(channel * l.row);
            transform(Matrix::Weight, l.forms, &from, &mut to);
        }
        finite(to.odd)
    }
}

/// Whether no lane is NaN.
///
/// # Safety
/// The CPU must have the instructions.
#[inline(always)]
pub(super) unsafe fn finite<V: Wave>(odd: V) -> bool {
    let mut lanes = [V::Element::default(); 16];
    // SAFETY: no vector has more lanes; the caller vouches for the instructions.
    unsafe { odd.store(lanes.as_mut_ptr()) };
    lanes == [V::Element::default(); 16]
}

/// Writes the outputs of neighbouring tiles, a vector each, one behind the other.
///
/// # Safety
/// The CPU must have the instructions, and so many vectors must be writable.
#[inline(always)]
unsafe fn take_up<V: Deal>(outputs: &[V], to: *mut V::Element) {
    // SAFETY: the caller vouches for the instructions and the vectors.
    unsafe {
        match *outputs {
            [a, b] => store_all(a.zip(b).into(), (to, V::LANES)),
            [a, b, c, d] => {
                let ((even, even_next), (odd, odd_next)) = (a.zip(c), b.zip(d));
                let ((a, b), (c, d)) = (even.zip(odd), even_next.zip(odd_next));
                store_all([a, b, c, d], (to, V::LANES));
            }
            _ => unreachable!("forms have two outputs, or four"),
        }
    }
}

/// Stores vectors so many elements apart.
///
/// # Safety
/// The CPU must have the instructions, and the vectors must be writable.
#[inline(always)]
unsafe fn store_all<V: Vector, const N: usize>(
    vectors: [V; N],
    (to, apart): (*mut V::Element, usize),
) {
    for (i, vector) in vectors.into_iter().enumerate() {
        // SAFETY: the caller vouches for it.
        unsafe { vector.store(to.add(i * apart)) }
    }
}

#[inline(always)]
unsafe fn deal<V: Deal>(
    form: Form,
    from: *const V::Element,
    len: usize,
    to: *mut V::Element,
    plane: usize,
) {
    for i in 0..len {
        // SAFETY: the caller vouches for the instructions and every vector.
        unsafe {
            let from = from.add(form.outputs() * i * V::LANES);
            let to = (to.add(i * V::LANES), plane);
            let (even, odd) = V::load(from).unzip(V::load(from.add(V::LANES)));
            match form {
                Form::Two => store_all([even, odd], to),
                Form::Four => {
                    let from = from.add(2 * V::LANES);
                    let (even_next, odd_next) = V::load(from).unzip(V::load(from.add(V::LANES)));
                    let ((a, c), (b, d)) = (even.unzip(even_next), odd.unzip(odd_next));
                    store_all([a, b, c, d], to);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<V: Deal>(c: &Copied<V::Element>) {
    let bytes = c.width * size_of::<V::Element>();
    // SAFETY: the caller vouches for the instructions and the memory, of a vector behind each block, which has at least
    // 16 bytes.
    unsafe {
        match bytes {
            0..=8 => blocks::<V, [u8; 8]>(c),
            9..=16 => blocks::<V, [u8; 16]>(c),
            17..=32 if size_of::<V>() >= 32 => blocks::<V, [u8; 32]>(c),
            _ => blocks::<V, V>(c),
        }
    }
}

/// [`copy`] by pieces: the fewest that hold a block, since a store over the end of a cache line takes two.
///
/// # Safety
/// As there; a piece is no larger than a vector.
#[inline(always)]
unsafe fn blocks<V: Deal, Piece>(c: &Copied<V::Element>) {
    let piece = size_of::<Piece>() / size_of::<V::Element>();
    // The end of a block's last piece is not its own: the next block that is written has its place there.
    for block in 0..c.count {
        for way in 0..c.ways {
            let from = c.from.wrapping_add(block * c.next.0 + way * c.way.0);
            let to = c.to.wrapping_add(block * c.next.1 + way * c.way.1);
            let mut at = 0;
            loop {
                // SAFETY: the caller vouches for the instructions and every piece.
                unsafe {
                    let value = from.add(at).cast::<Piece>().read_unaligned();
                    to.add(at).cast::<Piece>().write_unaligned(value);
                }
                // Mostly there is one.
                at += piece;
                if at >= c.width {
                    break;
                }
            }
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
        unsafe fn analyse(a: &Analysis<'_, E>) {
            // SAFETY: as told above; so in all of these.
            unsafe { super::super::analyse::<$vector>(a) }
        }
        $($features)*
        unsafe fn synthesise<const DEALT: bool>(s: &Synthesis<'_, E>) -> bool {
            // SAFETY: as above.
            unsafe { super::super::synthesise::<$vector, DEALT>(s) }
        }
        $($features)*
        unsafe fn across<const DEALT: bool>(a: &Across<'_, E>) -> bool {
            // SAFETY: as above.
            unsafe { super::super::across::<$vector, DEALT>(a) }
        }
        $($features)*
        unsafe fn lift(l: &Lift<'_, E>) -> bool {
            // SAFETY: as above.
            unsafe { super::super::lift::<$vector>(l) }
        }
        $($features)*
        unsafe fn deal(form: Form, from: *const E, len: usize, to: *mut E, plane: usize) {
            // SAFETY: as above.
            unsafe { super::super::deal::<$vector>(form, from, len, to, plane) }
        }
        $($features)*
        unsafe fn copy(c: &Copied<E>) {
            // SAFETY: as above.
            unsafe { super::super::copy::<$vector>(c) }
        }
        pub static ENGINE: Engine<E> = Engine {
            lanes: <$vector as $crate::tile::Vector>::LANES,
            analyse,
            synthesise: [synthesise::<false>, synthesise::<true>],
            across: [across::<false>, across::<true>],
            lift,
            deal,
            copy,
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
