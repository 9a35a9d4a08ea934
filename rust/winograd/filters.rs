//! Weights at the points of their transforms.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::contract::Problem;
use crate::operand::Taps;
use crate::parallel::{Stopped, Team, Workspace, with_scratch};
use crate::tile::{Kernels, Tiled};
use crate::view::{Memory, ViewMut, advance, contiguous};

use super::engine::{Engine, Lift};
use super::form::{Kind, TAPS};
use super::tiling::Tiling;

/// Values below which weights are transformed on one thread: some 20 us.
const SERIAL_VALUES: usize = 1 << 17;

/// Transformed weights, as rows of a product's tiles: `[point][output channel][tap][channel]`, of the taps
/// that are left. Channels beyond the last, up to a whole vector, are 0.
#[derive(Debug)]
pub struct Filters<T> {
    values: Workspace,
    kind: Kind,
    /// Which axes are transformed.
    tiled: Vec<bool>,
    /// Elements between taps, output channels, and points.
    tap: usize,
    row: usize,
    point: usize,
    /// Whether some are not finite.
    odd: bool,
    element: std::marker::PhantomData<T>,
}

impl<T: Tiled> Filters<T> {
    /// Transforms the weights of a convolution.
    pub fn new(
        problem: &Problem<'_, T>,
        tiling: &Tiling,
        (kernels, engine): (&Kernels<T>, &Engine<T>),
        team: &Team<'_>,
    ) -> Result<Self, Stopped> {
        let (geometry, weights) = (problem.geometry, problem.weights);
        let (channels, lanes, line) = (geometry.channels, engine.lanes, 64 / size_of::<T>());
        let outputs = geometry.groups * geometry.outputs;
        let (points, taps) = (tiling.points(), tiling.taps());
        let width = channels.next_multiple_of(lanes);
        // Rows an odd number of cache lines apart do not share a set of the cache.
        let row = ((taps.saturating_mul(width)).div_ceil(line) | 1).saturating_mul(line);
        let point = row.saturating_mul(outputs).saturating_add(line);
        let mut values =
            Workspace::new::<T>("the transformed weights", point.saturating_mul(points))?;
        let offsets = weights.taps()?;
        let kernel: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
        let kernel_taps = geometry.kernel_taps();
        // Of each channel all taps in one run, forwards or backwards, or each by itself.
        let (reversed, lowest) = offsets.reversed();
        let forwards = offsets.are_dense(&kernel);
        let backwards = !forwards && reversed.are_dense(&kernel);
        let places = tap_places(tiling, &kernel, width, backwards);
        let odd = AtomicBool::new(false);
        let memory = weights.memory();
        {
            let len = point * points;
            let to = ViewMut::from_slice(&mut values.elements_mut::<T>()[..len], &[len]);
            let bytes = |elements: usize| (elements * size_of::<T>()) as isize;
            let serial = Team { threads: 1, stop: team.stop };
            let team = if len < SERIAL_VALUES { &serial } else { team };
            team.share(outputs, |turn| {
                with_scratch(kernel_taps * width, |scratch: &mut [T]| {
                    scratch.fill(T::default());
                    while let Some(output) = turn.next() {
                        let at = weights.output(output);
                        let mut index = vec![0; kernel.len()];
                        let run = if forwards || backwards { kernel_taps } else { 1 };
                        for tap in (0..kernel_taps).step_by(run) {
                            let of_axes = || index.iter().zip(&offsets.axes).map(|(&i, a)| a[i]);
                            let at = match (forwards, backwards) {
                                (true, _) => at,
                                (_, true) => at + lowest,
                                _ => at + of_axes().sum::<isize>(),
                            };
                            kernels.transposed(
                                (&memory, at, offsets.channel),
                                (channels, run),
                                (&mut scratch[tap * width..], width),
                            );
                            advance(&mut index, &kernel);
                        }
                        let last = (points - 1) * point + taps * width;
                        let to = to.at(bytes(output * row), 0, bytes(last));
                        for (tap, offsets) in places.iter().enumerate() {
                            let lift = Lift {
                                from: scratch.as_ptr(),
                                offsets,
                                channels: width,
                                to: to.wrapping_add(tap * width),
                                pitch: point,
                            };
                            // SAFETY: the engine is this CPU's; the scratch holds all taps of whole
                            // vectors of channels; `at` checked that the row of this output, which no
                            // other thread has, lies among the values at each point.
                            let finite =
                                unsafe { (engine.passes(tiling.kind, tiling.axes()).lift)(&lift) };
                            if !finite {
                                odd.store(true, Ordering::Relaxed);
                            }
                        }
                        if !turn.goes_on(points * taps * width / lanes) {
                            break;
                        }
                    }
                })
            })?;
        }
        Ok(Filters {
            values,
            kind: tiling.kind,
            tiled: tiling.sides.iter().map(|side| side.tiled).collect(),
            tap: width,
            row,
            point,
            odd: odd.into_inner(),
            element: std::marker::PhantomData,
        })
    }

    /// Whether they were transformed as a tiling has it.
    pub fn is_of(&self, tiling: &Tiling) -> bool {
        let tiled = tiling.sides.iter().map(|side| side.tiled);
        self.kind == tiling.kind && tiled.eq(self.tiled.iter().copied())
    }

    /// Whether some of them are not finite, which leaves the plain sum.
    pub fn odd(&self) -> bool {
        self.odd
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.values.elements::<T>().len() * size_of::<T>()
    }

    /// All of them.
    pub fn memory(&self) -> Memory<'_, T> {
        Memory::of(self.values.elements())
    }

    /// The first element of an output channel at a point.
    pub fn at(&self, point: usize, output: usize) -> isize {
        (point * self.point + output * self.row) as isize
    }

    /// Elements between output channels.
    pub fn row(&self) -> isize {
        self.row as isize
    }

    /// Where the taps that are left lie in a row.
    pub fn taps(&self, kernel: &[usize]) -> Taps {
        let strides = contiguous(kernel, self.tap);
        let axis = |(&n, stride): (&usize, isize)| (0..n as isize).map(|i| i * stride).collect();
        Taps { channel: 1, axes: kernel.iter().zip(strides).map(axis).collect() }
    }
}

/// For each tap that is left, where those that are transformed lie, as the scratch has them: all taps of a
/// channel in order, `width` elements apart, or from the last to the first.
fn tap_places(tiling: &Tiling, kernel: &[usize], width: usize, backwards: bool) -> Vec<Vec<isize>> {
    let strides = contiguous(kernel, 1);
    let last = kernel.iter().product::<usize>() as isize - 1;
    let place = |tap: isize| (if backwards { last - tap } else { tap }) * width as isize;
    let of = |tiled: bool| -> Vec<isize> {
        let sides = tiling.sides.iter().zip(&strides).filter(|(side, _)| side.tiled == tiled);
        sides.fold(vec![0], |all, (side, &stride)| {
            let kernel = if tiled { TAPS } else { side.axis.kernel } as isize;
            let along = |&at: &isize| (0..kernel).map(move |tap| at + tap * stride);
            all.iter().flat_map(along).collect()
        })
    };
    let tiled = of(true);
    of(false).iter().map(|&left| tiled.iter().map(|&tap| place(left + tap)).collect()).collect()
}
