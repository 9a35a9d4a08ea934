//! What a direct convolution is predicted to take.
//!
//! It counts what is done, by what the nominal machine of [`offer`](crate::offer) would choose, and gives each
//! a price. Nothing here may look at the machine: "auto" compares these numbers.

use super::windows::MOST_OUTPUTS;
use crate::geometry::{Axis, Geometry, gcd};
use crate::offer::Cost;
use crate::slab::extent;
use crate::tile::{CHAIN, MOST_STRIDE};

// Nanoseconds on one thread of the nominal machine, fitted to the times of 1537 random shapes of
// `benches/compare.py --choices` on a Sapphire Rapids core, float32, in November 2026; in float64 what counts
// elements doubles.

/// Of a call, and of a tap of its table.
const CALL: f64 = 7400.0;
const STEP: f64 = 1.5;
/// Of an element that is staged; the same by phases of a stride; and of a row of them.
const STAGE: f64 = 0.25;
const STAGE_PHASES: f64 = 0.36;
const STAGE_ROW: f64 = 3.3;
/// Of a row of results of a channel.
const STORE_ROW: f64 = 6.6;
/// Of a byte of arrays that are larger than the second-level cache.
const FAR: f64 = 0.0145;
const NEAR_BYTES: f64 = 2097152.0;
/// Of an element of a signal's results, which is turned.
const TURN: f64 = 0.06;

/// What sums take: an element's product, and a vector that is loaded for a tap.
struct Price {
    product: f64,
    load: f64,
}

/// Of rows of output channels: many of them, or few.
const MANY: Price = Price { product: 0.0095, load: 0.0 };
const FEW: Price = Price { product: 0.0066, load: 0.28 };
/// Of rows of neighbouring outputs, and of windows that slide.
const NEIGHBOURS: Price = Price { product: 0.012, load: 0.2 };
const WINDOWS: Price = Price { product: 0.008, load: 0.0 };

/// How sums would be computed.
enum Way {
    Channels,
    Neighbours,
    Phases,
    Windows,
}

impl Way {
    /// About what [`Windows`](super::Windows) and [`Roles`](super::Roles) take.
    fn new(geometry: &Geometry, lanes: usize) -> Self {
        let [outer @ .., along, row] = geometry.axes.as_slice() else { return Way::Channels };
        let small = geometry.outputs <= MOST_OUTPUTS;
        let step = gcd(along.stride, along.dilation);
        let slides = !outer.is_empty()
            && geometry.channels == 1
            && outer.iter().all(|axis| axis.kernel == 1)
            && matches!(along.kernel, 3 | 5 | 7)
            && along.stride / step <= MOST_STRIDE
            && along.kernel.saturating_mul(row.kernel) <= CHAIN
            && row.output >= lanes;
        let ramp = |axis: &Axis| {
            axis.kernel > 1 && axis.output > 1 && axis.stride.is_multiple_of(axis.dilation)
        };
        match outer.is_empty() {
            _ if !small => Way::Channels,
            false if slides => Way::Windows,
            false if ramp(along) => Way::Neighbours,
            true if geometry.outputs == 1 && ramp(row) => Way::Phases,
            _ => Way::Channels,
        }
    }
}

/// The predicted time of a convolution of elements of some bytes.
pub fn offer(geometry: &Geometry, element: usize) -> Cost {
    let [.., along, row] = geometry.axes.as_slice() else { return Cost::default() };
    let lanes = 64 / element;
    let positions = geometry.positions();
    if positions * geometry.outputs == 0 {
        return Cost { weights: 0.0, work: CALL };
    }
    // Between rows lie as many junk positions as a kernel reaches over, or the next vector starts anew.
    let rows = positions / row.output;
    let junk = (row.kernel - 1) * row.dilation / row.stride;
    let across = (rows * (row.output + junk)).div_ceil(lanes);
    let vectors = across.min(rows * row.output.div_ceil(lanes)) as f64;
    let [groups, outputs, channels] =
        [geometry.groups, geometry.outputs, geometry.channels].map(|n| n as f64);
    let taps = channels * geometry.kernel_taps() as f64;
    // Vectors that meet a tap, and those of them that are loaded for it.
    let (price, met, loaded) = match Way::new(geometry, lanes) {
        Way::Channels if geometry.outputs > MOST_OUTPUTS => (MANY, outputs * vectors, vectors),
        Way::Channels => (FEW, outputs * vectors, vectors),
        Way::Neighbours => (NEIGHBOURS, outputs * vectors, outputs * vectors / along.kernel as f64),
        Way::Windows => (WINDOWS, outputs * vectors, 0.0),
        Way::Phases => (MANY, positions as f64 / lanes as f64, 0.0),
    };
    let sums = taps * (met * price.product * 16.0 + loaded * price.load);
    let turned = match Way::new(geometry, lanes) {
        Way::Phases => TURN * positions as f64,
        _ => 0.0,
    };
    let held = |axes: &[Axis]| -> f64 {
        axes.iter().map(|axis| extent(axis, axis.output) as f64).product()
    };
    let (last, all) = (geometry.axes.len() - 1, &geometry.axes);
    let plain = |axis: &Axis| axis.before == 0 && axis.after == 0 && axis.stride == 1;
    let staged = if all.iter().all(plain) {
        0.0
    } else {
        let each = if row.stride > 1 { STAGE_PHASES } else { STAGE };
        let wide = element as f64 / 4.0;
        let runs = held(&all[..last]) * row.kernel.min(row.stride) as f64;
        channels * (held(all) * each * wide + runs * STAGE_ROW)
    };
    let input: f64 = all.iter().map(|axis| axis.input as f64).product();
    let bytes = groups * (channels * input + outputs * positions as f64) * element as f64;
    let stored = outputs * rows as f64 * STORE_ROW;
    let work = CALL
        + STEP * taps
        + groups * (staged + sums + turned + stored)
        + FAR * (bytes - NEAR_BYTES).max(0.0);
    Cost { weights: 0.0, work }
}
