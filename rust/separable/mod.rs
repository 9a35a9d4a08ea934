//! Kernels of rank one, as passes along their axes: k1 + k2 products an output instead of k1 times k2.
//!
//! `docs/separable.md` has what was measured. A kernel is separable where its weights are products of one
//! number an axis ([`factors`]). Each pass is a direct convolution with a kernel along one axis; what it
//! leaves for the next is held for a block of the first pass's outputs at a time, so that it stays in the
//! second-level cache. No output of a pass is computed twice.
//!
//! Padding of every mode is a map of indices along an axis, and zeros stay zeros through a pass, so that it
//! commutes with passes along other axes. What is not finite reaches the outputs whose windows hold it: a
//! pass carries it to the windows' extent along its axis.

mod factors;

use std::ops::Range;

use crate::contract::{self, wanted_items};
use crate::error::Error;
use crate::geometry::{Axis, Geometry, PaddingMode};
use crate::memory::Workspace;
use crate::offer::{Cost, Declined, Description, far};
use crate::operand::Weights;
use crate::parallel::{Stopped, Team, Turn, even_part};
use crate::prepared::{Made, Prepared, Slot};
use crate::problem::Problem;
use crate::slab::{Block, Layout};
use crate::store::Store;
use crate::tile::{Kernels, Tiled};
use crate::view::{View, ViewMut};

pub use factors::Factors;

/// Bytes of what one pass leaves for the next in a block: a quarter of the second-level cache or less, as
/// the slab of the next pass lies there as well.
pub const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of it at most, where a single position of the first pass's axis has more than a block.
const MOST_BYTES: usize = 64 << 20;

/// Rows that tiles may read beyond a block's last, if they are there: more than a ramp has.
const SPARE: usize = 16;

/// Results below which a call stays on its caller's thread.
const SERIAL: usize = 1 << 15;

/// What is paid for beside the sums of passes, in nanoseconds; elements are of float32, and two of them in
/// float64.
struct Rates {
    /// A call, and a pass over a block.
    call: f64,
    pass: f64,
    /// An element that one pass leaves for the next.
    left: f64,
    /// A weight, to find the factors.
    factor: f64,
    /// A byte of arrays that the second-level cache does not hold.
    far: f64,
}

/// Fitted to the logarithms of the times of 242 random shapes of `benches/compare.py --choices`, in float32 and
/// float64, on one thread of a Sapphire Rapids core in November 2026. Of other shapes 85 % in float32 and 93 %
/// in float64 are within 1.5 times of what was measured.
const RATES: Rates = Rates { call: 7100.0, pass: 7000.0, left: 0.35, factor: 2.8, far: 0.007 };

/// The spatial axes with more than one tap.
fn long(geometry: &Geometry) -> Vec<usize> {
    (1..geometry.axes.len()).filter(|&a| geometry.axes[a].kernel > 1).collect()
}

/// The predicted time, if the weights are of rank one.
pub fn offer(geometry: &Geometry, element: usize) -> Result<Cost, Declined> {
    let cannot = |reason: String| Err(Declined::Cannot(reason.into()));
    if geometry.channels != 1 {
        return cannot(format!(
            "an output sums over {} channels, which have kernels of their own",
            geometry.channels
        ));
    }
    let long = long(geometry);
    if long.len() < 2 {
        return cannot("its kernel has more than one tap along one axis at most".into());
    }
    if geometry.positions() * geometry.outputs == 0 {
        return Err(Declined::NotWorth("there is nothing to sum".into()));
    }
    let shape = Shape::new(geometry, &long);
    let slice = shape.slice.saturating_mul(element);
    if slice > MOST_BYTES {
        return cannot(format!(
            "passes would hold {} MB between them, more than {}",
            slice >> 20,
            MOST_BYTES >> 20
        ));
    }
    let whole: Vec<Range<usize>> = geometry.axes.iter().map(|axis| 0..axis.output).collect();
    let passes = (0..long.len()).map(|pass| {
        let block = shape.pass(geometry, pass, (0..geometry.groups, &whole));
        contract::part(&block, element).whole()
    });
    let left = (geometry.groups * geometry.outputs * geometry.axes[long[0]].output) as f64
        * geometry.axes[0].output as f64
        * shape.slice as f64;
    let blocks = (left * element as f64 / BLOCK_BYTES as f64).ceil();
    let taps = (geometry.kernel_taps() * geometry.groups * geometry.outputs) as f64;
    let moved = left * (long.len() - 1) as f64 * (element as f64 / 4.0);
    let bytes = geometry.image_bytes(element) * geometry.axes[0].output as f64;
    Ok(Cost {
        weights: RATES.factor * taps,
        work: RATES.call
            + passes.sum::<f64>()
            + RATES.left * moved
            + RATES.pass * blocks * long.len() as f64
            + far(bytes, RATES.far),
    })
}

/// How a convolution would be computed.
pub fn describe(geometry: &Geometry, element: usize, threads: usize) -> Description {
    let long = long(geometry);
    if geometry.positions() * geometry.outputs == 0 || long.len() < 2 {
        return Description::default();
    }
    let shape = Shape::new(geometry, &long);
    let whole: Vec<Range<usize>> = geometry.axes.iter().map(|axis| 0..axis.output).collect();
    let passes: Vec<Geometry> = (0..long.len())
        .map(|pass| shape.pass(geometry, pass, (0..geometry.groups, &whole)))
        .collect();
    let roundings: usize = passes.iter().map(|pass| contract::roundings(pass) - 1).sum();
    let split = Split::new(geometry, &shape, element, threads);
    let [_, images, rows] = split.item(0);
    let mut block: Vec<usize> = geometry.axes.iter().map(|axis| axis.output).collect();
    (block[0], block[long[0]]) = (images.len(), rows.len());
    Description {
        flops: passes.iter().map(Geometry::flops).sum(),
        workspace: workspace(geometry, element, threads),
        roundings: Some(roundings + 1),
        block,
        ..Description::default()
    }
}

/// Bytes that it takes beside its arrays, at most, on some threads.
pub fn workspace(geometry: &Geometry, element: usize, threads: usize) -> usize {
    let shape = Shape::new(geometry, &long(geometry));
    let block = BLOCK_BYTES.max(shape.slice * element);
    // Two passes' results, a block's input, and the slab of a pass.
    let staged = block.saturating_add(shape.reach.saturating_mul(shape.slice * element));
    let taps: usize = geometry.axes.iter().map(|axis| axis.kernel).sum();
    (3 * block + staged).saturating_mul(threads)
        + taps * geometry.groups * geometry.outputs * element
}

/// The factors of some weights, or why there are none.
pub type Found<T> = Result<Factors<T>, Declined>;

impl<T: Tiled> Made for Found<T> {
    fn bytes(&self) -> usize {
        let axes = self.iter().flat_map(|factors| &factors.axes);
        axes.map(|taps| size_of_val(taps.as_slice())).sum()
    }
}

/// Whether the weights, and the padding, are such that passes give the sums: with all bits of the weights,
/// or `near` enough.
pub fn suits<T: Tiled>(problem: &Problem<'_, T>, near: bool) -> Result<(), Declined> {
    let pads = |axis: &Axis| axis.mode == PaddingMode::Constant && axis.pads();
    if problem.padding != T::default() && problem.geometry.axes.iter().any(pads) {
        return Err(Declined::Cannot("the padding holds another number than 0".into()));
    }
    match found(problem, near) {
        Ok(found) => found.as_ref().map(|_| ()).map_err(Declined::clone),
        Err(error) => Err(Declined::NotWorth(error.to_string().into())),
    }
}

/// The factors of a problem's weights.
fn found<'a, T: Tiled>(problem: &Problem<'a, T>, near: bool) -> Result<&'a Found<T>, Error> {
    let slot = if near { Slot::NearFactors } else { Slot::Factors };
    problem.prepared.once(slot, || {
        let found = Factors::new(problem.weights, problem.geometry, near)?;
        Ok(found.map_err(|output| {
            let how = if near { "nearly" } else { "exactly" };
            Declined::Cannot(format!("weight[{output}, 0] is not {how} of rank one").into())
        }))
    })
}

/// Computes a convolution whose [`offer`] and [`suits`] were good.
pub fn convolve<T: Tiled>(
    problem: &Problem<'_, T>,
    near: bool,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    let results = geometry.positions() * geometry.outputs * geometry.groups;
    let factors = match found(problem, near)? {
        Ok(factors) if results > 0 => factors,
        _ => return contract::direct(problem, kernels, team),
    };
    let threads = if results < SERIAL { 1 } else { team.threads };
    let shape = Shape::new(geometry, &long(geometry));
    let split = Split::new(geometry, &shape, size_of::<T>(), threads);
    let passes = Passes { problem, kernels, factors, shape, split };
    let team = Team { threads, stop: team.stop };
    team.share(passes.split.items(), |turn| passes.work(turn))
}

/// The passes of a convolution.
struct Shape {
    /// The axis of each.
    long: Vec<usize>,
    /// Most elements that any pass but the last leaves, of one output channel and image, for each position of
    /// the first pass's axis.
    slice: usize,
    /// Elements of the first pass's axis that a window reaches over.
    reach: usize,
}

impl Shape {
    fn new(geometry: &Geometry, long: &[usize]) -> Self {
        let mut shape = Shape { long: long.to_vec(), slice: 1, reach: 0 };
        let Some(first) = long.first() else { return shape };
        let axis = &geometry.axes[*first];
        shape.reach = (axis.kernel - 1) * axis.dilation;
        let slices = (0..long.len().saturating_sub(1)).map(|pass| {
            let axes = (1..geometry.axes.len()).filter(|a| a != first);
            axes.map(|a| shape.after(geometry, pass, a)).product()
        });
        shape.slice = slices.max().unwrap_or(1);
        shape
    }

    /// Elements of an axis after a pass.
    fn after(&self, geometry: &Geometry, pass: usize, axis: usize) -> usize {
        let todo = self.long[pass + 1..].contains(&axis);
        if todo { geometry.axes[axis].input } else { geometry.axes[axis].output }
    }

    /// The convolution of a pass over a block: some groups, and outputs on each axis, of which those of other
    /// axes than the batch and the first pass's are all. The first pass's axis has no padding left.
    fn pass(
        &self,
        geometry: &Geometry,
        pass: usize,
        (groups, block): (Range<usize>, &[Range<usize>]),
    ) -> Geometry {
        let axes = geometry.axes.iter().enumerate().map(|(a, &axis)| {
            let len = block[a].len();
            match self.long.iter().position(|&long| long == a) {
                Some(0) if pass == 0 => Axis {
                    input: (len - 1) * axis.stride + self.reach + 1,
                    before: 0,
                    after: 0,
                    mode: PaddingMode::Constant,
                    output: len,
                    ..axis
                },
                Some(turn) if turn == pass => axis,
                Some(turn) if turn > pass => Axis::plain(axis.input),
                // Axes with one tap may have a stride or padding, which the first pass sees to.
                None if pass == 0 && a > 0 => axis,
                _ => Axis::plain(len),
            }
        });
        let first = pass == 0;
        Geometry {
            batched: true,
            channels_last: false,
            groups: groups.len() * if first { 1 } else { geometry.outputs },
            channels: 1,
            outputs: if first { geometry.outputs } else { 1 },
            axes: axes.collect(),
        }
    }
}

/// How a convolution is cut into items.
struct Split {
    /// Parts of the groups, of the batch, and of the first pass's outputs.
    groups: (usize, usize),
    batch: (usize, usize),
    rows: (usize, usize),
}

impl Split {
    fn new(geometry: &Geometry, shape: &Shape, element: usize, threads: usize) -> Self {
        let [rows, batch] = [shape.long[0], 0].map(|axis| geometry.axes[axis].output);
        let parts = |all: usize, each: usize| all.div_ceil(each.max(1));
        // As many rows as a block holds, then images, then groups.
        let budget = BLOCK_BYTES / element / geometry.outputs;
        let cut_rows = parts(rows, budget / shape.slice);
        let image = shape.slice * rows;
        let cut_batch = parts(batch, (budget / image).clamp(1, batch));
        let cut_groups =
            parts(geometry.groups, (budget / (image * batch)).clamp(1, geometry.groups));
        let mut split = Split {
            groups: (geometry.groups, cut_groups),
            batch: (batch, cut_batch),
            rows: (rows, cut_rows),
        };
        let wanted = wanted_items(threads);
        for of in [2, 1, 0] {
            let left = wanted.div_ceil(split.items());
            let (all, cut) = match of {
                2 => &mut split.groups,
                1 => &mut split.batch,
                _ => &mut split.rows,
            };
            *cut = (*cut * left).min(*all);
        }
        split
    }

    fn items(&self) -> usize {
        self.groups.1 * self.batch.1 * self.rows.1
    }

    /// Groups, images and rows of an item.
    fn item(&self, item: usize) -> [Range<usize>; 3] {
        let of = |(all, cut): (usize, usize), i| even_part(&(0..all), cut, i);
        let (rest, row) = (item / self.rows.1, item % self.rows.1);
        let (group, image) = (rest / self.batch.1, rest % self.batch.1);
        [of(self.groups, group), of(self.batch, image), of(self.rows, row)]
    }
}

/// What all threads share.
struct Passes<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    factors: &'a Factors<T>,
    shape: Shape,
    split: Split,
}

/// What a thread works in: what passes leave, by turns, and the input where it cannot be read in place.
#[derive(Default)]
struct Desk {
    left: [Workspace; 2],
    staged: Workspace,
}

impl<T: Tiled> Passes<'_, T> {
    fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let mut desk = Desk::default();
        while let Some(item) = turn.next() {
            match self.item(turn, self.split.item(item), &mut desk) {
                Err(Stopped::Failed(error)) => return Err(error),
                // The turn knows.
                Err(Stopped::Interrupted) | Ok(()) => {}
            }
        }
        Ok(())
    }

    /// All passes over a block.
    fn item(
        &self,
        turn: &Turn<'_>,
        [groups, images, rows]: [Range<usize>; 3],
        desk: &mut Desk,
    ) -> Result<(), Stopped> {
        let geometry = self.problem.geometry;
        let mut block: Vec<Range<usize>> = geometry.axes.iter().map(|a| 0..a.output).collect();
        (block[0], block[self.shape.long[0]]) = (images, rows);
        let stop = || !turn.goes_on(0);
        let team = Team { threads: 1, stop: &stop };
        let outputs = groups.start * geometry.outputs..groups.end * geometry.outputs;
        let [mut from, mut to] = desk.left.each_mut();
        let last = self.shape.long.len() - 1;
        for pass in 0..=last {
            let mut geometry = self.shape.pass(geometry, pass, (groups.clone(), &block));
            let x = if pass == 0 {
                self.input(&mut geometry, (&groups, &block), &mut desk.staged)?
            } else {
                let shape = shape_of(outputs.len(), geometry.axes.iter().map(|axis| axis.input));
                let len = shape.iter().product();
                View::from_slice(&from.elements::<T>()[..len], &shape)
            };
            let store = if pass == last {
                self.results(&outputs, &block)
            } else {
                let shape = shape_of(outputs.len(), geometry.axes.iter().map(|axis| axis.output));
                let left = room(to, "what a pass leaves", shape.iter().product())?;
                let out = ViewMut::from_slice(left, &shape);
                Store::plain(out)
            };
            let axis = self.shape.long[pass];
            let taps = geometry.axes[axis].kernel;
            let mut shape = vec![1; geometry.axes.len() + 1];
            (shape[0], shape[axis + 1]) = (outputs.len(), taps);
            let factor = &self.factors.axes[pass][outputs.start * taps..outputs.end * taps];
            let problem = Problem {
                geometry: &geometry,
                x: &x,
                weights: &Weights::new(&View::from_slice(factor, &shape), &shape, false)?,
                prepared: &Prepared::new(false),
                padding: T::default(),
                exact: false,
                store: &store,
            };
            contract::direct(&problem, self.kernels, &team)?;
            std::mem::swap(&mut from, &mut to);
        }
        Ok(())
    }

    /// The results of a block.
    fn results(&self, outputs: &Range<usize>, block: &[Range<usize>]) -> Store<'_, T> {
        let store = self.problem.store;
        let strides = store.out.strides();
        let axes = block.iter().zip(&strides[1..]);
        let at = axes.map(|(range, stride)| range.start as isize * stride).sum::<isize>();
        let at = outputs.start as isize * strides[0] + at;
        let bias = store.bias.get(outputs.clone()).unwrap_or_default();
        Store { out: store.out.part(at, strides.to_vec()), bias, ..*store }
    }

    /// The input of a block's first pass: where it lies, or staged where its windows reach into padding.
    fn input<'b>(
        &'b self,
        pass: &mut Geometry,
        (groups, block): (&Range<usize>, &[Range<usize>]),
        staged: &'b mut Workspace,
    ) -> Result<View<'b>, Error> {
        let Problem { geometry, x, .. } = *self.problem;
        let first = self.shape.long[0];
        let axis = &geometry.axes[first];
        let strides = x.strides();
        let start = groups.start as isize * strides[0] + block[0].start as isize * strides[1];
        let (kept, len) = axis.kept();
        let position = block[first].start * axis.stride;
        let needed = pass.axes[first].input;
        if let Some(begin) = position.checked_add_signed(-axis.before.max(0))
            && begin + needed <= len
        {
            pass.axes[first].input = len.min(begin + needed + SPARE) - begin;
            return Ok(x.part(start + (kept + begin) as isize * strides[first + 1]));
        }
        // The positions of that axis as the padding shows them, and of the others all.
        let mut axes: Vec<Axis> = geometry.axes.iter().map(|a| Axis::plain(a.input)).collect();
        let output = (axis.output - 1) * axis.stride + self.shape.reach + 1;
        axes[first] = Axis { kernel: 1, stride: 1, dilation: 1, output, ..*axis };
        let mut positions: Vec<Range<usize>> = axes.iter().map(|a| 0..a.output).collect();
        (positions[0], positions[first]) = (0..block[0].len(), position..position + needed);
        let lens: Vec<usize> = positions.iter().map(Range::len).collect();
        let layout = Layout::new(&Geometry { axes, ..geometry.clone() }, &lens, size_of::<T>())?;
        let len = layout.size(groups.len(), self.kernels.lanes);
        let slab = room(staged, "the staged input", len)?;
        let runs = layout.runs(&Block(positions), &strides[1..]);
        layout.stage((&runs, 0..groups.len()), &x.part(start), T::default(), slab);
        let strides = [layout.plane() as isize].into_iter().chain(layout.pitches());
        let strides = strides.map(|stride| stride * size_of::<T>() as isize).collect();
        Ok(View::strided(slab, &shape_of(groups.len(), lens.into_iter()), strides))
    }
}

/// A canonical shape.
fn shape_of(channels: usize, axes: impl Iterator<Item = usize>) -> Vec<usize> {
    [channels].into_iter().chain(axes).collect()
}

/// `len` elements of a workspace, which is made anew where it is too small.
fn room<'a, T: Tiled>(
    workspace: &'a mut Workspace,
    what: &'static str,
    len: usize,
) -> Result<&'a mut [T], Error> {
    if workspace.bytes() < len.saturating_mul(size_of::<T>()) {
        *workspace = Workspace::default();
        *workspace = Workspace::new::<T>(what, len)?;
    }
    Ok(&mut workspace.elements_mut()[..len])
}
