//! Weights as the column operand: packed so that a vector holds a tap of neighbouring output channels.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

use crate::cover::Cover;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::Workspace;
use crate::operand::{Taps, Weights};
use crate::parallel::{Stopped, Team};
use crate::prepared::Made;
use crate::tile::{Kernels, Tiled};
use crate::view::{Memory, advance};

/// Elements of weights below which packing stays on one thread: some 20 us.
const SERIAL_ELEMENTS: usize = 1 << 16;

/// Weights in panels of as many output channels as a vector has lanes: in a panel, taps in the order
/// of sums, of each tap a vector. Lanes beyond a group's last output channel are 0.
#[derive(Debug)]
pub struct Packed<T> {
    data: Workspace,
    lanes: usize,
    /// Taps of an output: channels times those of the kernel.
    taps: usize,
    groups: usize,
    /// Output channels of a group, and the panels that they fill.
    outputs: usize,
    panels: usize,
    element: PhantomData<T>,
}

impl<T: Tiled> Packed<T> {
    /// Packs the weights of a convolution for the vectors of `kernels`.
    pub fn new(
        weights: &Weights<'_, T>,
        geometry: &Geometry,
        kernels: &Kernels<T>,
        team: &Team<'_>,
    ) -> Result<Self, Stopped> {
        let Geometry { groups, channels, outputs, .. } = *geometry;
        let kernel: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
        let kernel_taps = geometry.kernel_taps();
        let (lanes, taps) = (kernels.lanes, channels * kernel_taps);
        let panels = outputs.div_ceil(lanes);
        let panel = taps * lanes;
        let len = (groups * panels).saturating_mul(panel);
        let mut data = Workspace::new::<T>("the packed weights", len)?;
        let offsets = weights.taps()?;
        // Runs of taps that lie together: all, those of a channel, or each by itself.
        let (reversed, lowest) = offsets.reversed();
        let forwards = offsets.are_dense(&kernel);
        // As gradients have them: together, but from the last to the first.
        let backwards = !forwards && reversed.are_dense(&kernel);
        let dense = forwards || backwards;
        let run = match dense {
            true if forwards && (offsets.channel == kernel_taps as isize || channels == 1) => taps,
            true => kernel_taps,
            false => 1,
        };
        let memory = weights.memory();
        let items: Vec<Mutex<&mut [T]>> =
            data.elements_mut()[..len].chunks_exact_mut(panel.max(1)).map(Mutex::new).collect();
        let serial = Team { threads: 1, stop: team.stop };
        let team = if len < SERIAL_ELEMENTS { &serial } else { team };
        team.share(items.len(), |turn| {
            while let Some(item) = turn.next() {
                let mut to = items[item].lock().expect("each panel is one thread's");
                let first = item % panels * lanes;
                let rows = lanes.min(outputs - first);
                if rows < lanes {
                    to.fill(T::default());
                }
                let row = weights.output(item / panels * outputs + first);
                let mut index = vec![0; kernel.len()];
                for tap in (0..taps).step_by(run) {
                    let channel = (tap / kernel_taps) as isize * offsets.channel;
                    let of_axes = || index.iter().zip(&offsets.axes).map(|(&i, axis)| axis[i]);
                    let at = match (forwards, backwards) {
                        (true, _) => row + channel,
                        (_, true) => row + channel + lowest,
                        _ => row + channel + of_axes().sum::<isize>(),
                    };
                    let to = &mut to[tap * lanes..(tap + run) * lanes];
                    kernels.transposed(
                        (&memory, at, weights.row()),
                        (rows, run),
                        (&mut *to, lanes),
                    );
                    if backwards {
                        let (first, last) = to.split_at_mut(run / 2 * lanes);
                        let pairs =
                            first.chunks_exact_mut(lanes).zip(last.rchunks_exact_mut(lanes));
                        pairs.for_each(|(a, b)| a.swap_with_slice(b));
                    }
                    advance(&mut index, &kernel);
                }
            }
            Ok(())
        })?;
        drop(items);
        Ok(Packed { data, lanes, taps, groups, outputs, panels, element: PhantomData })
    }

    /// Elements of all panels.
    fn len(&self) -> usize {
        self.groups * self.panels * self.taps * self.lanes
    }

    /// As an operand.
    pub fn vectors(&self, kernel: &[usize]) -> Vectors<'_, T> {
        let Packed { lanes, taps, groups, outputs, panels, .. } = *self;
        let strides = crate::view::contiguous(kernel, lanes);
        let axis = |(&n, stride): (&usize, isize)| (0..n as isize).map(|i| i * stride).collect();
        let channel = (kernel.iter().product::<usize>() * lanes) as isize;
        Vectors {
            memory: Memory::of(&self.data.elements()[..self.len()]),
            taps: Taps { channel, axes: kernel.iter().zip(strides).map(axis).collect() },
            start: 0,
            panel: (taps * lanes) as isize,
            group: (panels * taps * lanes) as isize,
            lanes,
            groups,
            outputs,
            panels,
        }
    }
}

impl<T: Tiled> Made for Packed<T> {
    fn bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }
}

/// Weights as the column operand: in panels of neighbouring output channels, which are packed or lie so.
#[derive(Debug)]
pub struct Vectors<'a, T> {
    /// All of them.
    pub memory: Memory<'a, T>,
    /// Where taps lie in a panel.
    pub taps: Taps,
    /// The element where the first panel starts, and elements to the next one and to the next group's.
    start: isize,
    panel: isize,
    group: isize,
    lanes: usize,
    groups: usize,
    outputs: usize,
    /// Panels of a group.
    pub panels: usize,
}

impl<'a, T: Tiled> Vectors<'a, T> {
    /// Whether weights can be read where they lie: neighbouring outputs are neighbours in memory and fill
    /// whole vectors, as those of a gradient with one tap do.
    pub fn lie(weights: &Weights<'_, T>, outputs: usize, lanes: usize) -> bool {
        weights.row() == 1 && outputs.is_multiple_of(lanes)
    }

    /// Weights which [`lie`](Self::lie) so, for vectors of `lanes` elements.
    pub fn in_place(
        weights: &'a Weights<'_, T>,
        geometry: &Geometry,
        lanes: usize,
    ) -> Result<Self, Error> {
        let outputs = geometry.outputs;
        let start = weights.output(0);
        Ok(Vectors {
            memory: weights.memory(),
            taps: weights.taps()?,
            start,
            panel: lanes as isize,
            group: weights.output(outputs) - start,
            lanes,
            groups: geometry.groups,
            outputs,
            panels: outputs / lanes,
        })
    }

    /// The element where the panels of a group start.
    pub fn group(&self, group: usize) -> isize {
        self.start + group as isize * self.group
    }

    /// Vectors over some panels of a group, the results of which are `step` bytes apart, and whether whole
    /// ones may go there directly.
    pub fn cover(&self, panels: Range<usize>, (step, direct): (isize, bool)) -> Cover {
        Cover::of_channels(panels, self.outputs, (self.lanes, self.panel), (step, direct))
    }

    /// A bias as the panels of all groups have it.
    pub fn bias(&self, bias: &[T]) -> Vec<T> {
        if bias.is_empty() {
            return Vec::new();
        }
        let width = self.panels * self.lanes;
        let mut padded = vec![T::default(); self.groups * width];
        for (to, from) in padded.chunks_exact_mut(width).zip(bias.chunks_exact(self.outputs)) {
            to[..self.outputs].copy_from_slice(from);
        }
        padded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};
    use crate::tile::kernels;
    use crate::view::View;

    #[test]
    fn a_panel_holds_taps_of_neighbouring_outputs() {
        let (groups, outputs, channels) = (2, 21, 3);
        let shape = [groups * outputs, channels, 2, 5];
        let data: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        let spec = Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding: Padding::Valid,
            dilation: PerAxis::All(1),
            groups: groups as i64,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        };
        let geometry = Geometry::new(&spec, &[1, 6, 9, 9], &shape, None).unwrap();
        let kernels = kernels::<f32>().unwrap();
        let lanes = kernels.lanes;
        let team = Team { threads: 2, stop: &|| false };
        for flip in [false, true] {
            let weights = Weights::new(&View::from_slice(&data, &shape), &shape, flip).unwrap();
            let packed = Packed::new(&weights, &geometry, kernels, &team).unwrap();
            assert_eq!(packed.panels, 21usize.div_ceil(lanes));
            let found = packed.data.elements::<f32>();
            assert!(found.as_ptr().cast::<[f32; 16]>().is_aligned());
            for (i, &value) in found[..groups * packed.panels * 30 * lanes].iter().enumerate() {
                let (vector, lane) = (i / lanes, i % lanes);
                let (panel, tap) = (vector / 30, vector % 30);
                let (group, output) = (panel / packed.panels, panel % packed.panels * lanes + lane);
                let tap = if flip { tap / 10 * 10 + 9 - tap % 10 } else { tap };
                let expected = ((group * outputs + output) * 30 + tap) as f32;
                assert_eq!(value, if output < outputs { expected } else { 0.0 }, "{i}");
            }
            let bias: Vec<f32> = (0..42).map(|i| i as f32).collect();
            let padded = packed.vectors(&[1, 2, 5]).bias(&bias);
            assert_eq!((padded[20], padded[21], padded[packed.panels * lanes]), (20.0, 0.0, 21.0));
        }
    }
}
