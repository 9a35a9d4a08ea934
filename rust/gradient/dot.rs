//! [`Form::Dot`](super::Form::Dot): taps by taps, or output channels by taps, 16 positions a step.

use std::ops::Range;

use super::stage::{Room, Staged, Surrounded, positions, rows};
use super::{Item, LANES, Plan, Problem, Sink};
use crate::contract::nth_block;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry, gcd};
use crate::parallel::{Turn, even_parts};
use crate::slab::Layout;
use crate::tile::{
    ALL_ROWS, Contraction, Kernels, MAX_COLUMNS, Results, Segment, Step, Strip, Sum, TileShape,
    Tiled,
};
use crate::view::{Element, Memory, contiguous};

/// What the rows of tiles are.
///
/// A tap that lies whole steps behind another (rows of the gradient, or 16 positions of a row) sees what the
/// other sees so many steps later: in the sum over all steps, its gradient is that of the other moved by as
/// many. So taps along an axis are rows of a tile that lie so far apart in the gradient's plane, around which
/// are zeros: a tile of few rows and columns multiplies each vector that it reads several times.
#[derive(Clone, Debug)]
pub(super) struct Dots {
    /// Whether rows are output channels instead, all taps being columns.
    by_outputs: bool,
    /// Taps along the axis, those of the axes behind it, and those that a row has to the next.
    taps: usize,
    inner: usize,
    period: usize,
    /// Steps from a row to the next: rows of the gradient, and vectors in a row.
    shift: (usize, usize),
    /// The taps whose number modulo the period is small have one row more.
    parts: [Part; 2],
    /// The gradient.
    pub planes: Surrounded,
}

/// Taps that are rows and columns together.
#[derive(Clone, Debug)]
struct Part {
    /// The taps of the first row: those of others are whole periods further.
    first: Range<usize>,
    rows: usize,
    shape: TileShape,
}

impl Part {
    /// Most rows of a tile.
    fn height(&self) -> usize {
        self.rows.div_ceil(self.rows.div_ceil(self.shape.rows).max(1))
    }
}

/// Taps from one to the next that lies whole steps further, and how many steps, of `lanes` positions each.
fn period(axis: &Axis, lanes: usize) -> (usize, usize) {
    let step = axis.stride * lanes;
    let common = gcd(step, axis.dilation);
    (step / common, axis.dilation / common)
}

/// Which axis has taps that may be rows, of a geometry's last two, and its period.
fn direction(geometry: &Geometry) -> (usize, (usize, usize)) {
    let last = geometry.axes.len() - 1;
    let [along, across] = [last - 1, last].map(|axis| &geometry.axes[axis]);
    let (down, right) = (period(along, 1), period(across, LANES));
    if along.kernel.div_ceil(down.0) >= across.kernel.div_ceil(right.0) && along.kernel > 1 {
        (last - 1, down)
    } else {
        (last, right)
    }
}

/// Steps of a chain at most, of which what taps see stays in the first-level cache. With 256, 31x31 on an image of
/// 1080x1920 took 41.4 ms rather than 38.1 (Sapphire Rapids).
const STEPS: usize = 128;

/// Rows of a block at most where taps below one another are rows of a tile: around them are zeros, two for
/// three taps.
const MOST_HIGH: usize = 64;

/// Positions of such a block at most, which has several chains beside one another.
const PLANE: usize = 16 << 10;

/// The most positions of a block on each axis. Sums depend on it.
pub(super) fn lens(geometry: &Geometry) -> Vec<usize> {
    let [outer @ .., rows, columns] = geometry.axes.as_slice() else {
        unreachable!("a geometry has a batch and an axis")
    };
    let vectors = columns.output.div_ceil(LANES);
    let (high, wide) = if direction(geometry).0 == outer.len() {
        let high = rows.output.min(MOST_HIGH);
        (high, vectors.min((PLANE / LANES / high).max(STEPS / high)))
    } else {
        let wide = vectors.min(STEPS);
        (rows.output.min(STEPS / wide), wide)
    };
    // As many planes as there is room for.
    let whole = high == rows.output && wide == vectors;
    let mut left = if whole { STEPS / (high * wide) } else { 1 };
    let mut lens = vec![1; outer.len()];
    for (len, axis) in lens.iter_mut().zip(outer).rev() {
        *len = axis.output.min(left).max(1);
        left = if *len == axis.output { left / *len } else { 1 };
    }
    lens.extend([high, columns.output.min(wide * LANES)]);
    lens
}

/// The vectors of a block's rows that each of its chains has, all rows of them.
pub(super) fn chains(lens: &[usize]) -> impl Iterator<Item = Range<usize>> + use<> {
    let (width, rows) = lens.split_last().expect("a geometry has axes");
    even_parts(0..width.div_ceil(LANES), (STEPS / rows.iter().product::<usize>().max(1)).max(1))
}

impl Dots {
    /// For blocks of `lens` positions.
    pub fn new<T: Tiled>(
        geometry: &Geometry,
        kernels: &Kernels<T>,
        (layout, lens): (&Layout, &[usize]),
    ) -> Result<Self, Error> {
        let Geometry { channels, outputs, ref axes, .. } = *geometry;
        let taps = geometry.kernel_taps();
        let (axis, (period, steps)) = direction(geometry);
        let last = axes.len() - 1;
        let along = axes[axis].kernel;
        let inner = axes[axis + 1..].iter().map(|axis| axis.kernel).product();
        let shift = if axis == last { (0, steps) } else { (steps, 0) };
        // Positions that no tap reads are not in the slab, so that taps may lie closer than their shifts.
        let pitch = layout.pitches()[axis] * if axis == last { LANES as isize } else { 1 };
        let offsets = layout.offsets()?.swap_remove(axis);
        let even =
            (period..along).all(|k| offsets[k] - offsets[k - period] == steps as isize * pitch);
        let none = || Part { first: 0..0, rows: 0, shape: TileShape { rows: 1, columns: 1 } };
        let (shape, cycles) = kernels.choose(outputs, &[channels * taps], (usize::MAX, false));
        let rows = Part { first: 0..along, rows: outputs, shape };
        let mut dots = Dots {
            by_outputs: true,
            taps: along,
            inner,
            period: along,
            shift: (0, 0),
            parts: [rows, none()],
            planes: Surrounded::default(),
        };
        dots.planes = dots.surrounded(lens);
        if !even {
            return Ok(dots);
        }
        // Of a block: steps, and those that each row adds.
        let (high, wide) = (lens[last - 1], lens[last].div_ceil(LANES));
        let steps = |rows: usize| {
            let more = rows - 1;
            let (high, wide) = (high + more * shift.0, wide + more * shift.1);
            high as f64 * wide as f64
        };
        let rows = along.div_ceil(period);
        let longer = along - period * (rows - 1);
        let mut all = 0.0;
        let parts =
            [(0..longer, rows), (longer..period.min(along), rows - 1)].map(|(first, rows)| {
                let columns = channels * (taps / along) * first.len();
                if rows * columns == 0 {
                    return none();
                }
                let options = (1..=rows.min(MOST_ROWS)).map(|most| {
                    let (shape, cycles) = kernels.choose(rows, &[columns], (most, false));
                    let part = Part { first: first.clone(), rows, shape };
                    (cycles * steps(part.height()), part)
                });
                let best = options.min_by(|a, b| a.0.total_cmp(&b.0)).expect("tiles have rows");
                all += best.0;
                best.1
            });
        if cycles * steps(1) <= all * outputs as f64 {
            return Ok(dots);
        }
        dots = Dots { by_outputs: false, period, shift, parts, ..dots };
        dots.planes = dots.surrounded(lens);
        Ok(dots)
    }

    /// Rows of zeros that a plane of the gradient has between blocks of rows, and vectors between rows.
    fn margin(&self) -> (usize, usize) {
        if self.by_outputs {
            return (0, 0);
        }
        let more = self.parts.iter().map(|part| part.height().max(1) - 1).max().unwrap_or(0);
        (more * self.shift.0, more * self.shift.1)
    }

    fn surrounded(&self, lens: &[usize]) -> Surrounded {
        let (below, behind) = self.margin();
        let last = lens.len() - 1;
        let mut extents = lens.to_vec();
        // Rows spread over the sets of a cache too.
        extents[last] = ((lens[last].div_ceil(LANES) + behind) | 1) * LANES;
        extents[last - 1] += below;
        Surrounded::new(&extents, below * extents[last] + behind * LANES)
    }

    /// Outputs that are rows of one tile, or one alone.
    pub fn together(&self) -> usize {
        if self.by_outputs { self.parts[0].shape.rows } else { 1 }
    }

    /// Totals of so many outputs, and sums of one tile.
    pub fn room(&self, taps: usize, channels: usize, outputs: usize) -> (usize, usize) {
        let of_part = |part: &Part| {
            let columns = even_parts(0..self.columns(part, taps) * channels, part.shape.columns);
            let vectors: usize = columns.map(|part| Strip::<()>::row_vectors(part.len())).sum();
            let outputs = if self.by_outputs { 1 } else { outputs };
            (outputs * part.rows).saturating_mul(vectors * LANES)
        };
        let tile =
            |part: &Part| part.height() * Strip::<()>::row_vectors(part.shape.columns) * LANES;
        let all = self.parts.iter().map(of_part).fold(0, usize::saturating_add);
        (all, self.parts.iter().map(tile).max().unwrap_or(0))
    }

    /// Columns of a part, a channel.
    fn columns(&self, part: &Part, taps: usize) -> usize {
        taps / self.taps * part.first.len()
    }

    /// The tap of a column in the first row, in C order.
    fn tap(&self, part: &Part, column: usize) -> usize {
        let (outer, inner) = (column / self.inner, column % self.inner);
        let (outer, first) = (outer / part.first.len(), outer % part.first.len());
        (outer * self.taps + part.first.start + first) * self.inner + inner
    }

    /// Sums over a block of `lens` positions for tiles of each number of rows that there is, less one; `pitches`
    /// are those of a plane of the slab.
    pub fn sums(&self, lens: &[usize], pitches: &[isize]) -> Result<Vec<Sum>, Error> {
        let Surrounded { pitches: in_gradient, first, plane } = &self.planes;
        let last = lens.len() - 1;
        let row = if self.by_outputs {
            *plane as isize
        } else {
            let (rows, vectors) = (self.shift.0 as isize, (self.shift.1 * LANES) as isize);
            -(rows * in_gradient[last - 1] + vectors)
        };
        let mut sums = Vec::new();
        for rows in self.parts.iter().flat_map(|part| self.heights(part)) {
            let more = if self.by_outputs { 0 } else { rows - 1 };
            if sums.len() <= more {
                sums.resize(more + 1, Sum::default());
            }
            if !sums[more].steps.is_empty() {
                continue;
            }
            let mut sum = Sum::new(row, None, (1, Step::default()));
            for vectors in chains(lens) {
                let mut lens = lens.to_vec();
                lens[last] = vectors.len() + more * self.shift.1;
                lens[last - 1] += more * self.shift.0;
                let of_steps = |pitches: &[isize]| {
                    let mut pitches = pitches.to_vec();
                    pitches[last] *= LANES as isize;
                    pitches
                };
                let (a, b) = (of_steps(in_gradient), of_steps(pitches));
                let both = positions(&lens, &a).zip(positions(&lens, &b));
                let start = (vectors.start * LANES) as isize;
                let at = |(a, b)| Step { a: *first as isize + start + a, b: start + b };
                let begin = sum.steps.len();
                sum.steps.extend(both.map(at));
                sum.segments.push(Segment { steps: begin..sum.steps.len(), rows: ALL_ROWS });
                sum.push(sum.segments.len() - 1);
            }
            sums[more] = sum;
        }
        Ok(sums)
    }

    /// How many rows tiles of a part have.
    fn heights(&self, part: &Part) -> impl Iterator<Item = usize> + use<> {
        even_parts(0..part.rows, part.shape.rows).map(|rows| rows.len())
    }
}

/// Tiles of the same rows.
struct Tiles<'a> {
    dots: &'a Dots,
    part: &'a Part,
    /// Of an item.
    outputs: Range<usize>,
    /// Taps of the part, or of the outputs.
    rows: Range<usize>,
}

/// Most rows that are thought of for a tile.
const MOST_ROWS: usize = 14;

impl<T: Tiled> Plan<'_, T> {
    /// All tiles of an item in a block, a chain after the other, so that its part of the operands is in the
    /// first-level cache.
    pub(super) fn dot(
        &self,
        turn: &Turn<'_>,
        (item, dots): (&Item, &Dots),
        (staged, (first, last)): (&Staged, (bool, bool)),
        room: &mut Room<'_, T>,
        sink: &Sink<'_, T>,
    ) -> Result<(), Error> {
        let chains = chains(&staged.lens).count();
        for chain in 0..chains {
            let ends = (first && chain == 0, last && chain + 1 == chains);
            let mut region = 0;
            for outputs in even_parts(0..item.outputs.len(), dots.together()) {
                for part in &dots.parts {
                    let count = if dots.by_outputs { outputs.len() } else { part.rows };
                    for rows in even_parts(0..count, part.shape.rows) {
                        let tiles = Tiles { dots, part, outputs: outputs.clone(), rows };
                        let at = (chain, ends, &mut region);
                        if !self.tiles_of_dots(turn, item, (&tiles, staged), at, room) {
                            return Ok(());
                        }
                    }
                }
                if ends.1 {
                    self.hand_over(item, &outputs, &mut room.results[self.sizes.tile..], sink)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a chain to all tiles of some rows, or finishes their sums. False where the call is to stop.
    fn tiles_of_dots(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        (tiles, staged): (&Tiles<'_>, &Staged),
        (chain, (first, last), region): (usize, (bool, bool), &mut usize),
        room: &mut Room<'_, T>,
    ) -> bool {
        let &Tiles { dots, part, ref outputs, ref rows } = tiles;
        let lanes = self.kernels.lanes;
        let (plane, taps) = (self.layout.plane() as isize, self.taps.len());
        let of_channel = dots.columns(part, taps);
        // Where a column's tap of the first row is: channel, and tap in C order.
        let place = |column: usize| (column / of_channel, dots.tap(part, column % of_channel));
        // Taps that a row is moved by; with outputs as rows, the next row of results.
        let all = item.channels.len() * taps;
        let (moved, each, more) = if dots.by_outputs {
            (0, all, 0)
        } else {
            let each = dots.period * dots.inner;
            (rows.start * each, each, rows.len() - 1)
        };
        let sum = &staged.sums[more];
        let (a, b) = (Memory::of(room.gradient), Memory::of(room.slab));
        let contraction = Contraction { a, b, sum };
        let a = (outputs.start * dots.planes.plane) as isize;
        let (sums, results) = room.results.split_at_mut(self.sizes.tile);
        for columns in even_parts(0..of_channel * item.channels.len(), part.shape.columns) {
            let size = (rows.len(), columns.len());
            if !turn.goes_on(STEPS.min(sum.steps.len()) * size.0 * size.1) {
                return false;
            }
            let mut from = [0; MAX_COLUMNS];
            let mut results_at = [0; MAX_COLUMNS];
            for (v, column) in columns.clone().enumerate() {
                let (channel, tap) = place(column);
                from[v] = channel as isize * plane + self.taps[tap + moved];
                results_at[v] = moved + channel * taps + tap;
            }
            for lane in (0..LANES).step_by(lanes) {
                let len = size.0 * Strip::<T>::row_vectors(size.1) * lanes;
                // Sums of one chain alone need no place of their own.
                let begin = if first && last { 0 } else { *region };
                *region += len;
                let steps = (size.1 * LANES, LANES);
                let to = last.then(|| Results::of(&mut sums[lane..], steps, size, lanes));
                contraction.total(
                    (self.kernels, chain),
                    (a + lane as isize, size.0),
                    &from.map(|from| from + lane as isize)[..size.1],
                    (&mut room.sums[begin..begin + len], to),
                    (first, true),
                );
            }
            if !last {
                continue;
            }
            for (m, sums) in sums.chunks_exact(size.1 * LANES).take(size.0).enumerate() {
                for (sums, at) in sums.chunks_exact(LANES).zip(results_at) {
                    results[m * each + at] = finished(sums);
                }
            }
        }
        true
    }

    /// Hands over the sums of some outputs.
    fn hand_over(
        &self,
        item: &Item,
        outputs: &Range<usize>,
        results: &mut [T],
        sink: &Sink<'_, T>,
    ) -> Result<(), Error> {
        let geometry = self.problem.geometry;
        let taps = self.taps.len();
        for (output, row) in
            outputs.clone().zip(results.chunks_exact_mut(item.channels.len() * taps))
        {
            for (c, sums) in row.chunks_exact_mut(taps).enumerate() {
                if sums.iter().any(|sum| !sum.to_f64().is_finite()) {
                    let output = item.group * geometry.outputs + item.outputs.start + output;
                    let channel = item.group * geometry.channels + item.channels.start + c;
                    self.exact(item, (output, channel), sums)?;
                }
            }
            item.put(self.problem.geometry, output, (0..item.channels.len(), 0..taps), row, sink);
        }
        Ok(())
    }

    /// The sums of an output and a channel again, without the zeros around blocks, where one of them
    /// is not finite: a zero times an infinity that no output sees may have made it so.
    fn exact(
        &self,
        item: &Item,
        (output, channel): (usize, usize),
        sums: &mut [T],
    ) -> Result<(), Error> {
        let Problem { x, gradient, padding, .. } = self.problem;
        let mut totals: Vec<Option<[T; LANES]>> = room("the partial sums", sums.len())?;
        totals.resize(sums.len(), None);
        let mut slab = room("the staged input", self.layout.plane())?;
        slab.resize(self.layout.plane(), T::default());
        let mut plane = Vec::new();
        let pitches = self.layout.pitches();
        for number in item.blocks.clone() {
            let (_, mut block) = nth_block(&self.one, &self.blocks, number);
            if self.problem.per_sample {
                block.0[0] = item.image..item.image + 1;
            }
            let lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
            let runs = self.layout.runs(&block, &x.strides()[1..]);
            self.layout.stage((&runs, channel..channel + 1), x, *padding, &mut slab);
            plane.resize(lens.iter().product(), T::default());
            let runs = rows(&block, &contiguous(&lens, 1), &gradient.strides()[1..]);
            gradient.read_runs(
                output as isize * gradient.strides()[0],
                &runs,
                T::default(),
                &mut plane,
            );
            let (&width, outer) = lens.split_last().expect("a geometry has axes");
            for (total, &tap) in totals.iter_mut().zip(&self.taps) {
                for vectors in chains(&lens) {
                    let columns = vectors.start * LANES..width.min(vectors.end * LANES);
                    let mut chain = [T::default(); LANES];
                    for (row, at) in positions(outer, &pitches).enumerate() {
                        for column in columns.clone() {
                            let sum = &mut chain[column % LANES];
                            let x = slab[(at + tap) as usize + column];
                            *sum = plane[row * width + column].mul_add(x, *sum);
                        }
                    }
                    *total = Some(match *total {
                        None => chain,
                        Some(total) => std::array::from_fn(|i| total[i].add(chain[i])),
                    });
                }
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            *sum = finished(&total.unwrap_or_default());
        }
        Ok(())
    }
}

/// The sum of interleaved sums, which is no minus zero: zeros around blocks, which some tiles multiply and others
/// do not, make zeros of it.
pub(super) fn finished<T: Element>(sums: &[T]) -> T {
    halved(sums).add(T::default())
}

/// The sum of interleaved sums: halves, quarters, and so on.
pub(super) fn halved<T: Element>(sums: &[T]) -> T {
    let mut sums: [T; LANES] = sums.try_into().expect("interleaved sums");
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] = sums[i].add(sums[i + half]);
        }
        half /= 2;
    }
    sums[0]
}
