//! The loop nest of a direct convolution: blocks of positions, groups of output channels, tiles; and
//! their split among threads.
//!
//! Whatever is chosen here (blocks, tiles, threads, in place or staged) moves work around without
//! changing any sum, so results do not depend on it: see [`CHAIN`](crate::tile::CHAIN).

use crate::geometry::{Axis, Geometry};
use crate::operand::{self, Columns, Weights};
use crate::parallel::{Interrupted, Team, Turn, with_scratch};
use crate::slab::{Block, Cover, Layout, Positions};
use crate::store::{Store, Target};
use crate::tile::{Contraction, Kernels, Sum, Tiled, groups};
use crate::view::{Memory, View};

/// Bytes of a slab: half of the second-level cache of today's cores, which have 1 or 2 MiB, so that
/// the rows of weights that go over it have the other half.
const SLAB_BYTES: usize = 512 << 10;

/// Work below which a call stays on its caller's thread, in floating-point operations: about 50 us,
/// the time in which a sleeping helper would just have begun.
const SERIAL_FLOPS: f64 = 5e6;

/// Items that each thread gets at least where there is work enough, so that a thread which loses its
/// core for a while leaves others something to take over.
const ITEMS_PER_THREAD: usize = 4;

/// A convolution with its arrays.
pub struct Problem<'a, T> {
    /// Sizes, checked.
    pub geometry: &'a Geometry,
    /// Input, canonical strides `[channel, batch, *spatial]`.
    pub x: &'a View<'a>,
    /// Weights.
    pub weights: &'a Weights<'a, T>,
    /// What lies outside the input in constant mode.
    pub padding: T,
    /// The result and what is done to it.
    pub store: &'a Store<'a, T>,
}

/// Computes a convolution directly.
pub fn direct<T: Tiled>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Interrupted> {
    let geometry = problem.geometry;
    if geometry.positions() * geometry.outputs == 0 {
        return Ok(());
    }
    let serial = geometry.flops() < SERIAL_FLOPS;
    let team = Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    let nest = Nest::new(problem, kernels, team.threads);
    team.share(nest.items(), |turn| nest.work(turn))
}

/// What all threads share.
struct Nest<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    columns: Columns<'a, T>,
    steps: Vec<crate::tile::Step>,
    period: crate::tile::Step,
    /// Elements between neighbouring positions of B.
    pitches: Vec<isize>,
    /// Blocks on each axis.
    blocks: Vec<usize>,
    /// Parts that the output channels of a group are cut into, each an item.
    cuts: usize,
}

impl<'a, T: Tiled> Nest<'a, T> {
    fn new(problem: &'a Problem<'a, T>, kernels: &'a Kernels<T>, threads: usize) -> Self {
        let geometry = problem.geometry;
        let in_place = in_place::<T>(geometry, problem.x, kernels.lanes);
        let mut lens = block_lens(geometry, size_of::<T>());
        if in_place.is_some() {
            // The batch has strides of its own, which need not go up.
            lens[0] = 1;
        }
        let count = |lens: &[usize]| -> usize {
            let per_axis = geometry.axes.iter().zip(lens).map(|(a, &len)| a.output.div_ceil(len));
            per_axis.product::<usize>() * geometry.groups
        };
        // More and smaller blocks until all threads have enough of them, as long as a block keeps a
        // few tiles; then parts of the output channels.
        let wanted = if threads > 1 { ITEMS_PER_THREAD * threads } else { 1 };
        while count(&lens) < wanted {
            let positions: usize = lens.iter().product();
            let Some(axis) = lens.iter().position(|&len| len > 1) else { break };
            if positions / 2 < 16 * kernels.lanes {
                break;
            }
            lens[axis] = lens[axis].div_ceil(2);
        }
        let rows = geometry.outputs.div_ceil(8);
        let cuts = if threads > 1 { wanted.div_ceil(count(&lens)).min(rows) } else { 1 };
        // As even as can be.
        let blocks: Vec<usize> =
            geometry.axes.iter().zip(&lens).map(|(a, &len)| a.output.div_ceil(len)).collect();
        for ((len, axis), &n) in lens.iter_mut().zip(&geometry.axes).zip(&blocks) {
            *len = axis.output.div_ceil(n);
        }
        let (columns, taps, plane, pitches) = match in_place {
            Some((memory, strides)) => {
                let axes = geometry.axes.iter().zip(&strides[1..]);
                let taps: Vec<(usize, isize)> =
                    axes.map(|(a, &s)| (a.kernel, s * a.dilation as isize)).collect();
                let (plane, pitches) = (strides[0], strides[1..].to_vec());
                (Columns::InPlace(memory, strides), operand::in_place(&taps), plane, pitches)
            }
            None => {
                let layout = Layout::new(geometry, &lens, size_of::<T>());
                let (taps, plane) = (layout.offsets(), layout.plane() as isize);
                let pitches = layout.pitches();
                (Columns::Staged(layout), taps, plane, pitches)
            }
        };
        let (steps, period) = operand::forward(problem.weights, &taps, plane, geometry.channels);
        Nest { problem, kernels, columns, steps, period, pitches, blocks, cuts }
    }

    fn items(&self) -> usize {
        self.problem.geometry.groups * self.blocks.iter().product::<usize>() * self.cuts
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>) {
        let lanes = self.kernels.lanes;
        let slab = match &self.columns {
            Columns::InPlace(..) => 0,
            Columns::Staged(layout) => layout.size(self.problem.geometry.channels, lanes),
        };
        let sums = self.kernels.most_sums();
        with_scratch(slab + sums, |scratch: &mut [T]| {
            let (sums, slab) = scratch.split_at_mut(sums);
            let mut staged = None;
            let mut cover = (Positioned::default(), Cover::default());
            while let Some(item) = turn.next() {
                let (part, cut) = (item / self.cuts, item % self.cuts);
                let (group, block) = self.block(part);
                let positioned = self.positioned(&block);
                if cover.0 != positioned {
                    let cover_of = self.cover(&positioned);
                    cover = (positioned, cover_of);
                }
                if staged != Some(part) {
                    self.stage(group, &block, slab);
                    staged = Some(part);
                }
                self.tiles(turn, (group, cut), (&block, &cover.1), slab, sums);
            }
        });
    }

    /// The group and the block of a part.
    fn block(&self, part: usize) -> (usize, Block) {
        let mut left = part;
        let mut block = Block(vec![0..0; self.blocks.len()]);
        let axes = self.problem.geometry.axes.iter().zip(&self.blocks);
        for (range, (axis, &n)) in block.0.iter_mut().zip(axes).rev() {
            let i = left % n;
            *range = i * axis.output / n..(i + 1) * axis.output / n;
            left /= n;
        }
        (left, block)
    }

    fn positioned(&self, block: &Block) -> Positioned {
        let lens = block.0.iter().map(|range| range.len()).collect();
        let ends = block.0.iter().zip(&self.problem.geometry.axes).zip(&self.pitches).skip(1);
        let last = ends.map(|((range, axis), p)| (axis.output - 1 - range.start) as isize * p);
        let end = match self.columns {
            Columns::InPlace(..) => last.sum::<isize>() + 1,
            Columns::Staged(_) => isize::MAX,
        };
        Positioned { lens, end }
    }

    fn cover(&self, Positioned { lens, end }: &Positioned) -> Cover {
        let strides = &self.problem.store.out.strides()[1..];
        let positions = Positions { lens, pitches: &self.pitches, strides };
        Cover::new(positions, self.kernels.lanes, *end)
    }

    fn stage(&self, group: usize, block: &Block, slab: &mut [T]) {
        if let Columns::Staged(layout) = &self.columns {
            let channels = self.problem.geometry.channels;
            let channels = group * channels..(group + 1) * channels;
            layout.stage((block, channels), self.problem.x, self.problem.padding, slab);
        }
    }

    /// All tiles of one item.
    fn tiles(
        &self,
        turn: &Turn<'_>,
        (group, cut): (usize, usize),
        (block, cover): (&Block, &Cover),
        slab: &[T],
        sums: &mut [T],
    ) {
        let geometry = self.problem.geometry;
        let weights = self.problem.weights;
        let taps = geometry.channels * geometry.kernel_taps();
        let sum = Sum { steps: &self.steps, taps, period: self.period };
        let (b, start) = match &self.columns {
            Columns::Staged(_) => (Memory::of(slab), 0),
            Columns::InPlace(memory, strides) => {
                let channel = (group * geometry.channels) as isize * strides[0];
                let at = block.0.iter().zip(&strides[1..]).map(|(r, &s)| r.start as isize * s);
                (memory.clone(), channel + at.sum::<isize>())
            }
        };
        let contraction = Contraction::new(weights.memory(), weights.row(), b, sum);
        let out = self.problem.store.out.strides();
        let to = block.0.iter().zip(&out[1..]).map(|(r, &s)| r.start as isize * s).sum();
        let rows = cut * geometry.outputs / self.cuts..(cut + 1) * geometry.outputs / self.cuts;
        let shape = self.kernels.choose(rows.len(), cover.starts.len(), weights.most_rows());
        for rows in groups(rows.len(), shape.rows).map(|r| r.start + rows.start..r.end + rows.start)
        {
            let channels =
                rows.start + group * geometry.outputs..rows.end + group * geometry.outputs;
            let a = channels.start as isize * weights.row();
            for first in (0..cover.starts.len()).step_by(shape.columns) {
                if !turn.goes_on() {
                    return;
                }
                let vectors = first..cover.starts.len().min(first + shape.columns);
                let mut columns = [0; crate::tile::MAX_COLUMNS];
                let columns = &mut columns[..vectors.len()];
                for (column, from) in columns.iter_mut().zip(&cover.starts[vectors.clone()]) {
                    *column = start + from;
                }
                let sums = &mut sums[..rows.len() * columns.len() * self.kernels.lanes];
                contraction.tile(self.kernels, (a, rows.len()), columns, sums);
                let target = Target { channels: channels.clone(), cover, vectors, block: to };
                // SAFETY: each item has channels and positions of its own, and an item is taken by
                // one thread.
                unsafe { self.problem.store.tile(&target, sums) }
            }
        }
    }
}

/// What the cover of a block depends on.
#[derive(Debug, Default, PartialEq)]
struct Positioned {
    /// Positions on each axis.
    lens: Vec<usize>,
    /// The flat position, from the block's first, that vectors must not reach.
    end: isize,
}

/// The input as the column operand where it lies, if it can be: no padding, no stride, whole planes
/// in C order, and enough positions in each that none is left to staging for want of a vector.
fn in_place<'a, T: Tiled>(
    geometry: &Geometry,
    x: &View<'a>,
    lanes: usize,
) -> Option<(Memory<'a, T>, Vec<isize>)> {
    let plain = |a: &Axis| a.stride == 1 && a.before == 0 && a.after == 0;
    let size = size_of::<T>() as isize;
    let mut dense = size;
    for (axis, &stride) in geometry.axes.iter().zip(&x.strides()[1..]).skip(1).rev() {
        if !plain(axis) || (stride != dense && axis.input > 1) {
            return None;
        }
        dense *= axis.input as isize;
    }
    let memory = x.memory::<T>()?;
    let mut strides: Vec<isize> = x.strides().iter().map(|s| s / size).collect();
    // An axis of one has any stride; the flat order wants the dense one.
    let (mut pitch, mut flat) = (1, 1);
    for (axis, stride) in geometry.axes.iter().zip(&mut strides[1..]).skip(1).rev() {
        *stride = pitch;
        flat += (axis.output - 1) * pitch as usize;
        pitch *= axis.input as isize;
    }
    // Vectors lie within one image, so it must hold one; and small ones fill more together.
    let least = if geometry.axes[0].output > 1 { 8 * lanes } else { lanes };
    (flat >= least).then_some((memory, strides))
}

/// How many output positions a block has on each axis: as many as a slab holds, the innermost axes
/// whole before the outer ones get more than one.
fn block_lens(geometry: &Geometry, element: usize) -> Vec<usize> {
    let budget = SLAB_BYTES / element;
    let mut lens = vec![1; geometry.axes.len()];
    let size = |lens: &[usize]| {
        let extents = geometry.axes.iter().zip(lens).map(|(axis, &len)| {
            let reach = (axis.kernel - 1) * axis.dilation / axis.stride;
            (len + reach).saturating_mul(axis.kernel.min(axis.stride))
        });
        extents.fold(geometry.channels.max(1), usize::saturating_mul)
    };
    for a in (0..lens.len()).rev() {
        let axis = &geometry.axes[a];
        // The innermost axis gets a few vectors, and as much as its taps reach, however large that
        // makes the slab: staging must not cost more than twice what is used.
        let least = if a + 1 == lens.len() {
            (64).max((axis.kernel - 1) * axis.dilation / axis.stride)
        } else {
            1
        };
        let fits = |len: usize| {
            let mut lens = lens.clone();
            lens[a] = len;
            size(&lens) <= budget
        };
        // The greatest length that fits, by bisection.
        let (mut low, mut high) = (least.min(axis.output), axis.output);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        lens[a] = low;
        if low < axis.output {
            break;
        }
    }
    lens
}
