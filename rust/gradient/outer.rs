//! [`Form::Outer`](super::Form::Outer): channels by vectors of output channels, positions as steps.

use std::ops::Range;

use super::stage::{Room, Staged, turned};
use super::{CHAIN, Item, Plan, STAGED, Sink, TAPS};
use crate::parallel::{Turn, even_parts};
use crate::tile::{Contraction, MAX_COLUMNS, Results, Strip, Tiled};
use crate::view::Memory;

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
        let lanes = self.kernels.lanes;
        let width = self.width();
        let steps = staged.sum.steps.len();
        let (start, panel) = (self.first_row(staged), self.panel(steps));
        let (a, b) = match (self.swapped, self.rows_in_place()) {
            (false, _) => (Memory::of(room.slab), &*room.gradient),
            (true, None) => (Memory::of(room.gradient), &*room.turned),
            (true, Some(rows)) => (rows.clone(), &*room.turned),
        };
        let contraction = Contraction { a, b: Memory::of(b), sum: &staged.sum };
        let chains = staged.sum.chains();
        let (all_rows, all_columns) = if self.swapped {
            (item.outputs.len(), item.channels.len())
        } else {
            (item.channels.len(), item.outputs.len())
        };
        let aside = if self.swapped { 0 } else { self.sizes.results / 2 };
        let (transposed, results) = room.results.split_at_mut(aside);
        let groups: Vec<Range<usize>> = even_parts(0..all_rows, self.shape.rows).collect();
        let mut region = 0;
        for column in (0..all_columns).step_by(width) {
            let columns = column..all_columns.min(column + width);
            let vectors = columns.len().div_ceil(lanes);
            for taps in even_parts(0..self.taps.len(), TAPS) {
                // Some rows at a time, so that totals stay in the cache, a chain after the other, so
                // that its part of the columns does.
                for groups in groups.chunks(self.groups_at_once(taps.len())) {
                    let begin = if first && last { 0 } else { region };
                    for chain in 0..chains {
                        let (starts, ends) = (first && chain == 0, last && chain + 1 == chains);
                        region = begin;
                        for rows in groups {
                            if !turn.goes_on(CHAIN.min(steps) * rows.len() * vectors * taps.len()) {
                                return;
                            }
                            for (k, &tap) in self.taps[taps.clone()].iter().enumerate() {
                                let (in_a, in_b) =
                                    if self.swapped { (0, tap * width as isize) } else { (tap, 0) };
                                let a = start + rows.start as isize * staged.sum.a_row + in_a;
                                let from = (column * panel) as isize + in_b;
                                let from: [isize; MAX_COLUMNS] =
                                    std::array::from_fn(|v| from + (v * lanes) as isize);
                                let len = rows.len() * Strip::<T>::row_vectors(vectors) * lanes;
                                let totals = &mut room.sums[region..region + len];
                                region += len;
                                // [row][tap][column]
                                let result = ends.then(|| Results {
                                    sums: &mut results[k * width..],
                                    row: taps.len() * width,
                                    column: lanes,
                                });
                                contraction.total(
                                    (self.kernels, chain),
                                    (a, rows.len()),
                                    &from[..vectors],
                                    (totals, result),
                                    (starts, false),
                                );
                            }
                            if ends && self.swapped {
                                for (output, row) in rows.clone().zip(results.chunks_exact(width)) {
                                    let row = &row[..columns.len()];
                                    self.put(item, output, (columns.clone(), 0..1), row, sink);
                                }
                            } else if ends {
                                let len = rows.len() * taps.len();
                                let to = (&mut *transposed, len);
                                let size = (len, columns.len());
                                turned((results, width), size, to, self.kernels);
                                let rows_of = transposed.chunks_exact(len);
                                for (output, row) in columns.clone().zip(rows_of) {
                                    let what = (rows.clone(), taps.clone());
                                    self.put(item, output, what, row, sink);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Groups of rows whose totals stay in the second-level cache, with so many taps.
    fn groups_at_once(&self, taps: usize) -> usize {
        let tile =
            self.shape.rows * Strip::<T>::row_vectors(self.shape.columns) * self.kernels.lanes;
        (STAGED / 2 / (tile * taps)).max(1)
    }
}
