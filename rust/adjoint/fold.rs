//! What padding that shows elements again got back, added up.

use std::ops::Range;

use super::planes;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::parallel::{Stopped, Team};
use crate::store::Store;
use crate::tile::Tiled;
use crate::view::{View, advance};

/// Adds up what padding shows of each element: `padded`, at all padded positions of the axes that
/// show elements again, into the result.
pub(super) fn fold<T: Tiled>(
    geometry: &Geometry,
    padded: &View<'_>,
    store: &Store<'_, T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let size = size_of::<T>() as isize;
    let shown = geometry.axes.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    let (inner, outer) = shown.split_last().expect("a geometry has axes");
    let lens: Vec<usize> = geometry.axes[1..].iter().map(|axis| axis.input).collect();
    let strides = padded.strides();
    let positions = strides[strides.len() - 2] / size;
    let plane = lens.iter().product::<usize>() * geometry.axes[0].input;
    planes(geometry.groups * geometry.channels, plane, team, |channels| {
        let mut row = room("a row of the result", inner.items.len())?;
        row.resize(inner.items.len(), T::default());
        let mut sums = room("a row of the result", inner.starts.len() - 1)?;
        sums.resize(inner.starts.len() - 1, T::default());
        let outer_lens: Vec<usize> = outer.iter().map(|axis| axis.starts.len() - 1).collect();
        for channel in channels {
            let mut index = vec![0; outer.len()];
            for _ in 0..outer_lens.iter().product() {
                sums.fill(T::default());
                let lists: Vec<&[usize]> =
                    outer.iter().zip(&index).map(|(axis, &i)| axis.of(i)).collect();
                let counts: Vec<usize> = lists.iter().map(|list| list.len()).collect();
                let mut at = vec![0; outer.len()];
                for _ in 0..counts.iter().product() {
                    let places = lists.iter().zip(&at).map(|(list, &i)| list[i]);
                    let offset = places.zip(&strides[1..]).map(|(q, s)| q as isize * s);
                    let offset = channel as isize * strides[0] + offset.sum::<isize>();
                    inner.add(padded, offset, positions, (&mut row, &mut sums));
                    advance(&mut at, &counts);
                }
                for sum in &mut sums {
                    *sum = store.finished(channel, *sum);
                }
                // SAFETY: each channel is written by one thread.
                unsafe { store.put((channel, &index), &sums) };
                advance(&mut index, &outer_lens);
            }
        }
        Ok(())
    })
}

/// Where padding shows each element of an axis.
struct Shown {
    /// The padded positions, those of element `i` at `starts[i]..starts[i + 1]`, in order.
    items: Vec<usize>,
    starts: Vec<usize>,
    /// Elements that are shown once, and where the first of them is.
    once: Range<usize>,
    at: usize,
}

/// Where the padded positions of an axis, as [`input`](super::input) computes their gradient, show its
/// elements.
fn shown(axis: &Axis) -> Result<Shown, Error> {
    let again = axis.shows_again();
    let padded = if again { axis.input as isize + axis.before + axis.after } else { 0 };
    let mut lists: Vec<(usize, usize)> = room("a table of the padding", padded as usize)?;
    if again {
        lists.extend((0..padded).filter_map(|q| Some((axis.source(q)?, q as usize))));
    } else {
        lists = room("a table of the padding", axis.input)?;
        lists.extend((0..axis.input).map(|i| (i, i)));
    }
    lists.sort_unstable();
    let starts = (0..=axis.input).map(|i| lists.partition_point(|&(source, _)| source < i));
    let starts: Vec<usize> = starts.collect();
    let items: Vec<usize> = lists.into_iter().map(|(_, q)| q).collect();
    // The longest run of elements that are shown once, each behind the last.
    let single = |i: usize| starts[i + 1] - starts[i] == 1;
    let (mut once, mut first) = (0..0, 0);
    for i in 0..axis.input {
        if !single(i) {
            first = i + 1;
        } else if i > first && items[starts[i]] != items[starts[i - 1]] + 1 {
            first = i;
        }
        if i + 1 - first > once.len() {
            once = first..i + 1;
        }
    }
    let at = if once.is_empty() { 0 } else { items[starts[once.start]] };
    Ok(Shown { items, starts, once, at })
}

impl Shown {
    fn of(&self, element: usize) -> &[usize] {
        &self.items[self.starts[element]..self.starts[element + 1]]
    }

    /// Adds a row of padded positions, from byte `offset` on, to the elements that they show.
    fn add<T: Tiled>(
        &self,
        padded: &View<'_>,
        offset: isize,
        len: isize,
        (row, sums): (&mut Vec<T>, &mut [T]),
    ) {
        row.resize(len as usize, T::default());
        padded.read(offset, size_of::<T>() as isize, row);
        let edges = (0..self.once.start).chain(self.once.end..sums.len());
        for i in edges {
            for &q in self.of(i) {
                sums[i] = sums[i].add(row[q]);
            }
        }
        let shown = &row[self.at..self.at + self.once.len()];
        for (sum, &value) in sums[self.once.clone()].iter_mut().zip(shown) {
            *sum = sum.add(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PaddingMode;

    #[test]
    fn padding_shows_elements_where_numpy_pad_does() {
        let axis = Axis { before: 2, after: 3, mode: PaddingMode::Symmetric, ..Axis::plain(4) };
        let shown = shown(&axis).unwrap();
        let lists: Vec<&[usize]> = (0..4).map(|i| shown.of(i)).collect();
        assert_eq!(lists, [&[1, 2][..], &[0, 3, 8], &[4, 7], &[5, 6]]);
        let cropped = Axis { before: -1, after: 1, mode: PaddingMode::Replicate, ..axis };
        let shown = super::shown(&cropped).unwrap();
        assert_eq!(shown.of(0), [0; 0]);
        assert_eq!((shown.of(3), shown.once.clone(), shown.at), (&[2, 3][..], 1..3, 0));
    }
}
