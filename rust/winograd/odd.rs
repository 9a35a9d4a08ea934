//! What is not finite: NaN and infinities, and numbers so large that a transform overflows. They would
//! reach every result of a tile, so such tiles' results are those of the plain sum.

use std::ops::Range;

use crate::contract;
use crate::error::room;
use crate::parallel::{Stopped, Team};
use crate::problem::Problem;
use crate::store::Store;
use crate::tile::{Kernels, Tiled};
use crate::view::ViewMut;

use super::region::Row;

/// Neighbouring results that the plain sum has to give.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// The first one's place in the result, in C order of the engine's axes.
    position: usize,
    /// Its byte offset in the result.
    to: isize,
    len: usize,
}

/// Results along the last axis, of `rows` of the same tiles with so many outputs `each`, that belong to tiles some
/// result of which is not finite.
pub fn spoiled<T: Tiled>(each: usize, rows: &[&[T]]) -> Vec<Range<usize>> {
    let mut spoiled: Vec<Range<usize>> = Vec::new();
    let len = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    for first in (0..len).step_by(each) {
        let of = |row: &&[T]| {
            let tile = first.min(row.len())..row.len().min(first + each);
            row[tile].iter().any(|value| !value.to_f64().is_finite())
        };
        if !rows.iter().any(of) {
            continue;
        }
        match spoiled.last_mut() {
            Some(last) if last.end == first => last.end = first + each,
            _ => spoiled.push(first..first + each),
        }
    }
    spoiled
}

/// The parts of a row of `len` results that are not `spoiled`.
pub fn sound(spoiled: &[Range<usize>], len: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = [0].into_iter().chain(spoiled.iter().map(|range| range.end));
    let ends = spoiled.iter().map(|range| range.start).chain([len]);
    starts.zip(ends).map(move |(start, end)| start..end.min(len)).filter(|range| !range.is_empty())
}

/// Those that are, of a row of an output channel whose results begin at byte `to` and are `step` bytes apart.
pub fn spots(
    spoiled: &[Range<usize>],
    row: &Row,
    (first, to, (step, apart)): (usize, isize, (isize, usize)),
) -> impl Iterator<Item = Spot> {
    spoiled.iter().filter(|range| range.start < row.len).map(move |range| Spot {
        position: first + row.position + range.start * apart,
        to: to + row.to + range.start as isize * step,
        len: range.end.min(row.len) - range.start,
    })
}

/// Computes by the plain sum what was left to it: results that lie so many bytes, and positions, apart in a row.
pub fn finish<T: Tiled>(
    spots: &[Spot],
    (step, apart): (isize, usize),
    (problem, kernels): (&Problem<'_, T>, &Kernels<T>),
    team: &Team<'_>,
) -> Result<(), Stopped> {
    if spots.is_empty() {
        return Ok(());
    }
    let (geometry, store) = (problem.geometry, problem.store);
    let lens = geometry.axes.iter().map(|axis| axis.output);
    let shape: Vec<usize> = [geometry.groups * geometry.outputs].into_iter().chain(lens).collect();
    let len = shape.iter().product();
    let mut plain = room("the results of the plain sum", len)?;
    plain.resize(len, T::default());
    let out = ViewMut::from_slice(&mut plain, &shape);
    let direct = Store { out, accumulate: false, ..*store };
    contract::direct(&Problem { store: &direct, ..*problem }, kernels, team)?;
    drop(direct);
    let mut row = Vec::new();
    for spot in spots {
        row.clear();
        row.extend(plain[spot.position..].iter().step_by(apart).take(spot.len));
        // SAFETY: no other thread is at work.
        unsafe { store.run(spot.to, step, &row) }
    }
    Ok(())
}
