//! The gradient of a convolution's input, which is the transposed convolution.
//!
//! With `y[m, p] = sum over c, k of w[m, c, k] x[c, p * stride + k * dilation]`, the gradient of `x` is
//!
//! ```text
//! dx[c, q] = sum over m and the k, p with p * stride + k * dilation = q of   w[m, c, k] g[m, p]
//! ```
//!
//! Of the taps, those with the same residue of `k * dilation` modulo the stride reach the positions
//! `q` of that residue, and no others. So an axis falls into *phases*, one a residue, and each
//! combination of phases is a forward convolution of `g` with unit stride, whose weights are some of
//! the taps, flipped, with outputs and channels swapped: all by addresses alone, and no product with
//! a zero between strides is ever computed. Positions that no tap reaches are zero.
//!
//! Padding other than zeros shows elements of the input again, so there the gradient of the padded
//! input is computed first and then folded: what stands for an element is added to it, in order.

mod fold;
mod phases;

use std::ops::Range;

use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::offer::Precision;
use crate::parallel::{Stopped, Team};
use crate::plan::{Asked, Method, PREFERRED, Planned};
use crate::pointwise;
use crate::problem::Adjoint;
use crate::store::Store;
use crate::tile::{Kernels, Tiled};
use crate::view::{View, ViewMut, advance};

use fold::fold;
use phases::phases;

/// Positions that a thread fills or folds without asking for more: some 10 us.
const PLANES_WORK: usize = 1 << 16;

/// Computes the gradient of an input.
pub fn input<T: Planned>(
    asked: Asked,
    problem: &Adjoint<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let Adjoint { geometry, store, .. } = problem;
    let spatial = &geometry.axes[1..];
    let whole: usize = geometry.axes.iter().map(|axis| axis.input).product();
    if whole * geometry.channels * geometry.groups == 0 {
        return Ok(());
    }
    let run = (asked, kernels, team);
    if !spatial.iter().any(Axis::shows_again) {
        let windows = spatial.iter().map(|a| a.before..a.before + a.input as isize).collect();
        return computed(problem, store, windows, run);
    }
    let window = |axis: &Axis| {
        let padded = axis.input as isize + axis.before + axis.after;
        if axis.shows_again() { 0..padded } else { axis.before..axis.before + axis.input as isize }
    };
    let windows: Vec<Range<isize>> = spatial.iter().map(window).collect();
    let channels = geometry.groups * geometry.channels;
    let shape: Vec<usize> = [channels, geometry.axes[0].input]
        .into_iter()
        .chain(windows.iter().map(|window| window.len()))
        .collect();
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n)).unwrap_or(usize::MAX);
    let mut padded = room("the gradient of the padded input", len)?;
    padded.resize(len, T::default());
    let out = ViewMut::from_slice(&mut padded, &shape);
    let inner = Store::plain(out);
    computed(problem, &inner, windows, run)?;
    drop(inner);
    fold(geometry, &View::from_slice(&padded, &shape), store, team)
}

/// Computes the gradient at the padded positions `windows`, which are the positions of `store`.
fn computed<T: Planned>(
    problem: &Adjoint<'_, T>,
    store: &Store<'_, T>,
    windows: Vec<Range<isize>>,
    run: (Asked, &Kernels<T>, &Team<'_>),
) -> Result<(), Stopped> {
    if is_pointwise::<T>(run.0, problem.geometry, &windows) {
        return pointwise::adjoint(problem, (store, &windows), run.1, run.2);
    }
    phases(problem, store, windows, run)
}

/// Whether all phases are computed at once, a tap at a time. Where there is one phase, its method is chosen as that of
/// any convolution.
fn is_pointwise<T: Tiled>(asked: Asked, geometry: &Geometry, windows: &[Range<isize>]) -> bool {
    let strided = geometry.axes.iter().any(|axis| axis.stride > 1);
    if !strided || geometry.outputs == 0 || T::SCALAR.is_integer() {
        return false;
    }
    match asked.method {
        None if asked.precision != Precision::Exact => {
            let mut image = geometry.clone();
            image.axes[0] = Axis::plain(1);
            let phases = phases::cost(&image, windows, size_of::<T>(), asked.precision);
            phases.is_some_and(|phases| {
                let pointwise = pointwise::adjoint_offer(&image, windows, size_of::<T>());
                pointwise.is_ok_and(|cost| cost.whole() < PREFERRED * phases)
            })
        }
        method => method == Some(Method::Pointwise),
    }
}

/// Writes what a sum of nothing gives to every position.
fn fill<T: Tiled>(
    geometry: &Geometry,
    windows: &[Range<isize>],
    store: &Store<'_, T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let lens: Vec<usize> = windows.iter().map(|window| window.len()).collect();
    let (&len, outer) = lens.split_last().expect("a geometry has axes");
    let outer: Vec<usize> = [geometry.axes[0].input].into_iter().chain(outer.to_vec()).collect();
    let plane = len * outer.iter().product::<usize>();
    planes(geometry.groups * geometry.channels, plane, team, |channels| {
        let mut row = room("a row of the result", len)?;
        row.resize(len, T::default());
        for channel in channels {
            row.fill(store.finished(channel, T::default()));
            let mut index = vec![0; outer.len()];
            for _ in 0..outer.iter().product() {
                // SAFETY: each channel is filled by one thread.
                unsafe { store.put((channel, &index), &row) };
                advance(&mut index, &outer);
            }
        }
        Ok(())
    })
}

/// Deals the channels of the result, of so many elements each, to the threads, a range of them at a time.
fn planes(
    channels: usize,
    plane: usize,
    team: &Team<'_>,
    work: impl Fn(Range<usize>) -> Result<(), Error> + Sync,
) -> Result<(), Stopped> {
    let each = (PLANES_WORK / plane.max(1)).max(1);
    team.share(channels.div_ceil(each), |turn| {
        while let Some(item) = turn.next() {
            work(item * each..channels.min((item + 1) * each))?;
        }
        Ok(())
    })
}
