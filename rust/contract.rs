//! The loop nest of a direct convolution: blocks of positions, groups of output channels, tiles; and
//! their split among threads.
//!
//! Whatever is chosen here (blocks, tiles, threads, in place or staged) moves work around without
//! changing any sum, so results do not depend on it: see [`CHAIN`](crate::tile::CHAIN).

use std::ops::Range;

use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::operand::{self, Columns, Weights};
use crate::parallel::{Stopped, Team, Turn, even_part, even_parts, with_scratch};
use crate::slab::{Block, Cover, Layout, Positions, extent};
use crate::store::{Store, Target};
use crate::tile::{Column, Contraction, Kernels, MAX_COLUMNS, Rows, Step, Sum, Tiled};
use crate::view::{Memory, Runs, View};

/// Bytes of a slab: half of the second-level cache of today's cores, which have 1 or 2 MiB, so that
/// the rows of weights that go over it have the other half.
const SLAB_BYTES: usize = 512 << 10;

/// Work below which a call stays on its caller's thread, in floating-point operations: about 50 us,
/// the time in which a sleeping helper would just have begun.
pub(crate) const SERIAL_FLOPS: f64 = 5e6;

/// Items that each thread gets at least where there is work enough, so that a thread which loses its
/// core for a while leaves others something to take over.
pub(crate) const ITEMS_PER_THREAD: usize = 4;

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
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    if geometry.positions() * geometry.outputs == 0 {
        return Ok(());
    }
    let serial = geometry.flops() < SERIAL_FLOPS;
    let team = Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    let nest = Nest::new(problem, kernels, team.threads)?;
    team.share(nest.items(), |turn| nest.work(turn))
}

/// What all threads share.
struct Nest<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    columns: Columns<'a, T>,
    steps: Vec<Step>,
    period: Step,
    /// Elements between neighbouring positions of B.
    pitches: Vec<isize>,
    split: Split,
}

impl<'a, T: Tiled> Nest<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let in_place = in_place::<T>(geometry, problem.x, kernels.lanes);
        let split =
            Split::new(geometry, size_of::<T>(), kernels.lanes, threads, in_place.is_some());
        let (columns, taps, plane, pitches) = match in_place {
            Some((memory, strides)) => {
                let axes = geometry.axes.iter().zip(&strides[1..]);
                let taps = axes.map(|(axis, &stride)| {
                    let mut taps = room("the table of taps", axis.kernel)?;
                    let step = stride * axis.dilation as isize;
                    taps.extend((0..axis.kernel as isize).map(|tap| tap * step));
                    Ok(taps)
                });
                let taps = taps.collect::<Result<_, Error>>()?;
                let (plane, pitches) = (strides[0], strides[1..].to_vec());
                (Columns::InPlace(memory, strides), taps, plane, pitches)
            }
            None => {
                let layout = Layout::new(geometry, &split.lens(geometry), size_of::<T>())?;
                let (taps, plane) = (layout.offsets()?, layout.plane() as isize);
                let pitches = layout.pitches();
                (Columns::Staged(layout), taps, plane, pitches)
            }
        };
        let (steps, period) = operand::forward(problem.weights, &taps, plane, geometry.channels)?;
        Ok(Nest { problem, kernels, columns, steps, period, pitches, split })
    }

    fn items(&self) -> usize {
        self.problem.geometry.groups * self.split.blocks.iter().product::<usize>() * self.split.cuts
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let slab = match &self.columns {
            Columns::InPlace(..) => 0,
            Columns::Staged(layout) => {
                layout.size(self.problem.geometry.channels, self.kernels.lanes)
            }
        };
        let sums = self.kernels.most_sums();
        with_scratch(slab.saturating_add(2 * sums), |scratch: &mut [T]| {
            let (sums, slab) = scratch.split_at_mut(2 * sums);
            let mut place = Place::default();
            let mut staged = None;
            while let Some(item) = turn.next() {
                let (part, cut) = (item / self.split.cuts, item % self.split.cuts);
                let (group, block) = self.split.block(self.problem.geometry, part);
                if place.block != block {
                    place = self.place(block, place);
                }
                if staged != Some(part) {
                    self.stage(group, &place.runs, slab);
                    staged = Some(part);
                }
                self.tiles(turn, &Item { group, cut, place: &place }, slab, sums);
            }
        })
    }

    /// What a block needs; its cover is that of the last one where both are alike.
    fn place(&self, block: Block, last: Place) -> Place {
        let runs = match &self.columns {
            Columns::Staged(layout) => layout.runs(&block, &self.problem.x.strides()[1..]),
            Columns::InPlace(..) => Runs::default(),
        };
        let extent = self.extent(&block);
        let cover = if extent == last.extent { last.cover } else { self.cover(&extent) };
        Place { block, runs, extent, cover }
    }

    fn extent(&self, block: &Block) -> Extent {
        let lens = block.0.iter().map(|range| range.len()).collect();
        let axes = block.0.iter().zip(&self.problem.geometry.axes).zip(&self.pitches).skip(1);
        let last = axes.map(|((range, axis), p)| (axis.output - 1 - range.start) as isize * p);
        let end = match self.columns {
            Columns::InPlace(..) => last.sum::<isize>() + 1,
            Columns::Staged(_) => isize::MAX,
        };
        Extent { lens, end }
    }

    fn cover(&self, Extent { lens, end }: &Extent) -> Cover {
        let strides = &self.problem.store.out.strides()[1..];
        let positions = Positions { lens, pitches: &self.pitches, strides };
        Cover::new(positions, self.kernels.lanes, *end)
    }

    fn stage(&self, group: usize, runs: &Runs, slab: &mut [T]) {
        if let Columns::Staged(layout) = &self.columns {
            let channels = self.problem.geometry.channels;
            let channels = group * channels..(group + 1) * channels;
            layout.stage((runs, channels), self.problem.x, self.problem.padding, slab);
        }
    }

    /// The column operand of an item, and the element in it where its block starts.
    fn operand<'b>(&'b self, item: &Item<'_>, slab: &'b [T]) -> (Memory<'b, T>, isize) {
        match &self.columns {
            Columns::Staged(_) => (Memory::of(slab), 0),
            Columns::InPlace(memory, strides) => {
                let channel = item.group * self.problem.geometry.channels;
                let start = channel as isize * strides[0] + item.place.block.start(&strides[1..]);
                (memory.clone(), start)
            }
        }
    }

    /// All tiles of one item.
    fn tiles(&self, turn: &Turn<'_>, item: &Item<'_>, slab: &[T], sums: &mut [T]) {
        let (totals, aside) = sums.split_at_mut(sums.len() / 2);
        let Problem { geometry, weights, store, .. } = self.problem;
        let taps = geometry.channels * geometry.kernel_taps();
        let sum = Sum { steps: &self.steps, taps, period: self.period };
        let (b, start) = self.operand(item, slab);
        let contraction = Contraction::new(weights.memory(), weights.row(), b, sum);
        let block = item.place.block.start(&store.out.strides()[1..]);
        let channels = self.split.channels(geometry, item);
        let cover = &item.place.cover;
        let vectors = cover.starts.len();
        let shape = self.kernels.choose(channels.len(), vectors, weights.most_rows());
        let lanes = self.kernels.lanes;
        let mut columns = [Column::NOWHERE; MAX_COLUMNS];
        for rows in even_parts(channels, shape.rows) {
            let (a, count) = (weights.output(rows.start), rows.len());
            let target = Target { channels: rows, cover, block };
            let finish = store.finish(&target.channels);
            for first in (0..vectors).step_by(shape.columns) {
                if !turn.goes_on(taps * count * shape.columns) {
                    return;
                }
                let vectors = first..vectors.min(first + shape.columns);
                let columns = &mut columns[..vectors.len()];
                let mut held = 0u32;
                for (v, column) in columns.iter_mut().enumerate() {
                    let to = store.rows(&target, first + v, lanes).unwrap_or_else(|| {
                        held |= 1 << v;
                        let first = aside[v * count * lanes..].as_mut_ptr();
                        Rows { first, row: (lanes * size_of::<T>()) as isize }
                    });
                    *column = Column { from: start + cover.starts[first + v], to };
                }
                // SAFETY: each item has channels and positions of its own, and one thread takes it;
                // `rows` gave addresses for as many rows, `aside` has room for the largest tile, and
                // `finish` a bias for each row.
                unsafe {
                    contraction.tile_to(self.kernels, (a, count), columns, (totals, finish));
                    for v in (0..vectors.len()).filter(|v| held >> v & 1 == 1) {
                        let aside = &aside[v * count * lanes..(v + 1) * count * lanes];
                        store.write(&target, first + v, aside);
                    }
                }
            }
        }
    }
}

/// A block of positions, and what is the same for it in every group.
#[derive(Debug, Default)]
struct Place {
    block: Block,
    /// How a plane of its slab is filled.
    runs: Runs,
    extent: Extent,
    cover: Cover,
}

/// One thread's next piece of work.
struct Item<'a> {
    group: usize,
    /// Which part of the group's output channels.
    cut: usize,
    place: &'a Place,
}

/// How a convolution is cut into items.
struct Split {
    /// Blocks on each axis.
    blocks: Vec<usize>,
    /// Parts of a group's output channels.
    cuts: usize,
}

impl Split {
    fn new(
        geometry: &Geometry,
        element: usize,
        lanes: usize,
        threads: usize,
        in_place: bool,
    ) -> Self {
        let mut lens = block_lens(geometry, SLAB_BYTES / element);
        if in_place {
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
            if positions / 2 < 16 * lanes {
                break;
            }
            lens[axis] = lens[axis].div_ceil(2);
        }
        let most_cuts = if threads > 1 { geometry.outputs.div_ceil(8) } else { 1 };
        let cuts = wanted.div_ceil(count(&lens)).min(most_cuts);
        let axes = geometry.axes.iter().zip(&lens);
        Split { blocks: axes.map(|(a, &len)| a.output.div_ceil(len)).collect(), cuts }
    }

    /// The most positions of a block on each axis.
    fn lens(&self, geometry: &Geometry) -> Vec<usize> {
        geometry.axes.iter().zip(&self.blocks).map(|(a, &n)| a.output.div_ceil(n)).collect()
    }

    /// The group and the block of a part; blocks are as even as can be.
    fn block(&self, geometry: &Geometry, part: usize) -> (usize, Block) {
        nth_block(geometry, &self.blocks, part)
    }

    /// The output channels of an item, of all groups.
    fn channels(&self, geometry: &Geometry, item: &Item<'_>) -> Range<usize> {
        let first = item.group * geometry.outputs;
        even_part(&(first..first + geometry.outputs), self.cuts, item.cut)
    }
}

/// Block `part` of a geometry cut into `blocks` on each axis, as even as can be, and which round of
/// all blocks it is in.
pub(crate) fn nth_block(geometry: &Geometry, blocks: &[usize], part: usize) -> (usize, Block) {
    let mut left = part;
    let mut block = Block(vec![0..0; blocks.len()]);
    for (range, (axis, &n)) in block.0.iter_mut().zip(geometry.axes.iter().zip(blocks)).rev() {
        *range = even_part(&(0..axis.output), n, left % n);
        left /= n;
    }
    (left, block)
}

/// What the cover of a block depends on.
#[derive(Debug, Default, PartialEq)]
struct Extent {
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
    // Planes a multiple of 4 KiB apart would share one set of the first-level cache: a 1x1 layer over
    // 128 channels of 128 x 128 runs at 67 % of the peak in place and at 74 % staged (Zen 5).
    if geometry.channels > 8 && x.strides()[0] % 4096 == 0 {
        return None;
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

/// How many output positions a block has on each axis: as many as a slab of `budget` elements holds,
/// in the shape that stages the fewest elements a position.
pub(crate) fn block_lens(geometry: &Geometry, budget: usize) -> Vec<usize> {
    let size = |lens: &[usize]| {
        let extents = geometry.axes.iter().zip(lens).map(|(axis, &len)| extent(axis, len));
        extents.fold(geometry.channels.max(1), usize::saturating_mul)
    };
    let whole: Vec<usize> = geometry.axes.iter().map(|axis| axis.output).collect();
    if size(&whole) <= budget {
        return whole;
    }
    // The innermost axis first, for long rows: at least a few vectors and as many positions as the
    // kernel has taps, however large that makes the slab.
    let mut lens = vec![1; whole.len()];
    let inner = lens.len() - 1;
    let (mut low, mut high) = (geometry.axes[inner].kernel.max(64).min(whole[inner]), whole[inner]);
    while low < high {
        lens[inner] = low + (high - low).div_ceil(2);
        if size(&lens) <= budget { low = lens[inner] } else { high = lens[inner] - 1 }
    }
    lens[inner] = low;
    // Then whichever axis saves most by growing.
    let grown = |lens: &[usize], axis: usize| {
        let mut lens = lens.to_vec();
        lens[axis] = whole[axis].min(lens[axis] + lens[axis].div_ceil(4));
        let (size, positions) = (size(&lens), lens.iter().product::<usize>());
        (size <= budget).then_some((size as f64 / positions as f64, lens))
    };
    loop {
        let growable = (0..inner).filter(|&axis| lens[axis] < whole[axis]);
        let candidates = growable.filter_map(|axis| grown(&lens, axis));
        match candidates.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, best)) => lens = best,
            None => return lens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};

    fn geometry(x: &[usize], w: &[usize], groups: i64) -> Geometry {
        let spec = Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding: Padding::Same,
            dilation: PerAxis::All(1),
            groups,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        };
        Geometry::new(&spec, x, w, None).unwrap()
    }

    #[test]
    fn items_hold_every_result_once() {
        for (x, w, groups) in [
            (&[3usize, 4, 40, 50][..], &[6usize, 2, 3, 3][..], 2),
            (&[1, 200, 30, 31], &[9, 200, 3, 3], 1),
            (&[2, 8, 9, 10, 11], &[16, 8, 3, 1, 2], 1),
            (&[1, 1, 100_000], &[1, 1, 9], 1),
        ] {
            let geometry = geometry(x, w, groups);
            for threads in [1, 2, 7] {
                let split = Split::new(&geometry, 4, 16, threads, false);
                let (lens, parts) = (split.lens(&geometry), split.blocks.iter().product::<usize>());
                let mut seen = vec![0u8; geometry.output_shape().iter().product()];
                for item in 0..geometry.groups * parts * split.cuts {
                    let (group, block) = split.block(&geometry, item / split.cuts);
                    assert!(block.0.iter().zip(&lens).all(|(range, &len)| range.len() <= len));
                    let place = Place { block: block.clone(), ..Place::default() };
                    let item = Item { group, cut: item % split.cuts, place: &place };
                    let mut index = vec![0; block.0.len()];
                    let shape: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
                    for _ in 0..shape.iter().product() {
                        let position = block.0.iter().zip(&index).zip(&geometry.axes);
                        let at = position.fold(0, |at, ((r, i), a)| at * a.output + r.start + i);
                        for channel in split.channels(&geometry, &item) {
                            seen[channel * geometry.positions() + at] += 1;
                        }
                        crate::view::advance(&mut index, &shape);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{x:?} {w:?} {threads}");
            }
        }
    }

    #[test]
    fn blocks_fit_the_slab_they_are_meant_for() {
        for (x, w) in [
            (&[1usize, 64, 224, 224][..], &[64usize, 64, 3, 3][..]),
            (&[1, 64, 8, 56, 56], &[128, 64, 3, 3, 3]),
            (&[1, 1, 1 << 24], &[1, 1, 1025]),
        ] {
            let geometry = geometry(x, w, 1);
            let lens = block_lens(&geometry, SLAB_BYTES / 4);
            let layout = Layout::new(&geometry, &lens, 4).unwrap();
            let bytes = layout.size(geometry.channels, 16) * 4;
            // The layout rounds planes up to an odd number of lines.
            assert!(bytes <= SLAB_BYTES + geometry.channels * 192, "{lens:?}: {bytes}");
            assert!(bytes > SLAB_BYTES / 2, "{lens:?}: {bytes}");
        }
    }
}
