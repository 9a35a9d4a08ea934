//! Weights at the points of their transforms.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::{LINE, Workspace, with_scratch};
use crate::operand::Taps;
use crate::parallel::{Stopped, Team, Turn, even_part};
use crate::prepared::Made;
use crate::problem::Problem;
use crate::tile::{Kernels, TileShape, Tiled};
use crate::view::{Memory, ViewMut, advance, contiguous};

use super::engine::{Engine, Lift};
use super::form::{Form, TAPS};
use super::role::Role;
use super::tiling::Tiling;

/// Values below which weights are transformed on one thread: some 20 us.
const SERIAL_VALUES: usize = 1 << 17;

/// Channels whose weights are turned at a time: with all their taps they stay in the first-level cache, mostly.
const TURNED: usize = 32;

/// Vectors of a tile of products.
const PAIR: usize = 2;

/// Where transformed weights are: for each point, panels of as many output channels as a product's tile has,
/// each of which is read from its first element to its last: `[tap][channel][output]`, of the taps that are left.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Those of a group.
    pub panels: Panels,
    /// Elements between panels: none, where there is room for one at a time.
    panel: usize,
    /// Elements of a panel at a point.
    len: usize,
    steps: Steps,
}

impl Layout {
    /// Of all panels of a convolution.
    pub fn new<T: Tiled>(geometry: &Geometry, tiling: &Tiling, kernels: &Kernels<T>) -> Self {
        let (channels, taps) = (geometry.channels, tiling.taps());
        let panels = Panels::new(kernels, geometry.outputs, taps);
        let (width, line) = (panels.width, LINE / size_of::<T>());
        let odd_lines = |n: usize| (n.div_ceil(line) | 1).saturating_mul(line);
        // A vector may reach beyond its rows: over the next channel's, which come later, or over nothing.
        let tap = channels.saturating_mul(width).saturating_add(kernels.lanes);
        let len = odd_lines(tap.saturating_mul(taps));
        let point = odd_lines(len.saturating_mul(panels.count).saturating_mul(geometry.groups));
        Layout { panels, panel: len, len, steps: Steps { channel: width, tap, point } }
    }

    /// Of one panel at a time.
    pub fn of_one(self) -> Self {
        Layout { panel: 0, steps: Steps { point: self.len, ..self.steps }, ..self }
    }

    /// Elements of all weights at so many points.
    pub fn size(&self, points: usize) -> usize {
        self.steps.point.saturating_mul(points)
    }

    /// The first element of a panel of a group at a point.
    pub fn at(&self, point: usize, group: usize, panel: usize) -> isize {
        (point * self.steps.point + (group * self.panels.count + panel) * self.panel) as isize
    }

    /// Elements of some channels of a panel at a point.
    pub fn channels(&self, channels: usize) -> usize {
        channels * self.steps.channel
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

/// Transformed weights.
#[derive(Debug)]
pub struct Filters<T> {
    values: Workspace,
    /// How each axis is transformed, if it is.
    forms: Vec<Option<Form>>,
    layout: Layout,
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

/// How the output channels of a group are cut into panels of weights.
#[derive(Clone, Copy, Debug)]
pub struct Panels {
    pub role: Role,
    /// The tiles of products.
    pub shape: TileShape,
    /// How many panels.
    pub count: usize,
    /// Output channels of one at most.
    pub width: usize,
    outputs: usize,
}

impl Panels {
    /// For so many output channels, and taps that are left.
    pub fn new<T: Tiled>(kernels: &Kernels<T>, outputs: usize, taps: usize) -> Self {
        let lanes = kernels.lanes;
        if Role::new(outputs, lanes, taps) == Role::Tiles {
            let shape = TileShape { rows: kernels.registers().most_rows(PAIR), columns: PAIR };
            let width = PAIR * lanes;
            return Panels {
                role: Role::Tiles,
                shape,
                count: outputs.div_ceil(width),
                width,
                outputs,
            };
        }
        // Not more columns than two, so that few vectors are left over.
        let (shape, _) = kernels.choose(outputs, &[PAIR], (lanes, true));
        let count = outputs.div_ceil(shape.rows);
        Panels { role: Role::Outputs, shape, count, width: outputs.div_ceil(count), outputs }
    }

    /// The output channels of a group that a panel has.
    pub fn outputs(&self, panel: usize) -> Range<usize> {
        match self.role {
            Role::Outputs => even_part(&(0..self.outputs), self.count, panel),
            Role::Tiles => panel * self.width..self.outputs.min((panel + 1) * self.width),
        }
    }
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
        let lanes = engine.lanes;
        let points = tiling.points();
        let layout = Layout::new(geometry, tiling, kernels);
        let Layout { panels, len: panel, steps, .. } = layout;
        let len = layout.size(points);
        // A vector of output channels at a time.
        let vectors = panels.width.div_ceil(lanes);
        let (all, point) = (geometry.groups * panels.count * vectors, steps.point);
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
                    let (item, vector) = (item / vectors, item % vectors * lanes);
                    let part = (item / panels.count, item % panels.count);
                    let outputs = stager.outputs(&panels, part, vector);
                    if outputs.is_empty() {
                        continue;
                    }
                    let to = to.at(bytes(item * panel), 0, bytes((points - 1) * point + panel));
                    let to = (to.wrapping_add(vector), steps);
                    // SAFETY: `at` checked that this panel, these output channels of which no other thread
                    // has, lies among the values at each point.
                    let finite = unsafe { stager.put(turn, outputs, scratch, to) };
                    if !finite {
                        odd.store(true, Ordering::Relaxed);
                    }
                }
            })
        })?;
        Ok(Filters {
            values,
            forms: tiling.sides.iter().map(|side| side.form).collect(),
            layout,
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

    /// All of them.
    pub fn memory(&self) -> Memory<'_, T> {
        Memory::of(self.values.elements())
    }

    /// Where they are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl<T: Tiled> Made for Filters<T> {
    fn bytes(&self) -> usize {
        self.values.bytes()
    }
}

/// Turns weights, so that a vector holds a tap of neighbouring output channels, and transforms them.
pub struct Stager<'a, T: Tiled> {
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
    pub fn new(
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
    pub fn scratch(&self) -> usize {
        scratch(self.problem.geometry, self.engine.lanes)
    }

    /// The vector of output channels of a panel of a group, or what there is of it, from one of them on.
    fn outputs(&self, panels: &Panels, (group, panel): (usize, usize), at: usize) -> Range<usize> {
        let Range { start, end } = panels.outputs(panel);
        let first = group * self.problem.geometry.outputs;
        let of = |output: usize| first + output.min(end);
        of(start + at)..of(start + at + self.engine.lanes)
    }

    /// Writes a panel of a group at all points to `to`, as [`of_one`](Layout::of_one) has it. Whether its
    /// weights are finite. Scratch that vectors which are not full leave as it is must be finite.
    pub fn put_panel(
        &self,
        turn: &Turn<'_>,
        part: (usize, usize),
        scratch: &mut [T],
        (to, layout, points): (&mut [T], &Layout, usize),
    ) -> bool {
        assert!(layout.panel == 0 && to.len() >= layout.size(points));
        let mut finite = true;
        for vector in (0..layout.panels.width).step_by(self.engine.lanes) {
            let outputs = self.outputs(&layout.panels, part, vector);
            if !outputs.is_empty() {
                let to = (to[vector..].as_mut_ptr(), layout.steps);
                // SAFETY: a panel at each point has room for its vectors, and `to` for all, as just asserted.
                finite &= unsafe { self.put(turn, outputs, scratch, to) };
            }
        }
        finite
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

/// Elements of scratch that a [`Stager`] needs.
pub fn scratch(geometry: &Geometry, lanes: usize) -> usize {
    TURNED.min(geometry.channels) * geometry.kernel_taps() * lanes
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
