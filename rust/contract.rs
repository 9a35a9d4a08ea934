//! The loop nest of a direct convolution: blocks of positions, groups of output channels, tiles; and
//! their split among threads.
//!
//! Whatever is chosen here (blocks, tiles, threads, in place or staged) moves work around without
//! changing any sum, so results do not depend on it: see [`CHAIN`](crate::tile::CHAIN).

use std::ops::Range;

use crate::cover::{Cover, Positions, Span};
use crate::error::{Error, room};
use crate::geometry::Geometry;
use crate::operand::{Columns, Forward, Ramp, Taps, Weights};
use crate::parallel::{Stopped, Team, Turn, even_part, even_parts, with_scratch};
use crate::slab::{Block, Layout, extent};
use crate::store::{Store, Target};
use crate::tile::{Contraction, Ending, Kernels, MOST_RAMP_ROWS, Strip, Sum, TileShape, Tiled};
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
    /// The problem's, but along the axis of a ramp, where a position stands for a whole tile's rows.
    geometry: Geometry,
    ramp: Option<Ramp>,
    columns: Columns<'a, T>,
    sum: Sum,
    /// Elements between neighbouring positions of B.
    pitches: Vec<isize>,
    /// Bytes between neighbouring positions of the result.
    strides: Vec<isize>,
    split: Split,
}

impl<'a, T: Tiled> Nest<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let ramp = ramp(problem.geometry, kernels);
        let mut geometry = problem.geometry.clone();
        let mut strides = problem.store.out.strides()[1..].to_vec();
        if let Some(ramp) = ramp {
            let axis = &mut geometry.axes[ramp.axis];
            axis.kernel = ramp.taps(axis.kernel);
            axis.stride *= ramp.rows;
            axis.output = axis.output.div_ceil(ramp.rows);
            strides[ramp.axis] *= ramp.rows as isize;
        }
        let in_place = in_place::<T>(&geometry, ramp, problem.x, kernels.lanes);
        let split =
            Split::new(&geometry, size_of::<T>(), kernels.lanes, threads, in_place.is_some());
        let (columns, taps, pitches) = match in_place {
            Some((memory, strides)) => {
                let axes = geometry.axes.iter().zip(&strides[1..]);
                let taps = axes.map(|(axis, &stride)| {
                    let mut taps = room("the table of taps", axis.kernel)?;
                    let step = stride * axis.dilation as isize;
                    taps.extend((0..axis.kernel as isize).map(|tap| tap * step));
                    Ok(taps)
                });
                let taps = Taps { channel: strides[0], axes: taps.collect::<Result<_, Error>>()? };
                let axes = geometry.axes.iter().zip(&strides[1..]);
                let pitches = axes.map(|(axis, stride)| stride * axis.stride as isize).collect();
                (Columns::InPlace(memory, strides), taps, pitches)
            }
            None => {
                let layout = Layout::new(&geometry, &split.lens(&geometry), size_of::<T>())?;
                let taps = Taps { channel: layout.plane() as isize, axes: layout.offsets()? };
                let pitches = layout.pitches();
                (Columns::Staged(layout), taps, pitches)
            }
        };
        let kernel: Vec<usize> = problem.geometry.axes.iter().map(|axis| axis.kernel).collect();
        let sum = Forward {
            channels: geometry.channels,
            kernel: &kernel,
            a: &problem.weights.taps()?,
            a_row: problem.weights.row(),
            b: &taps,
            ramp,
        };
        let sum = sum.sum()?;
        Ok(Nest { problem, kernels, geometry, ramp, columns, sum, pitches, strides, split })
    }

    fn items(&self) -> usize {
        self.geometry.groups * self.split.blocks.iter().product::<usize>() * self.split.cuts
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let slab = match &self.columns {
            Columns::InPlace(..) => 0,
            Columns::Staged(layout) => layout.size(self.geometry.channels, self.kernels.lanes),
        };
        let totals = self.kernels.most_totals();
        with_scratch(slab.saturating_add(totals), |scratch: &mut [T]| {
            let (totals, slab) = scratch.split_at_mut(totals);
            let mut place = Place::default();
            let mut staged = None;
            while let Some(item) = turn.next() {
                let (part, cut) = (item / self.split.cuts, item % self.split.cuts);
                let (group, block) = self.split.block(&self.geometry, part);
                if place.block != block {
                    place = self.place(block, place);
                }
                if staged != Some(part) {
                    self.stage(group, &place.runs, slab);
                    staged = Some(part);
                }
                self.tiles(turn, &Item { group, cut, place: &place }, slab, totals);
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
        if extent == last.extent {
            return Place { block, runs, ..last };
        }
        let positions = Positions {
            lens: &extent.lens,
            pitches: &self.pitches,
            strides: &self.strides,
            short: extent.short,
            end: extent.end,
            direct: !self.problem.store.accumulate,
        };
        let cover = Cover::new(&positions, self.kernels.lanes, size_of::<T>());
        let shape = match self.ramp {
            Some(ramp) => TileShape { rows: ramp.rows, columns: self.ramp_columns(&ramp, &cover) },
            None => {
                let rows = self.geometry.outputs.div_ceil(self.split.cuts);
                let runs = [cover.whole.len(), cover.cut.len()];
                self.kernels.choose(rows, &runs, self.problem.weights.most_rows()).0
            }
        };
        Place { block, runs, extent, spans: cover.strips(shape.columns), cover, rows: shape.rows }
    }

    /// Vectors of a tile of a ramp's rows.
    fn ramp_columns(&self, ramp: &Ramp, cover: &Cover) -> usize {
        let kernel = self.problem.geometry.axes[ramp.axis].kernel;
        let most = (1..).take_while(|&n| self.kernels.most_rows(n) >= ramp.rows).last();
        let cycles = |columns: &usize| {
            let tiles = [&cover.whole, &cover.cut].map(|list| list.len().div_ceil(*columns));
            let tile = ramp_cycles(self.kernels, ramp, kernel, *columns);
            (tiles[0] + tiles[1]) as f64 * tile
        };
        let best = (1..=most.unwrap_or(1)).min_by(|a, b| cycles(a).total_cmp(&cycles(b)));
        best.unwrap_or(1)
    }

    fn extent(&self, block: &Block) -> Extent {
        let lens = block.0.iter().map(|range| range.len()).collect();
        let axes = block.0.iter().zip(&self.geometry.axes).zip(&self.pitches).skip(1);
        let last = axes.map(|((range, axis), p)| (axis.output - 1 - range.start) as isize * p);
        let end = match self.columns {
            Columns::InPlace(..) => last.sum::<isize>() + 1,
            Columns::Staged(_) => isize::MAX,
        };
        let short = self.ramp.and_then(|ramp| {
            let left = self.problem.geometry.axes[ramp.axis].output % ramp.rows;
            let last = block.0[ramp.axis].end == self.geometry.axes[ramp.axis].output;
            (last && left > 0).then_some((ramp.axis, left))
        });
        Extent { lens, end, short }
    }

    fn stage(&self, group: usize, runs: &Runs, slab: &mut [T]) {
        if let Columns::Staged(layout) = &self.columns {
            let channels = self.geometry.channels;
            let channels = group * channels..(group + 1) * channels;
            layout.stage((runs, channels), self.problem.x, self.problem.padding, slab);
        }
    }

    /// The column operand of an item, and the element in it where its block starts.
    fn operand<'b>(&'b self, item: &Item<'_>, slab: &'b [T]) -> (Memory<'b, T>, isize) {
        match &self.columns {
            Columns::Staged(_) => (Memory::of(slab), 0),
            Columns::InPlace(memory, strides) => {
                let channel = item.group * self.geometry.channels;
                let start = channel as isize * strides[0] + item.place.block.start(&self.pitches);
                (memory.clone(), start)
            }
        }
    }

    /// All tiles of one item.
    fn tiles(&self, turn: &Turn<'_>, item: &Item<'_>, slab: &[T], totals: &mut [T]) {
        let Problem { weights, store, .. } = self.problem;
        let (b, start) = self.operand(item, slab);
        let contraction = Contraction { a: weights.memory(), b, sum: &self.sum };
        let Place { block, spans, cover, rows, .. } = item.place;
        let block = block.start(&self.strides);
        let lanes = self.kernels.lanes;
        let channel_row = store.out.strides()[0];
        let channels = self.split.channels(&self.geometry, item);
        // Rows of a tile are output channels, or neighbouring outputs of one.
        let (most, row) = match self.ramp {
            None => (*rows, channel_row),
            Some(ramp) => (1, self.strides[ramp.axis] / ramp.rows as isize),
        };
        for group in even_parts(channels, most) {
            let rows = if self.ramp.is_some() { *rows } else { group.len() };
            let target = Target { rows, to: block + group.start as isize * channel_row, row };
            let finish = store.finish(group.start, rows, self.ramp.is_none());
            for span in spans {
                let list = if span.whole { &cover.whole } else { &cover.cut };
                let strip = Strip {
                    a: weights.output(group.start),
                    rows,
                    b: start,
                    columns: &list[span.columns.clone()],
                    from: span.from,
                    vectors: span.vectors,
                    totals: totals.as_mut_ptr(),
                };
                let out = span.whole.then(|| store.rows(&target, span, lanes));
                let ending = Ending { finish, out };
                for chain in 0..self.sum.chains() {
                    if !turn.goes_on(self.sum.work(rows) * strip.columns.len()) {
                        return;
                    }
                    // SAFETY: `totals` is this thread's own and has room for any strip; each item has
                    // channels and positions of its own, and one thread takes it; `rows` and `finish`
                    // checked results and bias for as many rows.
                    unsafe { contraction.chain(self.kernels, chain, &strip, &ending) }
                }
                if !span.whole {
                    let pitch = Strip::<T>::row_vectors(span.columns.len()) * lanes;
                    for (i, cut) in span.columns.clone().enumerate() {
                        let lanes = (cover.lanes(cut), store.step());
                        // SAFETY: as above.
                        unsafe {
                            store.write(&target, lanes, (&totals[i * self.kernels.lanes..], pitch))
                        }
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
    /// Its strips, in tiles of at most `rows` rows.
    spans: Vec<Span>,
    rows: usize,
}

/// One thread's next piece of work.
struct Item<'a> {
    group: usize,
    /// Which part of the group's output channels.
    cut: usize,
    place: &'a Place,
}

/// The rows that a tile should have of neighbouring outputs rather than of output channels, where
/// those are few.
fn ramp<T: Tiled>(geometry: &Geometry, kernels: &Kernels<T>) -> Option<Ramp> {
    let last = geometry.axes.len() - 1;
    if geometry.outputs > 7 || last < 2 {
        return None;
    }
    let axis = last - 1;
    let along = &geometry.axes[axis];
    if along.kernel == 1 || along.output == 1 || along.stride % along.dilation != 0 {
        return None;
    }
    let shift = along.stride / along.dilation;
    // A vector of all rows, of each tap of the axis.
    let outputs = geometry.outputs as f64;
    let (shape, cycles) = kernels.choose(geometry.outputs, &[24], usize::MAX);
    debug_assert!(shape.rows > 0);
    let mut best = (None, cycles / 24.0 * along.kernel as f64 * along.output as f64);
    for rows in 2..=MOST_RAMP_ROWS.min(along.output) {
        let ramp = Ramp { axis, rows, shift };
        for columns in (1..).take_while(|&columns| kernels.most_rows(columns) >= rows) {
            let tile = ramp_cycles(kernels, &ramp, along.kernel, columns) / columns as f64;
            let cycles = outputs * tile * along.output.div_ceil(rows) as f64;
            if cycles < best.1 {
                best = (Some(ramp), cycles);
            }
        }
    }
    best.0
}

/// Cycles that a tile of a ramp's rows takes for all taps of its axis.
fn ramp_cycles<T: Tiled>(kernels: &Kernels<T>, ramp: &Ramp, kernel: usize, columns: usize) -> f64 {
    let rows = |tap| ramp.rows_at(tap, &(0..kernel)).len();
    (0..ramp.taps(kernel)).map(rows).filter(|&n| n > 0).map(|n| kernels.cycles(n, columns)).sum()
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
    /// If a ramp's last position has fewer rows than the others: its axis, and how many.
    short: Option<(usize, usize)>,
}

/// The input as the column operand where it lies, if it can be: no padding, no stride but a ramp's
/// own, whole planes in C order, and enough positions in each that none is left to staging for want of
/// a vector.
fn in_place<'a, T: Tiled>(
    geometry: &Geometry,
    ramp: Option<Ramp>,
    x: &View<'a>,
    lanes: usize,
) -> Option<(Memory<'a, T>, Vec<isize>)> {
    let size = size_of::<T>() as isize;
    let mut dense = size;
    for (i, axis) in geometry.axes.iter().enumerate().skip(1).rev() {
        let rows = ramp.map_or(1, |ramp| if ramp.axis == i { ramp.rows } else { 1 });
        // All windows of a ramp's rows are whole, or the last ones would lie beyond the input.
        let reach = (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation;
        let plain = axis.stride == rows && axis.before == 0 && axis.after == 0;
        let stride = x.strides()[i + 1];
        if !plain || reach >= axis.input || (stride != dense && axis.input > 1) {
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
        flat += (axis.output - 1) * axis.stride * pitch as usize;
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
