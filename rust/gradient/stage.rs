//! What a thread has of a block: operands as tiles read them, and the sum over its positions.

use std::ops::Range;

use super::{CHAIN, Item, LANES, PACKED, Plan, Problem};
use crate::contract::nth_block;
use crate::error::{Error, room};
use crate::geometry::Geometry;
use crate::slab::Block;
use crate::tile::{ALL_ROWS, Kernels, Segment, Step, Sum, Tiled};
use crate::view::{Memory, Run, Runs, View, advance, contiguous};

/// Planes of the gradient, and what is around the positions of a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Surrounded {
    /// How far apart positions of each axis lie.
    pub pitches: Vec<isize>,
    /// Where the first one lies.
    pub first: usize,
    /// Elements between planes: an odd number of [`LANES`], so that they spread over the sets of a cache.
    pub plane: usize,
}

impl Surrounded {
    /// Of so many elements on each axis, and `first` before those.
    pub fn new(extents: &[usize], first: usize) -> Self {
        let len = first + extents.iter().product::<usize>();
        let plane = (len.div_ceil(LANES) | 1) * LANES;
        Surrounded { pitches: contiguous(extents, 1), first, plane }
    }
}

/// Channels of an operand where the caller has them, an element at each position of the output.
#[derive(Debug)]
pub(super) struct Planes<'a, T> {
    view: &'a View<'a>,
    /// The elements, where they can be read in place.
    memory: Option<Memory<'a, T>>,
    /// The byte offset of the first channel at the first position.
    start: isize,
    /// Bytes between channels, and between positions on each axis.
    strides: Vec<isize>,
}

impl<'a, T: Tiled> Planes<'a, T> {
    /// Of the gradient of the output.
    pub fn of_gradient(view: &'a View<'a>) -> Self {
        Planes { view, memory: view.memory(), start: 0, strides: view.strides().to_vec() }
    }

    /// Of the input, if each position takes one element of it: with one tap, and no padding around.
    pub fn of_input(geometry: &Geometry, view: &'a View<'a>) -> Option<Self> {
        let mut planes = Planes::of_gradient(view);
        for (axis, stride) in geometry.axes.iter().zip(&mut planes.strides[1..]) {
            if axis.kernel > 1 || axis.pads() {
                return None;
            }
            planes.start -= axis.before * *stride;
            *stride *= axis.stride as isize;
        }
        Some(planes)
    }

    /// Where a channel has a block's first position, in bytes.
    fn at(&self, channel: usize, block: &Block) -> isize {
        self.start + channel as isize * self.strides[0] + block.start(&self.strides[1..])
    }

    /// The elements, if the channels may be rows of a tile where they lie: rows a multiple of 4 KiB
    /// apart would share one set of the first-level cache.
    pub fn as_rows(&self) -> Option<&Memory<'a, T>> {
        self.memory.as_ref().filter(|_| self.strides[0] % 4096 != 0)
    }

    /// The elements of images that are one row of neighbours each, and how many elements lie between channels and
    /// between images; `lens` are the positions on each axis.
    pub fn in_rows(&self, lens: &[usize]) -> Option<(Memory<'a, T>, isize, isize)> {
        let size = size_of::<T>() as isize;
        let rows = lens.iter().zip(&self.strides[2..]).zip(contiguous(lens, size_of::<T>()));
        let neighbours = rows.into_iter().all(|((&len, &stride), step)| len == 1 || stride == step);
        let memory = self.memory.clone().filter(|_| neighbours)?;
        Some((memory, self.strides[0] / size, self.strides[1] / size))
    }

    /// The element of the first channel and image at the first position, of elements in place.
    pub fn first(&self) -> isize {
        self.start / size_of::<T>() as isize
    }

    /// Reads positions of a channel of an image, from number `first` in C order on; `lens` are those on each axis.
    pub fn read(
        &self,
        (channel, image): (usize, usize),
        (lens, first): (&[usize], usize),
        to: &mut [T],
    ) {
        let start = self.start + channel as isize * self.strides[0];
        let start = start + image as isize * self.strides[1];
        self.view.read_part(start, (lens, &self.strides[2..]), first, to);
    }

    /// Copies channels of a block to `[position][channel]`, `width` of these a position.
    pub(super) fn pack(
        &self,
        kernels: &Kernels<T>,
        (channels, block): (Range<usize>, &Block),
        (panel, width): (&mut [T], usize),
        aside: &mut [T],
    ) {
        let size = size_of::<T>() as isize;
        let (channel, step) = (self.strides[0], self.strides[self.strides.len() - 1]);
        let (start, channels) = (self.at(channels.start, block), channels.len());
        // Axes without gaps between their rows are one row.
        let mut lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
        let mut inner = lens.pop().expect("a geometry has axes");
        while let Some(&len) = lens.last()
            && self.strides[lens.len()] == inner as isize * step
        {
            inner *= len;
            lens.pop();
        }
        let in_place = self.memory.as_ref().filter(|_| step == size);
        let mut index = vec![0; lens.len()];
        let mut to = 0;
        for _ in 0..lens.iter().product() {
            let row = index.iter().zip(&self.strides[1..]).map(|(&i, &s)| i as isize * s);
            let start = start + row.sum::<isize>();
            advance(&mut index, &lens);
            for first in (0..inner).step_by(PACKED) {
                let len = PACKED.min(inner - first);
                let from = start + first as isize * step;
                let panel = &mut panel[to * width..];
                if let Some(memory) = in_place {
                    let from = (memory, from / size, channel / size);
                    kernels.transposed(from, (channels, len), (panel, width));
                } else if channel.unsigned_abs() < step.unsigned_abs() {
                    // The channels are neighbours: as they are wanted.
                    for (i, panel) in panel.chunks_mut(width).take(len).enumerate() {
                        let from = from + i as isize * step;
                        self.view.read(from, channel, &mut panel[..channels]);
                    }
                } else {
                    for (c, aside) in aside.chunks_exact_mut(PACKED).take(channels).enumerate() {
                        self.view.read(from + c as isize * channel, step, &mut aside[..len]);
                    }
                    turned((aside, PACKED), (channels, len), (panel, width), kernels);
                }
                to += len;
            }
        }
    }
}

impl<T: Tiled> Plan<'_, T> {
    /// Stages what an item needs of a block, unless it is there already.
    pub(super) fn stage(
        &self,
        item: &Item,
        number: usize,
        (room, staged): (&mut Room<'_, T>, &mut Staged),
    ) -> Result<(), Error> {
        let Problem { geometry, x, gradient, padding, .. } = self.problem;
        if staged.block_of != Some((item.image, number)) {
            self.stage_block((item.image, number), room, staged)?;
        }
        // Images further than the first: their planes are read alike.
        let image = staged.image as isize;
        let input = (item.group, item.channels.clone());
        if staged.input.as_ref() != Some(&input) {
            let first = item.group * geometry.channels;
            let channels = first + item.channels.start..first + item.channels.end;
            if let Some(planes) = &self.turned {
                self.pack(planes, (channels, &staged.block), room.turned, room.results);
            } else {
                let runs = || Padded::new(self.layout.runs(&staged.of_first, &x.strides()[1..]));
                let runs = staged.of_input.get_or_insert_with(runs).of(channels.len());
                let x = x.part(image * x.strides()[1]);
                self.layout.stage((runs, channels), &x, *padding, room.slab);
                if self.swapped {
                    let (plane, width) = (self.layout.plane(), self.width());
                    for first in (0..item.channels.len()).step_by(width) {
                        let (from, to) =
                            (&room.slab[first * plane..], &mut room.turned[first * plane..]);
                        let rows = width.min(item.channels.len() - first);
                        turned((from, plane), (rows, plane), (to, width), self.kernels);
                    }
                }
            }
            staged.input = Some(input);
        }
        let output = (item.group, item.outputs.clone());
        if staged.gradient.as_ref() != Some(&output) {
            let first = item.group * geometry.outputs;
            let outputs = first + item.outputs.start..first + item.outputs.end;
            if self.dots.is_none() && !self.swapped {
                self.pack(&self.gradient, (outputs, &staged.block), room.gradient, room.results);
            } else if self.rows_in_place().is_none() {
                let in_order;
                let planes = match &self.dots {
                    Some(dots) => &dots.planes,
                    None => {
                        in_order = Surrounded::new(&staged.lens, 0);
                        &in_order
                    }
                };
                let strides = gradient.strides();
                let runs = || rows(&staged.of_first, &planes.pitches, &strides[1..]);
                let runs = &*staged.of_gradient.get_or_insert_with(runs);
                for (plane, output) in room.gradient.chunks_mut(planes.plane).zip(outputs) {
                    let start = output as isize * strides[0] + image * strides[1];
                    gradient.read_runs(start, runs, T::default(), &mut plane[planes.first..]);
                }
            }
            staged.gradient = Some(output);
        }
        Ok(())
    }

    /// What is the same for all channels of a block.
    fn stage_block(
        &self,
        (image, number): (usize, usize),
        room: &mut Room<'_, T>,
        staged: &mut Staged,
    ) -> Result<(), Error> {
        let (_, mut block) = nth_block(&self.one, &self.blocks, number);
        if self.problem.per_sample {
            block.0[0] = image..image + 1;
        }
        let lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
        if staged.block_of.is_none() && self.dots.is_some() {
            // Memory that was used before might hold what is not a number.
            room.slab.fill(T::default());
        }
        if staged.lens != lens {
            staged.sums = match &self.dots {
                None => vec![self.sum(&lens)?],
                Some(dots) => {
                    // Around a block of another size are other zeros.
                    room.gradient.fill(T::default());
                    dots.sums(&lens, &self.layout.pitches())?
                }
            };
            staged.lens = lens;
        }
        staged.image = block.0[0].start;
        let mut of_first = block.clone();
        of_first.0[0] = 0..block.0[0].len();
        if staged.of_first != of_first {
            staged.of_first = of_first;
            staged.of_input = None;
            staged.of_gradient = None;
        }
        staged.block = block;
        staged.block_of = Some((image, number));
        staged.input = None;
        staged.gradient = None;
        Ok(())
    }

    /// Copies channels of a block to panels of `[position][channel]`, as many a panel as a tile has
    /// columns.
    fn pack(
        &self,
        planes: &Planes<'_, T>,
        (channels, block): (Range<usize>, &Block),
        panels: &mut [T],
        aside: &mut [T],
    ) {
        let width = self.width();
        let panel = width * block.0.iter().map(|range| range.len()).product::<usize>();
        for (i, first) in channels.clone().step_by(width).enumerate() {
            let channels = first..channels.end.min(first + width);
            let to = (&mut panels[i * panel..], width);
            planes.pack(self.kernels, (channels, block), to, aside);
        }
    }

    /// The gradient, if its channels are rows of a tile where they lie.
    pub(super) fn rows_in_place(&self) -> Option<&Memory<'_, T>> {
        self.gradient.as_rows().filter(|_| self.swapped)
    }

    /// Where the first row of an item's outputs is, where they are rows.
    pub(super) fn first_row(&self, staged: &Staged) -> isize {
        let Some((group, outputs)) = &staged.gradient else { return 0 };
        let output = group * self.problem.geometry.outputs + outputs.start;
        self.rows_in_place()
            .map_or(0, |_| self.gradient.at(output, &staged.block) / size_of::<T>() as isize)
    }

    /// Elements of B between the beginnings of panels, a column.
    pub(super) fn panel(&self, steps: usize) -> usize {
        if self.swapped && self.turned.is_none() { self.layout.plane() } else { steps }
    }

    /// Elements of a tile's columns.
    pub(super) fn width(&self) -> usize {
        self.shape.columns * self.kernels.lanes
    }

    /// The sum over a block's positions with [`Form::Outer`](super::Form::Outer).
    pub(super) fn sum(&self, lens: &[usize]) -> Result<Sum, Error> {
        let pitches = self.layout.pitches();
        let mut steps = room("the table of positions", lens.iter().product())?;
        let width = self.width() as isize;
        let in_slab = positions(lens, &pitches).zip(0..);
        let size = size_of::<T>() as isize;
        if !self.swapped {
            steps.extend(in_slab.map(|(at, p)| Step { a: at, b: p * width }));
            return Ok(whole(steps, self.layout.plane() as isize));
        }
        let strides = match self.rows_in_place() {
            Some(_) => self.gradient.strides.iter().map(|stride| stride / size).collect(),
            None => {
                let Surrounded { plane, pitches, .. } = Surrounded::new(lens, 0);
                [plane as isize].into_iter().chain(pitches).collect::<Vec<_>>()
            }
        };
        let column = |(at, p)| if self.turned.is_some() { p } else { at };
        let columns = in_slab.map(column);
        let each = positions(lens, &strides[1..]).zip(columns);
        steps.extend(each.map(|(a, b)| Step { a, b: b * width }));
        Ok(whole(steps, strides[0]))
    }
}

/// The sum over all steps, of rows so far apart.
pub(super) fn whole(steps: Vec<Step>, row: isize) -> Sum {
    let mut sum = Sum::new(row, None, (1, Step::default()));
    let count = steps.len();
    sum.steps = steps;
    for start in (0..count).step_by(CHAIN) {
        let steps = start..count.min(start + CHAIN);
        sum.segments.push(Segment { steps, rows: ALL_ROWS });
        sum.push(sum.segments.len() - 1);
    }
    sum
}

/// Offsets of a block's positions in a plane, in C order.
pub(super) fn positions<'a>(
    lens: &'a [usize],
    pitches: &'a [isize],
) -> impl Iterator<Item = isize> + 'a {
    let mut index = vec![0; lens.len()];
    (0..lens.iter().product()).map(move |_| {
        let at = index.iter().zip(pitches).map(|(&i, &p)| i as isize * p).sum();
        advance(&mut index, lens);
        at
    })
}

/// Where a block's rows lie in a plane of these pitches, and where they come from.
pub(super) fn rows(block: &Block, pitches: &[isize], strides: &[isize]) -> Runs {
    let (inner, outer) = block.0.split_last().expect("a geometry has axes");
    let lens: Vec<usize> = outer.iter().map(|range| range.len()).collect();
    let step = strides[outer.len()];
    let mut index = vec![0; outer.len()];
    let runs = (0..lens.iter().product()).map(|_| {
        let to: isize = index.iter().zip(pitches).map(|(&i, &p)| i as isize * p).sum();
        let from: isize = index.iter().zip(strides).map(|(&i, &s)| i as isize * s).sum();
        advance(&mut index, &lens);
        let from = Some((block.start(strides) + from, step));
        Run { to: to as usize, len: inner.len(), from }
    });
    Runs::new(runs.collect())
}

/// Transposes a matrix: element (i, j) of `from` goes to element i of row j of `to`.
pub(super) fn turned<T: Tiled>(
    (from, pitch): (&[T], usize),
    size: (usize, usize),
    to: (&mut [T], usize),
    kernels: &Kernels<T>,
) {
    kernels.transposed((&Memory::of(from), 0, pitch as isize), size, to);
}

/// A thread's memory.
pub(super) struct Room<'a, T> {
    pub slab: &'a mut [T],
    pub gradient: &'a mut [T],
    /// The slab as `[position][channel]`, a panel of columns after the other.
    pub turned: &'a mut [T],
    /// Sums between blocks, a tile after the other.
    pub sums: &'a mut [T],
    /// Finished sums, and what is turned on the way.
    pub results: &'a mut [T],
}

/// What a thread has staged.
#[derive(Default)]
pub(super) struct Staged {
    pub lens: Vec<usize>,
    /// The sum over positions; with [`Form::Dot`](super::Form::Dot) that of each kind of tile.
    pub sums: Vec<Sum>,
    /// Which image or all, and which block; where it is.
    block_of: Option<(usize, usize)>,
    block: Block,
    /// Its first image, and the block as it is from there on.
    image: usize,
    of_first: Block,
    /// How planes of the block are read.
    of_input: Option<Padded>,
    of_gradient: Option<Runs>,
    /// Group and channels whose input is staged, and group and outputs whose gradient is.
    input: Option<(usize, Range<usize>)>,
    gradient: Option<(usize, Range<usize>)>,
}

/// The runs of a plane of the slab, which leave padding out where it is in its place.
pub(super) struct Padded {
    all: Runs,
    inside: Runs,
    /// How many planes have it.
    planes: usize,
}

impl Padded {
    pub fn new(all: Runs) -> Self {
        let mut inside = all.clone();
        inside.drop_padding();
        Padded { all, inside, planes: 0 }
    }

    /// For the first planes of the slab.
    pub fn of(&mut self, planes: usize) -> &Runs {
        if planes <= self.planes {
            return &self.inside;
        }
        self.planes = planes;
        &self.all
    }
}
