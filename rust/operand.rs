//! How each operation addresses its operands: what the rows and the steps of A and B are.

use std::ops::Range;

use crate::error::{Error, room};
use crate::memory::Workspace;
use crate::tile::{ALL_ROWS, Segment, Step, Sum};
use crate::view::{Element, Memory, View, advance};

/// Weights as the row operand, in place where their memory can be read so.
#[derive(Debug)]
pub struct Weights<'a, T> {
    /// A copy, where the caller's array is of another format or alignment.
    copy: Workspace,
    memory: Option<Memory<'a, T>>,
    /// The element of the first tap of the first row.
    start: isize,
    /// Rows of a group, and elements between groups.
    groups: (usize, isize),
    /// Elements between neighbours: outputs, channels, kernel axes.
    strides: Vec<isize>,
    kernel: Vec<usize>,
    flip: bool,
}

/// Taps of one kernel axis that lie evenly apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// The first.
    pub first: usize,
    /// From one to the next.
    pub step: usize,
    /// How many; at least one.
    pub count: usize,
}

impl<'a, T: Element> Weights<'a, T> {
    /// Of a view with canonical strides `[output, channel, *kernel]`.
    pub fn new(view: &View<'a>, shape: &[usize], flip: bool) -> Result<Self, Error> {
        let kernel = shape[2..].to_vec();
        let (start, groups) = (0, (usize::MAX, 0)); // outputs of all groups lie evenly apart
        if let Some(memory) = view.memory::<T>() {
            let strides = view.strides().iter().map(|s| s / size_of::<T>() as isize).collect();
            let (copy, memory) = (Workspace::default(), Some(memory));
            return Ok(Weights { copy, memory, start, groups, strides, kernel, flip });
        }
        let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
        let mut copy = Workspace::new::<T>("a copy of the weights", len)?;
        view.read_all(shape, &mut copy.elements_mut::<T>()[..len]);
        let strides = crate::view::contiguous(shape, 1);
        Ok(Weights { copy, memory: None, start, groups, strides, kernel, flip })
    }

    /// The weights that the gradient of the input is a forward sum with, by addresses alone: outputs
    /// and channels change places in each of the groups of `outputs`, from group `first` on, and of each
    /// kernel axis `taps` are taken, the last first.
    pub fn adjoint(
        &self,
        (outputs, channels): (usize, usize),
        first: usize,
        taps: &[Every],
    ) -> Weights<'_, T> {
        let mut start = self.start + (first * outputs) as isize * self.strides[0];
        let mut strides = vec![self.strides[1], self.strides[0]];
        for (axis, taps) in taps.iter().enumerate() {
            let last = self.tap(axis, taps.first + (taps.count - 1) * taps.step);
            start += last;
            strides.push(match taps.count {
                1 => 0,
                _ => self.tap(axis, taps.first + (taps.count - 2) * taps.step) - last,
            });
        }
        Weights {
            copy: Workspace::default(),
            memory: Some(self.memory()),
            start,
            groups: (channels, outputs as isize * self.strides[0]),
            strides,
            kernel: taps.iter().map(|taps| taps.count).collect(),
            flip: false,
        }
    }

    /// The elements.
    pub fn memory(&self) -> Memory<'_, T> {
        match &self.memory {
            Some(memory) => memory.clone(),
            None => Memory::of(self.copy.elements()),
        }
    }

    /// Elements between outputs of a group.
    pub fn row(&self) -> isize {
        self.strides[0]
    }

    /// Elements between the closest neighbours.
    pub fn apart(&self) -> usize {
        let taps = self.strides[2..].iter().zip(&self.kernel).filter(|&(_, &taps)| taps > 1);
        let all = self.strides[..2].iter().chain(taps.map(|(stride, _)| stride));
        all.map(|stride| stride.unsigned_abs()).min().unwrap_or(1)
    }

    /// Whether all taps of an output lie together: not so where outputs and channels changed places.
    pub fn by_outputs(&self) -> bool {
        self.strides[0].unsigned_abs() >= self.strides[1].unsigned_abs()
    }

    /// Reads the taps along the innermost kernel axis at `outer` of the others.
    pub fn read_row(&self, output: usize, channel: usize, outer: &[usize], to: &mut [T]) {
        let inner = outer.len();
        let taps = outer.iter().enumerate().map(|(axis, &tap)| self.tap(axis, tap));
        let at = self.output(output)
            + channel as isize * self.strides[1]
            + taps.sum::<isize>()
            + self.tap(inner, 0);
        let step = if self.flip { -self.strides[inner + 2] } else { self.strides[inner + 2] };
        self.memory().read(at, step, to);
    }

    /// The element of the first tap of an output, which counts through all groups.
    pub fn output(&self, output: usize) -> isize {
        let (group, row) = (output / self.groups.0, output % self.groups.0);
        self.start + group as isize * self.groups.1 + row as isize * self.strides[0]
    }

    /// Most rows that a tile may have: rows whose addresses agree modulo 4 KiB share one set of the
    /// first-level cache, which holds 8 or 12 lines. A 1x1 layer of 1024 channels runs at 46 % of
    /// the peak with 14 rows and at 85 % with 8 (Zen 5, 12 ways).
    pub fn most_rows(&self) -> usize {
        let bytes = self.row().unsigned_abs() * size_of::<T>();
        if bytes > 0 && bytes.is_multiple_of(4096) { 8 } else { usize::MAX }
    }

    /// The offset of a tap of a kernel axis.
    fn tap(&self, axis: usize, tap: usize) -> isize {
        let at = if self.flip { self.kernel[axis] - 1 - tap } else { tap };
        at as isize * self.strides[axis + 2]
    }

    /// Where their taps lie.
    pub fn taps(&self) -> Result<Taps, Error> {
        let mut axes = Vec::with_capacity(self.kernel.len() + 1);
        axes.push(vec![0]);
        for (axis, &kernel) in self.kernel.iter().enumerate() {
            let mut taps = room("the table of taps", kernel)?;
            taps.extend((0..kernel).map(|tap| self.tap(axis, tap)));
            axes.push(taps);
        }
        Ok(Taps { channel: self.strides[1], axes })
    }
}

/// The weights of a convolution as those of a layer of one tap, with an output for each tap of each of its outputs.
#[derive(Debug)]
pub struct EachTap<'a, T> {
    /// Rows of an output's taps are neighbours.
    pub weights: Weights<'a, T>,
    /// What each tap of each axis adds to the number of the row, among those of its output.
    pub rows: Vec<Vec<usize>>,
}

impl<'a, T: Element> EachTap<'a, T> {
    /// Those of `weights`, where they lie, in groups of `outputs`; `None` if taps are not as far apart as outputs.
    pub fn in_place(weights: &'a Weights<'_, T>, outputs: usize) -> Option<Self> {
        let Weights { strides, kernel, flip, .. } = weights;
        let mut start = weights.output(0);
        // From the innermost axis outwards: each as far apart as all within it reach.
        let (mut apart, mut taps) = (None, 1);
        let mut rows = vec![Vec::new(); kernel.len()];
        for (axis, &n) in kernel.iter().enumerate().rev() {
            let stride = if *flip { -strides[axis + 2] } else { strides[axis + 2] };
            let first = weights.tap(axis, if stride < 0 { n - 1 } else { 0 });
            start += first;
            let of = |tap: usize| if stride < 0 { n - 1 - tap } else { tap };
            rows[axis] = (0..n).map(|tap| of(tap) * taps).collect();
            if n > 1 {
                let each = stride.abs();
                if each != *apart.get_or_insert(each) * taps as isize {
                    return None;
                }
            }
            taps *= n;
        }
        let row = apart.unwrap_or(strides[0]);
        if outputs > 1 && strides[0] != row * taps as isize {
            return None;
        }
        let mut each = vec![row, strides[1]];
        each.resize(kernel.len() + 2, 0);
        let group = weights.output(outputs) - weights.output(0);
        let groups = (outputs * taps, group);
        let weights = Weights {
            copy: Workspace::default(),
            memory: Some(weights.memory()),
            start,
            groups,
            strides: each,
            kernel: vec![1; kernel.len()],
            flip: false,
        };
        Some(EachTap { weights, rows })
    }

    /// Those of a [`copy`](Self::copy), with as many channels and a kernel of so many taps on each axis.
    pub fn of_copy(copy: &'a Workspace, channels: usize, kernel: &[usize]) -> Self {
        let mut strides = vec![channels as isize, 1];
        strides.resize(kernel.len() + 2, 0);
        let weights = Weights {
            copy: Workspace::default(),
            memory: Some(Memory::of(copy.elements())),
            start: 0,
            groups: (usize::MAX, 0),
            strides,
            kernel: vec![1; kernel.len()],
            flip: false,
        };
        let apart = crate::view::contiguous(kernel, 1);
        let axis = |(&n, apart): (&usize, isize)| (0..n).map(|i| i * apart as usize).collect();
        EachTap { weights, rows: kernel.iter().zip(apart).map(axis).collect() }
    }

    /// A copy of `weights`, of so many outputs in all groups, in which all taps are as far apart.
    pub fn copy(
        weights: &Weights<'_, T>,
        (outputs, channels): (usize, usize),
    ) -> Result<Workspace, Error> {
        let kernel = &weights.kernel;
        let taps = kernel.iter().product::<usize>();
        let len = outputs.saturating_mul(taps).saturating_mul(channels);
        let mut copy = Workspace::new::<T>("a copy of the weights", len)?;
        let memory = weights.memory();
        let mut index = vec![0; kernel.len()];
        let rows = copy.elements_mut::<T>()[..len].chunks_exact_mut(channels.max(1));
        for (row, to) in rows.enumerate() {
            let of_axes = index.iter().enumerate().map(|(axis, &tap)| weights.tap(axis, tap));
            let at = weights.output(row / taps) + of_axes.sum::<isize>();
            memory.read(at, weights.strides[1], to);
            advance(&mut index, kernel);
        }
        Ok(copy)
    }

    /// From group `first` on, each of so many rows.
    pub fn from_group(mut self, first: usize, rows: usize) -> Self {
        self.weights.start = self.weights.output(first * rows);
        self
    }
}

/// Where the taps of an operand lie, in elements: what each axis adds.
#[derive(Clone, Debug)]
pub struct Taps {
    /// From one channel to the next.
    pub channel: isize,
    /// A number for each tap of the batch, which has one, and of each axis of the kernel.
    pub axes: Vec<Vec<isize>>,
}

impl Taps {
    /// Whether the taps of a channel lie together, in order.
    pub fn are_dense(&self, kernel: &[usize]) -> bool {
        let strides = crate::view::contiguous(kernel, 1);
        let dense = |(axis, stride): (&Vec<isize>, isize)| {
            axis.iter().enumerate().all(|(i, &at)| at == i as isize * stride)
        };
        self.axes.iter().zip(strides).all(dense)
    }

    /// The same taps the other way round, and where the first of them lies.
    pub fn reversed(&self) -> (Taps, isize) {
        let last = |axis: &Vec<isize>| axis.last().copied().unwrap_or(0);
        let turn = |axis: &Vec<isize>| axis.iter().rev().map(|at| at - last(axis)).collect();
        let axes = self.axes.iter().map(turn).collect();
        (Taps { channel: self.channel, axes }, self.axes.iter().map(last).sum())
    }
}

/// Rows of a tile that are neighbouring outputs along an axis: row `m` begins `m * shift` taps later
/// than the first, and takes of the taps that the rows have together those of its own. (The matrix of
/// their weights is a Toeplitz matrix.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// The axis, the batch counted in.
    pub axis: usize,
    /// How many rows.
    pub rows: usize,
    /// Taps between the beginnings of neighbouring rows.
    pub shift: usize,
}

impl Ramp {
    /// Taps of a kernel axis of `kernel` taps that the rows have together.
    pub fn taps(&self, kernel: usize) -> usize {
        kernel + (self.rows - 1) * self.shift
    }

    /// The rows that take tap `tap` of those, if they have taps `taken` of the kernel.
    pub fn rows_at(&self, tap: usize, taken: &Range<usize>) -> Range<usize> {
        let first = (tap + 1).saturating_sub(taken.end).div_ceil(self.shift);
        let end = if tap < taken.start { 0 } else { (tap - taken.start) / self.shift + 1 };
        first..end.min(self.rows)
    }
}

/// A forward sum: taps in the order (channel, kernel axes), cut into chains. A chain is as many whole
/// channels as `chain` taps hold; of a channel with more taps, as many whole slices along the first
/// axis; of a slice with more taps, along the next, and so on. It depends on the shape of the weights
/// alone, and so do the bits of the result.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// Channels of a group.
    pub channels: usize,
    /// The batch, which has one tap, and the kernel.
    pub kernel: &'a [usize],
    /// The row operand's taps.
    pub a: &'a Taps,
    /// Elements between its rows; of no account with a ramp.
    pub a_row: isize,
    /// The column operand's taps; along a ramp's axis, all that its rows have together.
    pub b: &'a Taps,
    /// If rows are neighbouring outputs.
    pub ramp: Option<Ramp>,
    /// Taps of a chain at most.
    pub chain: usize,
}

/// How the taps of a kernel, the batch's one counted in, are cut into chains of at most so many.
struct Cut {
    /// Channels that a chain holds, or one where several chains hold one.
    period: usize,
    /// The axis whose slices are whole in a chain, and how many there are in one at most.
    axis: usize,
    slices: usize,
}

impl Cut {
    fn new(kernel: &[usize], channels: usize, chain: usize) -> Self {
        let taps: usize = kernel.iter().product();
        let inner = |axis: usize| kernel[axis + 1..].iter().product::<usize>();
        let axis = (0..kernel.len()).find(|&axis| inner(axis) <= chain);
        let axis = axis.expect("nothing is in the last axis's slices but one tap");
        let period = (chain / taps).clamp(1, channels.max(1));
        Cut { period, axis, slices: chain / inner(axis) }
    }
}

/// Most roundings that a term of a [`Forward`] sum takes part in: those of the longest chain, one as each
/// other chain is added, and one with the bias.
pub fn roundings(kernel: &[usize], channels: usize, chain: usize) -> usize {
    let Cut { period, axis, slices } = Cut::new(kernel, channels, chain);
    let (outer, inner) = (&kernel[..axis], &kernel[axis + 1..]);
    let longest = period * slices.min(kernel[axis]) * inner.iter().product::<usize>();
    let chains = outer.iter().product::<usize>() * kernel[axis].div_ceil(slices);
    longest + channels.div_ceil(period) * chains
}

impl Forward<'_> {
    /// The sum.
    pub fn sum(&self) -> Result<Sum, Error> {
        let Cut { period, axis: cut, slices } = Cut::new(self.kernel, self.channels, self.chain);
        let periods = self.channels / period;
        let steps = self.kernel.iter().enumerate().fold(period, |steps, (axis, &kernel)| {
            steps
                * self.ramp.map_or(kernel, |r| if r.axis == axis { r.taps(kernel) } else { kernel })
        });
        let of = |taps: &Taps| period as isize * taps.channel;
        let a_row = self.ramp.map_or(self.a_row, |r| -(r.shift as isize) * self.pace(&r));
        let period_step = Step { a: of(self.a), b: of(self.b) };
        let mut sum = Sum::new(a_row, self.ramp.map(|ramp| ramp.rows), (periods, period_step));
        sum.steps = room("the table of taps", steps)?;
        if periods > 0 {
            let mut index = vec![0; cut];
            for _ in 0..index.iter().zip(self.kernel).map(|(_, n)| n).product() {
                for first in (0..self.kernel[cut]).step_by(slices) {
                    let mut taken: Vec<Range<usize>> = self.kernel.iter().map(|&n| 0..n).collect();
                    taken.iter_mut().zip(&index).for_each(|(taken, &i)| *taken = i..i + 1);
                    taken[cut] = first..self.kernel[cut].min(first + slices);
                    let first = sum.segments.len();
                    self.push(&mut sum, period, &taken);
                    sum.push(first);
                }
                advance(&mut index, self.kernel);
            }
        }
        let rest = self.channels % period;
        if rest > 0 {
            // The first of a whole period's steps, where there is one: its channels are whole too.
            let first = sum.segments.len();
            let taken: Vec<Range<usize>> = self.kernel.iter().map(|&n| 0..n).collect();
            self.push(&mut sum, rest, &taken);
            sum.push_rest(first);
        }
        Ok(sum)
    }

    /// Elements of A from a tap of a ramp's axis to the next.
    fn pace(&self, ramp: &Ramp) -> isize {
        let taps = &self.a.axes[ramp.axis];
        taps.get(1).map_or(0, |second| second - taps[0])
    }

    /// Appends the steps of taps `taken` of `channels` channels, and their segments.
    fn push(&self, sum: &mut Sum, channels: usize, taken: &[Range<usize>]) {
        let mut counts: Vec<usize> = taken.iter().map(|taken| taken.len()).collect();
        if let Some(ramp) = self.ramp {
            counts[ramp.axis] = ramp.taps(counts[ramp.axis]);
        }
        let mut index = vec![0; counts.len()];
        let begin = sum.segments.len();
        for channel in 0..channels as isize {
            for _ in 0..counts.iter().product() {
                let mut step = Step { a: channel * self.a.channel, b: channel * self.b.channel };
                let mut rows = ALL_ROWS;
                for (axis, &i) in index.iter().enumerate() {
                    let tap = taken[axis].start + i;
                    step.b += self.b.axes[axis][tap];
                    step.a += match self.ramp {
                        Some(ramp) if ramp.axis == axis => {
                            rows = ramp.rows_at(tap, &taken[axis]);
                            self.a.axes[axis][0] + tap as isize * self.pace(&ramp)
                        }
                        _ => self.a.axes[axis][tap],
                    };
                }
                if !rows.is_empty() {
                    let at = sum.steps.len();
                    sum.steps.push(step);
                    match sum.segments[begin..].last_mut() {
                        Some(last) if last.rows == rows => last.steps.end = at + 1,
                        _ => sum.segments.push(Segment { steps: at..at + 1, rows }),
                    }
                }
                advance(&mut index, &counts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::CHAIN;
    use crate::view::{Format, Scalar, contiguous};

    /// Weights of 2 outputs, 300 channels and 2 x 3 taps, each its own index.
    fn shape() -> ([usize; 4], Vec<f32>) {
        let shape = [2, 300, 2, 3];
        (shape, (0..shape.iter().product::<usize>()).map(|i| i as f32).collect())
    }

    /// The taps of B: rows 10 apart, channels 100 apart.
    fn taps(rows: isize, columns: isize) -> Taps {
        let axes =
            vec![vec![0], (0..rows).map(|i| 10 * i).collect(), (0..columns).collect::<Vec<_>>()];
        Taps { channel: 100, axes }
    }

    #[test]
    fn steps_visit_the_taps_in_order() {
        let (shape, data) = shape();
        let view = View::from_slice(&data, &shape);
        for flip in [false, true] {
            let weights = Weights::<f32>::new(&view, &shape, flip).unwrap();
            assert_eq!(weights.row(), 1800);
            let (a, b) = (weights.taps().unwrap(), taps(2, 3));
            let (kernel, a_row) = (&[1, 2, 3][..], weights.row());
            let forward =
                Forward { channels: 300, kernel, a: &a, a_row, b: &b, ramp: None, chain: CHAIN };
            let sum = forward.sum().unwrap();
            // As many whole channels as 128 taps hold, and the 6 that are left of 300.
            assert_eq!((sum.periods, sum.period), (14, Step { a: 21 * 6, b: 21 * 100 }));
            let segments = [0..126, 126..162].map(|steps| Segment { steps, rows: ALL_ROWS });
            assert_eq!((sum.segments.as_slice(), sum.chains()), (&segments[..], 15));
            for (i, step) in sum.steps.iter().enumerate() {
                let (c, tap) = (i % 126 / 6, i % 6);
                let at = if flip { 5 - tap } else { tap };
                assert_eq!(step.a, (c * 6 + at) as isize);
                assert_eq!(step.b, (c * 100 + tap / 3 * 10 + tap % 3) as isize);
            }
        }
    }

    #[test]
    fn a_large_kernel_is_cut_into_slices() {
        let lengths = |kernel: &[usize]| {
            let axes = kernel.iter().map(|&n| (0..n as isize).collect()).collect();
            let taps = Taps { channel: 1000, axes };
            let forward = Forward {
                channels: 2,
                kernel,
                a: &taps,
                a_row: 0,
                b: &taps,
                ramp: None,
                chain: CHAIN,
            };
            let sum = forward.sum().unwrap();
            assert_eq!((sum.periods, sum.period), (2, Step { a: 1000, b: 1000 }));
            sum.segments.iter().map(|segment| segment.steps.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[1, 300]), [128, 128, 44]);
        assert_eq!(
            lengths(&[1, 31, 31]),
            [4 * 31; 7].iter().copied().chain([3 * 31]).collect::<Vec<_>>()
        );
        assert_eq!(lengths(&[1, 2, 300]), [128, 128, 44, 128, 128, 44]);
        assert_eq!(lengths(&[1, 3, 6, 7]), [126]);
        assert_eq!(lengths(&[1, 2, 20, 20]), [120, 120, 120, 40, 120, 120, 120, 40]);
    }

    /// Row by row, a ramp's steps are those of the plain sum, in the same order and chains.
    #[test]
    fn rows_of_a_ramp_take_their_own_taps() {
        for (kernel, shift, rows) in [([1, 3, 3], 1, 4), ([1, 23, 20], 2, 5), ([1, 2, 300], 3, 2)] {
            let count = kernel[1] + (rows - 1) * shift;
            let strides = [kernel[2] as isize, 1];
            let axes = kernel.iter().zip([0, strides[0], strides[1]]);
            let axes = axes.map(|(&n, s)| (0..n as isize).map(|i| i * s).collect()).collect();
            let a = Taps { channel: 7000, axes };
            let b = taps(count as isize, kernel[2] as isize);
            let plain = Forward {
                channels: 2,
                kernel: &kernel,
                a: &a,
                a_row: 0,
                b: &b,
                ramp: None,
                chain: CHAIN,
            };
            let ramp = Forward { ramp: Some(Ramp { axis: 1, rows, shift }), ..plain };
            let (plain, ramp) = (plain.sum().unwrap(), ramp.sum().unwrap());
            assert_eq!((ramp.chains(), ramp.rows), (plain.chains(), Some(rows)));
            let steps = |sum: &Sum, row: usize| -> Vec<Step> {
                let taken = sum.segments.iter().filter(|segment| segment.rows.contains(&row));
                taken.flat_map(|segment| sum.steps[segment.steps.clone()].to_vec()).collect()
            };
            for row in 0..rows {
                let (a, b) = (row as isize * ramp.a_row, (row * shift) as isize * 10);
                let own = steps(&ramp, row).into_iter();
                let own = own.map(|step| Step { a: step.a + a, b: step.b - b });
                assert!(own.eq(steps(&plain, row)), "{kernel:?} row {row}");
            }
        }
    }

    /// Each row has the channels of its output and tap, in place and in a copy, and from a group on.
    #[test]
    fn each_tap_has_a_row() {
        let shape = [4, 3, 2, 5];
        let data: Vec<f32> = (0..120).map(|i| i as f32).collect();
        for flip in [false, true] {
            let weights = Weights::new(&View::from_slice(&data, &shape), &shape, flip).unwrap();
            // Of outputs that all channels lie between, there is no row for each tap but for one.
            assert!(EachTap::in_place(&weights, 4).is_none());
            let every = |count| Every { first: 0, step: 1, count };
            let adjoint = weights.adjoint((2, 3), 0, &[every(2), every(5)]);
            let copy = EachTap::copy(&adjoint, (6, 2)).unwrap();
            for group in 0..2 {
                let lie = EachTap::in_place(&adjoint, 3).expect("taps of channels lie together");
                for each in [lie, EachTap::of_copy(&copy, 2, &[2, 5])] {
                    let EachTap { weights, rows } = each.from_group(group, 30);
                    for (output, channel) in [(0, 0), (1, 1), (2, 0)] {
                        for (i, j) in [(0, 0), (1, 2), (0, 4), (1, 4)] {
                            let row = output * 10 + rows[0][i] + rows[1][j];
                            let mut found = [0.0];
                            let at = weights.output(row) + channel * weights.strides[1];
                            weights.memory().read(at, 1, &mut found);
                            // The last tap first, but for a kernel that is turned.
                            let tap = if flip { i * 5 + j } else { 9 - (i * 5 + j) };
                            let from = (group * 2 + channel as usize) * 30 + output * 10 + tap;
                            assert_eq!(found[0], from as f32, "{flip} {group} {output} {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weights_of_another_format_are_copied_in_order() {
        let (shape, data) = shape();
        let swapped: Vec<u32> = data.iter().map(|v| v.to_bits().swap_bytes()).collect();
        let format = Format { swapped: true, ..Format::native(Scalar::F32) };
        // SAFETY: the slice holds the shape's elements, in the other byte order.
        let view =
            unsafe { View::new(swapped.as_ptr().cast(), format, &shape, contiguous(&shape, 4)) };
        let weights = Weights::<f64>::new(&view, &shape, false).unwrap();
        assert!(weights.memory.is_none());
        assert!(weights.copy.elements::<f64>().iter().zip(&data).all(|(&a, &b)| a == f64::from(b)));
    }
}
