//! The loop nest of a direct convolution: blocks of positions, groups of output channels, tiles; and
//! their split among threads.
//!
//! Whatever is chosen here (which operand's elements are a tile's rows, blocks, tiles, threads, in
//! place or staged) moves work around without changing any sum, so results do not depend on it: see
//! [`CHAIN`].

mod channels;
mod cost;
mod input;
mod roles;
mod split;
mod windows;

use crate::cover::{Cover, Positions, Span};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::with_scratch;
use crate::offer::Description;
use crate::operand::{self, Forward};
use crate::packed::{Packed, Vectors};
use crate::parallel::{Stopped, Team, Turn, even_parts};
use crate::prepared::Slot;
use crate::problem::Problem;
use crate::slab::Block;
use crate::store::Target;
use crate::tile::{
    Bias, CHAIN, Contraction, Ending, Finish, Kernels, MAX_COLUMNS, MOST_RAMP_ROWS, Next, STRIP,
    Strip, Sum, TileShape, Tiled,
};
use crate::view::{Runs, advance};

use channels::Channels;
pub use cost::{offer, part};
use input::Input;
use roles::Roles;
use split::Split;
pub(crate) use split::{Cuts, block_lens, nth_block, wanted_items};
use windows::Windows;

/// Work below which a call stays on its caller's thread, in floating-point operations: about 50 us,
/// the time in which a sleeping helper would just have begun.
pub(crate) const SERIAL_FLOPS: f64 = 5e6;

/// Vectors of a strip so few that what streams is the weights: 3x3 on 512 channels of 7 x 7 from 61 to 65 %
/// of the peak (Sapphire Rapids).
const FEW_VECTORS: usize = 8;

/// A tile of an input that is read where it lies, with one tap, asks for the channel so many behind that of a
/// step: with 16 it is the same, with 4 and 32 it gains less (Sapphire Rapids).
const ASKED_CHANNELS: isize = 8;

/// Where the input has at least so many channels, and so many a channel of the result, it is what is waited for:
/// 280 to 12 channels of 18 x 2597 from 11.5 to 4.4 ms, to 40 from 20 to 12.5, 256 to 24 of 56 x 56 from 0.45 to 0.31,
/// 110 to 13 of 182 x 115 from 1.08 to 1.00. Tiles that ask have [`MOST_RAMP_ROWS`] rows at most, so that 200 to 50 of
/// 4000 go from 0.81 to 1.00, 16 to 60 of 112 x 112 from 0.22 to 0.32 (Sapphire Rapids, one thread, in turns).
const ASKING: (usize, usize) = (64, 5);

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
    if let Some(channels) = Channels::new(problem, kernels, team.threads) {
        return team.share(channels.items(), |turn| channels.work(turn));
    }
    if let Some(windows) = Windows::new(problem, kernels, team.threads)? {
        return team.share(windows.items(), |turn| windows.work(turn));
    }
    let roles = Roles::choose(problem, kernels);
    let vectors = match roles {
        Roles::Positions if roles::in_place(problem, kernels) => {
            Some(Vectors::in_place(problem.weights, geometry, kernels.lanes)?)
        }
        Roles::Positions => {
            let kernel: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
            let make = || Packed::new(problem.weights, geometry, kernels, &team);
            Some(problem.prepared.once(Slot::Packed, make)?.vectors(&kernel))
        }
        _ => None,
    };
    let frame = Frame::new(problem, roles, kernels, team.threads)?;
    let nest = Nest::new(problem, (roles, vectors), kernels, frame)?;
    team.share(nest.items(), |turn| nest.work(turn))
}

/// Most roundings that a term of a result takes part in, one with the bias among them.
pub fn roundings(geometry: &Geometry) -> usize {
    let kernel: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
    operand::roundings(&kernel, geometry.channels, CHAIN)
}

/// How a convolution would be computed directly.
pub fn describe<T: Tiled>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Description, Error> {
    let geometry = problem.geometry;
    let description = Description {
        flops: geometry.flops(),
        roundings: Some(roundings(geometry)),
        ..Description::default()
    };
    if geometry.positions() * geometry.outputs == 0 {
        return Ok(description);
    }
    let threads = if geometry.flops() < SERIAL_FLOPS { 1 } else { threads };
    if let Some(channels) = Channels::new(problem, kernels, threads) {
        let Description { flops, roundings, .. } = description;
        return Ok(Description { flops, roundings, ..channels.describe(threads) });
    }
    if let Some(windows) = Windows::new(problem, kernels, threads)? {
        let Description { flops, roundings, .. } = description;
        return Ok(Description { flops, roundings, ..windows.describe(threads) });
    }
    let roles = Roles::choose(problem, kernels);
    let frame = Frame::new(problem, roles, kernels, threads)?;
    let (mut block, in_place) = (frame.split.lens(&frame.geometry), frame.input.is_in_place());
    let slab = frame.input.slab(geometry.channels, kernels.lanes);
    let mut elements = slab.saturating_add(kernels.most_totals()).saturating_mul(threads);
    let shape = if roles == Roles::Positions {
        let panels = geometry.outputs.div_ceil(kernels.lanes);
        let taps = geometry.channels * geometry.kernel_taps();
        if !roles::in_place(problem, kernels) {
            elements += geometry.groups * panels * taps * kernels.lanes;
        }
        frame.panel_shape(panels, kernels)
    } else {
        let (_, first) = frame.split.block(&frame.geometry, 0);
        let nest = Nest::new(problem, (roles, None), kernels, frame)?;
        nest.place(first, Place::default()).shape
    };
    if let Roles::Neighbours(ramp) = roles {
        block[ramp.axis] = geometry.axes[ramp.axis].output.min(block[ramp.axis] * ramp.rows);
    }
    Ok(Description {
        workspace: elements * size_of::<T>(),
        tile: Some((shape.rows, shape.columns * kernels.lanes)),
        roles: Some(roles.names()),
        block,
        in_place,
        ..description
    })
}

/// What all threads share.
struct Nest<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    roles: Roles,
    /// The problem's, but along the axis of a ramp, where a position stands for a whole tile's rows.
    geometry: Geometry,
    input: Input<'a, T>,
    sum: Sum,
    /// Bytes between neighbouring positions of the result.
    strides: Vec<isize>,
    split: Split,
    panels: Option<Panels<'a, T>>,
}

/// What vectors of output channels need.
struct Panels<'a, T> {
    /// The operand they are read from.
    vectors: Vectors<'a, T>,
    /// The bias as they have it.
    bias: Vec<T>,
    shape: TileShape,
    /// The vectors of each cut of a group's.
    cuts: Vec<Columns>,
}

/// Vectors of columns, and strips of tiles of them.
#[derive(Debug, Default)]
struct Columns {
    cover: Cover,
    spans: Vec<Span>,
}

/// A block of positions, and what is the same for it in every group of channels.
#[derive(Debug, Default)]
struct Place {
    block: Block,
    /// How a plane of its slab is filled.
    runs: Runs,
    extent: Extent,
    /// Vectors over its positions, and their tiles; or its positions as rows.
    columns: Columns,
    shape: TileShape,
    groups: Vec<Group>,
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

/// Rows of a tile.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The first one's start in A, in elements, from that of the block.
    a: isize,
    rows: usize,
    /// Where its results are, in bytes, from the block's first.
    to: isize,
    /// Its output channel, where rows are of channels.
    channel: usize,
}

/// What one item contracts.
struct Work<'a, T> {
    contraction: Contraction<'a, T>,
    /// What is added to the starts of rows in A and of columns in B.
    start: (isize, isize),
    groups: &'a [Group],
    columns: &'a Columns,
    /// Byte offset of the block's first result, and bytes between rows and between lanes.
    to: isize,
    row: isize,
    step: isize,
    /// The first vector's bias, where vectors are of output channels.
    bias: &'a [T],
}

/// How the work is cut, and where the input is.
struct Frame<'a, T> {
    /// With a position for each whole tile along a ramp.
    geometry: Geometry,
    input: Input<'a, T>,
    split: Split,
}

impl<'a, T: Tiled> Frame<'a, T> {
    fn new(
        problem: &Problem<'a, T>,
        roles: Roles,
        kernels: &Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = roles.geometry(problem.geometry);
        let in_place = input::in_place::<T>(&geometry, roles, problem.x, kernels.lanes);
        let packs = roles == Roles::Positions;
        let cuts = geometry.outputs.div_ceil(if packs { kernels.lanes } else { 8 });
        // In place, vectors of positions lie within an image: the batch has strides of its own, which
        // need not go up.
        let lone_images = in_place.is_some() && !packs;
        let sizes = (size_of::<T>(), kernels.lanes);
        let split = Split::new(&geometry, sizes, (threads, cuts), (lone_images, packs));
        let input = Input::new(&geometry, roles, in_place, &split)?;
        Ok(Frame { geometry, input, split })
    }

    /// The tiles of rows of positions for a group of so many panels of weights.
    fn panel_shape(&self, panels: usize, kernels: &Kernels<T>) -> TileShape {
        let lens = self.split.lens(&self.geometry);
        let units = self.split.units(panels, 0).len();
        kernels.choose(lens[lens.len() - 1], &[units], (usize::MAX, true)).0
    }
}

impl<'a, T: Tiled> Nest<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        (roles, vectors): (Roles, Option<Vectors<'a, T>>),
        kernels: &'a Kernels<T>,
        frame: Frame<'a, T>,
    ) -> Result<Self, Error> {
        let panel_shape = |vectors: &Vectors<'_, T>| frame.panel_shape(vectors.panels, kernels);
        let panel_shape = vectors.as_ref().map(panel_shape);
        let Frame { geometry, input, split } = frame;
        let out = problem.store.out.strides();
        let mut strides = out[1..].to_vec();
        if let Roles::Neighbours(ramp) = roles {
            strides[ramp.axis] *= ramp.rows as isize;
        }
        let kernel: Vec<usize> = problem.geometry.axes.iter().map(|axis| axis.kernel).collect();
        let weights;
        let (a, a_row, b) = match &vectors {
            Some(vectors) => (&input.taps, input.pitches[kernel.len() - 1], &vectors.taps),
            None => {
                weights = problem.weights.taps()?;
                (&weights, problem.weights.row(), &input.taps)
            }
        };
        let ramp = roles.ramp();
        let forward = Forward {
            channels: geometry.channels,
            kernel: &kernel,
            a,
            a_row,
            b,
            ramp,
            chain: CHAIN,
        };
        let sum = forward.sum()?;
        let panels = vectors.zip(panel_shape).map(|(vectors, shape)| {
            let cuts = (0..split.cuts).map(|cut| {
                let panels = split.units(vectors.panels, cut);
                let direct = problem.store.is_direct() && out[0] == size_of::<T>() as isize;
                let cover = vectors.cover(panels, (out[0], direct));
                // Strips of one tile: its part of B stays in the first-level cache for all rows.
                Columns { spans: cover.strips(shape.columns, 1), cover }
            });
            let cuts = cuts.collect();
            Panels { bias: vectors.bias(problem.store.bias), vectors, shape, cuts }
        });
        Ok(Nest { problem, kernels, roles, geometry, input, sum, strides, split, panels })
    }

    fn items(&self) -> usize {
        self.geometry.groups * self.split.blocks.iter().product::<usize>() * self.split.cuts
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let slab = self.input.slab(self.geometry.channels, self.kernels.lanes);
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
                    let channels = self.geometry.channels;
                    let channels = group * channels..(group + 1) * channels;
                    let x = (self.problem.x, self.problem.padding);
                    self.input.stage(&place.runs, channels, x, slab);
                    staged = Some(part);
                }
                self.item(turn, (group, cut), &mut place, (slab, totals));
            }
        })
    }

    /// What a block needs; most of it is the last one's where both are alike.
    fn place(&self, block: Block, last: Place) -> Place {
        let runs = self.input.runs(&block, &self.problem.x.strides()[1..]);
        let lens = block.0.iter().map(|range| range.len()).collect();
        let short = self.roles.ramp().and_then(|ramp| {
            let left = self.problem.geometry.axes[ramp.axis].output % ramp.rows;
            let last = block.0[ramp.axis].end == self.geometry.axes[ramp.axis].output;
            (last && left > 0).then_some((ramp.axis, left))
        });
        let extent = Extent { lens, end: self.input.end(&self.geometry, &block), short };
        if extent == last.extent {
            return Place { block, runs, ..last };
        }
        if let Some(Panels { shape, .. }) = self.panels {
            let groups = self.position_groups(&extent.lens, shape.rows);
            return Place { block, runs, extent, groups, ..Place::default() };
        }
        let mut positions = Positions {
            lens: &extent.lens,
            pitches: &self.input.pitches,
            strides: &self.strides,
            short,
            end: extent.end,
            direct: self.problem.store.is_direct(),
            apart: false,
        };
        let (lanes, size) = (self.kernels.lanes, size_of::<T>());
        let taps = self.geometry.channels * self.geometry.kernel_taps();
        let mut cover = Cover::new(&positions, lanes, size);
        if cover.is_better_apart(&positions, (lanes, size), taps) {
            positions.apart = true;
            cover = Cover::new(&positions, lanes, size);
        }
        let shape = self.shape(&mut cover);
        let columns = Columns { spans: cover.strips(shape.columns, STRIP), cover };
        Place { block, runs, extent, columns, shape, groups: Vec::new() }
    }

    /// The tiles for vectors of positions. Whole ones that are better in tiles with the cut ones are made
    /// such: 3 and 1 of 7 x 7 positions are two tiles of 2, not one of 2 and two of 1.
    fn shape(&self, cover: &mut Cover) -> TileShape {
        let (whole, cut) = (cover.whole.len(), cover.cut.len());
        if let Roles::Neighbours(ramp) = self.roles {
            let kernel = self.problem.geometry.axes[ramp.axis].kernel;
            return roles::ramp_shape(&self.kernels.registers(), &ramp, kernel, &[whole, cut]).0;
        }
        let channels = self.split.units(self.geometry.outputs, 0).len();
        let most = if cut > 0 { whole.min(MAX_COLUMNS - 1) } else { 0 };
        let choices = (0..=most).map(|leftover| [whole - leftover, cut + leftover]);
        let most = self.problem.weights.most_rows();
        let most = if self.later().is_some() { most.min(MOST_RAMP_ROWS) } else { most };
        let limits = (most, false);
        let (leftover, (shape, _)) =
            self.kernels.registers().choose_among(channels, choices, limits);
        cover.set_aside(leftover, self.kernels.lanes);
        shape
    }

    /// How many elements behind the input of a step tiles ask for what lies there, if they do.
    fn later(&self) -> Option<isize> {
        let Geometry { channels, outputs, .. } = self.geometry;
        let asks = self.roles == Roles::Channels
            && self.input.is_in_place()
            && self.geometry.kernel_taps() == 1
            && channels >= ASKING.0.max(ASKING.1 * outputs);
        asks.then_some(ASKED_CHANNELS * self.input.taps.channel)
    }

    /// The positions of a block as rows of tiles, of each of its rows as evenly as can be.
    fn position_groups(&self, lens: &[usize], most: usize) -> Vec<Group> {
        let (pitches, strides) = (&self.input.pitches, &self.strides);
        // Axes whose positions go on where those of the next one end are as one.
        let last = lens.len() - 1;
        let (mut len, mut outer) = (lens[last], last);
        while outer > 0
            && pitches[outer - 1] == pitches[last] * len as isize
            && strides[outer - 1] == strides[last] * len as isize
        {
            outer -= 1;
            len *= lens[outer];
        }
        let mut groups = Vec::new();
        let mut index = vec![0; outer];
        for _ in 0..lens[..outer].iter().product() {
            let at = |by: &[isize]| -> isize {
                index.iter().zip(by).map(|(&i, &s)| i as isize * s).sum()
            };
            let (a, to) = (at(pitches), at(strides));
            groups.extend(even_parts(0..len, most).map(|part| Group {
                a: a + part.start as isize * pitches[last],
                rows: part.len(),
                to: to + part.start as isize * strides[last],
                channel: 0,
            }));
            advance(&mut index, &lens[..outer]);
        }
        groups
    }

    /// All tiles of one item: a cut of the output channels of a group, at a place.
    fn item(
        &self,
        turn: &Turn<'_>,
        (group, cut): (usize, usize),
        place: &mut Place,
        (slab, totals): (&[T], &mut [T]),
    ) {
        let Problem { weights, store, .. } = self.problem;
        let (channels, outputs) = (self.geometry.channels, self.geometry.outputs);
        let (input, start) = self.input.operand(group * channels, &place.block, slab);
        let to = place.block.start(&self.strides);
        let (row, step) = (store.out.strides()[0], self.strides[self.strides.len() - 1]);
        let sum = &self.sum;
        if let Some(panels) = &self.panels {
            let columns = &panels.cuts[cut];
            let first = self.split.units(panels.vectors.panels, cut).start;
            let first = (group * panels.vectors.panels + first) * self.kernels.lanes;
            self.contract(
                turn,
                totals,
                &Work {
                    contraction: Contraction { a: input, b: panels.vectors.memory.clone(), sum },
                    start: (start, panels.vectors.group(group)),
                    groups: &place.groups,
                    columns,
                    to: to + (group * outputs) as isize * row,
                    row: step,
                    step: row,
                    bias: panels.bias.get(first..).unwrap_or_default(),
                },
            );
            return;
        }
        let cut = self.split.units(outputs, cut);
        let cut = group * outputs + cut.start..group * outputs + cut.end;
        let each = |channels: std::ops::Range<usize>, rows| Group {
            a: weights.output(channels.start),
            rows,
            to: channels.start as isize * row,
            channel: channels.start,
        };
        place.groups.clear();
        let row = match self.roles {
            Roles::Neighbours(ramp) => {
                place.groups.extend(cut.map(|channel| each(channel..channel + 1, ramp.rows)));
                self.strides[ramp.axis] / ramp.rows as isize
            }
            _ => {
                let groups = even_parts(cut, place.shape.rows);
                place.groups.extend(groups.map(|channels| each(channels.clone(), channels.len())));
                row
            }
        };
        self.contract(
            turn,
            totals,
            &Work {
                contraction: Contraction { a: weights.memory(), b: input, sum },
                start: (0, start),
                groups: &place.groups,
                columns: &place.columns,
                to,
                row,
                step,
                bias: &[],
            },
        );
    }

    /// Computes and stores what an item's groups of rows and strips of columns are together: for as
    /// many groups as their totals have room, chain by chain.
    fn contract(&self, turn: &Turn<'_>, totals: &mut [T], work: &Work<'_, T>) {
        let store = self.problem.store;
        let lanes = self.kernels.lanes;
        let most = work.groups.iter().map(|group| group.rows).max().unwrap_or(1);
        for span in &work.columns.spans {
            let cover = &work.columns.cover;
            let columns = if span.whole { &cover.whole } else { &cover.cut };
            let columns = &columns[span.columns.clone()];
            let pitch = Strip::<T>::row_vectors(columns.len()) * lanes;
            // Few vectors stay in the caches for all chains: then rows of weights are read from end to end,
            // a group at a time, and the next ones are asked for.
            let few = columns.len() <= FEW_VECTORS
                && self.panels.is_none()
                && self.problem.weights.by_outputs();
            let next = match self.later() {
                Some(later) => Next::Vectors(later),
                None if few => Next::Rows,
                None => Next::Nothing,
            };
            let together = if few { 1 } else { totals.len() / (most * pitch) };
            for groups in work.groups.chunks(together) {
                for chain in 0..self.sum.chains() {
                    if !turn.goes_on(self.sum.work(most) * columns.len() * groups.len()) {
                        return;
                    }
                    for (group, totals) in groups.iter().zip(totals.chunks_exact_mut(most * pitch))
                    {
                        let strip = Strip {
                            a: work.start.0 + group.a,
                            rows: group.rows,
                            b: work.start.1,
                            columns,
                            from: span.from,
                            vectors: span.vectors,
                            next,
                            totals: totals.as_mut_ptr(),
                        };
                        let target = work.target(group);
                        let out = span.whole.then(|| store.rows(&target, span, lanes));
                        let ending = Ending { finish: self.finish(work, group, span), out };
                        // SAFETY: these totals are this thread's own and have room for the strip; each
                        // item has channels and positions of its own, and one thread takes it; `rows`
                        // and `finish` checked results and bias for as many rows and vectors.
                        unsafe { work.contraction.chain(self.kernels, chain, &strip, &ending) }
                    }
                }
                if !span.whole {
                    for (group, totals) in groups.iter().zip(totals.chunks_exact(most * pitch)) {
                        let target = work.target(group);
                        for (i, cut) in span.columns.clone().enumerate() {
                            let lanes = (cover.lanes(cut), work.step);
                            let values = (&totals[i * self.kernels.lanes..], pitch);
                            // SAFETY: as above.
                            unsafe { store.write(&target, lanes, values, self.kernels) }
                        }
                    }
                }
            }
        }
    }

    /// What is done to a group's sums before they are written.
    fn finish(&self, work: &Work<'_, T>, group: &Group, span: &Span) -> Finish<T> {
        let store = self.problem.store;
        match &self.panels {
            None => store.finish(group.channel, group.rows, self.roles == Roles::Channels),
            Some(_) if store.bias.is_empty() => Finish { bias: Bias::None, clip: store.clip() },
            Some(_) => {
                // Cut vectors of channels come after the whole ones.
                let before = if span.whole { 0 } else { work.columns.cover.whole.len() };
                let first = (before + span.columns.start) * self.kernels.lanes;
                let bias = &work.bias[first..first + span.columns.len() * self.kernels.lanes];
                Finish { bias: Bias::Lanes(bias.as_ptr()), clip: store.clip() }
            }
        }
    }
}

impl<T> Work<'_, T> {
    fn target(&self, group: &Group) -> Target {
        Target { rows: group.rows, to: self.to + group.to, row: self.row }
    }
}
