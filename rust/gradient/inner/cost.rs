//! What products of rows cost beside the other form, and which tiles they take.

use super::super::{CHAIN, Form, LANES, STAGED_ELEMENT, TAPS, TURNED};
use super::Way;
use super::blocks::Blocks;
use crate::geometry::Geometry;
use crate::tile::{MAX_COLUMNS, NOMINAL, Registers, TileShape};

/// Rates, in cycles of the nominal machine.
struct Rates {
    /// An element that is turned to be a column of a step.
    turned: f64,
    /// The same of layers without a kernel, and one that is staged: they wait for memory.
    plain: f64,
    staged: f64,
    /// A vector of columns of a step that the second-level cache holds, as the first has no room for a chain of them.
    far: f64,
    /// A vector that is copied for a tap.
    copied: f64,
    /// A row of positions that is.
    row: f64,
    /// A sum that is added across its lanes.
    across: f64,
    /// A vector of sums that is loaded, added to and stored again for each chain.
    total: f64,
    /// What inner products take beside a count of their loads, both of whose vectors lie across lines.
    inner: f64,
    /// A chain of a tile that begins and ends, and a run of sums that is written.
    call: f64,
    put: f64,
}

/// Fitted to the least times of 25 layers of 1 to 256 channels, each form forced in turn (Sapphire Rapids, one
/// thread, float32).
const RATES: Rates = Rates {
    turned: TURNED,
    plain: 1.3,
    staged: STAGED_ELEMENT,
    far: 1.7,
    copied: 2.5,
    row: 15.0,
    across: 13.0,
    total: 1.5,
    inner: 2.0,
    call: 100.0,
    put: 60.0,
};

/// What they must take of the other form's time to be preferred to it.
const PREFERRED: f64 = 0.95;

/// Elements of a channel's rows at most: all taps of a channel are staged together.
const MOST: usize = 512 << 10;

/// Most outputs of layers that [`Form::Dot`] suits better, if they have a kernel.
const FEW: usize = 16;

/// Vectors of columns of a chain that the first-level cache holds.
const NEAR: usize = 2;

/// How the products of rows are summed where that is predicted to take less time than a tap at a time, by the
/// problem alone.
pub(super) fn preferred(one: &Geometry) -> Option<Way> {
    if Form::of(one) == Form::Dot && one.outputs <= FEW && !super::is_plain(one) {
        return None;
    }
    if super::blocks::row(one).saturating_mul(one.kernel_taps()) > MOST {
        return None;
    }
    // Without a kernel the other form turns rows too.
    let ways = if super::is_plain(one) { &[Way::Across][..] } else { &[Way::Across, Way::Turned] };
    let ways = ways.iter().map(|&way| (way, of_rows(one, way)));
    let (way, cycles) = ways.min_by(|a, b| a.1.total_cmp(&b.1))?;
    (cycles < PREFERRED * outer(one)).then_some(way)
}

/// Cycles of products of rows.
fn of_rows(one: &Geometry, way: Way) -> f64 {
    let Geometry { channels, outputs, .. } = *one;
    let rows = channels * one.kernel_taps();
    let blocks = Blocks::new(one);
    let (steps, positions) = (blocks.steps() as f64, one.positions());
    let copied = if super::is_plain(one) {
        0.0
    } else {
        let width = blocks.lens.last().map_or(1, |&len| len.max(1));
        rows as f64 * (steps * RATES.copied + (positions / width) as f64 * RATES.row)
    };
    let slices = blocks.slices(one, one, false);
    let sums = (outputs * rows * slices) as f64;
    let (cycles, chains, of_sum) = match way {
        Way::Across => {
            let tiles = choose(&NOMINAL, (outputs, rows)).1 * RATES.inner;
            let kinds = if blocks.kinds() == (true, true) { 2 } else { 1 };
            (steps * tiles, blocks.count() * kinds, sums * RATES.across)
        }
        Way::Turned => {
            let vectors = rows.div_ceil(LANES);
            let tiles = NOMINAL.choose(outputs, &[vectors], (usize::MAX, true)).1;
            let turned = rows as f64 * RATES.turned;
            let chains = blocks.count().max(positions.div_ceil(CHAIN));
            let written = outputs as f64 * RATES.put + sums / LANES as f64 * RATES.across;
            (positions as f64 * (tiles + turned), chains, written)
        }
    };
    let lanes = if way == Way::Across { 1.0 } else { LANES as f64 };
    cycles + copied + of_sum + sums / lanes * (chains / slices - 1) as f64 * RATES.total
}

/// Cycles of sums over turned positions, a tap after the other.
fn outer(one: &Geometry) -> f64 {
    let Geometry { channels, outputs, .. } = *one;
    let (positions, taps) = (one.positions() as f64, one.kernel_taps());
    let turned = |rows: usize, columns: usize, staged: usize| {
        let vectors = columns.div_ceil(LANES);
        let (shape, tiles) = NOMINAL.choose(rows, &[vectors], (usize::MAX, true));
        // Of few rows, columns come from farther than their products take.
        let far = if shape.columns > NEAR && taps > 1 { vectors as f64 * RATES.far } else { 0.0 };
        let groups = rows.div_ceil(shape.rows);
        let calls = groups * vectors.div_ceil(shape.columns) * taps;
        let chains = one.positions().div_ceil(CHAIN) as f64;
        let each = if taps == 1 { RATES.plain } else { RATES.turned };
        let products = taps as f64 * tiles.max(far * groups as f64);
        positions * (products + columns as f64 * each + staged as f64 * RATES.staged)
            + calls as f64 * chains * RATES.call
    };
    // Taps that are not summed at once are written apart.
    let runs = if taps > TAPS { channels * taps.div_ceil(TAPS) } else { channels.div_ceil(8) };
    let pairs = (channels * outputs * taps) as f64;
    let written = (outputs * runs) as f64 * RATES.put + pairs / LANES as f64 * RATES.across;
    let least = turned(channels, outputs, channels);
    written + if taps == 1 { least.min(turned(outputs, channels, 0)) } else { least }
}

/// The tile shape for so many rows and columns, and how many cycles a step takes.
pub(super) fn choose(registers: &Registers, (rows, columns): (usize, usize)) -> (TileShape, f64) {
    let shapes = (1..=MAX_COLUMNS.min(columns)).filter_map(|columns| {
        let rows = registers.most_rows(columns).min(rows);
        (rows > 0).then_some(TileShape { rows, columns })
    });
    let priced = shapes.map(|shape| {
        let tiles = sizes(rows, shape.rows).into_iter().flat_map(|(many, rows)| {
            let across = sizes(columns, shape.columns).into_iter();
            across.map(move |(more, columns)| (many * more, rows, columns))
        });
        let cycles = tiles.map(|(n, rows, columns)| n as f64 * cycles_of(registers, rows, columns));
        (shape, cycles.sum::<f64>())
    });
    priced.min_by(|a, b| a.1.total_cmp(&b.1)).expect("an instruction set has tiles")
}

/// How many parts [`even_parts`](crate::parallel::even_parts) makes of the larger size and of the smaller, and the sizes.
fn sizes(all: usize, most: usize) -> [(usize, usize); 2] {
    let parts = all.div_ceil(most);
    let (size, larger) = (all / parts, all % parts);
    [(larger, size + 1), (parts - larger, size)]
}

/// Cycles of a step of one tile, both of whose operands are loaded two vectors a cycle; a vector mostly lies across
/// two lines of a cache.
fn cycles_of(registers: &Registers, rows: usize, columns: usize) -> f64 {
    let loads = (rows + columns) as f64 * (1.0 + registers.across) / 2.0;
    ((rows * columns) as f64 / 2.0).max(loads).max(4.0) + 0.5
}
