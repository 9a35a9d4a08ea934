//! How a sum is divided among threads: blocks of positions, slices of these, parts of both kinds of channels.

use std::ops::Range;

use super::{SLICES, Sink};
use crate::geometry::{Axis, Geometry};
use crate::parallel::even_part;
use crate::view::Element;

/// How a sum is divided into items.
pub(super) struct Division {
    /// Parts of a group's channels and of its outputs.
    pub cuts: (usize, usize),
    /// Channels and outputs that parts have a multiple of.
    pub unit: (usize, usize),
    /// Blocks, and slices of them: of one image with gradients of their own.
    pub blocks: usize,
    pub slices: usize,
}

/// One thread's next piece of work.
pub(super) struct Item {
    pub image: usize,
    /// Where the result goes: the image, or the slice of all.
    pub target: usize,
    pub blocks: Range<usize>,
    pub group: usize,
    /// Of the group.
    pub channels: Range<usize>,
    /// Of the group.
    pub outputs: Range<usize>,
}

impl Division {
    /// Items of one slice.
    pub fn parts(&self, geometry: &Geometry) -> usize {
        geometry.groups * self.cuts.0 * self.cuts.1
    }

    pub fn item(&self, geometry: &Geometry, item: usize) -> Item {
        let (item, cut) = (item / self.cuts.0, item % self.cuts.0);
        let (item, part) = (item / self.cuts.1, item % self.cuts.1);
        let (target, group) = (item / geometry.groups, item % geometry.groups);
        let part_of = |all: usize, unit: usize, n: usize, i: usize| {
            let units = even_part(&(0..all.div_ceil(unit)), n, i);
            all.min(units.start * unit)..all.min(units.end * unit)
        };
        Item {
            image: target / self.slices,
            target,
            blocks: even_part(&(0..self.blocks), self.slices, target % self.slices),
            group,
            channels: part_of(geometry.channels, self.unit.0, self.cuts.0, cut),
            outputs: part_of(geometry.outputs, self.unit.1, self.cuts.1, part),
        }
    }
}

impl Item {
    /// Hands over sums of an output, both it and the channels as the item counts them.
    pub fn put<T: Element>(
        &self,
        geometry: &Geometry,
        output: usize,
        (channels, taps): (Range<usize>, Range<usize>),
        sums: &[T],
        sink: &Sink<'_, T>,
    ) {
        let output = self.group * geometry.outputs + self.outputs.start + output;
        let first = self.channels.start;
        let channels = first + channels.start..first + channels.end;
        // SAFETY: each item has outputs and channels of its own, and one thread takes it.
        unsafe { sink.write((self.target, output), (channels, taps), sums) };
    }
}

/// Blocks of at most so many positions on each axis, as even as can be, and the most positions that they have then.
pub(super) fn evened(one: &Geometry, lens: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let axes = one.axes.iter().zip(lens);
    let blocks: Vec<usize> = axes.map(|(axis, &len)| axis.output.div_ceil(len)).collect();
    let axes = one.axes.iter().zip(&blocks);
    let lens = axes.map(|(axis, &n)| axis.output.div_ceil(n.max(1))).collect();
    (blocks, lens)
}

/// Slices of a sum over so many blocks of `one`, whose sums take no more room than the operands.
pub(super) fn slices(
    geometry: &Geometry,
    one: &Geometry,
    blocks: usize,
    per_sample: bool,
) -> usize {
    let of = |len: fn(&Axis) -> usize| -> usize {
        let skipped = usize::from(per_sample);
        let images = if per_sample { one.axes[0].output } else { 1 };
        images * geometry.axes[skipped..].iter().map(len).product::<usize>()
    };
    let Geometry { groups, channels, outputs, .. } = *geometry;
    let operands = groups * (channels * of(|axis| axis.input) + outputs * of(|axis| axis.output));
    let elements = groups * outputs * channels * geometry.kernel_taps();
    blocks.clamp(1, SLICES.min(1 + operands / elements))
}
