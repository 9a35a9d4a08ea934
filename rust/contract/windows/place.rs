//! Windows over planes that are read where they lie.

use std::ops::Range;

use super::Windows;
use crate::geometry::{Axis, Geometry};
use crate::parallel::{Turn, even_parts};
use crate::problem::Problem;
use crate::slab::Block;
use crate::tile::{
    Ahead, Column, MOST_STRIDE, MOST_VECTORS, Slide, SlideInPlace, Slides, Tiled, is_masked,
};
use crate::view::Memory;

/// Most taps of a row of a kernel that slides in place.
const MOST_TAPS: usize = 7;

/// Elements from the weights of an output channel, with their column more, to those of the next.
const WEIGHTS: usize = (MOST_TAPS * (MOST_TAPS + 1)).next_power_of_two();

/// An input whose planes are read where they lie.
pub(super) struct InPlace<'a, T> {
    memory: Memory<'a, T>,
    /// Elements between channels, images and positions of each axis.
    strides: Vec<isize>,
    /// Output channels that slide together, a vector each, where rows are no longer than that: sums of one vector
    /// would wait for each other, and what is done once for them takes longer than the products. (One by one, 3x3 on
    /// 960 channels of 7 x 7 takes 0.105 ms instead of 0.078, 5x5 0.147 instead of 0.118; Sapphire Rapids.)
    pub together: usize,
}

impl<'a, T: Tiled> InPlace<'a, T> {
    /// Of a problem with windows of these slides, if they are square and neighbours are read, and what lies
    /// outside of the planes is zeros.
    pub fn new(problem: &Problem<'a, T>, slides: &Slides<T>, lanes: usize) -> Option<Self> {
        let Problem { geometry, x, .. } = problem;
        let [outer @ .., along, row] = geometry.axes.as_slice() else { return None };
        let square = row.kernel == along.kernel && row.kernel <= MOST_TAPS;
        let zeros = problem.has_zeros_around();
        let whole = outer.iter().all(|axis| axis.before == 0 && axis.after == 0);
        let memory = x.memory::<T>()?;
        let size = size_of::<T>() as isize;
        let neighbours = x.strides().last() == Some(&size) && row.stride == slides.stride;
        (square && zeros && whole && neighbours).then(|| InPlace {
            memory,
            strides: x.strides().iter().map(|stride| stride / size).collect(),
            together: if row.output <= lanes { slides.cut.len() } else { 1 },
        })
    }

    /// Elements of the weights of output channels that slide together.
    pub fn weights(&self) -> usize {
        self.together * WEIGHTS
    }

    /// The plane of a group at a block, as the index of its first element.
    fn plane(&self, geometry: &Geometry, group: usize, block: &Block) -> isize {
        let outer = block.0.iter().zip(&geometry.axes).zip(&self.strides[1..]);
        let outer = outer.take(geometry.axes.len() - 2);
        let starts = outer.map(|((range, axis), s)| (range.start * axis.stride) as isize * s);
        group as isize * self.strides[0] + starts.sum::<isize>()
    }
}

/// Writes behind the weights of a square kernel, which are column by column, the sum of each row's products with
/// zero: zero, or NaN where a weight is not finite.
fn read_padding<T: Tiled>(kernel: usize, weights: &mut [T]) {
    // As many as vectors have, those of no row too: 7 took a twentieth of 7x7 on planes of 14 x 14.
    const SUMS: usize = MOST_TAPS.next_power_of_two();
    // Of minus zeros, the sum is minus zero.
    let mut sums = [T::default().neg(); SUMS];
    for column in 0..kernel {
        let weights: &[T; SUMS] = weights[column * kernel..].first_chunk().expect("room for more");
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = sum.add(weight.mul(T::default()));
        }
    }
    weights[kernel * kernel..][..kernel].copy_from_slice(&sums[..kernel]);
}

/// The vectors of a row of outputs, which are the same in all planes.
#[derive(Default)]
struct Row {
    /// The outputs.
    width: Range<usize>,
    strips: Vec<Strip>,
    /// Whether some of them misses elements that are not masked, or results.
    cut: bool,
}

/// Vectors that slide together, and which parts of them there are.
#[derive(Default)]
struct Strip {
    count: usize,
    columns: [Column; MOST_VECTORS],
    taken: [[u32; MOST_VECTORS]; MOST_TAPS],
    kept: [u32; MOST_VECTORS],
    /// The padded position where the first one starts.
    first: usize,
}

impl Row {
    /// With the most vectors that slide together, whole or cut, and bytes between neighbouring results. Of more
    /// channels that do, each has one of the vectors, and all are alike.
    fn new(
        row: &Axis,
        (width, lanes): (&Range<usize>, usize),
        (most, together): ([usize; 2], usize),
        column: isize,
    ) -> Self {
        if together > 1 {
            let strips = vec![Strip::new(row, (0..together).map(|_| 0), (width, lanes), column)];
            return Row { width: width.clone(), strips, cut: true };
        }
        let vectors = width.len().div_ceil(lanes);
        // The last vector ends where the row does, so that all are whole; or it is cut.
        let last = width.len().saturating_sub(lanes);
        let strips = |cut: bool| {
            let most = most[usize::from(cut)].min(MOST_VECTORS);
            let strips = even_parts(0..vectors, most).map(|strip| {
                let start = |v: usize| if cut { v * lanes } else { (v * lanes).min(last) };
                Strip::new(row, strip.map(start), (width, lanes), column)
            });
            strips.collect::<Vec<_>>()
        };
        let whole = strips(false);
        let cut = whole.iter().any(|strip| strip.is_cut(row, lanes));
        Row { width: width.clone(), strips: if cut { strips(true) } else { whole }, cut }
    }
}

impl Strip {
    /// Vectors that start at such outputs of a row.
    fn new(
        row: &Axis,
        starts: impl Iterator<Item = usize>,
        (width, lanes): (&Range<usize>, usize),
        column: isize,
    ) -> Self {
        let mut strip = Strip::default();
        for (v, start) in starts.enumerate() {
            let at = (width.start + start) * row.stride;
            if v == 0 {
                strip.first = at;
            }
            strip.columns[v] =
                Column { from: (at - strip.first) as isize, to: start as isize * column };
            for (tap, taken) in strip.taken.iter_mut().enumerate().take(row.kernel) {
                taken[v] = bits(row.inside(at + tap * row.dilation, 1, lanes * row.stride));
            }
            strip.kept[v] = bits(0..width.len().saturating_sub(start).min(lanes));
            strip.count = v + 1;
        }
        strip
    }

    fn is_cut(&self, row: &Axis, lanes: usize) -> bool {
        (0..self.count).any(|v| {
            let misses = |tap: usize| {
                self.taken[tap][v] != bits(0..lanes * row.stride)
                    && !is_masked((tap, row.kernel), (v, self.count), row.stride)
            };
            self.kept[v] != bits(0..lanes) || (0..row.kernel).any(misses)
        })
    }
}

/// The bits of a range, of 32.
fn bits(range: Range<usize>) -> u32 {
    let below = |n: usize| (1u64 << n) - 1;
    (below(range.end) & !below(range.start)) as u32
}

impl<T: Tiled> Windows<'_, T> {
    /// One thread's part: takes items until there are none.
    pub(super) fn work_in_place(&self, turn: &Turn<'_>, place: &InPlace<'_, T>, weights: &mut [T]) {
        let Problem { geometry, store, .. } = self.problem;
        let axis = geometry.axes.len() - 1;
        let [.., column] = *store.out.strides() else { unreachable!("windows have rows") };
        let Slides { in_place, cut, .. } = self.slides;
        let (mut now, mut block, mut row) = (None, Block::default(), Row::default());
        let channels = geometry.groups * geometry.outputs;
        let cells = self.cells();
        while let Some(item) = turn.next() {
            let (part, cell) = (item / cells, item % cells);
            // Planes may be so small that what is the same in all would take longer than they do.
            if now.replace(part) != Some(part) {
                block = self.block(part);
                let width = &block.0[axis];
                if row.width != *width {
                    let most = ([in_place.len(), cut.len()], place.together);
                    row = Row::new(&geometry.axes[axis], (width, self.kernels.lanes), most, column);
                }
            }
            let first = cell * place.together;
            let outputs = first..channels.min(first + place.together);
            for (output, weights) in outputs.clone().zip(weights.chunks_exact_mut(WEIGHTS)) {
                self.read_weights(output, weights);
                read_padding(geometry.axes[axis].kernel, weights);
            }
            if !turn.goes_on(self.output_in_place(place, (outputs, &block, &row), weights)) {
                return;
            }
        }
    }

    /// Computes an output channel of a block, or those that slide together.
    fn output_in_place(
        &self,
        place: &InPlace<'_, T>,
        (outputs, block, vectors): (Range<usize>, &Block, &Row),
        weights: &[T],
    ) -> usize {
        let Problem { store, geometry, .. } = self.problem;
        let size = size_of::<T>() as isize;
        let [.., along, row] = geometry.axes.as_slice() else { unreachable!("windows have rows") };
        let [.., height, _] = block.0.as_slice() else { unreachable!("windows have rows") };
        let [channel, ref between @ ..] = *store.out.strides() else { unreachable!("see above") };
        let [.., row_out, _] = *between else { unreachable!("see above") };
        let [.., row_in, _] = *place.strides else { unreachable!("see above") };
        let plane_of = |output| place.plane(geometry, output / geometry.outputs, block);
        let (plane, together) = (plane_of(outputs.start), place.together > 1);
        // How far the input and the results of each lie behind those of the first.
        let behind = |v: usize| Column {
            from: plane_of(outputs.start + v) - plane,
            to: v as isize * channel,
        };
        let furthest = behind(outputs.len() - 1);
        let finish = store.finish(outputs.start, outputs.len(), together);
        let to = outputs.start as isize * channel + block.start(between);
        let taps: [isize; MOST_TAPS] = std::array::from_fn(|tap| (tap * row.dilation) as isize);
        let stride = self.slides.stride;
        let pitch = along.dilation as isize * row_in;
        let rows: [isize; MOST_STRIDE] = std::array::from_fn(|j| j as isize * pitch);
        let Slides { in_place, cut, .. } = self.slides;
        let table = if vectors.cut { cut } else { in_place };
        let (kept, kept_len) = row.kept();
        for strip in &vectors.strips {
            let mut columns = strip.columns;
            let columns = &mut columns[..if together { outputs.len() } else { strip.count }];
            let last = columns.len() - 1;
            // Columns of a channel are neighbours in the result, so the last one goes furthest.
            let results = strip.kept[last].count_ones() as isize * size;
            let (low, high) = (columns[0].to, columns[last].to + results);
            let (low, high) = (low + furthest.to.min(0), high + furthest.to.max(0));
            if together {
                for (v, column) in columns.iter_mut().enumerate() {
                    let behind = behind(v);
                    column.from += behind.from;
                    column.to += behind.to;
                }
            }
            for phase in 0..self.phases.min(height.len()) {
                let outputs = (height.len() - phase).div_ceil(self.phases);
                let first = (height.start + phase) * along.stride;
                let window = (outputs - 1) * stride + along.kernel;
                let inside = along.inside(first, along.dilation, window);
                // Of the plane: where a row lies, and the one that would be row 0.
                let row_at =
                    |r: usize| ((first + r * along.dilation) as isize - along.before) * row_in;
                let plane_at = if inside.is_empty() || kept_len == 0 {
                    std::ptr::null()
                } else {
                    let ends = [row_at(inside.start), row_at(inside.end - 1)];
                    let last = (kept + kept_len - 1) as isize;
                    place.memory.at(
                        plane,
                        ends[0].min(ends[1]) + kept as isize + furthest.from.min(0),
                        ends[0].max(ends[1]) + last + furthest.from.max(0),
                    )
                };
                let below = (outputs - 1) as isize * row_out * self.phases as isize;
                let to = to + phase as isize * row_out;
                let slide = Slide {
                    b: plane_at.wrapping_offset(row_at(0) + strip.first as isize - row.before),
                    rows,
                    pitch: pitch * stride as isize,
                    taps: &taps[..row.kernel],
                    weights,
                    columns,
                    outputs,
                    out: store.out.at(to, low + below.min(0), high + below.max(0)),
                    out_row: row_out * self.phases as isize,
                    finish,
                    ahead: Ahead::NOTHING,
                };
                let (taken, kept) = (&strip.taken, &strip.kept);
                let apart = if together { WEIGHTS } else { 0 };
                let slide = SlideInPlace { slide, inside, taken, kept, apart };
                // SAFETY: the table is only reached through `kernels_of`, which checked the CPU. What is read
                // lies in rows inside the planes, and in the part of them that is kept: of the others no bit is
                // set, and `is_cut` saw that vectors without masks have all bits set; the first `at` checked
                // the ends of that part, in the first and the last plane. The second `at` checked every
                // result, which this thread alone writes, since each item has results of its own;
                // `read_weights` read weights for all taps, and `read_padding` a column more.
                unsafe { table[last](&slide) }
            }
        }
        let operations = vectors.strips.iter().map(|strip| strip.count).sum::<usize>();
        operations * height.len() * along.kernel * row.kernel
    }
}
