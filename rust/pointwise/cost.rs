//! What products and their sums would cost.

use std::borrow::Cow;
use std::ops::Range;

use super::line::Line;
use super::{Sizes, cannot, cuts, is_near, product};
use crate::contract;
use crate::geometry::{Axis, Geometry, gcd};
use crate::memory::LINE;
use crate::offer::{Cost, Declined, far};

/// Nanoseconds; elements are of float32, and two of them in float64.
struct Rates {
    /// A call.
    call: f64,
    /// What the product takes of what the direct sum would say, and a byte of the input that it reads from afar.
    product: f64,
    read: f64,
    /// A weight that is copied.
    copy: f64,
    /// A vector of a plane that is added.
    add: f64,
    /// A row of results, and each residue of it.
    row: f64,
    residue: f64,
    /// A result that is stored, and one that is put beside those of other residues.
    result: f64,
    turn: f64,
    /// A byte of arrays and planes that the second-level cache does not hold.
    far: f64,
}

/// Set by the times of some 1800 random shapes with few channels on one side, on one thread of a Sapphire Rapids core.
const RATES: Rates = Rates {
    call: 8000.0,
    product: 1.25,
    read: 0.03,
    copy: 1.0,
    add: 0.7,
    row: 40.0,
    residue: 8.0,
    result: 0.2,
    turn: 0.6,
    far: 0.007,
};

/// Bytes of an input that the second-level cache holds from one call to the next, beside planes.
const READ_BYTES: f64 = (1 << 20) as f64;

/// Why "auto" leaves some sums to others.
const FAR: Declined = Declined::NotWorth(Cow::Borrowed(
    "it adds so many taps of so few channels that they may be rounded thrice as often as in the plain sum",
));

/// Channels that are summed over, with fewer of which the additions of taps are most of the time.
const LEAST_CHANNELS: usize = 4;

/// Why it is not for those.
const FEW: Declined = Declined::NotWorth(Cow::Borrowed(
    "it adds each tap by itself, which takes many channels to pay",
));

/// The predicted time of a convolution.
pub fn offer(geometry: &Geometry, element: usize) -> Result<Cost, Declined> {
    if let Some(declined) = cannot(geometry) {
        return Err(declined);
    }
    if geometry.channels < LEAST_CHANNELS {
        return Err(FEW);
    }
    if geometry.kernel_taps() == 1 {
        return Err(Declined::NotWorth("its kernel has one tap, whose sum is the result".into()));
    }
    if geometry.positions() * geometry.outputs * geometry.groups == 0 {
        return Err(Declined::NotWorth("there is nothing to sum".into()));
    }
    let kernel: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
    if !is_near(geometry.channels, &kernel) {
        return Err(FAR);
    }
    let lines: Vec<Line> = geometry.axes[1..].iter().map(Line::forward).collect();
    let cost = cost(geometry, (geometry.channels, geometry.outputs), &lines, element);
    // Taps of one output lie evenly apart, or of all where there is one channel.
    let copies = geometry.outputs > 1 && geometry.channels > 1;
    let copied = geometry.groups * geometry.outputs * geometry.channels * geometry.kernel_taps();
    let copy = if copies { RATES.copy * copied as f64 } else { 0.0 };
    Ok(Cost { weights: cost.weights + copy, ..cost })
}

/// The predicted time of the gradient of an input at padded positions `windows`.
pub fn adjoint_offer(
    geometry: &Geometry,
    windows: &[Range<isize>],
    element: usize,
) -> Result<Cost, Declined> {
    if geometry.outputs < LEAST_CHANNELS {
        return Err(FEW);
    }
    // A result has the taps of one residue.
    let taps = |axis: &Axis| axis.kernel.div_ceil(axis.stride / gcd(axis.stride, axis.dilation));
    let kernel: Vec<usize> = geometry.axes.iter().map(taps).collect();
    if !is_near(geometry.outputs, &kernel) {
        return Err(FAR);
    }
    let axes = geometry.axes[1..].iter().zip(windows);
    let lines: Vec<Line> = axes.map(|(axis, window)| Line::adjoint(axis, window)).collect();
    Ok(cost(geometry, (geometry.outputs, geometry.channels), &lines, element))
}

/// Of sums over `channels` channels to each of `outputs` outputs of a group.
fn cost(
    geometry: &Geometry,
    (channels, outputs): (usize, usize),
    lines: &[Line],
    element: usize,
) -> Cost {
    let images = geometry.axes[0].output;
    let lens = lines.iter().map(|line| line.reached(&(0..line.result)).len());
    let lens: Vec<usize> = [images].into_iter().chain(lens).collect();
    let rows = outputs * geometry.kernel_taps();
    let layer = Geometry { channels, ..product(geometry, rows, geometry.groups, &lens) };
    let Cost { weights, work } = contract::part(&layer, element);
    // What two blocks need is computed for each.
    let sizes = Sizes { groups: geometry.groups, rows, images };
    let blocks = cuts(&sizes, lines, element, 1).rows;
    let again = ((blocks - 1) * lines[0].reach()) as f64 / lens[1].max(1) as f64;
    let planes = (geometry.groups * outputs * images) as f64;
    let lanes = LINE / element;
    // Positions that all taps of an axis add to results, or vectors of them.
    let added = |line: &Line, each: usize| {
        let all = 0..line.result;
        let taken = (0..line.shifts.len()).map(|tap| line.taken(tap, &all).len().div_ceil(each));
        taken.sum::<usize>() as f64
    };
    let (row, others) = lines.split_last().expect("a geometry has axes");
    let outer = others.iter().map(|line| added(line, 1)).product::<f64>();
    let rows = planes * others.iter().map(|line| line.result as f64).product::<f64>();
    let results = rows * row.result as f64 * (element as f64 / 4.0);
    let turned = if row.stride > 1 { RATES.turn } else { 0.0 };
    let held = (geometry.groups * outputs * geometry.kernel_taps()) as f64
        * lens.iter().map(|&n| n as f64).product::<f64>();
    let read = (geometry.groups * channels * images) as f64
        * lines.iter().map(|line| line.input as f64).product::<f64>();
    let sums = planes * outer * added(row, lanes) * RATES.add
        + rows * (RATES.row + row.stride as f64 * RATES.residue)
        + results * (RATES.result + turned)
        + RATES.read * (read * element as f64 - READ_BYTES).max(0.0)
        + far((held + read) * element as f64 + 4.0 * results, RATES.far);
    let work = work * RATES.product * (1.0 + again);
    Cost { weights, work: RATES.call + work + sums }
}
