//! Blocks of tiles: which there are, and where everything of one lies in a thread's memory.

use std::ops::Range;

use crate::cover::{Cover, Positions};
use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::parallel::even_part;
use crate::slab::{Block, Layout, extent};
use crate::store::Store;
use crate::tile::Tiled;
use crate::view::{Runs, advance};

use super::engine::Place;
use super::role::Role;
use super::tiling::{Side, Tiling};

/// How tiles are cut into blocks: so many on each axis of its residues, and of its tiles.
#[derive(Clone, Debug)]
pub struct Cuts {
    /// Parts of the residues of each axis.
    residues: Vec<usize>,
    /// Parts of the tiles, or of the outputs where an axis is not transformed.
    lens: Vec<usize>,
}

/// A block of tiles: ranges of residues and of tiles on each axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Residues of each axis.
    pub residues: Vec<Range<usize>>,
    /// Tiles of each axis, or outputs.
    pub lens: Vec<Range<usize>>,
}

impl Cuts {
    /// Blocks for elements of some bytes, and at least so many of them where there are tiles enough.
    pub fn new(tiling: &Tiling, geometry: &Geometry, element: usize, wanted: usize) -> Self {
        let most = tiling.most_tiles(geometry, element);
        let mut cuts =
            Cuts { residues: vec![1; tiling.sides.len()], lens: vec![1; tiling.sides.len()] };
        loop {
            let positions: usize = cuts.region(tiling, 0).positions();
            let count = cuts.count();
            // Blocks for threads keep a few vectors each.
            if positions <= most && (count >= wanted || positions < 128) {
                return cuts;
            }
            let Some(next) = cuts.finer(tiling, geometry) else { return cuts };
            cuts = next;
        }
    }

    /// One axis cut once more: that which costs least.
    fn finer(&self, tiling: &Tiling, geometry: &Geometry) -> Option<Cuts> {
        let region = self.region(tiling, 0);
        let mut best: Option<(f64, Cuts)> = None;
        for axis in 0..tiling.sides.len() {
            for of_residues in [true, false] {
                let len =
                    if of_residues { &region.residues[axis] } else { &region.lens[axis] }.len();
                if len < 2 {
                    continue;
                }
                let mut cuts = self.clone();
                let side = &tiling.sides[axis];
                if !of_residues {
                    cuts.lens[axis] = (2 * cuts.lens[axis]).min(side.len);
                } else {
                    let parts = &mut cuts.residues[axis];
                    let more = (2 * *parts).min(side.residues)..=side.residues;
                    // Rows of tiles are made of residues of the last axis: as many in every block.
                    let even = |parts: &usize| {
                        axis + 1 < tiling.sides.len() || side.residues.is_multiple_of(*parts)
                    };
                    *parts = more.into_iter().find(even).unwrap_or(side.residues);
                }
                let cost = cuts.region(tiling, 0).cost(tiling, geometry);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, cuts));
                }
            }
        }
        best.map(|(_, cuts)| cuts)
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.residues.iter().chain(&self.lens).product()
    }

    /// Block `index`; the first is as large as any.
    pub fn region(&self, tiling: &Tiling, index: usize) -> Region {
        let mut left = index;
        let mut part = |all: usize, parts: usize| {
            // The larger parts first.
            let range = even_part(&(0..all), parts, parts - 1 - left % parts);
            left /= parts;
            all - range.end..all - range.start
        };
        let sides = tiling.sides.iter();
        let lens = sides.clone().zip(&self.lens).rev().map(|(side, &n)| part(side.len, n));
        let mut lens: Vec<Range<usize>> = lens.collect();
        lens.reverse();
        let residues = sides.zip(&self.residues).map(|(side, &n)| part(side.residues, n)).collect();
        Region { residues, lens }
    }
}

impl Region {
    /// Outputs on each axis.
    pub fn outputs(&self, tiling: &Tiling) -> Vec<usize> {
        let sides = tiling.sides.iter().zip(self.residues.iter().zip(&self.lens));
        let of = |(side, (residues, len)): (&Side, (&Range<usize>, &Range<usize>))| {
            (residues.len() * len.len() * side.outputs()).min(side.axis.output)
        };
        sides.map(of).collect()
    }

    /// Tiles.
    fn positions(&self) -> usize {
        self.residues.iter().chain(&self.lens).map(Range::len).product()
    }

    /// Cycles a tile: staging, and what junk between rows costs in products.
    fn cost(&self, tiling: &Tiling, geometry: &Geometry) -> f64 {
        let residues: usize = self.residues.iter().map(Range::len).product();
        let sides = tiling.sides.iter().zip(&self.lens);
        let staged: f64 = sides.map(|(side, len)| staged(side, len.len()) as f64).product();
        let staged = staged * residues as f64 / self.positions() as f64;
        let last = tiling.sides.len() - 1;
        let width = self.width();
        // Some residues of the last axis, but not all, are staged a run at a time.
        let run = if width < tiling.sides[last].residues { 10.0 / width as f64 } else { 0.0 };
        let row = (self.lens[last].len() * width) as f64;
        let products = tiling.points() * tiling.taps() * geometry.outputs;
        staged * (0.4 + run) + (1.0 + 1.0 / row) * products as f64 / 32.0
    }

    /// Residues of the last axis that make up a row of tiles.
    fn width(&self) -> usize {
        self.residues.last().map_or(1, Range::len)
    }
}

/// Elements that some tiles of an axis are staged in.
fn staged(side: &Side, len: usize) -> usize {
    if side.tiled() { side.outputs() * (len + 1) } else { extent(&side.axis, len) }
}

/// A row of results: of a row of tiles, in the order of the last axis.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where they are in the planes that sums are transformed to; the first of the first tile, where residues
    /// are still to be woven.
    pub from: usize,
    /// How many.
    pub len: usize,
    /// Byte offset of the first one in the result, from the channel's first.
    pub to: isize,
    /// The place of the first one among those of a channel in C order.
    pub position: usize,
}

/// How residues of the last axis make up rows of tiles: so many neighbours, a tile of each, and then the next tile
/// of each. What the rows are of is staged, and their results written, as it lies.
#[derive(Clone, Copy, Debug)]
pub struct Weave {
    /// How many residues: one, all, or as many in every block.
    pub width: usize,
    /// How many there are: elements from one of a residue to the next.
    pub apart: usize,
    /// Elements of a staged row for each plane that they are dealt to, in units of `width`.
    pub blocks: usize,
    /// What is staged as if it were an axis with so many outputs, taps, and such a stride.
    staged: (usize, usize, usize),
    /// Outputs of that axis from an output to the next of the same residue.
    windows: usize,
}

impl Weave {
    fn new(side: &Side, tiles: usize, width: usize) -> Self {
        let (dealt, apart) = (side.outputs(), dilation(side));
        let blocks = tiles + 1;
        let taps = dealt + 1;
        let (staged, windows) = match width {
            1 => ((dealt * tiles, taps, apart), 1),
            // A row as it is.
            _ if width == apart => ((dealt * tiles * apart, taps, 1), apart),
            // So many neighbours for each of the taps that the windows of a residue have.
            _ => ((width, dealt * blocks, 1), apart),
        };
        Weave { width, apart, blocks, staged, windows }
    }

    /// Results of a part of a row, as runs whose elements are [`step`](Self::step) apart: which they are, and how
    /// many positions behind the row's first.
    pub fn runs(self, part: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let whole = self.width == 1 || self.width == self.apart;
        let most = if whole { part.end.max(1) } else { self.width };
        (part.start / most..part.end.div_ceil(most)).map(move |i| {
            let run = part.start.max(i * most)..part.end.min((i + 1) * most);
            (run.clone(), i * self.apart + (run.start - i * most) * self.step())
        })
    }

    /// Positions between neighbours of a run.
    pub fn step(self) -> usize {
        if self.width == 1 { self.apart } else { 1 }
    }
}

/// How a block lies in memory, and what is to be done with it.
#[derive(Debug, Default)]
pub struct Shape {
    /// How each residue's part of a plane is staged: once a block what is constant, and what is read.
    pub fills: Vec<Runs>,
    /// The same for what is read once a channel.
    pub reads: Vec<Runs>,
    /// Elements between residues in the staged plane.
    pub residue: usize,
    /// Elements of the staged plane: whole vectors, with room for one that starts at its last element.
    pub staged: usize,
    /// Where rows start in it.
    pub staged_rows: Vec<usize>,
    /// Where the elements of a tile are in a plane that was dealt, from its place on.
    pub offsets: Vec<isize>,
    /// Vectors of tiles as the input is transformed, and as the sums are.
    pub analysis: Vec<Place>,
    /// See `analysis`; places in the slab are those among results.
    pub synthesis: Vec<Place>,
    /// Elements of a channel's values at a point, as many as vectors may reach.
    pub values: usize,
    /// Elements of an output channel's sums at a point.
    pub sums: usize,
    /// The vectors that sums are of.
    pub columns: Cover,
    /// Elements of a plane of results.
    pub plane: usize,
    /// Planes of results.
    pub planes: usize,
    /// The results.
    pub rows: Vec<Row>,
    /// Rows that follow one another are of the same tiles, so many at a time.
    pub together: usize,
    /// The tiles of such a row, and all of them.
    pub line: usize,
    pub tiles: usize,
}

/// What the blocks of a convolution have in common: a layout for the largest.
pub struct Plane {
    layout: Layout,
    /// Elements of a staged row that are dealt to one tile: 1 where the last axis is not transformed.
    dealt: usize,
    /// How residues of the last axis make up rows.
    pub weave: Weave,
    /// Where each tap that is left lies in a plane of values, an axis each.
    pub taps: Vec<Vec<isize>>,
    /// Parts of a plane of values, one for each phase of what is not transformed.
    phases: usize,
    /// Elements of such a part.
    part: usize,
    pitches: Vec<isize>,
    /// Whether vectors begin with each row of tiles, where no tap is left: more are transformed then, but
    /// products have no junk between rows.
    by_rows: bool,
}

impl Plane {
    /// For blocks of at most as many tiles as `largest` has.
    pub fn new(
        tiling: &Tiling,
        geometry: &Geometry,
        largest: &Region,
        (element, lanes, role): (usize, usize, Role),
    ) -> Result<Self, Error> {
        let last = tiling.sides.len() - 1;
        let dealt = tiling.sides[last].outputs();
        let mut lens: Vec<usize> = largest.lens.iter().map(Range::len).collect();
        let tiles = lens[last];
        let weave = Weave::new(&tiling.sides[last], tiles, largest.width());
        lens[last] = weave.staged.0;
        let axes = tiling.sides.iter().enumerate().map(|(a, side)| match side {
            Side { form: None, axis, .. } => *axis,
            // The last axis is staged as it is, with room for whole tiles, and dealt afterwards.
            Side { axis, .. } if a == last => {
                let (_, kernel, stride) = weave.staged;
                Axis { kernel, stride, ..*axis }
            }
            Side { axis, .. } => {
                Axis { kernel: side.points(), stride: side.outputs() * axis.dilation, ..*axis }
            }
        });
        let outputs = geometry.outputs;
        let geometry = Geometry { axes: axes.collect(), ..geometry.clone() };
        let layout = Layout::new(&geometry, &lens, element)?;
        let pitches: Vec<isize> = layout.pitches().iter().map(|p| p / dealt as isize).collect();
        let pitches = pitches[..last].iter().copied().chain([1]).collect();
        let part = layout.part() / dealt;
        let (taps, by_rows) = (Vec::new(), false);
        let mut plane = Plane { layout, dealt, weave, taps, phases: 1, part, pitches, by_rows };
        // From the last axis on, as phases lie.
        for (a, side) in tiling.sides.iter().enumerate().rev() {
            let phase = plane.phases * part;
            let taps = (0..side.taps()).map(|tap| match side.tiled() {
                true => 0,
                false => {
                    let (index, shift) = plane.layout.tap(a, tap);
                    (index * phase) as isize + shift as isize * plane.pitches[a]
                }
            });
            plane.taps.insert(0, taps.collect());
            if !side.tiled() {
                plane.phases *= plane.layout.phases(a);
            }
        }
        let lens = plane.lens(largest);
        let pitches = plane.all_pitches(false);
        let (row, outer) = joined(&lens, &pitches);
        let rows = outer.iter().product::<usize>();
        // A vector of products takes half a cycle for each output, one of both transforms some six.
        let cost = |products: usize, transforms| products * outputs + 12 * transforms;
        let junk = plane.cover(&lens, &pitches, lanes).len();
        // Rows of products' tiles are just the tiles that there are.
        plane.by_rows = role == Role::Tiles
            || cost((rows * row).div_ceil(lanes), rows * row.div_ceil(lanes)) < cost(junk, junk);
        Ok(plane)
    }

    /// The shape of a block.
    pub fn shape<T: Tiled>(
        &self,
        tiling: &Tiling,
        region: &Region,
        strides: &[isize],
        (store, lanes): (&Store<'_, T>, usize),
    ) -> Result<Shape, Error> {
        let Plane { layout, dealt, .. } = self;
        let last = tiling.sides.len() - 1;
        // Those of the last axis are in every row.
        let mut residues = region.residues.clone();
        residues[last].end = residues[last].start + 1;
        let residues: Vec<Vec<usize>> = combinations(&residues);
        let mut block = Block(region.lens.clone());
        let along = dealt * self.weave.windows;
        block.0[last] = block.0[last].start * along..block.0[last].end * along;
        let row = self.pitches[..last].last().map_or(layout.part(), |&p| p as usize * dealt);
        let parts: usize = (0..=last).map(|a| layout.phases(a)).product();
        let rows = layout.part() / row * parts;
        let mut shape = Shape {
            residue: layout.plane(),
            staged_rows: (0..residues.len())
                .flat_map(|r| (0..rows).map(move |i| r * layout.plane() + i * row))
                .collect(),
            line: region.lens[last].len() * self.weave.width,
            tiles: region.positions(),
            ..Shape::default()
        };
        for further in &residues {
            let runs = layout.runs_from(&block, further, strides);
            let (read, fill) = runs.into_iter().partition(|run| run.from.is_some());
            shape.reads.push(Runs::new(read));
            shape.fills.push(Runs::new(fill));
        }
        let lens = self.lens(region);
        let spread = tiling.taps() > 1;
        // The last tile's place: no vector starts behind it, whichever block this is.
        let pitches = self.all_pitches(spread);
        let last_tile: usize =
            lens.iter().zip(&pitches).map(|(&n, &p)| n.saturating_sub(1) * p as usize).sum();
        let from: Vec<isize> = if spread {
            self.spread(&lens, lanes, tiling, &mut shape);
            // Vectors at the last tap reach further than what they are needed for.
            let tap = |taps: &Vec<isize>| taps.iter().max().copied().unwrap_or(0) as usize;
            let reach = last_tile + self.taps.iter().map(tap).sum::<usize>();
            shape.values = reach + lanes;
            shape.synthesis.iter().map(|place| place.slab).collect()
        } else {
            self.dense(&lens, lanes, &mut shape);
            (0..shape.sums / lanes).map(|i| (i * lanes) as isize).collect()
        };
        shape.columns = Cover::one_behind_the_other(from.into_iter(), lanes * size_of::<T>());
        self.offsets(tiling, (residues.len(), lanes), &mut shape)?;
        let vectors = |n: usize| n.next_multiple_of(lanes);
        let reach = |places: &[Place]| places.iter().map(|p| p.flat as usize + lanes).max();
        shape.values = vectors(reach(&shape.analysis).unwrap_or(0)).max(shape.values);
        shape.sums = vectors(reach(&shape.synthesis).unwrap_or(0)).max(shape.sums);
        shape.plane = vectors(last_tile + 1 + lanes) * dealt;
        shape.planes = tiling.outputs() / dealt;
        self.rows(tiling, region, (&residues, store), &mut shape);
        Ok(shape)
    }

    /// Where the elements of a tile lie, and how large that makes a plane.
    fn offsets(
        &self,
        tiling: &Tiling,
        (residues, lanes): (usize, usize),
        shape: &mut Shape,
    ) -> Result<(), Error> {
        let (dealt, last) = (self.dealt, tiling.sides.len() - 1);
        let taps = self.layout.offsets()?;
        let tiled = || tiling.sides.iter().enumerate().filter(|(_, side)| side.tiled());
        // How far an element lies behind the first, and in which of the planes that are dealt.
        let place = |a: usize, k: usize| match a == last {
            true => (k / dealt * self.weave.width, k % dealt),
            false => (taps[a][k] as usize / dealt, 0),
        };
        let reach: usize = tiled().map(|(a, side)| place(a, side.points() - 1).0).sum();
        let end = shape.analysis.iter().map(|place| place.slab as usize + reach).max();
        let end = end.unwrap_or(0).max(residues * self.layout.plane() / dealt);
        let plane = (end + lanes).next_multiple_of(lanes);
        shape.staged = plane * dealt;
        shape.offsets = tiled().fold(vec![0], |all, (a, side)| {
            let along = |&at: &isize| {
                (0..side.points()).map(move |k| {
                    let (behind, of) = place(a, k);
                    at + (behind + of * plane) as isize
                })
            };
            all.iter().flat_map(along).collect()
        });
        Ok(())
    }

    /// Tiles where no tap is left that would shift them: those of a row one behind the other, rows too, or
    /// across the junk between rows.
    fn dense(&self, lens: &[usize], lanes: usize, shape: &mut Shape) {
        let pitches = self.all_pitches(false);
        if !self.by_rows {
            let place = |(i, slab)| Place { slab, flat: (i * lanes) as isize };
            let cover = self.cover(lens, &pitches, lanes);
            shape.analysis = cover.into_iter().enumerate().map(place).collect();
            shape.sums = shape.analysis.len() * lanes;
        } else {
            let mut flat = 0;
            let (len, outer) = joined(lens, &pitches);
            let mut index = vec![0; outer.len()];
            for _ in 0..outer.iter().product() {
                let first: isize = index.iter().zip(&pitches).map(|(&i, p)| i as isize * p).sum();
                shape.analysis.extend(
                    (0..len)
                        .step_by(lanes)
                        .map(|at| Place { slab: first + at as isize, flat: (flat + at) as isize }),
                );
                flat += len;
                advance(&mut index, outer);
            }
            shape.sums = flat.next_multiple_of(lanes);
        }
        shape.synthesis = shape.analysis.clone();
    }

    /// Tiles where the slab has them, so that a tap that is left is a shift.
    fn spread(&self, lens: &[usize], lanes: usize, tiling: &Tiling, shape: &mut Shape) {
        let residue = self.layout.plane() / self.dealt;
        // Each part of what is not transformed, from the last axis on.
        let mut parts = vec![0];
        let mut pitch = self.part;
        for (a, side) in tiling.sides.iter().enumerate().rev() {
            let phases = self.layout.phases(a);
            if !side.tiled() {
                parts =
                    (0..phases).flat_map(|p| parts.iter().map(move |at| p * pitch + at)).collect();
            }
            pitch *= phases;
        }
        for r in 0..lens[0] {
            for (p, part) in parts.iter().enumerate() {
                let (slab, flat) = (r * residue + part, (r * parts.len() + p) * self.part);
                shape.analysis.extend(
                    (0..self.part)
                        .step_by(lanes)
                        .map(|at| Place { slab: (slab + at) as isize, flat: (flat + at) as isize }),
                );
            }
        }
        let pitches = self.all_pitches(true);
        let cover = self.cover(lens, &pitches, lanes);
        let place = |(i, &slab)| Place { slab, flat: (i * lanes) as isize };
        shape.synthesis = cover.iter().enumerate().map(place).collect();
    }

    /// How many residues of the outer axes, and tiles on each axis, a block has.
    fn lens(&self, region: &Region) -> Vec<usize> {
        let (_, outer) = region.residues.split_last().expect("a geometry has axes");
        let residues = outer.iter().map(Range::len).product();
        let mut lens: Vec<usize> =
            [residues].into_iter().chain(region.lens.iter().map(Range::len)).collect();
        *lens.last_mut().expect("there is one more") *= self.weave.width;
        lens
    }

    /// Where vectors start that cover all tiles.
    fn cover(&self, lens: &[usize], pitches: &[isize], lanes: usize) -> Vec<isize> {
        let strides = vec![0; lens.len()];
        let positions = Positions {
            lens,
            pitches,
            strides: &strides,
            short: None,
            end: isize::MAX,
            direct: false,
            apart: false,
        };
        Cover::new(&positions, lanes, 1).cut.iter().map(|column| column.from).collect()
    }

    /// Elements between neighbours of residues, and of each axis: in the slab, or among values where these
    /// are `spread`.
    fn all_pitches(&self, spread: bool) -> Vec<isize> {
        let residue =
            if spread { self.phases * self.part } else { self.layout.plane() / self.dealt };
        [residue as isize].into_iter().chain(self.pitches.iter().copied()).collect()
    }

    /// Where results go.
    fn rows<T: Tiled>(
        &self,
        tiling: &Tiling,
        region: &Region,
        (residues, store): (&[Vec<usize>], &Store<'_, T>),
        shape: &mut Shape,
    ) {
        let last = tiling.sides.len() - 1;
        let strides = &store.out.strides()[1..];
        let pitches = self.all_pitches(tiling.taps() > 1);
        // Outputs of a tile on each axis, but those that are dealt.
        let inside: Vec<usize> =
            tiling.sides[..last].iter().map(Side::outputs).chain([1]).collect();
        let lens: Vec<usize> = region.lens[..last].iter().map(Range::len).collect();
        let positions: Vec<usize> = tiling.sides.iter().map(|side| side.axis.output).collect();
        shape.together = inside.iter().product();
        for (r, further) in residues.iter().enumerate() {
            let mut index = vec![0; last];
            for _ in 0..lens.iter().product() {
                let slab: isize = r as isize * pitches[0]
                    + index.iter().zip(&pitches[1..]).map(|(&i, p)| i as isize * p).sum::<isize>();
                let mut output = vec![0; last + 1];
                let mut within = vec![0; last + 1];
                for plane in 0..shape.together {
                    let (mut to, mut position, mut valid) = (0, 0, true);
                    for (a, side) in tiling.sides.iter().enumerate() {
                        let tile = region.lens[a].start + if a < last { index[a] } else { 0 };
                        output[a] =
                            further[a] + (tile * side.outputs() + within[a]) * dilation(side);
                        valid &= output[a] < positions[a];
                        to += output[a] as isize * strides[a];
                        position = position * positions[a] + output[a];
                    }
                    advance(&mut within, &inside);
                    let Weave { width, apart, .. } = self.weave;
                    let along = if valid { positions[last] - output[last] } else { 0 };
                    let along = along / apart * width + (along % apart).min(width);
                    let dealt = if width > 1 { 1 } else { self.dealt };
                    let from = plane * shape.plane + slab as usize * dealt;
                    let len = along.min(shape.line * self.dealt);
                    shape.rows.push(Row { from, len, to, position });
                }
                advance(&mut index, &lens);
            }
        }
    }
}

/// The length of rows, of axes whose tiles go on where those of the next one end as one, and the axes that
/// are left.
fn joined<'a>(lens: &'a [usize], pitches: &[isize]) -> (usize, &'a [usize]) {
    let last = lens.len() - 1;
    let (mut len, mut outer) = (lens[last], last);
    while outer > 0 && pitches[outer - 1] == len as isize {
        outer -= 1;
        len *= lens[outer];
    }
    (len, &lens[..outer])
}

/// Outputs from one to the next of a residue.
fn dilation(side: &Side) -> usize {
    if side.tiled() { side.axis.dilation } else { 1 }
}

/// Every choice of one of each range, in C order.
fn combinations(ranges: &[Range<usize>]) -> Vec<Vec<usize>> {
    ranges.iter().fold(vec![Vec::new()], |all, range| {
        let with = |first: &Vec<usize>| {
            let first = first.clone();
            range.clone().map(move |i| first.iter().copied().chain([i]).collect())
        };
        all.iter().flat_map(with).collect()
    })
}
