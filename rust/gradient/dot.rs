//! [`Form::Dot`](super::Form::Dot): output channels by taps, 16 positions a step.

use super::stage::{Room, Staged, positions, rows};
use super::{CHAIN, Item, LANES, Plan, Problem, Sink};
use crate::contract::nth_block;
use crate::error::{Error, room};
use crate::parallel::{Turn, even_parts};
use crate::tile::{Contraction, MAX_COLUMNS, Results, Strip, Tiled};
use crate::view::{Element, Memory};

impl<T: Tiled> Plan<'_, T> {
    /// All tiles of an item in a block: output channels by taps of channels.
    pub(super) fn dot(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        (staged, (first, last)): (&Staged, (bool, bool)),
        room: &mut Room<'_, T>,
        sink: &Sink<'_, T>,
    ) -> Result<(), Error> {
        let lanes = self.kernels.lanes;
        let steps = staged.sum.steps.len();
        let (plane, gradient_plane) =
            (self.layout.plane() as isize, self.gradient_plane(&staged.lens) as isize);
        let (a, b) = (Memory::of(room.gradient), Memory::of(room.slab));
        let contraction = Contraction { a, b, sum: &staged.sum };
        let chains = staged.sum.chains();
        let all = item.channels.len() * self.taps.len();
        let (sums, results) =
            room.results.split_at_mut(self.shape.rows * self.shape.columns * LANES);
        let mut region = 0;
        for outputs in even_parts(0..item.outputs.len(), self.shape.rows) {
            let rows = outputs.len();
            for taps in even_parts(0..all, self.shape.columns) {
                if !turn.goes_on(steps * rows * taps.len()) {
                    return Ok(());
                }
                let vectors = taps.len();
                let mut columns = [0; MAX_COLUMNS];
                for (column, tap) in columns.iter_mut().zip(taps.clone()) {
                    *column =
                        (tap / self.taps.len()) as isize * plane + self.taps[tap % self.taps.len()];
                }
                for part in (0..LANES).step_by(lanes) {
                    let len = rows * Strip::<T>::row_vectors(vectors) * lanes;
                    // Sums of one block alone need no place of their own.
                    let begin = if first && last { 0 } else { region };
                    let totals = &mut room.sums[begin..begin + len];
                    region += len;
                    let a = outputs.start as isize * gradient_plane + part as isize;
                    let columns = columns.map(|column| column + part as isize);
                    for chain in 0..chains {
                        let (starts, ends) = (first && chain == 0, last && chain + 1 == chains);
                        let steps = (vectors * LANES, LANES);
                        let result = ends
                            .then(|| Results::of(&mut sums[part..], steps, (rows, vectors), lanes));
                        contraction.total(
                            (self.kernels, chain),
                            (a, rows),
                            &columns[..vectors],
                            (&mut *totals, result),
                            (starts, true),
                        );
                    }
                }
                if last {
                    for (m, sums) in sums.chunks_exact(vectors * LANES).take(rows).enumerate() {
                        let to = &mut results[m * all..][taps.clone()];
                        for (to, sums) in to.iter_mut().zip(sums.chunks_exact(LANES)) {
                            *to = halved(sums);
                        }
                    }
                }
            }
            if last {
                for (m, row) in results.chunks_exact_mut(all).take(rows).enumerate() {
                    let output = item.group * self.problem.geometry.outputs
                        + item.outputs.start
                        + outputs.start
                        + m;
                    for (c, sums) in row.chunks_exact_mut(self.taps.len()).enumerate() {
                        if sums.iter().any(|sum| !sum.to_f64().is_finite()) {
                            let channel = item.group * self.problem.geometry.channels
                                + item.channels.start
                                + c;
                            self.exact(item, (output, channel), sums)?;
                        }
                    }
                    // SAFETY: as for `outer`.
                    unsafe {
                        sink.write(
                            (item.target, output),
                            (item.channels.clone(), 0..self.taps.len()),
                            row,
                        )
                    };
                }
            }
        }
        Ok(())
    }

    /// The sums of an output and a channel again, without the zeros between rows, where one of them
    /// is not finite: a zero times an infinity that no output sees may have made it so.
    fn exact(
        &self,
        item: &Item,
        (output, channel): (usize, usize),
        sums: &mut [T],
    ) -> Result<(), Error> {
        let Problem { x, gradient, padding, .. } = self.problem;
        let mut totals: Vec<Option<[T; LANES]>> = room("the partial sums", sums.len())?;
        totals.resize(sums.len(), None);
        let mut slab = room("the staged input", self.layout.plane())?;
        slab.resize(self.layout.plane(), T::default());
        let mut plane = Vec::new();
        for number in item.blocks.clone() {
            let (_, mut block) = nth_block(&self.one, &self.blocks, number);
            if self.problem.per_sample {
                block.0[0] = item.image..item.image + 1;
            }
            let lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
            let runs = self.layout.runs(&block, &x.strides()[1..]);
            self.layout.stage((&runs, channel..channel + 1), x, *padding, &mut slab);
            plane.resize(self.gradient_plane(&lens), T::default());
            let pitches = self.layout.pitches();
            let runs = rows(&block, &pitches, &gradient.strides()[1..]);
            gradient.read_runs(
                output as isize * gradient.strides()[0],
                &runs,
                T::default(),
                &mut plane,
            );
            for (total, &tap) in totals.iter_mut().zip(&self.taps) {
                let mut chain = None;
                let mut sums = [T::default(); LANES];
                for at in positions(&lens, &pitches) {
                    let this = Some(at as usize / LANES / CHAIN);
                    if chain != this {
                        add_chain(total, chain.map(|_| sums));
                        (chain, sums) = (this, [T::default(); LANES]);
                    }
                    let sum = &mut sums[at as usize % LANES];
                    *sum = plane[at as usize].mul_add(slab[(at + tap) as usize], *sum);
                }
                add_chain(total, chain.map(|_| sums));
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            *sum = halved(&total.unwrap_or_default());
        }
        Ok(())
    }
}

/// Adds interleaved sums of a chain to those of the chains before.
fn add_chain<T: Element>(total: &mut Option<[T; LANES]>, chain: Option<[T; LANES]>) {
    if let Some(chain) = chain {
        *total = Some(match *total {
            None => chain,
            Some(total) => std::array::from_fn(|i| total[i].add(chain[i])),
        });
    }
}

/// The sum of interleaved sums: halves, quarters, and so on.
pub(super) fn halved<T: Element>(sums: &[T]) -> T {
    let mut sums: [T; LANES] = sums.try_into().expect("interleaved sums");
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] = sums[i].add(sums[i + half]);
        }
        half /= 2;
    }
    sums[0]
}
