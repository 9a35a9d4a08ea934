//! Transforms of blocks of any rank, and the products between them: what runs on vectors.
//!
//! A block of real numbers is transformed modulo x^n + 1 along one axis and modulo x^m - 1 along the
//! others. Since x^n + 1 = (x^(n/2) - i)(x^(n/2) + i) and the numbers are real, one factor holds all
//! that the other does: the block's first half is the real part and its second half the imaginary part
//! of what is transformed modulo x^(n/2) - i, as it lies, and the values are exactly n/2 complex ones,
//! none of them special. The price is that products wrap around with the other sign, where overlap-save
//! does not look. (H. J. Nussbaumer, *Fast Fourier Transform and Convolution Algorithms*, 1982, section
//! 7.1, has polynomials modulo x^n + 1.)
//!
//! All axes but the last are transformed with vectors along the last. For the last, panels of as many
//! rows as a vector has lanes are transposed, transformed, multiplied, transformed back and transposed
//! back, all in the first-level cache. A lone axis is cut in two: columns modulo y^rows - i, y = x^cols,
//! then each row with the root that its tree's leaf has, one a lane.

use crate::error::Error;
use crate::memory::LINE;
use crate::tile::{Array, Isa, Level, Vector};
use crate::view::Element;

use super::tree::{Columns, Tree, forward, inverse};
use super::vector::Wave;

/// What is transformed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Complex numbers on each axis. The first is half of what the block has in real numbers.
    pub lens: Vec<usize>,
    /// Whether the two axes are one that was cut in two.
    pub cut: bool,
}

impl Shape {
    /// Rows: all axes but the last.
    fn rows(&self) -> usize {
        self.lens[..self.lens.len() - 1].iter().product()
    }

    /// Columns: the last axis.
    fn columns(&self) -> usize {
        self.lens[self.lens.len() - 1]
    }

    /// Real numbers that the block takes with vectors of `lanes`.
    pub fn size(&self, lanes: usize) -> usize {
        let whole = |n: usize| n.next_multiple_of(lanes);
        whole(self.rows()).saturating_mul(whole(self.columns())).saturating_mul(2)
    }
}

/// A transform of blocks of a shape, for vectors of some lanes.
#[derive(Clone, Debug)]
pub struct Transform<T> {
    shape: Shape,
    lanes: usize,
    leading: Vec<Tree<T>>,
    /// One for all panels, or one a panel.
    last: Vec<Tree<T>>,
}

impl<T: Element> Transform<T> {
    /// Of a shape. A cut one must have whole panels and vectors.
    pub fn new(shape: &Shape, lanes: usize) -> Result<Self, Error> {
        let leading = shape.lens[..shape.lens.len() - 1].iter().enumerate();
        let root = |axis: usize| if axis == 0 { 0.25 } else { 0.0 };
        let leading = leading.map(|(axis, &len)| Tree::new(len, &[root(axis)]));
        let leading = leading.collect::<Result<Vec<_>, _>>()?;
        let last = if shape.cut {
            let panels = leading[0].leaves.chunks_exact(lanes);
            panels.map(|roots| Tree::new(shape.columns(), roots)).collect::<Result<_, _>>()?
        } else {
            vec![Tree::new(shape.columns(), &[root(shape.lens.len() - 1)])?]
        };
        Ok(Transform { shape: shape.clone(), lanes, leading, last })
    }

    /// Lanes of the vectors that it is for.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Elements between rows.
    pub fn pitch(&self) -> usize {
        self.shape.columns().next_multiple_of(self.lanes)
    }

    /// Elements of the block's first half: where the second begins.
    pub fn plane(&self) -> usize {
        self.size() / 2
    }

    /// Elements of a block.
    pub fn size(&self) -> usize {
        self.shape.size(self.lanes)
    }

    /// Elements of scratch for a panel.
    pub fn panel(&self) -> usize {
        self.pitch() * self.unit()
    }

    /// Elements of a vector of complex values: the real parts, then the imaginary ones.
    pub fn unit(&self) -> usize {
        2 * self.lanes
    }

    /// Vectors of values.
    pub fn units(&self) -> usize {
        self.panels() * self.shape.columns()
    }

    /// What transforming there and back multiplies by.
    pub fn gain(&self) -> usize {
        self.shape.lens.iter().product()
    }

    /// Bytes of its tables.
    pub fn bytes(&self) -> usize {
        self.leading.iter().chain(&self.last).map(Tree::bytes).sum()
    }

    fn panels(&self) -> usize {
        self.shape.rows().div_ceil(self.lanes)
    }
}

/// Values in memory: vector f at `at + f * pitch`.
#[derive(Clone, Copy, Debug)]
pub struct Values<T> {
    /// The first vector.
    pub at: *mut T,
    /// Elements between vectors.
    pub pitch: usize,
}

/// Products of values, for each vector f of them:
/// `to[i][o] = sum over c of weights[o][c] * from[i][c]`, each matrix without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Products<T> {
    /// Values of weights.
    pub weights: Values<T>,
    /// Values of the input.
    pub from: Values<T>,
    /// Values of the result.
    pub to: Values<T>,
    /// Channels that are summed.
    pub channels: usize,
    /// Rows of weights.
    pub outputs: usize,
    /// Blocks of the input.
    pub positions: usize,
    /// Vectors.
    pub units: usize,
}

/// What is done to results before they are written.
#[derive(Clone, Copy, Debug)]
pub struct Touch<T> {
    /// To multiply by.
    pub scale: Option<T>,
    /// To add.
    pub bias: Option<T>,
    /// Bounds to keep between.
    pub clip: Option<(T, T)>,
}

/// What an instruction set does for transforms. Every function wants a block of the transform's size
/// and scratch of a panel's, both aligned to a vector or not.
#[derive(Debug)]
pub struct Engine<T: 'static> {
    /// Elements of a vector.
    pub lanes: usize,
    /// A block's values.
    pub analyse: unsafe fn(&Transform<T>, *mut T, *mut T, Values<T>),
    /// The block of values, times the transform's gain.
    pub synthesise: unsafe fn(&Transform<T>, *mut T, *mut T, Values<T>),
    /// A block, its values multiplied by others.
    pub filter: unsafe fn(&Transform<T>, *mut T, *mut T, Values<T>),
    /// Sums of products of values.
    pub products: unsafe fn(&Products<T>),
    /// Whether all of some whole vectors are finite, and not so large that a transform might overflow.
    pub tame: unsafe fn(*const T, usize, T) -> bool,
    /// Touches some whole vectors up.
    pub touch: unsafe fn(*mut T, usize, &Touch<T>),
    /// Asks for the memory of rows of so many bytes, the second number of each from a place on, to write there.
    pub ask: fn(*const u8, &[(usize, isize)], usize),
}

/// The rows of a block along one of its leading axes.
#[inline(always)]
unsafe fn lead<V: Wave, const BACK: bool>(
    transform: &Transform<V::Element>,
    axis: usize,
    block: *mut V::Element,
) {
    let lens = &transform.shape.lens;
    let outer: usize = lens[..axis].iter().product();
    let inner = lens[axis + 1..lens.len() - 1].iter().product::<usize>() * transform.pitch();
    let plane = transform.plane();
    for o in 0..outer {
        let at = block.wrapping_add(o * lens[axis] * inner);
        let columns =
            Columns { re: at, im: at.wrapping_add(plane), pitch: inner, vectors: inner / V::LANES };
        // SAFETY: the caller vouches for the block, and these are rows of it.
        unsafe {
            if BACK {
                inverse::<V, false>(&transform.leading[axis], &columns);
            } else {
                forward::<V, false>(&transform.leading[axis], &columns);
            }
        }
    }
}

/// Turns a panel of the block into scratch (or back), and transforms it there.
#[inline(always)]
unsafe fn panel<V: Wave, const BACK: bool>(
    transform: &Transform<V::Element>,
    panel: usize,
    block: *mut V::Element,
    scratch: *mut V::Element,
) {
    let (pitch, unit) = (transform.pitch(), 2 * V::LANES);
    let rows = block.wrapping_add(panel * V::LANES * pitch);
    let halves =
        [(rows, scratch), (rows.wrapping_add(transform.plane()), scratch.wrapping_add(V::LANES))];
    let columns = Columns { re: scratch, im: halves[1].1, pitch: unit, vectors: 1 };
    // SAFETY: the caller vouches for the block and the scratch, which hold the panel's squares.
    unsafe {
        if !BACK {
            for column in (0..pitch).step_by(V::LANES) {
                for (rows, scratch) in halves {
                    V::transpose((rows.add(column), pitch), (scratch.add(column * unit), unit));
                }
            }
        }
        match (transform.shape.cut, BACK) {
            (true, false) => forward::<V, true>(&transform.last[panel], &columns),
            (true, true) => inverse::<V, true>(&transform.last[panel], &columns),
            (false, false) => forward::<V, false>(&transform.last[0], &columns),
            (false, true) => inverse::<V, false>(&transform.last[0], &columns),
        }
        if BACK {
            for column in (0..pitch).step_by(V::LANES) {
                for (rows, scratch) in halves {
                    V::transpose((scratch.add(column * unit), unit), (rows.add(column), pitch));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn analyse<V: Wave>(
    transform: &Transform<V::Element>,
    block: *mut V::Element,
    scratch: *mut V::Element,
    to: Values<V::Element>,
) {
    let columns = transform.shape.columns();
    // SAFETY: the caller vouches for all of the memory and for the instructions; so in all that follow.
    unsafe {
        for axis in 0..transform.leading.len() {
            lead::<V, false>(transform, axis, block);
        }
        for p in 0..transform.panels() {
            panel::<V, false>(transform, p, block, scratch);
            for k in 0..columns {
                let from = scratch.add(k * 2 * V::LANES);
                let to = to.at.add((p * columns + k) * to.pitch);
                let (re, im) = (V::load(from), V::load(from.add(V::LANES)));
                re.store(to);
                im.store(to.add(V::LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn synthesise<V: Wave>(
    transform: &Transform<V::Element>,
    block: *mut V::Element,
    scratch: *mut V::Element,
    from: Values<V::Element>,
) {
    let columns = transform.shape.columns();
    // SAFETY: as above.
    unsafe {
        for p in 0..transform.panels() {
            for k in 0..columns {
                let to = scratch.add(k * 2 * V::LANES);
                let from = from.at.add((p * columns + k) * from.pitch);
                let (re, im) = (V::load(from), V::load(from.add(V::LANES)));
                re.store(to);
                im.store(to.add(V::LANES));
            }
            panel::<V, true>(transform, p, block, scratch);
        }
        for axis in (0..transform.leading.len()).rev() {
            lead::<V, true>(transform, axis, block);
        }
    }
}

#[inline(always)]
unsafe fn filter<V: Wave>(
    transform: &Transform<V::Element>,
    block: *mut V::Element,
    scratch: *mut V::Element,
    by: Values<V::Element>,
) {
    let columns = transform.shape.columns();
    // SAFETY: as above.
    unsafe {
        for axis in 0..transform.leading.len() {
            lead::<V, false>(transform, axis, block);
        }
        for p in 0..transform.panels() {
            panel::<V, false>(transform, p, block, scratch);
            for k in 0..columns {
                let at = scratch.add(k * 2 * V::LANES);
                let by = by.at.add((p * columns + k) * by.pitch);
                let (a, b) = (V::load(at), V::load(at.add(V::LANES)));
                let (c, d) = (V::load(by), V::load(by.add(V::LANES)));
                d.neg_mul_add(b, c.mul(a)).store(at);
                d.mul_add(a, c.mul(b)).store(at.add(V::LANES));
            }
            panel::<V, true>(transform, p, block, scratch);
        }
        for axis in (0..transform.leading.len()).rev() {
            lead::<V, true>(transform, axis, block);
        }
    }
}

/// A tile of `O` outputs and `P` positions at one vector of values. Sums run over channels in order.
#[inline(always)]
unsafe fn product<V: Wave, const O: usize, const P: usize>(
    [weights, from, to]: [*mut V::Element; 3],
    (channels, outputs): (usize, usize),
) {
    let unit = 2 * V::LANES;
    let row = channels * unit;
    // SAFETY: as above.
    unsafe {
        let mut re = [[V::zero(); P]; O];
        let mut im = [[V::zero(); P]; O];
        for c in 0..channels {
            let mut x = [(V::zero(), V::zero()); P];
            for (p, x) in x.iter_mut().enumerate() {
                let at = from.add(p * row + c * unit);
                *x = (V::load(at), V::load(at.add(V::LANES)));
            }
            for o in 0..O {
                let at = weights.add(o * row + c * unit);
                let (w_re, w_im) = (V::load(at), V::load(at.add(V::LANES)));
                for p in 0..P {
                    re[o][p] = w_im.neg_mul_add(x[p].1, w_re.mul_add(x[p].0, re[o][p]));
                    im[o][p] = w_im.mul_add(x[p].0, w_re.mul_add(x[p].1, im[o][p]));
                }
            }
        }
        for o in 0..O {
            for p in 0..P {
                let at = to.add((p * outputs + o) * unit);
                re[o][p].store(at);
                im[o][p].store(at.add(V::LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn products<V: Wave>(all: &Products<V::Element>) {
    let (most_outputs, most_positions) = V::PRODUCTS;
    let (unit, sizes) = (2 * V::LANES, (all.channels, all.outputs));
    for f in 0..all.units {
        let at = |values: &Values<V::Element>| values.at.wrapping_add(f * values.pitch);
        for o in (0..all.outputs).step_by(most_outputs) {
            for p in (0..all.positions).step_by(most_positions) {
                let weights = at(&all.weights).wrapping_add(o * all.channels * unit);
                let from = at(&all.from).wrapping_add(p * all.channels * unit);
                let to = at(&all.to).wrapping_add((p * all.outputs + o) * unit);
                let at = [weights, from, to];
                let rows = (all.outputs - o).min(most_outputs);
                let columns = (all.positions - p).min(most_positions);
                // SAFETY: as above.
                unsafe {
                    match (rows, columns) {
                        (4, 3) if V::PRODUCTS == (4, 3) => product::<V, 4, 3>(at, sizes),
                        (4, 2) if V::PRODUCTS == (4, 3) => product::<V, 4, 2>(at, sizes),
                        (4, _) if V::PRODUCTS == (4, 3) => product::<V, 4, 1>(at, sizes),
                        (3, 3) if V::PRODUCTS == (4, 3) => product::<V, 3, 3>(at, sizes),
                        (2, 3) if V::PRODUCTS == (4, 3) => product::<V, 2, 3>(at, sizes),
                        (1, 3) if V::PRODUCTS == (4, 3) => product::<V, 1, 3>(at, sizes),
                        (3, 2) => product::<V, 3, 2>(at, sizes),
                        (3, _) => product::<V, 3, 1>(at, sizes),
                        (2, 2) => product::<V, 2, 2>(at, sizes),
                        (2, _) => product::<V, 2, 1>(at, sizes),
                        (_, 2) => product::<V, 1, 2>(at, sizes),
                        _ => product::<V, 1, 1>(at, sizes),
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tame<V: Wave>(at: *const V::Element, len: usize, factor: V::Element) -> bool {
    // What overflows once multiplied is infinite, and infinity and NaN times zero are NaN, which stays.
    // SAFETY: as above.
    unsafe {
        let (zero, factor) = (V::zero(), V::set(factor));
        let mut sums = [zero; 4];
        let mut i = 0;
        while i < len {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = at.add((i + j * V::LANES).min(len - V::LANES));
                *sum = V::load(at).mul(factor).mul_add(zero, *sum);
            }
            i += 4 * V::LANES;
        }
        let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        let mut lanes = [V::Element::default(); 16];
        sum.store(lanes.as_mut_ptr());
        lanes == [V::Element::default(); 16]
    }
}

#[inline(always)]
unsafe fn touch<V: Wave>(at: *mut V::Element, len: usize, touch: &Touch<V::Element>) {
    for i in (0..len).step_by(V::LANES) {
        // SAFETY: as above.
        unsafe {
            let at = at.add(i);
            let mut value = V::load(at);
            if let Some(scale) = touch.scale {
                value = value.mul(V::set(scale));
            }
            if let Some(bias) = touch.bias {
                value = value.add(V::set(bias));
            }
            if let Some((low, high)) = touch.clip {
                value = value.clip(V::set(low), V::set(high));
            }
            value.store(at);
        }
    }
}

fn ask<V: Wave>(first: *const u8, rows: &[(usize, isize)], bytes: usize) {
    for &(_, to) in rows {
        let row = first.wrapping_offset(to);
        let end = row as usize % LINE + bytes;
        for line in (0..end).step_by(LINE) {
            V::prefetch(row.wrapping_add(line), Level::Written);
        }
    }
}

/// An element that can be transformed.
pub trait Transformed: crate::tile::Tiled {
    /// What the instruction set `isa` does for it.
    fn engine(isa: Isa) -> &'static Engine<Self>;
    /// Inputs beyond about 2 to this power are scaled down before they are transformed.
    const INPUT_BITS: i32;
    /// Weights beyond 2 to this power are, too.
    const WEIGHT_BITS: i32;
    /// 2 to this power is as large as an element can be.
    const MOST_BITS: i32;
}

/// The engine of one instruction set: the functions above, compiled with its features.
macro_rules! engines {
    ($module:ident, [$($features:tt)*], $single:ty, $double:ty) => {
        mod $module {
            use super::*;
            engines!(@one SINGLE, f32, [$($features)*], $single);
            engines!(@one DOUBLE, f64, [$($features)*], $double);
        }
    };
    (@one $name:ident, $element:ident, [$($features:tt)*], $vector:ty) => {
        pub static $name: Engine<$element> = {
            type E = $element;
            type Block = *mut E;
            // SAFETY of all: an engine is only reached through `Transformed::engine` with an
            // instruction set that the CPU has; the callers vouch for the memory.
            $($features)*
            unsafe fn analyse(t: &Transform<E>, block: Block, scratch: Block, to: Values<E>) {
                // SAFETY: as told above; so in all of these.
                unsafe { super::analyse::<$vector>(t, block, scratch, to) }
            }
            $($features)*
            unsafe fn synthesise(t: &Transform<E>, block: Block, scratch: Block, from: Values<E>) {
                // SAFETY: as above.
                unsafe { super::synthesise::<$vector>(t, block, scratch, from) }
            }
            $($features)*
            unsafe fn filter(t: &Transform<E>, block: Block, scratch: Block, by: Values<E>) {
                // SAFETY: as above.
                unsafe { super::filter::<$vector>(t, block, scratch, by) }
            }
            $($features)*
            unsafe fn products(all: &Products<E>) {
                // SAFETY: as above.
                unsafe { super::products::<$vector>(all) }
            }
            $($features)*
            unsafe fn tame(at: *const E, len: usize, factor: E) -> bool {
                // SAFETY: as above.
                unsafe { super::tame::<$vector>(at, len, factor) }
            }
            $($features)*
            unsafe fn touch(at: Block, len: usize, touch: &Touch<E>) {
                // SAFETY: as above.
                unsafe { super::touch::<$vector>(at, len, touch) }
            }
            let (lanes, ask) = (<$vector as Vector>::LANES, ask::<$vector>);
            Engine { lanes, analyse, synthesise, filter, products, tame, touch, ask }
        };
    };
}

engines!(portable, [], Array<f32, 4>, Array<f64, 2>);
#[cfg(target_arch = "x86_64")]
engines!(avx2, [#[target_feature(enable = "avx2,fma")]], std::arch::x86_64::__m256, std::arch::x86_64::__m256d);
#[cfg(target_arch = "x86_64")]
engines!(avx512, [#[target_feature(enable = "avx512f")]], std::arch::x86_64::__m512, std::arch::x86_64::__m512d);

macro_rules! transformed {
    ($element:ident, $table:ident, $input:literal, $weight:literal, $most:literal) => {
        impl Transformed for $element {
            const INPUT_BITS: i32 = $input;
            const WEIGHT_BITS: i32 = $weight;
            const MOST_BITS: i32 = $most;
            fn engine(isa: Isa) -> &'static Engine<Self> {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => &avx512::$table,
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => &avx2::$table,
                    _ => &portable::$table,
                }
            }
        }
    };
}
transformed!(f32, SINGLE, 65, 20, 128);
transformed!(f64, DOUBLE, 501, 400, 1024);
