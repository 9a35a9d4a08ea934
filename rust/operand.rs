//! How each operation addresses its operands: what the rows and the steps of A and B are.

use crate::error::{Error, room};
use crate::slab::Layout;
use crate::tile::{CHAIN, Step};
use crate::view::{Element, Memory, View, advance};

/// Weights as the row operand, in place where their memory can be read so.
#[derive(Debug)]
pub struct Weights<'a, T> {
    /// A copy, where the caller's array is of another format or alignment.
    copy: Vec<T>,
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
pub struct Taps {
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
            let (copy, memory) = (Vec::new(), Some(memory));
            return Ok(Weights { copy, memory, start, groups, strides, kernel, flip });
        }
        let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
        let mut copy = room("a copy of the weights", len)?;
        copy.resize(len, T::default());
        let (&row, outer) = shape.split_last().expect("weights have axes");
        let (&step, outer_strides) = view.strides().split_last().expect("as many strides");
        let mut index = vec![0; outer.len()];
        for to in copy.chunks_exact_mut(row.max(1)) {
            let at: isize = index.iter().zip(outer_strides).map(|(&i, &s)| i as isize * s).sum();
            view.read(at, step, to);
            advance(&mut index, outer);
        }
        let strides = crate::view::contiguous(shape, 1);
        Ok(Weights { copy, memory: None, start, groups, strides, kernel, flip })
    }

    /// The weights that the gradient of the input is a forward sum with, by addresses alone: outputs
    /// and channels change places in each of the groups of `outputs`, and of each kernel axis `taps`
    /// are taken, the last first.
    pub fn adjoint(&self, (outputs, channels): (usize, usize), taps: &[Taps]) -> Weights<'_, T> {
        let mut start = self.start;
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
            copy: Vec::new(),
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
            None => Memory::of(&self.copy),
        }
    }

    /// Elements between outputs of a group.
    pub fn row(&self) -> isize {
        self.strides[0]
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
}

/// The steps of a forward sum's period, and what the period adds: as many whole channels as one
/// chain holds, and at least one. It depends on the shape of the weights alone, and so do the bits of
/// the result.
///
/// `taps` are the offsets of the batch's one tap and of those of each kernel axis in a channel of B,
/// and channels of B lie `plane` elements apart.
pub fn forward<T: Element>(
    weights: &Weights<'_, T>,
    taps: &[Vec<isize>],
    plane: isize,
    channels: usize,
) -> Result<(Vec<Step>, Step), Error> {
    let (batch, kernel) = taps.split_first().expect("a geometry has a batch");
    let len = weights.kernel.iter().product::<usize>();
    let period = (CHAIN / len).clamp(1, channels.max(1));
    let channel = Step { a: weights.strides[1], b: plane };
    let mut steps = room("the table of taps", period * len)?;
    let mut index = vec![0; kernel.len()];
    for c in 0..period as isize {
        for _ in 0..len {
            let (mut a, mut b) = (c * channel.a, c * channel.b + batch[0]);
            for (axis, &tap) in index.iter().enumerate() {
                a += weights.tap(axis, tap);
                b += kernel[axis][tap];
            }
            steps.push(Step { a, b });
            advance(&mut index, &weights.kernel);
        }
    }
    Ok((steps, Step { a: period as isize * channel.a, b: period as isize * channel.b }))
}

/// The column operand of a forward sum.
#[derive(Debug)]
pub enum Columns<'a, T> {
    /// The input where it lies: element strides `[channel, batch, *spatial]`.
    InPlace(Memory<'a, T>, Vec<isize>),
    /// Slabs of this layout.
    Staged(Layout),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Format, Scalar, contiguous};

    /// Weights of 2 outputs, 300 channels and 2 x 3 taps, each its own index.
    fn shape() -> ([usize; 4], Vec<f32>) {
        let shape = [2, 300, 2, 3];
        (shape, (0..shape.iter().product::<usize>()).map(|i| i as f32).collect())
    }

    #[test]
    fn steps_visit_the_taps_in_order() {
        let (shape, data) = shape();
        let view = View::from_slice(&data, &shape);
        for flip in [false, true] {
            let weights = Weights::<f32>::new(&view, &shape, flip).unwrap();
            assert_eq!(weights.row(), 1800);
            // Taps of B: rows 10 apart, channels 100 apart.
            let taps = [vec![0], vec![0, 10], vec![0, 1, 2]];
            let (steps, period) = forward(&weights, &taps, 100, 300).unwrap();
            // As many whole channels as 256 taps hold.
            assert_eq!((steps.len(), period), (42 * 6, Step { a: 42 * 6, b: 42 * 100 }));
            for (i, step) in steps.iter().enumerate() {
                let (c, tap) = (i / 6, i % 6);
                let at = if flip { 5 - tap } else { tap };
                assert_eq!(step.a, (c * 6 + at) as isize);
                assert_eq!(step.b, (c * 100 + tap / 3 * 10 + tap % 3) as isize);
            }
        }
    }

    #[test]
    fn a_large_kernel_has_periods_of_one_channel() {
        let data = [0.0f32; 600];
        let weights =
            Weights::<f32>::new(&View::from_slice(&data, &[1, 2, 300]), &[1, 2, 300], false);
        let taps = [vec![0], (0..300).collect()];
        let (steps, period) = forward(&weights.unwrap(), &taps, 1000, 2).unwrap();
        assert_eq!((steps.len(), period), (300, Step { a: 300, b: 1000 }));
    }

    #[test]
    fn weights_of_another_format_are_copied_in_order() {
        let (shape, data) = shape();
        let swapped: Vec<u32> = data.iter().map(|v| v.to_bits().swap_bytes()).collect();
        let format = Format { scalar: Scalar::F32, swapped: true };
        // SAFETY: the slice holds the shape's elements, in the other byte order.
        let view =
            unsafe { View::new(swapped.as_ptr().cast(), format, &shape, contiguous(&shape, 4)) };
        let weights = Weights::<f64>::new(&view, &shape, false).unwrap();
        assert!(weights.memory.is_none());
        assert!(weights.copy.iter().zip(&data).all(|(&a, &b)| a == f64::from(b)));
    }
}
