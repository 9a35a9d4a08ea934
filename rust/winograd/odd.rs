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

use super::region::{Row, Weave};

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
/// result of which is not finite. The outputs of `width` tiles alternate.
pub fn spoiled<T: Tiled>((each, width): (usize, usize), rows: &[&[T]]) -> Vec<Range<usize>> {
    let mut spoiled: Vec<Range<usize>> = Vec::new();
    let len = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let odd = |at: &usize| {
        let value = |row: &&[T]| row.get(*at).is_some_and(|value| !value.to_f64().is_finite());
        rows.iter().any(value)
    };
    for at in 0..len {
        let first = at / (each * width) * (each * width) + at % width;
        if !(first..len).step_by(width).take(each).any(|at| odd(&at)) {
            continue;
        }
        match spoiled.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => spoiled.push(at..at + 1),
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

/// Those that are, of a row of an output channel whose results begin at byte `to` and are `size` bytes apart.
pub fn spots(
    spoiled: &[Range<usize>],
    (row, weave): (&Row, Weave),
    (first, to, size): (usize, isize, isize),
) -> impl Iterator<Item = Spot> {
    let inside = spoiled.iter().filter(|range| range.start < row.len);
    let runs = inside.flat_map(move |range| weave.runs(range.start..range.end.min(row.len)));
    runs.map(move |(run, behind)| Spot {
        position: first + row.position + behind,
        to: to + row.to + behind as isize * size,
        len: run.len(),
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
