//! [`Form::Outer`](super::Form::Outer): channels by vectors of output channels, positions as steps.

use std::ops::Range;

use super::stage::{Room, Staged, turned};
use super::{CHAIN, Item, Plan, STAGED, Sink, TAPS};
use crate::parallel::{Turn, even_parts};
use crate::tile::{Contraction, MAX_COLUMNS, Results, Strip, Tiled};
use crate::view::Memory;

/// Tiles of the same rows and columns, one a tap, in one chain.
struct Tiles<'a> {
    /// Of an item.
    rows: &'a Range<usize>,
    /// Of an item, as many as a tile has.
    columns: &'a Range<usize>,
    taps: Range<usize>,
    chain: usize,
    /// Whether the chain is the first of its sums, and whether it is the last.
    ends: (bool, bool),
}

impl<T: Tiled> Plan<'_, T> {
    /// All tiles of an item in a block, a tap at a time. Rows are channels in the slab, columns are
    /// output channels in the gradient, which was turned for that; or the other way round where there
    /// is one tap alone, since sums then lie as the gradient of the weights does. No sum differs.
    pub(super) fn outer(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        (staged, (first, last)): (&Staged, (bool, bool)),
        room: &mut Room<'_, T>,
        sink: &Sink<'_, T>,
    ) {
        let width = self.width();
        let steps = staged.sums[0].steps.len();
        let (a, b) = match (self.swapped, self.rows_in_place()) {
            (false, _) => (Memory::of(room.slab), &*room.gradient),
            (true, None) => (Memory::of(room.gradient), &*room.turned),
            (true, Some(rows)) => (rows.clone(), &*room.turned),
        };
        let contraction = Contraction { a, b: Memory::of(b), sum: &staged.sums[0] };
        let chains = staged.sums[0].chains();
        let (all_rows, all_columns) = if self.swapped {
            (item.outputs.len(), item.channels.len())
        } else {
            (item.channels.len(), item.outputs.len())
        };
        let groups: Vec<Range<usize>> = even_parts(0..all_rows, self.shape.rows).collect();
        let start = (self.first_row(staged), self.panel(steps));
        let mut region = 0;
        for column in (0..all_columns).step_by(width) {
            let columns = column..all_columns.min(column + width);
            let vectors = columns.len().div_ceil(self.kernels.lanes);
            for taps in even_parts(0..self.taps.len(), TAPS) {
                // Some rows at a time, so that totals stay in the cache, a chain after the other, so
                // that its part of the columns does.
                for groups in groups.chunks(self.groups_at_once(taps.len())) {
                    let begin = if first && last { 0 } else { region };
                    for chain in 0..chains {
                        let ends = (first && chain == 0, last && chain + 1 == chains);
                        region = begin;
                        for rows in groups {
                            let (columns, taps) = (&columns, taps.clone());
                            if !turn.goes_on(CHAIN.min(steps) * rows.len() * vectors * taps.len()) {
                                return;
                            }
                            let tiles = Tiles { rows, columns, taps, chain, ends };
                            let sums = (&mut room.sums[region..], &mut *room.results);
                            region += self.tiles((&contraction, start), &tiles, sums, (item, sink));
                        }
                    }
                }
            }
        }
    }

    /// Adds a chain to the totals of some tiles, from the first of `totals` on, and hands over the sums if it
    /// is the last. Gives how many totals there are.
    fn tiles(
        &self,
        (contraction, (first_row, panel)): (&Contraction<'_, T>, (isize, usize)),
        tiles: &Tiles<'_>,
        (totals, results): (&mut [T], &mut [T]),
        (item, sink): (&Item, &Sink<'_, T>),
    ) -> usize {
        let &Tiles { rows, columns, ref taps, chain, ends: (starts, ends) } = tiles;
        let (lanes, width) = (self.kernels.lanes, self.width());
        let vectors = columns.len().div_ceil(lanes);
        let size = (rows.len(), vectors);
        let aside = if self.swapped { 0 } else { self.sizes.results / 2 };
        let (transposed, results) = results.split_at_mut(aside);
        // Whole vectors of channels go where they belong.
        let whole = ends && self.swapped && columns.len() == vectors * lanes;
        let to = if whole { self.rows(item, rows, columns, sink) } else { None };
        let len = rows.len() * Strip::<T>::row_vectors(vectors) * lanes;
        let each = totals.chunks_exact_mut(len);
        for ((k, &tap), totals) in self.taps[taps.clone()].iter().enumerate().zip(each) {
            let (in_a, in_b) = if self.swapped { (0, tap * width as isize) } else { (tap, 0) };
            let a = first_row + rows.start as isize * contraction.sum.a_row + in_a;
            let from = (columns.start * panel) as isize + in_b;
            let from: [isize; MAX_COLUMNS] = std::array::from_fn(|v| from + (v * lanes) as isize);
            let result = match to {
                // SAFETY: each item has outputs and channels of its own, which one thread takes, and
                // `rows` saw that vectors of these channels can be written there.
                Some(to) => Some(unsafe { Results::at(to, size, lanes) }),
                // [row][tap][column]
                None if ends => {
                    let steps = (taps.len() * width, lanes);
                    Some(Results::of(&mut results[k * width..], steps, size, lanes))
                }
                None => None,
            };
            contraction.total(
                (self.kernels, chain),
                (a, rows.len()),
                &from[..vectors],
                (totals, result),
                (starts, false),
            );
        }
        let len = len * taps.len();
        if !ends || to.is_some() {
            return len;
        }
        if self.swapped {
            for (output, row) in rows.clone().zip(results.chunks_exact(width)) {
                let row = &row[..columns.len()];
                item.put(self.problem.geometry, output, (columns.clone(), 0..1), row, sink);
            }
        } else {
            let row = rows.len() * taps.len();
            turned((results, width), (row, columns.len()), (&mut *transposed, row), self.kernels);
            for (output, sums) in columns.clone().zip(transposed.chunks_exact(row)) {
                item.put(self.problem.geometry, output, (rows.clone(), taps.clone()), sums, sink);
            }
        }
        len
    }

    /// Groups of rows whose totals stay in the second-level cache, with so many taps.
    fn groups_at_once(&self, taps: usize) -> usize {
        let tile =
            self.shape.rows * Strip::<T>::row_vectors(self.shape.columns) * self.kernels.lanes;
        (STAGED / 2 / (tile * taps)).max(1)
    }
}
