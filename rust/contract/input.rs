//! The input as the loop nest reads it: where it lies, or staged in slabs.

use std::ops::Range;

use super::roles::Roles;
use super::split::Split;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::memory::LINE;
use crate::operand::Taps;
use crate::slab::{Block, Layout};
use crate::tile::Tiled;
use crate::view::{Memory, Runs, View};

/// The input.
pub(super) struct Input<'a, T> {
    place: Place<'a, T>,
    /// Where its taps lie.
    pub taps: Taps,
    /// Elements between neighbouring positions of outputs, on each axis.
    pub pitches: Vec<isize>,
}

enum Place<'a, T> {
    /// Where it lies, with these strides between channels, images and elements of each axis. Vectors
    /// of positions must not reach beyond the last one.
    Own(InPlace<'a, T>, bool),
    /// In slabs of this layout, which holds so many positions an output on each axis.
    Staged(Layout, Vec<usize>),
}

/// An array whose elements can be read where they lie.
pub(super) struct InPlace<'a, T> {
    memory: Memory<'a, T>,
    strides: Vec<isize>,
}

impl<'a, T: Tiled> Input<'a, T> {
    /// Of a convolution of `geometry`, the blocks of which are `split`'s.
    pub fn new(
        geometry: &Geometry,
        roles: Roles,
        in_place: Option<InPlace<'a, T>>,
        split: &Split,
    ) -> Result<Self, Error> {
        if let Some(own) = in_place {
            let axes = || geometry.axes.iter().zip(&own.strides[1..]);
            let taps = axes().map(|(axis, &stride)| {
                let mut taps = room("the table of taps", axis.kernel)?;
                let step = stride * axis.dilation as isize;
                taps.extend((0..axis.kernel as isize).map(|tap| tap * step));
                Ok(taps)
            });
            let axes_taps = taps.collect::<Result<_, Error>>()?;
            let pitches = axes().map(|(axis, stride)| stride * axis.stride as isize).collect();
            let taps = Taps { channel: own.strides[0], axes: axes_taps };
            let vectors = roles != Roles::Positions;
            return Ok(Input { place: Place::Own(own, vectors), taps, pitches });
        }
        // Rows of positions may lie apart: no phases, and runs are copied as they are.
        let mut staged = geometry.clone();
        let mut each = vec![1; staged.axes.len()];
        if roles == Roles::Positions {
            for (axis, each) in staged.axes.iter_mut().zip(&mut each) {
                *each = axis.stride;
                *axis = Axis { stride: 1, output: dense(axis.output, axis.stride), ..*axis };
            }
        }
        let lens = split.lens(geometry).into_iter().zip(&each).map(|(len, &each)| dense(len, each));
        let layout = Layout::new(&staged, &lens.collect::<Vec<_>>(), size_of::<T>())?;
        let taps = Taps { channel: layout.plane() as isize, axes: layout.offsets()? };
        let pitches = layout.pitches().into_iter().zip(&each).map(|(p, &each)| p * each as isize);
        Ok(Input { pitches: pitches.collect(), place: Place::Staged(layout, each), taps })
    }

    /// Whether it is read where it lies.
    pub fn is_in_place(&self) -> bool {
        matches!(self.place, Place::Own(..))
    }

    /// Elements of the slab that each thread needs.
    pub fn slab(&self, channels: usize, lanes: usize) -> usize {
        match &self.place {
            Place::Own(..) => 0,
            Place::Staged(layout, _) => layout.size(channels, lanes),
        }
    }

    /// The runs that stage one plane of a block.
    pub fn runs(&self, block: &Block, strides: &[isize]) -> Runs {
        match &self.place {
            Place::Own(..) => Runs::default(),
            Place::Staged(layout, each) => {
                let range = |(range, &each): (&Range<usize>, &usize)| {
                    range.start * each..range.start * each + dense(range.len(), each)
                };
                layout.runs(&Block(block.0.iter().zip(each).map(range).collect()), strides)
            }
        }
    }

    /// Stages the channels of a block; outside of `x` lies `padding`.
    pub fn stage(
        &self,
        runs: &Runs,
        channels: Range<usize>,
        (x, padding): (&View<'_>, T),
        slab: &mut [T],
    ) {
        if let Place::Staged(layout, _) = &self.place {
            layout.stage((runs, channels), x, padding, slab);
        }
    }

    /// The operand from input channel `channel` on, and the element in it where a block starts.
    pub fn operand<'b>(
        &'b self,
        channel: usize,
        block: &Block,
        slab: &'b [T],
    ) -> (Memory<'b, T>, isize) {
        match &self.place {
            Place::Staged(..) => (Memory::of(slab), 0),
            Place::Own(own, _) => {
                let start = channel as isize * own.strides[0] + block.start(&self.pitches);
                (own.memory.clone(), start)
            }
        }
    }

    /// The flat position, from the block's first, that vectors must not reach.
    pub fn end(&self, geometry: &Geometry, block: &Block) -> isize {
        match self.place {
            Place::Own(_, true) => {
                let axes = block.0.iter().zip(&geometry.axes).zip(&self.pitches).skip(1);
                let last = axes.map(|((r, axis), p)| (axis.output - 1 - r.start) as isize * p);
                last.sum::<isize>() + 1
            }
            _ => isize::MAX,
        }
    }
}

/// Positions from the first of `len` outputs to the last, `stride` apart.
fn dense(len: usize, stride: usize) -> usize {
    len.saturating_sub(1) * stride + 1
}

/// Output channels of a group that read an input channel often enough to make aligning it worth a copy.
const STAGED_OUTPUTS: usize = 64;

/// The input where it lies, if it can be read so: no padding, memory of the right format, and planes
/// that do not share a set of the cache. For vectors of positions, also no stride but a ramp's own,
/// whole planes in C order, and enough positions in each that none is left to staging for want of a
/// vector.
pub(super) fn in_place<'a, T: Tiled>(
    geometry: &Geometry,
    roles: Roles,
    x: &View<'a>,
    lanes: usize,
) -> Option<InPlace<'a, T>> {
    let size = size_of::<T>() as isize;
    let vectors = roles != Roles::Positions;
    if roles.ramp().is_some_and(|ramp| ramp.axis + 1 == geometry.axes.len()) {
        return None; // positions of a vector are not neighbours
    }
    let mut dense = size;
    for (i, axis) in geometry.axes.iter().enumerate().skip(1).rev() {
        let rows = roles.ramp().map_or(1, |ramp| if ramp.axis == i { ramp.rows } else { 1 });
        // All windows of a ramp's rows are whole, or the last ones would lie beyond the input.
        let reach = (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation;
        if axis.before != 0 || axis.after != 0 || reach >= axis.input {
            return None;
        }
        let stride = x.strides()[i + 1];
        if vectors && (axis.stride != rows || (stride != dense && axis.input > 1)) {
            return None;
        }
        dense *= axis.input as isize;
    }
    // Planes a multiple of 4 KiB apart would share one set of the first-level cache: a 1x1 layer over
    // 128 channels of 128 x 128 runs at 67 % of the peak in place and at 74 % staged (Zen 5).
    if geometry.channels > 8 && x.strides()[0] % 4096 == 0 {
        return None;
    }
    let memory = x.memory::<T>()?;
    // Vectors across two cache lines, once they come from the second-level cache: 1x1 from 64 to 256
    // channels runs at 68 % of the peak in place and at 80 % from a slab (Sapphire Rapids).
    let odd = !memory.aligned() || !x.strides()[0].unsigned_abs().is_multiple_of(LINE);
    if vectors && odd && geometry.kernel_taps() == 1 && geometry.outputs >= STAGED_OUTPUTS {
        return None;
    }
    let mut strides: Vec<isize> = x.strides().iter().map(|s| s / size).collect();
    if !vectors {
        return Some(InPlace { memory, strides });
    }
    // An axis of one has any stride; the flat order wants the dense one.
    let (mut pitch, mut flat) = (1, 1);
    for (axis, stride) in geometry.axes.iter().zip(&mut strides[1..]).skip(1).rev() {
        *stride = pitch;
        flat += (axis.output - 1) * axis.stride * pitch as usize;
        pitch *= axis.input as isize;
    }
    // Vectors lie within one image, so it must hold one; and small ones fill more together.
    let least = if geometry.axes[0].output > 1 { 8 * lanes } else { lanes };
    (flat >= least).then_some(InPlace { memory, strides })
}
