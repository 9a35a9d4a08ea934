//! What a direct convolution is predicted to take.
//!
//! It counts what would be done on the nominal machine of [`offer`](crate::offer), with the blocks and the
//! roles that it would take there, and gives each a price. Nothing here may look at the machine that it runs
//! on: "auto" compares these numbers.

use super::roles::{Roles, ramp, ramp_shape};
use super::split::{SLAB_BYTES, block_lens};
use super::windows::{MOST_OUTPUTS, narrowest, steps};
use crate::geometry::{Axis, Geometry};
use crate::memory::LINE;
use crate::offer::{Cost, far};
use crate::slab::extent;
use crate::tile::{MOST_STRIDE, NOMINAL};

/// What is paid for, in nanoseconds; elements are of float32, and two of them in float64.
struct Rates {
    /// A call, and a tap of its table.
    call: f64,
    tap: f64,
    /// A cycle of tiles: rows of channels, of positions, and of neighbouring outputs. The nominal machine's
    /// last 0.33.
    channels: f64,
    positions: f64,
    neighbours: f64,
    /// A vector of a row of positions of a signal, for a tap; the same of windows that slide.
    phases: f64,
    windows: f64,
    /// An element that is staged, as it is and by phases of a stride; and a row of them.
    stage: f64,
    stage_phases: f64,
    run: f64,
    /// An element of the result; one that is turned; and where a row of positions ends within a vector.
    result: f64,
    turn: f64,
    end: f64,
    /// A weight that is packed.
    pack: f64,
    /// A byte of arrays that the second-level cache does not hold.
    far: f64,
}

/// Fitted to the logarithms of the times of 1908 random shapes of `benches/compare.py --choices` in float32
/// and 720 in float64, on one thread of a Sapphire Rapids core in November 2026. Of 800 other shapes 96 % are
/// within 1.5 times of what was measured.
const RATES: Rates = Rates {
    call: 7300.0,
    tap: 5.3,
    channels: 0.925 / 3.0,
    positions: 0.87 / 3.0,
    neighbours: 1.38 / 3.0,
    phases: 0.22,
    windows: 0.14,
    stage: 0.177,
    stage_phases: 0.315,
    run: 2.5,
    result: 0.12,
    turn: 0.44,
    end: 9.0,
    pack: 0.38,
    far: 0.0113,
};

/// How sums would be computed.
enum Way {
    Tiles(Roles),
    Windows,
}

impl Way {
    /// Which [`Windows`](super::Windows) and [`Roles`] would take.
    fn new(geometry: &Geometry, lanes: usize) -> Self {
        match ramp(geometry, (&NOMINAL, lanes)) {
            _ if slides(geometry, lanes) => Way::Windows,
            Some(ramp) => Way::Tiles(Roles::Neighbours(ramp)),
            None => Way::Tiles(Roles::Channels),
        }
    }
}

/// Whether windows would slide.
fn slides(geometry: &Geometry, lanes: usize) -> bool {
    let [.., along, row] = geometry.axes.as_slice() else { return false };
    steps(geometry).is_some_and(|(stride, _)| stride <= MOST_STRIDE)
        && matches!(along.kernel, 3 | 5 | 7)
        && row.output >= narrowest(lanes)
}

/// The predicted time of a convolution of elements of some bytes.
pub fn offer(geometry: &Geometry, element: usize) -> Cost {
    let Cost { weights, work } = part(geometry, element);
    let bytes = geometry.image_bytes(element) * geometry.axes[0].output as f64;
    Cost { weights, work: RATES.call + work + far(bytes, RATES.far) }
}

/// The same of a part of a call, whose arrays the second-level cache holds.
pub fn part(geometry: &Geometry, element: usize) -> Cost {
    if geometry.positions() * geometry.outputs == 0 {
        return Cost::default();
    }
    let lanes = LINE / element;
    let [groups, outputs, positions] =
        [geometry.groups, geometry.outputs, geometry.positions()].map(|n| n as f64);
    let taps = (geometry.channels * geometry.kernel_taps()) as f64;
    let wide = element as f64 / 4.0;
    let (sums, packed) = match Way::new(geometry, lanes) {
        Way::Tiles(roles) => in_tiles(geometry, roles, (element, lanes)),
        Way::Windows => {
            let vectors = rows(geometry) * row(geometry).output.div_ceil(lanes) as f64;
            let staged = staged(geometry, &whole(geometry)).price(geometry, wide);
            (taps * outputs * vectors * RATES.windows + staged, false)
        }
    };
    let results = outputs * positions * wide * RATES.result;
    let packing = groups * outputs * taps * wide * RATES.pack;
    Cost {
        weights: if packed { packing } else { 0.0 },
        work: RATES.tap * taps + groups * (sums + results),
    }
}

/// The time of tiles of a group, of what they read and of the ends of rows of positions; and whether weights
/// are packed for them.
fn in_tiles(geometry: &Geometry, roles: Roles, (element, lanes): (usize, usize)) -> (f64, bool) {
    let wide = element as f64 / 4.0;
    let nest = roles.geometry(geometry);
    let outputs = geometry.outputs;
    let taps = (geometry.channels * geometry.kernel_taps()) as f64;
    // Blocks as even as can be.
    let blocks: Vec<usize> = (nest.axes.iter().zip(block_lens(&nest, SLAB_BYTES / element)))
        .map(|(axis, len)| axis.output.div_ceil(len))
        .collect();
    let lens: Vec<usize> =
        nest.axes.iter().zip(&blocks).map(|(a, &n)| a.output.div_ceil(n)).collect();
    let blocks: f64 = blocks.iter().map(|&n| n as f64).product();
    let plain = |axis: &Axis| axis.before == 0 && axis.after == 0 && axis.stride == 1;
    let stage = if geometry.axes.iter().all(plain) {
        0.0
    } else {
        blocks * staged(&nest, &lens).price(geometry, wide)
    };
    // Between rows lie as many junk positions as a kernel reaches over, or the next vector starts anew.
    let axis = row(geometry);
    let (len, block_rows) =
        (lens[lens.len() - 1], lens[..lens.len() - 1].iter().product::<usize>());
    let junk = (axis.kernel - 1) * axis.dilation / axis.stride;
    let across = (block_rows * (len + junk)).div_ceil(lanes);
    let vectors = across.min(block_rows * len.div_ceil(lanes));
    let ends = outputs as f64 * rows(geometry) * RATES.end;
    if let Some(ramp) = roles.ramp() {
        let along = &geometry.axes[ramp.axis];
        let signal = ramp.axis + 1 == geometry.axes.len();
        if signal {
            let positions = geometry.positions() as f64;
            let vectors = positions / lanes as f64;
            return (taps * vectors * RATES.phases + positions * wide * RATES.turn, false);
        }
        let (_, cycles) = ramp_shape(&NOMINAL, &ramp, along.kernel, &[vectors]);
        let cycles = blocks * outputs as f64 * taps / along.kernel as f64 * cycles;
        return (cycles * RATES.neighbours + stage + ends, false);
    }
    let unlimited = (usize::MAX, false);
    let (_, cycles) = NOMINAL.choose(outputs, &[vectors], unlimited);
    let channels = blocks * taps * cycles * RATES.channels + if junk > 0 { ends } else { 0.0 };
    if outputs <= MOST_OUTPUTS {
        return (channels + stage, false);
    }
    // Rows of positions go on where the last one ends along axes that have no kernel.
    let alone = |axis: &Axis| plain(axis) && axis.kernel == 1;
    let first = nest.axes.iter().rposition(|axis| !alone(axis)).unwrap_or(0);
    let run: usize = lens[first..].iter().product();
    let (_, cycles) = NOMINAL.choose(run, &[outputs.div_ceil(lanes)], unlimited);
    let runs = lens[..first].iter().map(|&n| n as f64).product::<f64>();
    let turned = (geometry.positions() * outputs) as f64 * wide * RATES.turn;
    let positions = blocks * runs * taps * cycles * RATES.positions + turned;
    let pack = outputs as f64 * taps * wide * RATES.pack;
    let packed = positions + pack < channels;
    (stage + if packed { positions } else { channels }, packed)
}

/// What a channel of a block holds.
struct Staged {
    elements: f64,
    runs: f64,
}

impl Staged {
    /// Of all channels of a group.
    fn price(&self, geometry: &Geometry, wide: f64) -> f64 {
        let each = if row(geometry).stride > 1 { RATES.stage_phases } else { RATES.stage };
        geometry.channels as f64 * (self.elements * wide * each + self.runs * RATES.run)
    }
}

/// What a block of some outputs on each axis holds of a channel.
fn staged(geometry: &Geometry, lens: &[usize]) -> Staged {
    let held = |(axis, &len)| extent(axis, len) as f64;
    // Whole rows follow one another as they do in the input.
    let alike = |(axis, &len): (&Axis, &usize)| *axis == Axis::plain(len);
    let axes = || geometry.axes.iter().zip(lens);
    let joined = axes().rev().take_while(|&axis| alike(axis)).count();
    let outer = lens.len().saturating_sub(joined + 1);
    let row = row(geometry);
    Staged {
        elements: axes().map(held).product(),
        runs: axes().take(outer).map(held).product::<f64>() * row.kernel.min(row.stride) as f64,
    }
}

fn row(geometry: &Geometry) -> &Axis {
    &geometry.axes[geometry.axes.len() - 1]
}

/// Rows of outputs of a channel.
fn rows(geometry: &Geometry) -> f64 {
    (geometry.positions() / row(geometry).output) as f64
}

fn whole(geometry: &Geometry) -> Vec<usize> {
    geometry.axes.iter().map(|axis| axis.output).collect()
}
