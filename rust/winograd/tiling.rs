//! Which axes are transformed, how, and what that costs.
//!
//! A [`Tiling`] is a function of one image's problem, so that neither threads, layout nor the images beside
//! an image change the bits of a result.

use crate::geometry::{Axis, Geometry};
use crate::offer::Cost;

use super::form::{self, OUTPUTS, POINTS, TAPS};

/// Most axes that are transformed; others stay as taps of the sums.
const MOST_AXES: usize = 3;

/// One axis of a convolution in tiles.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The convolution's axis.
    pub axis: Axis,
    /// Whether it is transformed.
    pub tiled: bool,
    /// Residues of positions modulo the dilation, each of which is a convolution by itself; 1 where the
    /// axis is not transformed.
    pub residues: usize,
    /// Tiles of a residue (some may have fewer), or outputs where the axis is not transformed.
    pub len: usize,
}

impl Side {
    fn new(axis: Axis, tiled: bool) -> Self {
        if !tiled {
            return Side { axis, tiled, residues: 1, len: axis.output };
        }
        let residues = axis.dilation.min(axis.output);
        let len = axis.output.div_ceil(axis.dilation).div_ceil(OUTPUTS);
        Side { axis, tiled, residues, len }
    }

    /// Taps that stay.
    pub fn taps(&self) -> usize {
        if self.tiled { 1 } else { self.axis.kernel }
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
/// point; an element that is staged; and a value of the weights beyond what a cache holds, each time that
/// it is read.
const PRODUCT: f64 = 2.0 / 180.0;
const ANALYSE: f64 = 0.08;
const SYNTHESISE: f64 = 0.09;
const LIFT: f64 = 0.3;
const STAGE: f64 = 0.15;
const CALL: f64 = 3e3;

impl Tiling {
    /// The one that is predicted to take the least time.
    pub fn new(geometry: &Geometry, element: usize) -> Option<Self> {
        let able: Vec<usize> =
            (1..geometry.axes.len()).filter(|&a| is_able(&geometry.axes[a])).collect();
        let mut best: Option<(f64, Tiling)> = None;
        // Sets of axes as bits; of many axes only the last ones.
        let able = &able[able.len().saturating_sub(2 * MOST_AXES)..];
        for set in 1..1usize << able.len() {
            if set.count_ones() as usize > MOST_AXES {
                continue;
            }
            let tiled = |a| able.iter().position(|&b| a == b).is_some_and(|i| set >> i & 1 > 0);
            let axes = geometry.axes.iter().enumerate();
            let sides = axes.map(|(a, &axis)| Side::new(axis, tiled(a)));
            let tiling = Tiling { sides: sides.collect() };
            let time = tiling.time(geometry, element, 1).whole();
            if best.as_ref().is_none_or(|(least, _)| time < *least) {
                best = Some((time, tiling));
            }
        }
        best.map(|(_, tiling)| tiling)
    }

    /// Axes that are transformed.
    pub fn axes(&self) -> usize {
        self.sides.iter().filter(|side| side.tiled).count()
    }

    /// Points of a tile.
    pub fn points(&self) -> usize {
        POINTS.pow(self.axes() as u32)
    }

    /// Taps that are not transformed.
    pub fn taps(&self) -> usize {
        self.sides.iter().map(Side::taps).product()
    }

    /// Whether what follows one another along the last axis is dealt to the tiles.
    pub fn dealt(&self) -> bool {
        self.sides.last().is_some_and(|side| side.tiled)
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
        form::growth().powi(self.axes() as i32)
    }

    /// The predicted time for some images.
    pub fn time(&self, geometry: &Geometry, element: usize, images: usize) -> Cost {
        let [groups, channels, outputs, points, taps] =
            [geometry.groups, geometry.channels, geometry.outputs, self.points(), self.taps()]
                .map(|n| n as f64);
        let tiles = images as f64 * self.tiles();
        // What a tile reads beside its own along the axes that are not transformed.
        let reach = |side: &Side| {
            if side.tiled {
                return 1.0;
            }
            let held = crate::slab::extent(&side.axis, side.axis.output);
            held as f64 / side.axis.output.max(1) as f64
        };
        let read = tiles * self.sides.iter().map(reach).product::<f64>();
        // Few outputs fill few rows of a product's tile.
        let product = PRODUCT * (4.0 / outputs).max(1.0);
        let staged = read * OUTPUTS.pow(self.axes() as u32) as f64 * 1.3;
        let one = tiles * points * taps * channels * outputs * product
            + read * channels * points * ANALYSE
            + tiles * outputs * points * SYNTHESISE
            + staged * channels * STAGE;
        let lift = points * taps * channels * outputs * LIFT;
        let scale = groups * element as f64 / 4.0;
        Cost { weights: scale * lift, work: CALL + scale * one }
    }
}

/// Whether an axis can be transformed, with something to gain.
pub fn is_able(axis: &Axis) -> bool {
    axis.kernel == TAPS && axis.stride == 1 && axis.output.div_ceil(axis.dilation) > 1
}
