//! Which axes are transformed, how, and what that costs.
//!
//! A [`Tiling`] is a function of one image's problem, so that neither threads, layout nor the images beside
//! an image change the bits of a result.

use crate::geometry::{Axis, Geometry};
use crate::memory::LINE;
use crate::offer::{Cost, Precision};
use crate::view::advance;

use super::form::{Form, TAPS};
use super::region::{self, WEIGHTS_BYTES};

/// Most axes that are transformed; others stay as taps of the sums.
const MOST_AXES: usize = 3;

/// Most axes that are so by F(4,3): each more would make the bound of the error twelve times as large.
const MOST_FOURS: usize = 2;

/// What F(4,3) must take of F(2,3)'s time to be preferred to it, which rounds less.
const PREFERRED: f64 = 0.9;

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

/// Nanoseconds on one thread of the nominal machine of [`offer`](crate::offer), float32, as measured on a
/// Sapphire Rapids core: a product and sum; a value of the input, of the sums and of the weights at a
/// point, and what the direct sum takes to pack a weight, which its own prediction leaves out; an element
/// that is staged; and a value of the weights that no cache holds, each time that it is read and the direct
/// sum reads none; a value of the input or of the sums more where a tile has more points than `FEW`, which lie
/// on as many pages, or several axes and taps that are left; and an element of the input or result whose neighbours belong to other residues.
const PRODUCT: f64 = 2.0 / 180.0;
const ANALYSE: f64 = 0.08;
const SYNTHESISE: f64 = 0.09;
const LIFT: f64 = 0.3;
const PACK: f64 = 0.45;
const STAGE: f64 = 0.15;
const READ: f64 = 0.2;
const FEW: usize = 64;
const SCATTER: f64 = 0.25;
const APART: f64 = 1.2;
const CALL: f64 = 3e3;

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
        let tiles = images as f64 * self.tiles();
        // What a tile reads beside its own along the axes that are not transformed.
        let reach = |side: &Side| {
            if side.tiled() {
                return 1.0;
            }
            let held = crate::slab::extent(&side.axis, side.axis.output);
            held as f64 / side.axis.output.max(1) as f64
        };
        let read = tiles * self.sides.iter().map(reach).product::<f64>();
        // Few outputs fill few rows of a product's tile.
        let product = PRODUCT * (4.0 / outputs).max(1.0);
        let staged = read * self.outputs() as f64 * 1.3;
        // All weights are read once a block.
        let blocks = (self.tiles() / region::most_tiles(self, geometry, element) as f64).ceil();
        let reads = if region::weight_bytes(self, geometry, element) > WEIGHTS_BYTES {
            let more = (points * taps - geometry.kernel_taps() as f64).max(0.0);
            images as f64 * blocks * more * channels * outputs * READ
        } else {
            0.0
        };
        // Vectors have what lies between rows where the last axis is not transformed; and the last one of
        // an image may not be full.
        let lanes = (LINE / element) as f64;
        let row = self.sides.last().map_or(1.0, reach);
        let filled = images as f64 * (self.tiles() * row / lanes).ceil() * lanes;
        let scattered = self.points() > FEW || taps > 1.0 && self.forms().len() > 1;
        let scatter = if scattered { SCATTER } else { 0.0 };
        let is_apart = |side: &Side| side.tiled() && side.axis.dilation > 1;
        let apart = if self.sides.last().is_some_and(is_apart) { APART } else { 0.0 };
        let one = filled * points * taps * channels * outputs * product
            + reads
            + read * channels * points * (ANALYSE + scatter)
            + tiles * outputs * points * (SYNTHESISE + scatter)
            + staged * channels * (STAGE + apart)
            + tiles * self.outputs() as f64 * outputs * apart;
        let lift = (points * taps * LIFT - geometry.kernel_taps() as f64 * PACK).max(0.0);
        let lift = lift * channels * outputs;
        let scale = groups * element as f64 / 4.0;
        Cost { weights: scale * lift, work: CALL + scale * one }
    }
}

/// Whether an axis can be transformed, with something to gain.
pub fn is_able(axis: &Axis) -> bool {
    axis.kernel == TAPS && axis.stride == 1 && axis.output.div_ceil(axis.dilation) > 1
}
