//! Which operand's elements are the rows of a tile, and which fill its vectors.
//!
//! All give the same bits, so the choice may look at the machine: it is by an estimate of cycles.

use super::Problem;
use super::split::SLAB_BYTES;
use super::windows::MOST_OUTPUTS;
use crate::geometry::{Axis, Geometry};
use crate::memory::LINE;
use crate::operand::Ramp;
use crate::packed::Vectors;
use crate::tile::{Kernels, MOST_RAMP_ROWS, Registers, STRIP, TileShape, Tiled};

/// What the rows and the vectors of tiles are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roles {
    /// Rows are output channels, vectors are of positions: weights are read in place.
    Channels,
    /// Rows are neighbouring outputs of one channel, vectors are of positions: for few channels.
    Neighbours(Ramp),
    /// Rows are positions, vectors are of output channels: no lane is lost between rows of positions
    /// and no vector lies across two cache lines, but weights must be packed unless they lie so.
    Positions,
}

impl Roles {
    /// The ramp of neighbouring outputs.
    pub fn ramp(self) -> Option<Ramp> {
        match self {
            Roles::Neighbours(ramp) => Some(ramp),
            _ => None,
        }
    }

    /// What rows and vectors are, for people.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Roles::Channels => ("output channels", "positions"),
            Roles::Neighbours(_) => ("neighbouring outputs", "positions"),
            Roles::Positions => ("positions", "output channels"),
        }
    }

    /// The geometry with a position for each whole tile along a ramp.
    pub fn geometry(self, geometry: &Geometry) -> Geometry {
        let mut geometry = geometry.clone();
        if let Roles::Neighbours(ramp) = self {
            let axis = &mut geometry.axes[ramp.axis];
            axis.kernel = ramp.taps(axis.kernel);
            axis.stride *= ramp.rows;
            axis.output = axis.output.div_ceil(ramp.rows);
        }
        geometry
    }

    /// Those that take the fewest cycles.
    pub fn choose<T: Tiled>(problem: &Problem<'_, T>, kernels: &Kernels<T>) -> Self {
        let geometry = problem.geometry;
        if geometry.flops() < CHOICE_FLOPS {
            return Roles::Channels;
        }
        if let Some(ramp) = ramp(geometry, (&kernels.registers(), kernels.lanes)) {
            return Roles::Neighbours(ramp);
        }
        if !T::COMMUTES {
            return Roles::Channels;
        }
        let (channels, positions) = (channels(problem, kernels), positions(problem, kernels));
        if positions < channels { Roles::Positions } else { Roles::Channels }
    }
}

/// Work below which a choice takes longer than it saves, in floating-point operations: a microsecond.
const CHOICE_FLOPS: f64 = 5e4;

// What an estimate counts beside the cycles of tiles, fitted to both ways of doing 141 layers, random ones
// and those of cases.json, on a Sapphire Rapids core: 4.6 % slower in geometric mean than always the
// faster way, noise included.

/// Share of the tiles' speed that is reached with operands from the second-level cache: vectors of
/// positions across cache lines, and vectors of channels; then both with one tap a channel, none of which is
/// used twice. Rows of positions read another line a channel there, and another page where planes are that
/// large: of 18 such layers all but one, of 1024 channels of 14 x 14, ran faster with vectors of positions,
/// by a fifth in the median and by half where planes are large.
const POSITION_VECTORS: f64 = 0.9;
const CHANNEL_VECTORS: f64 = 0.93;
const LONE_POSITION_VECTORS: f64 = 0.8;
const LONE_CHANNEL_VECTORS: f64 = 0.78;
const PAGED_CHANNEL_VECTORS: f64 = 0.6;

/// The same where rows of weights lie a multiple of 4 KiB apart.
const ALIASED_ROWS: f64 = 0.9;

/// Cycles an element: staging it as it is, or by phases of a stride; a run of such; turning a lane; the same where
/// channels of the result lie a multiple of 4 KiB apart and share one set of the cache; packing a weight,
/// new memory for it included; and the ends of a row of positions, of each output channel.
const STAGE: f64 = 0.2;
const STAGE_PHASES: f64 = 1.5;
const RUN: f64 = 12.0;
const TURN: f64 = 0.7;
const TURN_ALIASED: f64 = 2.0;
const PACK: f64 = 1.2;
const ROW_ENDS: f64 = 8.0;

/// Bytes of the second-level cache that weights may take, and cycles that each takes beyond them which has
/// a line of a cache to itself, as often as it is read: a phase of 16 taps with stride 8 over 512 channels
/// from 11.4 to 7.5 ms with the other roles (Sapphire Rapids).
const CACHED: f64 = (1 << 20) as f64;
const LONE_WEIGHT: f64 = 14.0;

/// Cycles of a group of channels with rows of output channels.
fn channels<T: Tiled>(problem: &Problem<'_, T>, kernels: &Kernels<T>) -> f64 {
    let geometry = problem.geometry;
    let last = geometry.axes.len() - 1;
    let row = geometry.axes[last];
    // Between rows lie as many junk positions as a kernel reaches over, or the next vector starts anew.
    let junk = (row.kernel - 1) * row.dilation / row.stride;
    let rows = geometry.positions() / row.output;
    let slabs = (inputs(geometry) * size_of::<T>() as f64 / SLAB_BYTES as f64).ceil() as usize;
    let slabs = slabs.clamp(1, rows);
    let across = slabs * (rows * (row.output + junk)).div_ceil(slabs * kernels.lanes);
    let vectors = across.min(rows * row.output.div_ceil(kernels.lanes));
    let most = problem.weights.most_rows();
    let (_, cycles) = kernels.choose(geometry.outputs, &[vectors], (most, false));
    let speed = match geometry.kernel_taps() {
        1 => LONE_POSITION_VECTORS,
        _ => POSITION_VECTORS,
    };
    let speed = if most < usize::MAX { speed * ALIASED_ROWS } else { speed };
    let stage = if row.stride > 1 { STAGE_PHASES } else { STAGE };
    let phases = row.stride.min(row.kernel) as f64;
    let ends = if junk > 0 { ROW_ENDS * (rows * geometry.outputs) as f64 } else { 0.0 };
    // Weights that lie apart, as those of a phase do, are read anew for each slab and each strip.
    let size = size_of::<T>() as f64;
    let weights = taps(geometry) * geometry.outputs as f64;
    let apart = (problem.weights.apart() as f64 * size).min(LINE as f64);
    let passes =
        (inputs(geometry) * size / SLAB_BYTES as f64).max((vectors / STRIP) as f64).max(1.0);
    let lone = apart > size && weights * apart > CACHED;
    let lone = if lone { LONE_WEIGHT * apart / LINE as f64 * weights * passes } else { 0.0 };
    cycles * taps(geometry) / speed
        + stage * inputs(geometry)
        + RUN * phases * inputs(geometry) / row.input as f64
        + ends
        + lone
}

/// Whether vectors of output channels read the weights where they lie rather than packed.
pub(super) fn in_place<T: Tiled>(problem: &Problem<'_, T>, kernels: &Kernels<T>) -> bool {
    let lie = Vectors::lie(problem.weights, problem.geometry.outputs, kernels.lanes);
    lie && !problem.prepared.kept
}

/// Cycles of a group of channels with rows of positions.
fn positions<T: Tiled>(problem: &Problem<'_, T>, kernels: &Kernels<T>) -> f64 {
    let geometry = problem.geometry;
    // Rows go on where the last one ends along axes that have no kernel.
    let plain = |axis: &&Axis| **axis == Axis::plain(axis.input);
    let axes = || geometry.axes.iter().rev();
    let whole: usize = axes().take_while(plain).map(|axis| axis.output).product();
    let row = whole * axes().find(|axis| !plain(axis)).map_or(1, |axis| axis.output);
    let last = geometry.axes[geometry.axes.len() - 1];
    let panels = geometry.outputs.div_ceil(kernels.lanes);
    let (_, cycles) = kernels.choose(row, &[panels], (usize::MAX, true));
    let rows = (geometry.positions() / row) as f64;
    // Vectors are turned whole, however many of their lanes are results.
    let turned = (geometry.positions() * panels * kernels.lanes) as f64;
    let out = problem.store.out.strides();
    let turn = match out[0] {
        _ if out[0] == size_of::<T>() as isize => 0.0,
        step if step % 4096 == 0 => TURN_ALIASED,
        _ => TURN,
    };
    let pack = if problem.prepared.kept || in_place(problem, kernels) { 0.0 } else { PACK };
    let weights = taps(geometry) * geometry.outputs as f64;
    let speed = match geometry.kernel_taps() {
        1 if problem.x.strides()[0].unsigned_abs() >= 4096 => PAGED_CHANNEL_VECTORS,
        1 => LONE_CHANNEL_VECTORS,
        _ => CHANNEL_VECTORS,
    };
    rows * cycles * taps(geometry) / speed
        + (STAGE + RUN / last.input as f64) * inputs(geometry)
        + turn * turned
        + pack * weights
}

/// Taps of an output.
fn taps(geometry: &Geometry) -> f64 {
    (geometry.channels * geometry.kernel_taps()) as f64
}

/// Elements of the input of a group.
fn inputs(geometry: &Geometry) -> f64 {
    geometry.axes.iter().map(|axis| axis.input as f64).product::<f64>() * geometry.channels as f64
}

/// The rows that a tile should have of neighbouring outputs rather than of output channels, where
/// those are few: along the last axis but one, or along a signal.
pub(super) fn ramp(geometry: &Geometry, (registers, lanes): (&Registers, usize)) -> Option<Ramp> {
    let last = geometry.axes.len() - 1;
    if geometry.outputs > MOST_OUTPUTS {
        return None;
    }
    // Of several outputs of a signal, each uses a vector of positions once more without phases.
    let signal = last == 1;
    if signal && geometry.outputs > 1 {
        return None;
    }
    let axis = if signal { last } else { last - 1 };
    let along = &geometry.axes[axis];
    if along.kernel == 1 || along.output == 1 || !along.stride.is_multiple_of(along.dilation) {
        return None;
    }
    let shift = along.stride / along.dilation;
    // A vector of all rows, of each tap of the axis.
    let outputs = geometry.outputs as f64;
    let (_, cycles) = registers.choose(geometry.outputs, &[24], (usize::MAX, false));
    let mut best = (None, cycles / 24.0 * along.kernel as f64 * along.output as f64);
    // Where rows are positions of a signal, its phases are staged apart and the results turned.
    let moves = (STAGE_PHASES + TURN) * (along.output * lanes) as f64;
    let moves = if signal { moves } else { 0.0 };
    for rows in 2..=MOST_RAMP_ROWS.min(along.output) {
        let ramp = Ramp { axis, rows, shift };
        for columns in (1..).take_while(|&columns| registers.most_rows(columns) >= rows) {
            let tile = ramp_cycles(registers, &ramp, along.kernel, columns) / columns as f64;
            let cycles = outputs * tile * along.output.div_ceil(rows) as f64 + moves;
            if cycles < best.1 {
                best = (Some(ramp), cycles);
            }
        }
    }
    best.0
}

/// Tiles of a ramp's rows for so many vectors of columns, and the cycles that they take for all taps of its
/// axis.
pub(super) fn ramp_shape(
    registers: &Registers,
    ramp: &Ramp,
    kernel: usize,
    vectors: &[usize],
) -> (TileShape, f64) {
    let possible = (1..).take_while(|&columns| registers.most_rows(columns) >= ramp.rows);
    let cycles = |&columns: &usize| {
        let tiles: usize = vectors.iter().map(|n| n.div_ceil(columns)).sum();
        tiles as f64 * ramp_cycles(registers, ramp, kernel, columns)
    };
    let best = possible.map(|columns| (columns, cycles(&columns)));
    let (columns, cycles) = best.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((1, f64::INFINITY));
    (TileShape { rows: ramp.rows, columns }, cycles)
}

/// Cycles that a tile of a ramp's rows takes for all taps of its axis.
fn ramp_cycles(registers: &Registers, ramp: &Ramp, kernel: usize, columns: usize) -> f64 {
    let cycles = |n| registers.cycles(n, columns, false);
    // Rows begin one after the other, all go on, and they end as they began: no need to ask for each tap
    // of a long kernel.
    let begin = (ramp.rows - 1) * ramp.shift;
    if begin < kernel {
        let each: f64 = (1..ramp.rows).map(cycles).sum();
        return 2.0 * ramp.shift as f64 * each + (kernel - begin) as f64 * cycles(ramp.rows);
    }
    let rows = |tap| ramp.rows_at(tap, &(0..kernel)).len();
    (0..ramp.taps(kernel)).map(rows).filter(|&n| n > 0).map(cycles).sum()
}
