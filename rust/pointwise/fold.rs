//! Planes of products, moved and added.

use std::ops::Range;

use super::line::Line;
use crate::convert::interleave;
use crate::error::{Error, room};
use crate::geometry::Activation;
use crate::parallel::{Stopped, Team};
use crate::store::Store;
use crate::tile::{Kernels, Piece, Tiled};
use crate::view::advance;

/// Results of a row that are summed before others are.
const SEGMENT: usize = 8192;

/// Additions that a thread does without asking for more: some 10 us.
const ITEM_ADDITIONS: usize = 1 << 17;

/// The sum of planes for some of the results.
pub(super) struct Fold<'a, T: 'static> {
    pub lines: &'a [Line],
    /// What each tap of each axis adds to the number of a plane, among those of an output.
    pub rows: &'a [Vec<usize>],
    /// The results of each axis, and the positions that planes hold for them.
    pub results: &'a [Range<usize>],
    pub taken: &'a [Range<usize>],
    /// A plane for each tap of each channel and image: `[channel][tap][image][*positions]`.
    pub planes: &'a [T],
    pub images: Range<usize>,
    /// Of the result, counted through all groups.
    pub channels: Range<usize>,
    pub store: &'a Store<'a, T>,
    pub kernels: &'a Kernels<T>,
}

/// What taps of an axis add to each of its results: where it is, in elements.
struct Table {
    offsets: Vec<usize>,
    /// Those of result `i` are from `starts[i]` to `starts[i + 1]`.
    starts: Vec<usize>,
}

impl Table {
    /// Of an axis whose positions are so many elements apart, and the planes of whose taps are.
    fn new(
        line: &Line,
        (results, taken): (&Range<usize>, &Range<usize>),
        (rows, plane): (&[usize], usize),
        pitch: usize,
    ) -> Result<Self, Error> {
        let what = "the table of taps";
        let parts = || (0..line.shifts.len()).map(|tap| (tap, line.taken(tap, results)));
        let mut starts: Vec<usize> = room(what, results.len() + 1)?;
        starts.resize(results.len() + 1, 0);
        for (tap, part) in parts() {
            part.for_each(|position| starts[line.result(tap, position) - results.start + 1] += 1);
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let all = starts[results.len()];
        let (mut next, mut offsets): (Vec<usize>, Vec<usize>) = (starts.clone(), room(what, all)?);
        offsets.resize(all, 0);
        for (tap, part) in parts() {
            for position in part {
                let next = &mut next[line.result(tap, position) - results.start];
                offsets[*next] = rows[tap] * plane + (position - taken.start) * pitch;
                *next += 1;
            }
        }
        Ok(Table { offsets, starts })
    }

    fn of(&self, result: usize) -> &[usize] {
        &self.offsets[self.starts[result]..self.starts[result + 1]]
    }
}

/// What a thread works in.
struct Desk<T> {
    /// The sums of each residue of a row, and these side by side.
    sums: Vec<T>,
    line: Vec<T>,
    bases: Vec<usize>,
    /// Of a row, on all axes but the last; and of what outer axes add to it, and how much that is.
    index: Vec<usize>,
    at: Vec<usize>,
    counts: Vec<usize>,
    /// The pieces of each residue, of the segment of that number.
    pieces: Vec<Vec<Piece>>,
    segment: Option<usize>,
}

/// How the results of rows are cut and where they are summed.
struct Items {
    /// Results of a segment, and segments of a row.
    segment: usize,
    segments: usize,
    /// Sums of a residue in a segment, and places for them.
    each: usize,
    places: usize,
    /// Elements of the planes of a tap.
    plane: usize,
    /// Of all axes but the last, and what their taps add.
    lens: Vec<usize>,
    tables: Vec<Table>,
}

impl<T: Tiled> Fold<'_, T> {
    /// Elements of a tap's planes, and between positions of each axis.
    fn pitches(&self) -> (usize, Vec<usize>) {
        let mut pitches = vec![1; self.taken.len()];
        for axis in (1..pitches.len()).rev() {
            pitches[axis - 1] = pitches[axis] * self.taken[axis].len();
        }
        (pitches[0] * self.taken[0].len() * self.images.len(), pitches)
    }

    fn items(&self) -> Result<Items, Error> {
        let row = self.lines.len() - 1;
        let stride = self.lines[row].stride;
        let len = self.results[row].len();
        let segment = len.min(SEGMENT.next_multiple_of(stride));
        let each = segment.div_ceil(stride);
        let (plane, pitches) = self.pitches();
        let table = |axis: usize| {
            let (results, taken) = (&self.results[axis], &self.taken[axis]);
            let rows = (self.rows[axis].as_slice(), plane);
            Table::new(&self.lines[axis], (results, taken), rows, pitches[axis])
        };
        Ok(Items {
            segment,
            segments: len.div_ceil(segment),
            each,
            places: each.next_multiple_of(self.kernels.lanes),
            plane,
            lens: self.results[..row].iter().map(|results| results.len()).collect(),
            tables: (0..row).map(table).collect::<Result<_, _>>()?,
        })
    }

    pub fn run(&self, team: &Team<'_>) -> Result<(), Stopped> {
        let items = self.items()?;
        let rows = self.channels.len() * self.images.len() * items.lens.iter().product::<usize>();
        let count = items.segments * rows;
        // Taps of other residues add nothing to a result.
        let taps = self.lines.iter().map(|line| line.shifts.len().div_ceil(line.stride));
        let work = items.segment.saturating_mul(taps.product());
        let together = (ITEM_ADDITIONS / work.max(1)).max(1);
        team.share(count.div_ceil(together), |turn| {
            let mut desk = self.desk(&items)?;
            while let Some(item) = turn.next() {
                for number in item * together..count.min((item + 1) * together) {
                    self.row(&items, (number / rows, number % rows), &mut desk);
                }
            }
            Ok(())
        })
    }

    fn desk(&self, items: &Items) -> Result<Desk<T>, Error> {
        let stride = self.lines[self.lines.len() - 1].stride;
        let mut desk = Desk {
            sums: room("sums of taps", items.places * stride)?,
            line: room("a row of the result", items.each * stride)?,
            bases: Vec::new(),
            index: vec![0; items.lens.len()],
            at: Vec::new(),
            counts: Vec::new(),
            pieces: vec![Vec::new(); stride],
            segment: None,
        };
        desk.sums.resize(items.places * stride, T::default());
        desk.line.resize(items.each * stride, T::default());
        Ok(desk)
    }

    /// The pieces of a segment.
    fn pieces(&self, items: &Items, segment: &Range<usize>, pieces: &mut [Vec<Piece>]) {
        let row = self.lines.len() - 1;
        let line = &self.lines[row];
        pieces.iter_mut().for_each(Vec::clear);
        for tap in 0..line.shifts.len() {
            let taken = line.taken(tap, segment);
            if taken.is_empty() {
                continue;
            }
            let result = line.result(tap, taken.start) - segment.start;
            let (residue, first) = (result % line.stride, result / line.stride);
            let from = self.rows[row][tap] * items.plane + taken.start - self.taken[row].start;
            let from = from as isize - first as isize;
            let sums = (first, taken.len());
            pieces[residue].push(Piece::new(from, sums, items.places, self.kernels.lanes));
        }
    }

    /// A segment of a row, which counts through channels, images and all axes but the last.
    fn row(&self, items: &Items, (segment, number): (usize, usize), desk: &mut Desk<T>) {
        let last = self.lines.len() - 1;
        let results = &self.results[last];
        let start = results.start + segment * items.segment;
        let range = start..results.end.min(start + items.segment);
        if desk.segment != Some(segment) {
            self.pieces(items, &range, &mut desk.pieces);
            desk.segment = Some(segment);
        }
        let mut rest = number;
        for (index, &len) in desk.index.iter_mut().zip(&items.lens).rev() {
            *index = rest % len;
            rest /= len;
        }
        let (channel, image) = (rest / self.images.len(), rest % self.images.len());
        let taps = self.rows.iter().map(Vec::len).product::<usize>();
        let first =
            (channel * taps * self.images.len() + image) * (items.plane / self.images.len());
        desk.find_bases(&items.tables, first);
        let stride = self.lines[last].stride;
        for (sums, pieces) in desk.sums.chunks_exact_mut(items.places).zip(&desk.pieces) {
            let bases = if pieces.is_empty() { &[] } else { desk.bases.as_slice() };
            self.kernels.sum((self.planes, bases, pieces), sums);
        }
        let store = self.store;
        let strides = store.out.strides();
        let channel = self.channels.start + channel;
        if !store.bias.is_empty() || store.activation != Activation::None {
            desk.sums.iter_mut().for_each(|sum| *sum = store.finished(channel, *sum));
        }
        let values = match stride {
            1 => &desk.sums[..range.len()],
            2 => {
                let (even, odd) = desk.sums.split_at(items.places);
                interleave(&[&even[..items.each], &odd[..items.each]], &mut desk.line);
                &desk.line[..range.len()]
            }
            _ => {
                let to = (desk.line.as_mut_ptr(), (stride * size_of::<T>()) as isize);
                // SAFETY: a line has room for `stride` elements of each of as many rows as residues have sums.
                unsafe {
                    self.kernels.transpose((&desk.sums, items.places), (stride, items.each), to);
                }
                &desk.line[..range.len()]
            }
        };
        let at = desk.index.iter().zip(self.results).zip(&strides[2..]);
        let at = at.map(|((&i, results), s)| (results.start + i) as isize * s).sum::<isize>()
            + channel as isize * strides[0]
            + (self.images.start + image) as isize * strides[1]
            + range.start as isize * store.step();
        // SAFETY: each segment of a row is one thread's, as is each part.
        unsafe { store.run(at, store.step(), values) };
    }
}

impl<T> Desk<T> {
    /// Finds where the taps of all axes but the last have what they add to the row, from element `first` on.
    fn find_bases(&mut self, tables: &[Table], first: usize) {
        let Desk { bases, index, at, counts, .. } = self;
        bases.clear();
        let (Some((inner, outer)), Some((&row, above))) = (tables.split_last(), index.split_last())
        else {
            bases.push(first);
            return;
        };
        let taken = || outer.iter().zip(above).map(|(table, &i)| table.of(i));
        counts.clear();
        counts.extend(taken().map(<[usize]>::len));
        at.clear();
        at.resize(outer.len(), 0);
        for _ in 0..counts.iter().product() {
            let first = first + taken().zip(&*at).map(|(taken, &i)| taken[i]).sum::<usize>();
            bases.extend(inner.of(row).iter().map(|offset| first + offset));
            advance(at, counts);
        }
    }
}
