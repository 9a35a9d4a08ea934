//! How a convolution is cut into blocks that are transformed, and what that costs.
//!
//! Everything here is a function of the problem alone, of its batch not even, so that neither threads,
//! layout nor the images beside an image change the bits of a result.

use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::offer::{self, Cost, far};

use super::block::Shape;

/// Lanes that costs are counted with: those of the widest vectors, in float32.
pub const LANES: usize = 16;

/// Real numbers on a lone axis that is cut in two, at least: a panel and a vector each way.
const LEAST_CUT: usize = 2 * LANES * LANES;

/// One axis of the blocks.
#[derive(Clone, Debug)]
pub struct Side {
    /// The convolution's axis.
    pub axis: Axis,
    /// What the stride makes of it: taps of one residue see only every `stride`th element.
    pub phases: Vec<Phase>,
    /// How far the last tap lies from the first, in elements of a phase.
    pub reach: usize,
    /// Outputs of a block.
    pub len: usize,
    /// Elements of a phase that are transformed; 1 where there is nothing to transform.
    pub size: usize,
}

/// Taps that see the same elements.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The residue of their positions modulo the stride.
    pub residue: usize,
    /// Each tap, and how far it shifts a phase.
    pub taps: Vec<(usize, usize)>,
}

/// The blocks of a convolution.
#[derive(Clone, Debug)]
pub struct Tiling {
    /// One an axis of the geometry.
    pub sides: Vec<Side>,
    /// The first axis that is transformed, which is folded in half.
    pub fold: usize,
    /// The last one, along which elements are neighbours.
    pub inner: usize,
    /// What a block is to a transform.
    pub shape: Shape,
}

impl Tiling {
    /// The best blocks for a convolution of elements of some bytes.
    pub fn new(geometry: &Geometry, element: usize) -> Result<Self, Error> {
        let sides = geometry.axes.iter().map(Side::new).collect::<Result<Vec<_>, _>>()?;
        let mut axes: Vec<usize> = (0..sides.len()).filter(|&a| sides[a].reach > 0).collect();
        if axes.is_empty() {
            axes.push(sides.len() - 1);
        }
        let (fold, inner) = (axes[0], axes[axes.len() - 1]);
        let choices: Vec<Vec<usize>> =
            axes.iter().map(|&a| sizes(&sides[a], a == fold, fold == inner)).collect();
        let mut tiling =
            Tiling { sides, fold, inner, shape: Shape { lens: Vec::new(), cut: false } };
        // From twice the kernel on, one axis after the other, until none gains.
        let mut chosen: Vec<usize> = axes
            .iter()
            .zip(&choices)
            .map(|(&a, sizes)| {
                let wanted = 2 * tiling.sides[a].reach + 1;
                sizes.iter().position(|&n| n >= wanted).unwrap_or(sizes.len() - 1)
            })
            .collect();
        let mut set = |chosen: &[usize]| {
            for ((&a, sizes), &i) in axes.iter().zip(&choices).zip(chosen) {
                tiling.sides[a].resize(sizes[i]);
            }
            tiling.time(geometry, element, 1).whole()
        };
        let mut best = set(&chosen);
        loop {
            let before = best;
            for a in 0..axes.len() {
                for i in 0..choices[a].len() {
                    let old = std::mem::replace(&mut chosen[a], i);
                    let time = set(&chosen);
                    if time < best {
                        best = time;
                    } else {
                        chosen[a] = old;
                    }
                }
            }
            if best == before {
                break;
            }
        }
        set(&chosen);
        tiling.shape = tiling.shape_of();
        Ok(tiling)
    }

    /// Blocks on each axis.
    pub fn blocks(&self) -> impl Iterator<Item = usize> {
        self.sides.iter().map(|side| side.axis.output.div_ceil(side.len))
    }

    /// Phases of a channel.
    pub fn phases(&self) -> usize {
        self.sides.iter().map(|side| side.phases.len()).product()
    }

    fn shape_of(&self) -> Shape {
        let mut lens: Vec<usize> = (self.fold..=self.inner)
            .filter(|&a| self.sides[a].size > 1 || a == self.inner)
            .map(|a| self.sides[a].size / if a == self.fold { 2 } else { 1 })
            .collect();
        let cut = self.fold == self.inner;
        if cut {
            // As square as whole panels and vectors allow.
            let parts = lens[0] / (LANES * LANES);
            let rows = (1..=parts).filter(|r| parts.is_multiple_of(*r) && r * r <= parts);
            let rows = LANES * rows.max().unwrap_or(1);
            lens = vec![rows, lens[0] / rows];
        }
        Shape { lens, cut }
    }

    /// The predicted time of one call on images that are `batch`.
    pub fn time(&self, geometry: &Geometry, element: usize, batch: usize) -> Cost {
        let blocks = self.sides[1..].iter().map(|s| s.axis.output.div_ceil(s.len) as f64);
        let blocks = batch as f64 * blocks.product::<f64>();
        let rows = self.sides[..self.inner].iter().map(|s| s.size as f64).product::<f64>();
        let [groups, inputs, outputs, taps] = [
            geometry.groups,
            geometry.channels * self.phases(),
            geometry.outputs,
            geometry.kernel_taps() / self.phases(),
        ]
        .map(|n| n as f64);
        let size = self.shape_of().size(LANES) as f64;
        let wide = element as f64 / 4.0;
        let bytes = size * element as f64;
        let large =
            (bytes / NEAR_BYTES).log2().max(0.0) + 4.0 * (bytes / FAR_BYTES).log2().max(0.0);
        let number = RATES.number + RATES.level * size.log2() + RATES.large * large;
        let transform = size * wide * number + rows * RATES.row;
        let phases = if self.sides[self.inner].phases.len() > 1 { RATES.phases } else { 0.0 };
        let pairs = groups * inputs * outputs;
        let products = if inputs * outputs == 1.0 { 0.0 } else { pairs * 2.0 * size * wide };
        let arrays = geometry.image_bytes(element) * batch as f64;
        let values =
            if inputs * outputs == 1.0 { 0.0 } else { blocks * (inputs + outputs) * bytes };
        Cost {
            weights: pairs * (transform + taps * RATES.tap),
            work: RATES.call
                + blocks * groups * ((inputs + outputs) * transform + inputs * size * phases)
                + blocks * products * RATES.product
                + groups * (values - offer::NEAR_BYTES).max(0.0) * RATES.values
                + far(arrays, RATES.far),
        }
    }
}

/// What is paid for, in nanoseconds; numbers are of float32, and two of them in float64.
struct Rates {
    /// A call.
    call: f64,
    /// A number that is staged (or stored) and transposed; one in half a level of radix 4; and one of a block,
    /// for each doubling of it beyond [`NEAR_BYTES`] and four times for each beyond [`FAR_BYTES`].
    number: f64,
    level: f64,
    large: f64,
    /// A row that is staged or stored, and a number that is staged by phases of a stride.
    row: f64,
    phases: f64,
    /// A weight that is put in its place.
    tap: f64,
    /// A product and sum.
    product: f64,
    /// A byte of all values of a group's inputs and results that the second-level cache does not hold; and
    /// one of arrays.
    values: f64,
    far: f64,
}

/// Fitted to the logarithms of 1055 times of `benches/compare.py --choices`, in float32 and float64, on one
/// thread of a Sapphire Rapids core in November 2026. Of other shapes 95 % in float32 and 97 % in float64 are
/// within 1.5 times of what was measured. `values` was fitted to 105 large images and volumes more, of which
/// 88 % were without it and 99 % are with it.
const RATES: Rates = Rates {
    call: 4200.0,
    number: 0.31,
    level: 0.0193,
    large: 0.051,
    row: 5.6,
    phases: 0.34,
    tap: 0.4,
    product: 0.0218,
    values: 0.066,
    far: 0.038,
};

const NEAR_BYTES: f64 = 32768.0;
const FAR_BYTES: f64 = 1048576.0;

impl Side {
    fn new(axis: &Axis) -> Result<Self, Error> {
        let mut phases: Vec<Phase> = Vec::new();
        let count = axis.kernel.min(axis.stride);
        let each = axis.kernel.div_ceil(count);
        for tap in 0..axis.kernel {
            let at = tap * axis.dilation;
            let (residue, shift) = (at % axis.stride, at / axis.stride);
            let index = match phases.iter().position(|phase| phase.residue == residue) {
                Some(index) => index,
                None => {
                    phases.push(Phase { residue, taps: room("the table of taps", each)? });
                    phases.len() - 1
                }
            };
            phases[index].taps.push((tap, shift));
        }
        let reach = (axis.kernel - 1) * axis.dilation / axis.stride;
        Ok(Side { axis: *axis, phases, reach, len: 1, size: 1 })
    }

    fn resize(&mut self, size: usize) {
        self.size = size;
        self.len = (size - self.reach).min(self.axis.output).max(1);
    }
}

/// The sizes that an axis may have, ascending: from the first that holds a window to the first that
/// holds them all, but not far beyond the kernel.
fn sizes(side: &Side, fold: bool, cut: bool) -> Vec<usize> {
    let unit = if cut {
        LEAST_CUT
    } else if fold {
        2
    } else {
        1
    };
    let most = (16 * (side.reach + 1)).max(if cut { 1 << 16 } else { 64 });
    let whole = side.axis.output.saturating_add(side.reach);
    let least = (side.reach + 1).div_ceil(unit);
    let mut sizes = Vec::new();
    let mut power = 1usize;
    while power <= least.saturating_mul(32).max(1 << 16) {
        // 1, 9/8 and 3/2 times a power of two.
        for (times, by) in [(1, 1), (9, 8), (3, 2)] {
            if power.is_multiple_of(by) {
                sizes.push(power / by * times);
            }
        }
        power *= 2;
    }
    sizes.retain(|&n| n >= least);
    sizes.sort_unstable();
    let enough = sizes.iter().position(|&n| n * unit >= whole).map_or(sizes.len(), |i| i + 1);
    sizes.truncate(enough);
    let near = sizes.iter().position(|&n| n * unit > most).unwrap_or(sizes.len()).max(1);
    sizes.truncate(near);
    sizes.into_iter().map(|n| n * unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};

    #[test]
    fn blocks_hold_every_window_and_none_is_out_of_proportion() {
        for (x, w, stride, dilation) in [
            (&[1usize, 1, 480_000][..], &[1usize, 1, 1025][..], 1, 1),
            (&[1, 1, 1 << 40], &[1, 1, 4001], 1, 1),
            (&[2, 3, 50, 60], &[4, 3, 11, 13], 1, 1),
            (&[1, 64, 64, 64], &[64, 64, 31, 31], 1, 1),
            (&[1, 1, 200, 300], &[1, 1, 9, 9], 3, 2),
            (&[1, 1, 30, 31, 32], &[1, 1, 5, 6, 7], 1, 1),
            (&[1, 1, 4, 5, 6, 7], &[1, 1, 2, 3, 2, 3], 2, 1),
            (&[1, 1, 9, 300], &[1, 1, 1, 60], 1, 1),
            (&[1, 1, 9, 9], &[1, 1, 1, 1], 1, 1),
        ] {
            let spec = Spec {
                rank: None,
                stride: PerAxis::All(stride),
                padding: Padding::Same,
                dilation: PerAxis::All(dilation),
                groups: 1,
                mode: PerAxis::All(PaddingMode::Constant),
                channels_last: false,
            };
            let geometry = Geometry::new(&spec, x, w, None).unwrap();
            for element in [4, 8] {
                let tiling = Tiling::new(&geometry, element).unwrap();
                for (a, side) in tiling.sides.iter().enumerate() {
                    let transformed = (tiling.fold..=tiling.inner).contains(&a) && side.size > 1;
                    assert!(side.len >= 1 && (transformed || side.reach == 0));
                    if transformed {
                        assert!(side.len + side.reach <= side.size);
                    }
                    let taps: usize = side.phases.iter().map(|phase| phase.taps.len()).sum();
                    assert_eq!(taps, side.axis.kernel);
                }
                let numbers: usize = tiling.sides.iter().map(|side| side.size).product();
                assert_eq!(2 * tiling.shape.lens.iter().product::<usize>(), numbers);
                let kernel: usize = tiling.sides.iter().map(|side| side.reach + 1).product();
                assert!(numbers <= (64 * kernel).max(1 << 17), "{x:?} {w:?}: {numbers}");
            }
        }
    }
}
