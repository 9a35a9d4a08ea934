//! Which axes are transformed, how, and what that costs.
//!
//! A [`Tiling`] is a function of one image's problem, so that neither threads, layout nor the images beside
//! an image change the bits of a result.

use crate::geometry::{Axis, Geometry};
use crate::memory::LINE;
use crate::offer::{Cost, Precision, far};
use crate::slab::extent;
use crate::tile::{NOMINAL, TileShape};
use crate::view::advance;

use super::form::{Form, TAPS};
use super::role::Role;

/// Most axes that are transformed; others stay as taps of the sums.
const MOST_AXES: usize = 3;

/// Most axes that are so by F(4,3): each more would make the bound of the error twelve times as large.
const MOST_FOURS: usize = 2;

/// What F(4,3) must take of F(2,3)'s time to be preferred to it, which rounds less.
const PREFERRED: f64 = 0.9;

/// Bytes of a block's values of the input and of the sums at all points, together about the second-level
/// cache, and the most of them where the weights are beyond it: the larger a block, the less often they
/// are read.
const VALUES_BYTES: usize = 1 << 20;
const MOST_VALUES_BYTES: usize = 8 << 20;

/// Bytes of transformed weights that stay in the second-level cache beside a block.
pub const WEIGHTS_BYTES: usize = 1 << 20;

/// One axis of a convolution in tiles.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The convolution's axis.
    pub axis: Axis,
    /// How it is transformed, if it is.
    pub form: Option<Form>,
    /// Residues of positions modulo the dilation, each of which is a convolution by itself; 1 where the
    /// axis is not transformed.
    pub residues: usize,
    /// Tiles of a residue (some may have fewer), or outputs where the axis is not transformed.
    pub len: usize,
}

impl Side {
    fn new(axis: Axis, form: Option<Form>) -> Self {
        let Some(kind) = form else { return Side { axis, form, residues: 1, len: axis.output } };
        let residues = axis.dilation.min(axis.output);
        let len = axis.output.div_ceil(axis.dilation).div_ceil(kind.outputs());
        Side { axis, form, residues, len }
    }

    /// Whether it is transformed.
    pub fn tiled(&self) -> bool {
        self.form.is_some()
    }

    /// Outputs of a tile.
    pub fn outputs(&self) -> usize {
        self.form.map_or(1, Form::outputs)
    }

    /// Points of a tile.
    pub fn points(&self) -> usize {
        self.form.map_or(1, Form::points)
    }

    /// Taps that stay.
    pub fn taps(&self) -> usize {
        if self.tiled() { 1 } else { self.axis.kernel }
    }
}

/// How a convolution is transformed.
#[derive(Clone, Debug)]
pub struct Tiling {
    /// One an axis of the geometry.
    pub sides: Vec<Side>,
}

/// What is paid for, in nanoseconds; values are of float32, and two of them in float64.
struct Rates {
    /// A call.
    call: f64,
    /// A cycle of the products' tiles, and of those that sum over taps that are left as well.
    product: f64,
    product_left: f64,
    /// A value of the input at a point, staging it included; one of the sums; and an element of the result.
    analyse: f64,
    synthesise: f64,
    result: f64,
    /// A value more of the input or of the sums where taps are left beside several axes, and where points are
    /// [`MANY`].
    left: f64,
    many: f64,
    /// A row of a result.
    row: f64,
    /// Neighbours, one of each residue of the last axis, that are dealt to tiles or taken up again.
    block: f64,
    /// A value of the weights at a point; the same where points are so [`MANY`] that they lie on as many
    /// pages; and one that no cache holds, each time that it is read.
    lift: f64,
    lift_many: f64,
    read: f64,
    /// A byte of arrays that the second-level cache does not hold.
    far: f64,
}

/// Fitted to the times of F(2,3) on 353 random shapes in float32, most of 32 to 512 channels, of signals, images and
/// volumes, a third of them dilated, on one thread of a Sapphire Rapids core in November 2026; in units in which direct
/// sums of the same shapes take what they are predicted to, in the median. Nine in ten are within 1.25 times of that,
/// and 97 % within 1.5. `far`, `many` and `lift_many`, of which these tell little, are from 449 such times of F(2,3) and
/// F(4,3), and five volumes, before rows could be tiles.
const RATES: Rates = Rates {
    call: 4600.0,
    product: 1.035 / 3.0,
    product_left: 1.37 / 3.0,
    analyse: 0.225,
    synthesise: 0.053,
    result: 0.17,
    left: 0.228,
    many: 0.1,
    row: 8.25,
    block: 2.4,
    lift: 0.219,
    lift_many: 1.5,
    read: 0.075,
    far: 0.0225,
};

/// Points of a tile that are many.
const MANY: usize = 64;

/// Tiles of products.
const TILES: TileShape = TileShape { rows: 14, columns: 2 };

impl Tiling {
    /// The one that is predicted to take the least time, of those that a precision allows.
    pub fn new(geometry: &Geometry, element: usize, precision: Precision) -> Option<Self> {
        let able: Vec<usize> =
            (1..geometry.axes.len()).filter(|&a| is_able(&geometry.axes[a])).collect();
        // Of many axes only the last ones.
        let able = &able[able.len().saturating_sub(2 * MOST_AXES)..];
        let forms = Form::allowed(precision);
        let mut best: Option<(f64, Tiling)> = None;
        // Each axis has one of the forms or none.
        let choices = vec![forms.len() + 1; able.len()];
        let mut chosen = vec![0; able.len()];
        for _ in 1..choices.iter().product() {
            advance(&mut chosen, &choices);
            if chosen.iter().filter(|&&choice| choice > 0).count() > MOST_AXES {
                continue;
            }
            let form = |a: usize| {
                let choice = chosen[able.iter().position(|&b| a == b)?];
                forms.get(choice.wrapping_sub(1)).copied()
            };
            let axes = geometry.axes.iter().enumerate();
            let tiling =
                Tiling { sides: axes.map(|(a, &axis)| Side::new(axis, form(a))).collect() };
            let fours = tiling.forms().into_iter().filter(|&form| form == Form::Four).count();
            if fours > MOST_FOURS {
                continue;
            }
            let handicap = if fours > 0 { PREFERRED } else { 1.0 };
            let time = tiling.time(geometry, element, 1).whole() / handicap;
            if best.as_ref().is_none_or(|(least, _)| time < *least) {
                best = Some((time, tiling));
            }
        }
        best.map(|(_, tiling)| tiling)
    }

    /// The transforms, one of each axis that has one.
    pub fn forms(&self) -> Vec<Form> {
        self.sides.iter().filter_map(|side| side.form).collect()
    }

    /// Points of a tile.
    pub fn points(&self) -> usize {
        self.sides.iter().map(Side::points).product()
    }

    /// Outputs of a tile.
    pub fn outputs(&self) -> usize {
        self.sides.iter().map(Side::outputs).product()
    }

    /// Taps that are not transformed.
    pub fn taps(&self) -> usize {
        self.sides.iter().map(Side::taps).product()
    }

    /// The transform of the last axis, if what follows one another along it is dealt to the tiles.
    pub fn dealt(&self) -> Option<Form> {
        self.sides.last()?.form
    }

    /// Tiles of an image.
    pub fn tiles(&self) -> f64 {
        self.sides[1..].iter().map(|side| (side.residues * side.len) as f64).product()
    }

    /// Multiplications that are done at points.
    pub fn products(&self, geometry: &Geometry) -> f64 {
        let pairs = geometry.groups * geometry.channels * geometry.outputs;
        let tiles = self.tiles() * geometry.axes[0].output as f64;
        tiles * (self.points() * self.taps()) as f64 * pairs as f64
    }

    /// Bytes of the weights of a group at all points.
    pub fn weight_bytes(&self, geometry: &Geometry, element: usize) -> usize {
        (self.points() * self.taps() * element)
            .saturating_mul(geometry.channels)
            .saturating_mul(geometry.outputs)
    }

    /// Tiles of a block at most.
    pub fn most_tiles(&self, geometry: &Geometry, element: usize) -> usize {
        let pairs = geometry.channels + geometry.outputs;
        let one = self.points().saturating_mul(pairs).saturating_mul(element);
        let weights = self.weight_bytes(geometry, element);
        let bytes = if weights > WEIGHTS_BYTES {
            // Weights and values are read alike often.
            let root = (weights as f64 * one as f64).sqrt() * 12.0;
            (root as usize).clamp(VALUES_BYTES, MOST_VALUES_BYTES)
        } else {
            VALUES_BYTES
        };
        (bytes / one.max(1)).max(16)
    }

    /// What the bound of the error has beside the roundings: at most so many times the sum over channels
    /// of |w|_1 max |x| goes through the products of a tile.
    pub fn growth(&self) -> f64 {
        self.forms().into_iter().map(Form::growth).product()
    }

    /// Roundings of a term on its way through all transforms.
    pub fn roundings(&self) -> usize {
        self.forms().into_iter().map(Form::roundings).sum()
    }

    /// The predicted time for some images.
    pub fn time(&self, geometry: &Geometry, element: usize, images: usize) -> Cost {
        let [groups, channels, outputs, points, taps] =
            [geometry.groups, geometry.channels, geometry.outputs, self.points(), self.taps()]
                .map(|n| n as f64);
        let images = images as f64;
        let tiles = self.tiles();
        // What a tile reads beside its own along the axes that are not transformed.
        let reach = |side: &Side| {
            if side.tiled() {
                return 1.0;
            }
            let held = extent(&side.axis, side.axis.output);
            held as f64 / side.axis.output.max(1) as f64
        };
        let (last, outer) = self.sides.split_last().expect("a geometry has axes");
        // Vectors of a block have what lies between rows where the last axis is not transformed; and its last
        // one may not be full.
        let lanes = LINE / element;
        let blocks = (tiles / self.most_tiles(geometry, element) as f64).ceil();
        let vectors = (tiles * reach(last) / (blocks * lanes as f64)).ceil();
        let filled = images * blocks * vectors * lanes as f64;
        let read = outer.iter().map(reach).product::<f64>();
        // Where rows are tiles, vectors of the input begin with each row of tiles, and there are no others.
        let across = Role::new(geometry.outputs, lanes, self.taps()) == Role::Tiles;
        let (analysed, synthesised) = match across {
            true if last.tiled() => {
                let row = last.len * last.residues;
                let filled = row.next_multiple_of(lanes) as f64 / row as f64;
                (images * tiles * filled, images * tiles)
            }
            true => (filled, images * tiles),
            false => (filled, filled),
        };
        let cycles = if across {
            let rows = (tiles / blocks).ceil() as usize;
            NOMINAL.in_tiles(rows, &[geometry.outputs.div_ceil(lanes)], (TILES, true))
        } else {
            NOMINAL.in_tiles(geometry.outputs, &[vectors as usize], (TILES, false))
        };
        let product = if taps > 1.0 { RATES.product_left } else { RATES.product };
        let products = images * blocks * cycles * points * taps * channels * product;
        let elements = images * tiles * self.outputs() as f64;
        // Vectors of output channels are written to where their results belong; others are woven.
        let staged = channels * read * reach(last) * 1.3;
        let woven = if across { 0.0 } else { outputs };
        let blocks_dealt = match last.residues {
            1 => 0.0,
            residues => elements * (staged + woven) / residues as f64,
        };
        let rows = images * geometry.image_rows();
        let pairs = channels * outputs;
        let values = points * taps * pairs;
        let cached = self.weight_bytes(geometry, element) <= WEIGHTS_BYTES;
        let reads = if cached { 0.0 } else { images * blocks * values * RATES.read };
        let lift = if self.points() < MANY { RATES.lift } else { RATES.lift_many };
        let left = if taps > 1.0 && self.forms().len() > 1 { RATES.left } else { 0.0 };
        let more = left + if self.points() < MANY { 0.0 } else { RATES.many };
        let input = channels * read * (RATES.analyse + more);
        let one = points * (analysed * input + synthesised * outputs * (RATES.synthesise + more))
            + elements * outputs * RATES.result
            + blocks_dealt * RATES.block
            + reads;
        let wide = element as f64 / 4.0;
        Cost {
            weights: groups * wide * values * lift,
            work: RATES.call
                + groups * (products + wide * one + rows * outputs * RATES.row)
                + far(geometry.image_bytes(element) * images, RATES.far),
        }
    }
}

/// Whether an axis can be transformed, with something to gain.
pub fn is_able(axis: &Axis) -> bool {
    axis.kernel == TAPS && axis.stride == 1 && axis.output.div_ceil(axis.dilation) > 1
}
