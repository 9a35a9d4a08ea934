//! Vectors laid over the positions of a block, and where their lanes go.
//!
//! Positions flatten into one index, with a few junk positions between rows. Vectors are laid over
//! the useful ones greedily, across junk where that is shorter, so that neither odd widths nor large
//! dilations waste vectors. Those whose lanes are all neighbours in the result go there straight from
//! registers; the others are set aside, and their useful lanes copied.

use std::ops::Range;

use crate::tile::Column;
use crate::view::advance;

/// Vectors over the useful positions of a block.
#[derive(Clone, Debug, Default)]
pub struct Cover {
    /// Vectors that go to the result as they are.
    pub whole: Vec<Column>,
    /// Vectors some lanes of which are results.
    pub cut: Vec<Column>,
    /// Those lanes: `lanes[ends[v - 1]..ends[v]]` of the cut vector `v`.
    lanes: Vec<Lanes>,
    ends: Vec<usize>,
}

/// Neighbouring lanes of a vector that are neighbouring results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// The first lane.
    pub lane: usize,
    /// How many.
    pub len: usize,
    /// Byte offset of the first result from the block's first.
    pub to: isize,
    /// Rows of the tile that are results there, at most.
    pub rows: usize,
}

impl Lanes {
    /// Whether `next` is the part that follows, both in the vector and in the result, `step` bytes apart:
    /// rows of positions without junk between them are as one.
    fn goes_on(&self, next: &Lanes, step: isize) -> bool {
        next.lane == self.lane + self.len
            && next.to == self.to + self.len as isize * step
            && next.rows == self.rows
    }
}

/// What a [`Cover`] lays vectors over.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// Positions on each axis.
    pub lens: &'a [usize],
    /// Elements between neighbours on each axis.
    pub pitches: &'a [isize],
    /// Bytes between neighbouring results on each axis.
    pub strides: &'a [isize],
    /// If the last position of an axis has fewer rows than the others: which axis, and how many.
    pub short: Option<(usize, usize)>,
    /// The memory from this flat position on is not ours to read.
    pub end: isize,
    /// Whether vectors may go to the result as they are.
    pub direct: bool,
    /// Whether each row has vectors of its own, the last of which starts as much earlier as it would reach
    /// beyond the row: for rows that hold one.
    pub apart: bool,
}

/// Cycles that copying a row's neighbouring lanes out of a cut vector takes; a tap of a vector takes half a
/// cycle. Rows that are better apart: 3x3 on 25 images of 5 x 17, one channel to 175, from 0.34 to 0.22 ms, and
/// 3 channels of 45 x 76 to 114 from 0.21 to 0.17 (Sapphire Rapids).
const COPY: usize = 8;

impl Cover {
    /// Lays vectors of `lanes` elements of `size` bytes from the first position to the last, each where
    /// the last one ended or, if that is junk, at the next useful position: no cover has fewer. No
    /// vector reaches the end: the last one starts earlier instead, perhaps before the block, and
    /// repeats a few lanes.
    pub fn new(positions: &Positions<'_>, lanes: usize, size: usize) -> Self {
        let Positions { lens, pitches, strides, short, end, direct, apart } = *positions;
        let mut cover = Cover::default();
        if lens.contains(&0) {
            return cover;
        }
        let (&row_len, outer) = lens.split_last().expect("a geometry has axes");
        let inner = outer.len();
        let dense = direct && strides[inner] == size as isize;
        let limit = end - lanes as isize;
        let mut index = vec![0; inner];
        // The vector that was laid last, and its lanes.
        let (mut start, mut covered) = (0, isize::MIN);
        let mut parts = Vec::new();
        for _ in 0..outer.iter().product() {
            let at = |by: &[isize]| -> isize {
                index.iter().zip(by).map(|(&i, &s)| i as isize * s).sum()
            };
            let (first, to) = (at(pitches), at(strides));
            let row_end = first + row_len as isize;
            let all = match short {
                Some((axis, rows)) if axis < inner && index[axis] + 1 == lens[axis] => rows,
                _ => usize::MAX,
            };
            // Along the row itself it is the last position alone.
            let last =
                short.filter(|&(axis, _)| axis == inner).map(|(_, rows)| (row_end - 1, rows));
            let mut next = first;
            while next < row_end {
                if next >= covered || (apart && next == first) {
                    cover.push(start, &mut parts, (lanes, dense));
                    start = next.min(limit);
                    if apart {
                        start = start.min(row_end - lanes as isize);
                        next = start;
                    }
                    covered = start + lanes as isize;
                }
                let mut stop = covered.min(row_end);
                let mut rows = all;
                match last {
                    Some((at, few)) if next == at => rows = few,
                    Some((at, _)) => stop = stop.min(at),
                    None => {}
                }
                let part = Lanes {
                    lane: (next - start) as usize,
                    len: (stop - next) as usize,
                    to: to + (next - first) * strides[inner],
                    rows,
                };
                match parts.last_mut() {
                    Some(before) if before.goes_on(&part, strides[inner]) => before.len += part.len,
                    _ => parts.push(part),
                }
                next = stop;
            }
            advance(&mut index, outer);
        }
        cover.push(start, &mut parts, (lanes, dense));
        cover
    }

    /// Whether rows that have vectors [of their own](Positions::apart) take less time than these vectors: more
    /// sums of so many `taps`, but none of them is copied.
    pub fn is_better_apart(
        &self,
        positions: &Positions<'_>,
        (lanes, size): (usize, usize),
        taps: usize,
    ) -> bool {
        let (&row, outer) = positions.lens.split_last().expect("a geometry has axes");
        let apart = outer.iter().product::<usize>() * row.div_ceil(lanes);
        let dense = positions.strides[outer.len()] == size as isize;
        let possible = positions.direct && dense && positions.short.is_none() && row >= lanes;
        let more = apart.saturating_sub(self.whole.len() + self.cut.len());
        possible && more * taps < 2 * self.lanes.len() * COPY
    }

    /// Vectors from some places on, the results of which lie one behind the other: `bytes` each.
    pub fn one_behind_the_other(from: impl Iterator<Item = isize>, bytes: usize) -> Self {
        let column = |(i, from)| Column { from, to: (i * bytes) as isize };
        Cover { whole: from.enumerate().map(column).collect(), ..Cover::default() }
    }

    /// Vectors over `outputs` output channels, `from` elements apart, some of them; the last may be filled
    /// in part. Neighbouring results are `step` bytes apart; whole vectors go to them as they are only if
    /// they may (`direct`).
    pub fn of_channels(
        vectors: Range<usize>,
        outputs: usize,
        (lanes, from): (usize, isize),
        (step, direct): (isize, bool),
    ) -> Self {
        let mut cover = Cover::default();
        for vector in vectors {
            let lane = vector * lanes;
            let to = lane as isize * step;
            let len = lanes.min(outputs - lane);
            let part = Lanes { lane: 0, len, to, rows: usize::MAX };
            cover.push(vector as isize * from, &mut vec![part], (lanes, direct));
        }
        cover
    }

    /// Makes the last `count` whole vectors cut ones, all of whose `lanes` are results.
    pub fn set_aside(&mut self, count: usize, lanes: usize) {
        for Column { from, to } in self.whole.drain(self.whole.len() - count..) {
            self.cut.push(Column { from, to: 0 });
            self.lanes.push(Lanes { lane: 0, len: lanes, to, rows: usize::MAX });
            self.ends.push(self.lanes.len());
        }
    }

    /// Adds a vector with its lanes, if it has some.
    fn push(&mut self, from: isize, parts: &mut Vec<Lanes>, (lanes, dense): (usize, bool)) {
        match parts.as_slice() {
            [] => return,
            [all] if all.len == lanes && all.rows == usize::MAX && dense => {
                self.whole.push(Column { from, to: all.to });
            }
            parts => {
                self.cut.push(Column { from, to: 0 });
                self.lanes.extend(parts);
                self.ends.push(self.lanes.len());
            }
        }
        parts.clear();
    }

    /// The lanes of a cut vector that are results.
    pub fn lanes(&self, cut: usize) -> &[Lanes] {
        let start = if cut == 0 { 0 } else { self.ends[cut - 1] };
        &self.lanes[start..self.ends[cut]]
    }

    /// Cuts both lists into strips of at most `most` vectors, or one tile, with tiles of `vectors`.
    pub fn strips(&self, vectors: usize, most: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        for (columns, whole) in [(&self.whole, true), (&self.cut, false)] {
            let tiled = columns.len() / vectors * vectors;
            let most = (most / vectors).max(1) * vectors;
            let strips = (0..tiled).step_by(most).map(|i| (i..tiled.min(i + most), vectors));
            let rest =
                (tiled < columns.len()).then(|| (tiled..columns.len(), columns.len() - tiled));
            for (range, vectors) in strips.chain(rest) {
                let bounds = |of: fn(&Column) -> isize| {
                    let all = columns[range.clone()].iter().map(of);
                    all.fold((isize::MAX, isize::MIN), |(low, high), at| {
                        (low.min(at), high.max(at))
                    })
                };
                let (from, to) = (bounds(|column| column.from), bounds(|column| column.to));
                spans.push(Span { whole, columns: range, vectors, from, to });
            }
        }
        spans
    }
}

/// A strip of a cover: neighbouring vectors that fill tiles of one shape.
#[derive(Clone, Debug)]
pub struct Span {
    /// Whether they are of the whole vectors, or of the cut ones.
    pub whole: bool,
    /// Which.
    pub columns: Range<usize>,
    /// Vectors of a tile.
    pub vectors: usize,
    /// The least and the greatest of where they start, in elements.
    pub from: (isize, isize),
    /// The least and the greatest of where their results start, in bytes.
    pub to: (isize, isize),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every result is in one lane of one vector, in as many rows as it has, and no vector ends behind
    /// the last position that may be read.
    #[test]
    fn covers_reach_every_position_once() {
        for lens in [[1, 1, 1], [2, 3, 5], [3, 1, 17], [2, 7, 7], [1, 4, 33]] {
            for junk in [0, 1, 2, 40] {
                for lanes in [2, 4, 16] {
                    for (inside, short) in
                        [(false, None), (true, None), (false, Some((1, 2))), (false, Some((2, 3)))]
                    {
                        check(lens, (junk, lanes), inside, short);
                    }
                }
            }
        }
    }

    fn check(
        lens: [usize; 3],
        (junk, lanes): (isize, isize),
        inside: bool,
        short: Option<(usize, usize)>,
    ) {
        let row = lens[2] as isize + junk;
        let pitches = [row * (lens[1] as isize + junk), row, 1];
        // Elements of one byte.
        let strides = [(lens[1] * lens[2]) as isize, lens[2] as isize, 1];
        let last: isize = (0..3).map(|a| (lens[a] as isize - 1) * pitches[a]).sum();
        let end = if inside { last + 1 } else { isize::MAX };
        let positions = Positions {
            lens: &lens,
            pitches: &pitches,
            strides: &strides,
            short,
            end,
            direct: true,
            apart: false,
        };
        let cover = Cover::new(&positions, lanes as usize, 1);
        let whole = cover.whole.iter().map(|column| {
            let all = Lanes { lane: 0, len: lanes as usize, to: column.to, rows: usize::MAX };
            (column.from, vec![all])
        });
        let cut = cover.cut.iter().enumerate().map(|(v, c)| (c.from, cover.lanes(v).to_vec()));
        let mut seen = vec![0; lens.iter().product()];
        for (start, parts) in whole.chain(cut) {
            assert!(start <= last && start + lanes <= end);
            for part in parts {
                assert!(part.lane + part.len <= lanes as usize);
                for i in 0..part.len {
                    let to = part.to as usize + i;
                    seen[to] += 1;
                    let index = [to / (lens[1] * lens[2]), to / lens[2] % lens[1], to % lens[2]];
                    let flat: isize = (0..3).map(|a| index[a] as isize * pitches[a]).sum();
                    assert_eq!(flat, start + (part.lane + i) as isize);
                    let few = short.filter(|&(axis, _)| index[axis] + 1 == lens[axis]);
                    assert_eq!(part.rows, few.map_or(usize::MAX, |(_, rows)| rows));
                }
            }
        }
        assert!(seen.iter().all(|&n| n == 1), "{lens:?} {junk} {lanes} {short:?}");
    }

    #[test]
    fn rows_of_their_own_have_whole_vectors() {
        let positions = Positions {
            lens: &[2, 3, 6],
            pitches: &[40, 7, 1],
            strides: &[18, 6, 1],
            short: None,
            end: 40 + 2 * 7 + 6,
            direct: true,
            apart: true,
        };
        let cover = Cover::new(&positions, 4, 1);
        assert!(cover.cut.is_empty());
        for (i, column) in cover.whole.iter().enumerate() {
            let (row, second) = (i / 2, i as isize % 2);
            let first = (row / 3 * 40 + row % 3 * 7) as isize;
            assert_eq!(
                *column,
                Column { from: first + 2 * second, to: 6 * row as isize + 2 * second }
            );
        }
        assert_eq!(cover.whole.len(), 12);
        let greedy = Cover::new(&Positions { apart: false, ..positions }, 4, 1);
        assert!(greedy.is_better_apart(&positions, (4, 1), 9));
        assert!(!greedy.is_better_apart(&positions, (4, 1), 9000));
        assert!(!greedy.is_better_apart(&positions, (8, 1), 9));
    }

    #[test]
    fn rows_without_junk_are_one() {
        let positions = Positions {
            lens: &[1, 2, 6],
            pitches: &[12, 6, 1],
            strides: &[48, 24, 4],
            short: None,
            end: isize::MAX,
            direct: true,
            apart: false,
        };
        let cover = Cover::new(&positions, 4, 4);
        assert_eq!((cover.whole.len(), cover.cut.len()), (3, 0));
        // Results apart: the vector over both rows is cut.
        let cover = Cover::new(&Positions { strides: &[64, 32, 4], ..positions }, 4, 4);
        assert_eq!((cover.whole.len(), cover.cut.len()), (2, 1));
    }

    #[test]
    fn strips_hold_every_vector_once() {
        for (whole, cut) in [(0, 1), (5, 0), (200, 31), (64, 64)] {
            let list = |n| (0..n).map(|i| Column { from: 10 * i, to: -i }).collect::<Vec<_>>();
            let cover = Cover { whole: list(whole), cut: list(cut), ..Cover::default() };
            for vectors in 1..8 {
                let mut seen = [vec![0; whole as usize], vec![0; cut as usize]];
                for span in cover.strips(vectors, 64) {
                    assert!(span.columns.len() <= 64 && span.vectors <= vectors);
                    assert!(span.columns.len().is_multiple_of(span.vectors));
                    let (first, last) =
                        (span.columns.start as isize, span.columns.end as isize - 1);
                    assert_eq!((span.from, span.to), ((10 * first, 10 * last), (-last, -first)));
                    seen[usize::from(!span.whole)][span.columns].iter_mut().for_each(|n| *n += 1);
                }
                assert!(seen.iter().flatten().all(|&n| n == 1));
            }
        }
    }
}
