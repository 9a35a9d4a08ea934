//! Weights at the points of their transforms.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::{LINE, Workspace, with_scratch};
use crate::operand::Taps;
use crate::parallel::{Stopped, Team, Turn, even_part};
use crate::problem::Problem;
use crate::tile::{Kernels, TileShape, Tiled};
use crate::view::{Memory, ViewMut, advance, contiguous};

use super::engine::{Engine, Lift};
use super::form::{Form, TAPS};
use super::tiling::Tiling;

/// Values below which weights are transformed on one thread: some 20 us.
const SERIAL_VALUES: usize = 1 << 17;

/// Channels whose weights are turned at a time: with all their taps they stay in the first-level cache, mostly.
const TURNED: usize = 32;

/// Transformed weights: for each point, panels of as many output channels as a product's tile has rows, each
/// of which is read from its first element to its last: `[tap][channel][row]`, of the taps that are left.
#[derive(Debug)]
pub struct Filters<T> {
    values: Workspace,
    /// How each axis is transformed, if it is.
    forms: Vec<Option<Form>>,
    /// The tiles of products that they are for.
    shape: TileShape,
    /// Output channels of a group.
    outputs: usize,
    /// Panels of a group.
    panels: usize,
    /// Elements between panels.
    panel: usize,
    steps: Steps,
    /// Whether some are not finite.
    odd: bool,
    element: PhantomData<T>,
}

/// Elements between channels, taps, and points.
#[derive(Clone, Copy, Debug)]
struct Steps {
    channel: usize,
    tap: usize,
    point: usize,
}

/// The tiles of products with so many output channels, and how many panels of weights they take.
pub fn tiles<T: Tiled>(kernels: &Kernels<T>, outputs: usize) -> (TileShape, usize) {
    // Not more columns than two, so that few vectors are left over.
    let (shape, _) = kernels.choose(outputs, &[2], (kernels.lanes, true));
    (shape, outputs.div_ceil(shape.rows))
}

/// How far things lie apart, and the elements of a panel.
fn steps<T>(
    (channels, taps): (usize, usize),
    (outputs, panels): (usize, usize),
    (lanes, groups): (usize, usize),
) -> (Steps, usize) {
    let (rows, line) = (outputs.div_ceil(panels), LINE / size_of::<T>());
    // A vector reaches beyond its rows: over the next channel's, which come later, or over nothing.
    let tap = channels.saturating_mul(rows).saturating_add(lanes);
    let panel = (tap.saturating_mul(taps).div_ceil(line) | 1).saturating_mul(line);
    let point = panel.saturating_mul(panels).saturating_mul(groups);
    (Steps { channel: rows, tap, point }, panel)
}

/// Bytes that the transformed weights of a convolution take.
pub fn bytes<T: Tiled>(geometry: &Geometry, tiling: &Tiling, kernels: &Kernels<T>) -> usize {
    let (_, panels) = tiles(kernels, geometry.outputs);
    let sums = (geometry.channels, tiling.taps());
    let (steps, _) = steps::<T>(sums, (geometry.outputs, panels), (kernels.lanes, geometry.groups));
    steps.point.saturating_mul(tiling.points()).saturating_mul(size_of::<T>())
}

impl<T: Tiled> Filters<T> {
    /// Transforms the weights of a convolution.
    pub fn new(
        problem: &Problem<'_, T>,
        tiling: &Tiling,
        (kernels, engine): (&Kernels<T>, &Engine<T>),
        team: &Team<'_>,
    ) -> Result<Self, Stopped> {
        let geometry = problem.geometry;
        let (channels, outputs, lanes) = (geometry.channels, geometry.outputs, engine.lanes);
        let (points, taps) = (tiling.points(), tiling.taps());
        let (shape, panels) = tiles(kernels, outputs);
        let (steps, panel) =
            steps::<T>((channels, taps), (outputs, panels), (lanes, geometry.groups));
        let len = steps.point.saturating_mul(points);
        let (all, point) = (geometry.groups * panels, steps.point);
        let mut values = Workspace::new::<T>("the transformed weights", len)?;
        let stager = Stager::new(problem, tiling, (kernels, engine))?;
        let odd = AtomicBool::new(false);
        let to = ViewMut::from_slice(&mut values.elements_mut::<T>()[..len], &[len]);
        let bytes = |elements: usize| (elements * size_of::<T>()) as isize;
        let serial = Team { threads: 1, stop: team.stop };
        let team = if len < SERIAL_VALUES { &serial } else { team };
        team.share(all, |turn| {
            with_scratch(stager.scratch(), |scratch: &mut [T]| {
                scratch.fill(T::default());
                while let Some(item) = turn.next() {
                    let part = even_part(&(0..outputs), panels, item % panels);
                    let first = item / panels * outputs;
                    let outputs = first + part.start..first + part.end;
                    let to = to.at(bytes(item * panel), 0, bytes((points - 1) * point + panel));
                    // SAFETY: `at` checked that this panel, which no other thread has, lies among the
                    // values at each point.
                    let finite = unsafe { stager.put(turn, outputs, scratch, (to, steps)) };
                    if !finite {
                        odd.store(true, Ordering::Relaxed);
                    }
                }
            })
        })?;
        Ok(Filters {
            values,
            forms: tiling.sides.iter().map(|side| side.form).collect(),
            shape,
            outputs,
            panels,
            panel,
            steps,
            odd: odd.into_inner(),
            element: PhantomData,
        })
    }

    /// Whether they were transformed as a tiling has it.
    pub fn is_of(&self, tiling: &Tiling) -> bool {
        tiling.sides.iter().map(|side| side.form).eq(self.forms.iter().copied())
    }

    /// Whether some of them are not finite, which leaves the plain sum.
    pub fn odd(&self) -> bool {
        self.odd
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    /// All of them.
    pub fn memory(&self) -> Memory<'_, T> {
        Memory::of(self.values.elements())
    }

    /// The tiles of products that they are for.
    pub fn shape(&self) -> TileShape {
        self.shape
    }

    /// Panels of a group.
    pub fn panels(&self) -> usize {
        self.panels
    }

    /// The output channels of a group that a panel has.
    pub fn rows(&self, panel: usize) -> Range<usize> {
        even_part(&(0..self.outputs), self.panels, panel)
    }

    /// The first element of a panel of a group at a point.
    pub fn at(&self, point: usize, group: usize, panel: usize) -> isize {
        (point * self.steps.point + (group * self.panels + panel) * self.panel) as isize
    }

    /// Where the taps that are left lie in a panel.
    pub fn taps(&self, kernel: &[usize]) -> Taps {
        let strides = contiguous(kernel, self.steps.tap);
        let axis = |(&n, stride): (&usize, isize)| (0..n as isize).map(|i| i * stride).collect();
        Taps {
            channel: self.steps.channel as isize,
            axes: kernel.iter().zip(strides).map(axis).collect(),
        }
    }
}

/// Turns weights, so that a vector holds a tap of neighbouring output channels, and transforms them.
struct Stager<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    engine: &'a Engine<T>,
    /// The transforms of the axes that have one.
    forms: Vec<Form>,
    offsets: Taps,
    /// Where the first tap of a channel is if its taps lie together, forwards or backwards, and whether
    /// channels do.
    run: Option<(isize, bool)>,
    kernel: Vec<usize>,
    /// Where the taps of a channel are, once turned, that are transformed: for each that is left.
    places: Vec<Vec<isize>>,
}

impl<'a, T: Tiled> Stager<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        tiling: &Tiling,
        (kernels, engine): (&'a Kernels<T>, &'a Engine<T>),
    ) -> Result<Self, Error> {
        let offsets = problem.weights.taps()?;
        let kernel: Vec<usize> = problem.geometry.axes.iter().map(|axis| axis.kernel).collect();
        let (reversed, lowest) = offsets.reversed();
        let forwards = offsets.are_dense(&kernel);
        let backwards = !forwards && reversed.are_dense(&kernel);
        let taps = problem.geometry.kernel_taps() as isize;
        let run = match (forwards, backwards) {
            (true, _) => Some((0, offsets.channel == taps)),
            (_, true) => Some((lowest, offsets.channel == taps)),
            _ => None,
        };
        let places = tap_places(tiling, &kernel, engine.lanes, backwards);
        let forms = tiling.forms();
        Ok(Stager { problem, kernels, engine, forms, offsets, run, kernel, places })
    }

    /// Elements of scratch that it needs.
    fn scratch(&self) -> usize {
        let channels = TURNED.min(self.problem.geometry.channels);
        channels * self.problem.geometry.kernel_taps() * self.engine.lanes
    }

    /// Writes the weights of some neighbouring output channels at all points, from `to` on. Whether they
    /// are finite.
    ///
    /// # Safety
    /// `to` must be writable for all taps, and a vector more, at each point.
    unsafe fn put(
        &self,
        turn: &Turn<'_>,
        outputs: Range<usize>,
        scratch: &mut [T],
        (to, steps): (*mut T, Steps),
    ) -> bool {
        let Problem { geometry, weights, .. } = self.problem;
        let (taps, lanes) = (geometry.kernel_taps(), self.engine.lanes);
        let (memory, first) = (weights.memory(), weights.output(outputs.start));
        let mut finite = true;
        for start in (0..geometry.channels).step_by(TURNED) {
            let channels = start..geometry.channels.min(start + TURNED);
            let mut turned = |at: isize, run: usize, to: usize| {
                let to = (&mut scratch[to * lanes..], lanes);
                let from = (&memory, first + at, weights.row());
                self.kernels.transposed(from, (outputs.len(), run), to);
            };
            match self.run {
                Some((lowest, true)) => {
                    let at = start as isize * self.offsets.channel + lowest;
                    turned(at, channels.len() * taps, 0);
                }
                Some((lowest, false)) => {
                    for (i, channel) in channels.clone().enumerate() {
                        let at = channel as isize * self.offsets.channel + lowest;
                        turned(at, taps, i * taps);
                    }
                }
                None => {
                    let mut index = vec![0; self.kernel.len()];
                    for i in 0..channels.len() * taps {
                        let channel = (start + i / taps) as isize * self.offsets.channel;
                        let axes = index.iter().zip(&self.offsets.axes);
                        turned(channel + axes.map(|(&i, a)| a[i]).sum::<isize>(), 1, i);
                        advance(&mut index, &self.kernel);
                    }
                }
            }
            for (l, offsets) in self.places.iter().enumerate() {
                assert!(channels.len() * taps * lanes <= scratch.len());
                let lift = Lift {
                    forms: &self.forms,
                    from: scratch.as_ptr(),
                    offsets,
                    channels: channels.len(),
                    step: taps * lanes,
                    to: to.wrapping_add(l * steps.tap + start * steps.channel),
                    row: steps.channel,
                    pitch: steps.point,
                };
                // SAFETY: the engine is this CPU's; the scratch holds a vector of each tap, as just
                // asserted; the caller vouches for `to`.
                finite &= unsafe { (self.engine.lift)(&lift) };
            }
            if !turn.goes_on(taps * TURNED) {
                break;
            }
        }
        finite
    }
}

/// For each tap that is left, where those that are transformed lie among the taps of a channel, `width`
/// elements apart in order or from the last to the first.
fn tap_places(tiling: &Tiling, kernel: &[usize], width: usize, backwards: bool) -> Vec<Vec<isize>> {
    let strides = contiguous(kernel, 1);
    let last = kernel.iter().product::<usize>() as isize - 1;
    let place = |tap: isize| (if backwards { last - tap } else { tap }) * width as isize;
    let of = |tiled: bool| -> Vec<isize> {
        let sides = tiling.sides.iter().zip(&strides).filter(|(side, _)| side.tiled() == tiled);
        sides.fold(vec![0], |all, (side, &stride)| {
            let kernel = if tiled { TAPS } else { side.axis.kernel } as isize;
            let along = |&at: &isize| (0..kernel).map(move |tap| at + tap * stride);
            all.iter().flat_map(along).collect()
        })
    };
    let tiled = of(true);
    of(false).iter().map(|&left| tiled.iter().map(|&tap| place(left + tap)).collect()).collect()
}
