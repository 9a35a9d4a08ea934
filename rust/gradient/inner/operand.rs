//! Operands of products of rows, whose positions are neighbours.

use std::ops::Range;

use super::super::flat;
use super::super::stage::{Padded, Planes, positions};
use super::super::{LANES, Problem};
use super::blocks::{Block, Blocks};
use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::slab::{self, Layout};
use crate::tile::Tiled;
use crate::view::Memory;

/// An operand: where its rows come from.
pub(super) struct Operand<'a, T> {
    source: Source<'a, T>,
    /// Positions of an image on each axis.
    lens: Vec<usize>,
    /// Rows of a channel.
    taps: usize,
    /// Elements from a row to the next in a thread's memory, and those of an image in it.
    row: usize,
    image: usize,
}

enum Source<'a, T> {
    /// Images that are a row of neighbours where the caller has them: elements, of which one each so many is a row
    /// and an image. What of a block fills no vector is staged.
    InPlace(Planes<'a, T>, (Memory<'a, T>, isize, isize)),
    /// Others with an element at each position.
    Planes(Planes<'a, T>),
    /// Those that taps see: a plane of the slab is read as many times.
    Taps { problem: &'a Problem<'a, T>, layout: Layout, offsets: Vec<isize> },
}

/// What of an operand a thread has staged.
#[derive(Default)]
pub(super) struct Staged {
    /// Channels, and the image and the number of the block.
    of: Option<(Range<usize>, usize, usize)>,
}

/// Rows of an operand in a block: where the first is, and how far apart rows and images are.
pub(super) struct Rows<'a, T> {
    pub memory: Memory<'a, T>,
    pub first: isize,
    pub row: isize,
    pub image: isize,
}

/// Elements of a thread's memory for so many channels of an operand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub rows: usize,
    pub slab: usize,
}

impl<'a, T: Tiled> Operand<'a, T> {
    /// The gradient, an element of which belongs to each position. Where many `neighbours` are rows of a tile, they
    /// are not read in place if they share a set of the first-level cache.
    pub fn of_gradient(problem: &Problem<'a, T>, blocks: &Blocks, neighbours: bool) -> Self {
        let planes = Planes::of_gradient(problem.gradient);
        if neighbours && planes.as_rows().is_none() {
            return Operand::new((problem.geometry, Source::Planes(planes)), 1, blocks);
        }
        Operand::of_planes(problem.geometry, planes, blocks)
    }

    /// The input as taps see it.
    pub fn of_input(problem: &'a Problem<'a, T>, blocks: &Blocks) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let plain = Planes::of_input(geometry, problem.x).filter(|_| super::is_plain(geometry));
        if let Some(planes) = plain {
            return Ok(Operand::of_planes(geometry, planes, blocks));
        }
        let (most, together) = blocks.most();
        let lens: Vec<usize> = [together].into_iter().chain(most).collect();
        let layout = Layout::new(geometry, &lens, size_of::<T>())?;
        let offsets = flat(&layout.offsets()?, geometry)?;
        let taps = geometry.kernel_taps();
        let source = Source::Taps { problem, layout, offsets };
        Ok(Operand::new((geometry, source), taps, blocks))
    }

    fn of_planes(geometry: &Geometry, planes: Planes<'a, T>, blocks: &Blocks) -> Self {
        let source = match planes.in_rows(&lens(geometry)) {
            Some(rows) => Source::InPlace(planes, rows),
            None => Source::Planes(planes),
        };
        Operand::new((geometry, source), 1, blocks)
    }

    fn new((geometry, source): (&Geometry, Source<'a, T>), taps: usize, blocks: &Blocks) -> Self {
        let (most, together) = blocks.most();
        let vectors = match source {
            Source::InPlace(..) => usize::from(blocks.kinds().0),
            _ => most.iter().product::<usize>().div_ceil(LANES),
        };
        // Rows spread over the sets of a cache.
        let row = ((vectors * together) | 1) * LANES;
        Operand { source, lens: lens(geometry), taps, row, image: vectors * LANES }
    }

    pub fn in_place(&self) -> bool {
        matches!(self.source, Source::InPlace(..))
    }

    /// What a thread needs for so many channels.
    pub fn need(&self, channels: usize) -> Need {
        let slab = match &self.source {
            Source::Taps { layout, .. } => layout.size(1, LANES).next_multiple_of(LANES),
            _ => 0,
        };
        Need { rows: channels * self.taps * self.row, slab }
    }

    /// Stages what channels have in a block, unless it is there already, and tells whether it was not; `image` is
    /// the array's image that is the blocks' first.
    pub fn stage(
        &self,
        (channels, image): (Range<usize>, usize),
        (number, block): (usize, &Block),
        (rows, slab): (&mut [T], &mut [T]),
        staged: &mut Staged,
    ) -> bool {
        let wanted = Some((channels.clone(), image, number));
        if staged.of == wanted {
            return false;
        }
        staged.of = wanted;
        let first_image = image + block.images.start;
        let (planes, skipped) = match &self.source {
            Source::Taps { problem, layout, offsets } => {
                self.see((problem, layout, offsets), (channels, first_image), block, (rows, slab));
                return true;
            }
            Source::InPlace(planes, _) => (planes, block.vectors() * LANES),
            Source::Planes(planes) => (planes, 0),
        };
        let len = block.positions - skipped;
        if len > 0 {
            for (channel, row) in channels.zip(rows.chunks_exact_mut(self.row)) {
                let images = row.chunks_exact_mut(self.image).take(block.images.len());
                for (image, to) in images.enumerate() {
                    let from = (channel, first_image + image);
                    planes.read(from, (&self.lens, block.first + skipped), &mut to[..len]);
                    to[len..len.next_multiple_of(LANES)].fill(T::default());
                }
            }
        }
        true
    }

    /// Stages what each tap sees of channels, at these offsets in a plane of the slab.
    fn see(
        &self,
        (problem, layout, offsets): (&Problem<'_, T>, &Layout, &[isize]),
        (channels, image): (Range<usize>, usize),
        block: &Block,
        (rows, slab): (&mut [T], &mut [T]),
    ) {
        let x = problem.x.part(image as isize * problem.x.strides()[1]);
        let images = std::iter::once(0..block.images.len());
        let ranges = images.chain(block.ranges.iter().cloned()).collect();
        let runs = layout.runs(&slab::Block(ranges), &x.strides()[1..]);
        let mut runs = Padded::new(runs);
        let pitches = layout.pitches();
        let lens: Vec<usize> = block.ranges.iter().map(|range| range.len()).collect();
        let (&width, outer) = lens.split_last().expect("an image has axes");
        let of_rows: Vec<isize> = positions(outer, &pitches[1..]).collect();
        for (channel, rows) in channels.zip(rows.chunks_exact_mut(self.taps * self.row)) {
            layout.stage((runs.of(1), channel..channel + 1), &x, problem.padding, slab);
            for (&tap, row) in offsets.iter().zip(rows.chunks_exact_mut(self.row)) {
                for (i, to) in row.chunks_exact_mut(self.image).take(block.images.len()).enumerate()
                {
                    let from = &slab[(tap + i as isize * pitches[0]) as usize..];
                    let (to, behind) = to.split_at_mut(block.positions);
                    for (to, &at) in to.chunks_exact_mut(width).zip(&of_rows) {
                        to.copy_from_slice(&from[at as usize..][..width]);
                    }
                    let left = block.positions.next_multiple_of(LANES) - block.positions;
                    behind[..left].fill(T::default());
                }
            }
        }
    }

    /// The whole vectors of some channels' rows in a block, from `image` on as for [`stage`](Self::stage).
    pub fn whole<'b>(
        &'b self,
        (channels, image): (&Range<usize>, usize),
        block: &Block,
        staged: &'b [T],
    ) -> Rows<'b, T> {
        let Source::InPlace(planes, (memory, row, of_image)) = &self.source else {
            return self.rows(staged, 0);
        };
        let image = (image + block.images.start) as isize;
        let first = planes.first() + channels.start as isize * row + image * of_image;
        let first = first + block.first as isize;
        Rows { memory: memory.clone(), first, row: *row, image: *of_image }
    }

    /// The vectors of what is left.
    pub fn left<'b>(&'b self, block: &Block, staged: &'b [T]) -> Rows<'b, T> {
        self.rows(staged, if self.in_place() { 0 } else { block.vectors() * LANES })
    }

    fn rows<'b>(&self, staged: &'b [T], first: usize) -> Rows<'b, T> {
        let [first, row, image] = [first, self.row, self.image].map(|n| n as isize);
        Rows { memory: Memory::of(staged), first, row, image }
    }
}

/// Positions of an image on each axis.
fn lens(geometry: &Geometry) -> Vec<usize> {
    let axes: &[Axis] = &geometry.axes[1..];
    axes.iter().map(|axis| axis.output).collect()
}
