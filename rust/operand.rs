//! How each operation addresses its operands: what the rows and the steps of A and B are.

use crate::slab::Layout;
use crate::tile::{CHAIN, Step};
use crate::view::{Element, Memory, View};

/// Weights as the row operand, in place where their memory can be read so.
#[derive(Debug)]
pub struct Weights<'a, T> {
    /// A copy, where the caller's array is of another format or alignment.
    copy: Vec<T>,
    memory: Option<Memory<'a, T>>,
    /// Elements between neighbours: outputs, channels, kernel axes.
    strides: Vec<isize>,
    kernel: Vec<usize>,
    flip: bool,
}

impl<'a, T: Element> Weights<'a, T> {
    /// Of a view with canonical strides `[output, channel, *kernel]`.
    pub fn new(view: &View<'a>, shape: &[usize], flip: bool) -> Self {
        let kernel = shape[2..].to_vec();
        if let Some(memory) = view.memory::<T>() {
            let strides = view.strides().iter().map(|s| s / size_of::<T>() as isize).collect();
            return Weights { copy: Vec::new(), memory: Some(memory), strides, kernel, flip };
        }
        let mut copy = vec![T::default(); shape.iter().product()];
        let (&row, outer) = shape.split_last().expect("weights have axes");
        let (&step, outer_strides) = view.strides().split_last().expect("as many strides");
        let mut index = vec![0; outer.len()];
        for to in copy.chunks_exact_mut(row.max(1)) {
            let at: isize = index.iter().zip(outer_strides).map(|(&i, &s)| i as isize * s).sum();
            view.read(at, step, to);
            for (i, &n) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        let strides = crate::view::contiguous(shape, 1);
        Weights { copy, memory: None, strides, kernel, flip }
    }

    /// The elements.
    pub fn memory(&self) -> Memory<'_, T> {
        match &self.memory {
            Some(memory) => memory.clone(),
            None => Memory::of(&self.copy),
        }
    }

    /// Elements between outputs.
    pub fn row(&self) -> isize {
        self.strides[0]
    }

    /// Most rows that a tile may have: rows whose addresses agree modulo 4 KiB share one set of the
    /// first-level cache, which holds 8 or 12 lines. A 1x1 layer of 1024 channels runs at 46 % of
    /// the peak with 14 rows and at 87 % with 8 (Zen 5, 12 ways).
    pub fn most_rows(&self) -> usize {
        let bytes = self.row().unsigned_abs() * size_of::<T>();
        if bytes > 0 && bytes.is_multiple_of(4096) { 8 } else { usize::MAX }
    }

    /// The offset of every tap of one channel, in C order of the kernel's axes.
    fn offsets(&self) -> Vec<isize> {
        let mut offsets = vec![0];
        for (&n, &stride) in self.kernel.iter().zip(&self.strides[2..]) {
            let at = |tap: usize| (if self.flip { n - 1 - tap } else { tap }) as isize * stride;
            offsets = offsets.iter().flat_map(|o| (0..n).map(move |tap| o + at(tap))).collect();
        }
        offsets
    }
}

/// The period of a forward sum, and what it adds: as many whole channels as one chain holds, and at
/// least one. It depends on the shape of the weights alone, and so do the bits of the result.
pub fn forward<T: Element>(
    weights: &Weights<'_, T>,
    taps: &[isize],
    plane: isize,
    channels: usize,
) -> (Vec<Step>, Step) {
    let offsets = weights.offsets();
    let period = (CHAIN / offsets.len()).clamp(1, channels.max(1));
    let channel = Step { a: weights.strides[1], b: plane };
    let steps = (0..period as isize)
        .flat_map(|c| {
            let taps = offsets.iter().zip(taps);
            taps.map(move |(a, b)| Step { a: c * channel.a + a, b: c * channel.b + b })
        })
        .collect();
    (steps, Step { a: period as isize * channel.a, b: period as isize * channel.b })
}

/// The offset of every tap of one channel where the input itself is read.
pub fn in_place(layout_axes: &[(usize, isize)]) -> Vec<isize> {
    layout_axes.iter().fold(vec![0], |offsets, &(kernel, step)| {
        offsets.iter().flat_map(|o| (0..kernel as isize).map(move |tap| o + tap * step)).collect()
    })
}

/// The column operand of a forward sum.
#[derive(Debug)]
pub enum Columns<'a, T> {
    /// The input where it lies: element strides `[channel, batch, *spatial]`.
    InPlace(Memory<'a, T>, Vec<isize>),
    /// Slabs of this layout.
    Staged(Layout),
}
