//! Kernels as products of one vector an axis.

use crate::error::{Error, room};
use crate::geometry::{Geometry, gcd};
use crate::operand::Weights;
use crate::tile::Tiled;
use crate::view::advance;

/// How far a product may be from its weight, in units of the last place of the largest one, for a kernel
/// to count as separable where that was asked for: what is left of rounding a few times.
pub const TOLERANCE: f64 = 16.0;

/// For each axis with more than one tap, a vector an output channel.
#[derive(Debug)]
pub struct Factors<T> {
    /// The taps of all output channels, axis by axis.
    pub axes: Vec<Vec<T>>,
    /// Whether their products are the weights, every bit.
    pub exact: bool,
}

impl<T: Tiled> Factors<T> {
    /// Of the kernels of all output channels, which see one input channel each. The first output whose
    /// kernel has none is the error.
    pub fn new(
        weights: &Weights<'_, T>,
        geometry: &Geometry,
        near: bool,
    ) -> Result<Result<Self, usize>, Error> {
        let kernel: Vec<usize> = geometry.axes[1..].iter().map(|axis| axis.kernel).collect();
        let (&inner, outer) = kernel.split_last().expect("a kernel has axes");
        let long: Vec<usize> = kernel.iter().copied().filter(|&n| n > 1).collect();
        let outputs = geometry.groups * geometry.outputs;
        let mut axes = Vec::new();
        for &n in &long {
            axes.push(room("the factors of the weights", n.saturating_mul(outputs))?);
        }
        let taps = geometry.kernel_taps();
        let mut values = room("a kernel", taps)?;
        let mut row = vec![T::default(); inner];
        let mut exact = true;
        for output in 0..outputs {
            values.clear();
            let mut index = vec![0; outer.len()];
            for _ in 0..taps / inner {
                weights.read_row(output, 0, &index, &mut row);
                values.extend(row.iter().map(|value| value.to_f64()));
                advance(&mut index, outer);
            }
            let factors = match exactly(&values, &long) {
                None if near => {
                    exact = false;
                    nearly(&values, &long, TOLERANCE * unit::<T>())
                }
                factors => factors,
            };
            let Some(factors) = factors else { return Ok(Err(output)) };
            for (axis, factor) in axes.iter_mut().zip(factors) {
                for value in factor {
                    let rounded = T::from_f64(value);
                    if exact && rounded.to_f64() != value {
                        // Beyond the range of exponents.
                        return Ok(Err(output));
                    }
                    axis.push(rounded);
                }
            }
        }
        Ok(Ok(Factors { axes, exact }))
    }
}

/// The unit roundoff of an element.
fn unit<T: Tiled>() -> f64 {
    let mut unit = 1.0;
    while T::from_f64(1.0 + unit).to_f64() != 1.0 {
        unit /= 2.0;
    }
    unit
}

/// A number as an odd integer times a power of two; 0 is 0 times one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dyadic {
    odd: i64,
    power: i32,
}

impl Dyadic {
    fn of(value: f64) -> Option<Self> {
        if value == 0.0 {
            return Some(Dyadic { odd: 0, power: 0 });
        }
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, (bits & ((1 << 52) - 1)) as i64);
        let (significand, power) = match exponent {
            0x7ff => return None,
            0 => (fraction, -1074),
            _ => (fraction | 1 << 52, exponent - 1075),
        };
        let zeros = significand.trailing_zeros();
        let odd = significand >> zeros;
        Some(Dyadic { odd: if value < 0.0 { -odd } else { odd }, power: power + zeros as i32 })
    }

    /// Whether it is the product of two others: odd times odd is odd, and in one way only.
    fn is_product(self, a: Self, b: Self) -> bool {
        i128::from(self.odd) == i128::from(a.odd) * i128::from(b.odd)
            && (self.odd == 0 || self.power == a.power + b.power)
    }

    fn value(self) -> f64 {
        // In two steps, neither of which leaves the range of exponents unless their product does.
        let half = self.power / 2;
        self.odd as f64 * 2f64.powi(half) * 2f64.powi(self.power - half)
    }
}

/// The vectors whose products are a kernel's weights exactly.
///
/// If there are any, there are some that the element can hold: of a column, divided by the greatest common
/// divisor of its odd parts, every entry's odd part divides a weight's, and so does that of what is left of
/// a row (Gauss's lemma on primitive polynomials, for vectors). So no bit is lost, and small integers stay
/// exact. This is the test that every 2x2 minor of the weights is 0, without rounding.
fn exactly(weights: &[f64], kernel: &[usize]) -> Option<Vec<Vec<f64>>> {
    let mut rest: Vec<Dyadic> = Vec::with_capacity(weights.len());
    for &weight in weights {
        rest.push(Dyadic::of(weight)?);
    }
    let mut factors = Vec::with_capacity(kernel.len());
    for &n in &kernel[..kernel.len() - 1] {
        let columns = rest.len() / n;
        let Some(pivot) = rest.iter().position(|weight| weight.odd != 0) else {
            factors.push(vec![0.0; n]);
            rest.truncate(columns);
            continue;
        };
        let column = || rest[pivot % columns..].iter().step_by(columns);
        let divisor = column().fold(0, |divisor, w| gcd(w.odd.unsigned_abs(), divisor)) as i64;
        // Scaled so that magnitudes add up to at most 1: what a pass leaves is no larger than the input.
        let mut along: Vec<Dyadic> =
            column().map(|w| Dyadic { odd: w.odd / divisor, power: w.power }).collect();
        let size: f64 = along.iter().map(|w| w.value().abs()).sum();
        let shift = size.log2().ceil().clamp(-2000.0, 2000.0) as i32;
        along.iter_mut().filter(|w| w.odd != 0).for_each(|w| w.power -= shift);
        let by = along[pivot / columns];
        let first = pivot / columns * columns;
        let mut row = Vec::with_capacity(columns);
        for weight in &rest[first..first + columns] {
            if weight.odd % by.odd != 0 {
                return None;
            }
            let power = if weight.odd == 0 { 0 } else { weight.power - by.power };
            row.push(Dyadic { odd: weight.odd / by.odd, power });
        }
        for (weights, &a) in rest.chunks_exact(columns).zip(&along) {
            if !weights.iter().zip(&row).all(|(weight, &b)| weight.is_product(a, b)) {
                return None;
            }
        }
        factors.push(along.into_iter().map(Dyadic::value).collect());
        rest = row;
    }
    factors.push(rest.into_iter().map(Dyadic::value).collect());
    Some(factors)
}

/// The vectors whose products are a kernel's weights to within `tolerance` times the largest: the row and
/// the column of that one.
fn nearly(weights: &[f64], kernel: &[usize], tolerance: f64) -> Option<Vec<Vec<f64>>> {
    let largest = weights.iter().fold(0.0f64, |largest, w| largest.max(w.abs()));
    if !weights.iter().all(|w| w.is_finite()) {
        return None;
    }
    let mut rest = weights.to_vec();
    let mut factors: Vec<Vec<f64>> = Vec::with_capacity(kernel.len());
    for &n in &kernel[..kernel.len() - 1] {
        let columns = rest.len() / n;
        let greater = |a: usize, b: usize| if rest[b].abs() > rest[a].abs() { b } else { a };
        let pivot = (0..rest.len()).fold(0, greater);
        let column = rest[pivot % columns..].iter().step_by(columns);
        let size: f64 = column.clone().map(|w| w.abs()).sum();
        let factor: Vec<f64> = column.map(|w| w / size).collect();
        let by = factor[pivot / columns];
        let first = pivot / columns * columns;
        rest = rest[first..first + columns].iter().map(|w| w / by).collect();
        factors.push(factor);
    }
    factors.push(rest);
    let mut index = vec![0; kernel.len()];
    for &weight in weights {
        let product: f64 = index.iter().zip(&factors).map(|(&i, factor)| factor[i]).product();
        // Not `>`: where all weights are 0, quotients are NaN.
        if largest > 0.0 && (product - weight).abs() > tolerance * largest {
            return None;
        }
        advance(&mut index, kernel);
    }
    Some(factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(factors: &[&[f64]]) -> (Vec<f64>, Vec<usize>) {
        let one = vec![1.0];
        let weights = factors.iter().fold(one, |weights, factor| {
            weights.iter().flat_map(|w| factor.iter().map(move |f| w * f)).collect()
        });
        (weights, factors.iter().map(|factor| factor.len()).collect())
    }

    #[test]
    fn products_of_integers_are_found_exactly() {
        for factors in [
            &[&[1.0, 2.0, 1.0][..], &[-1.0, 0.0, 1.0]][..],
            &[&[0.0, 6.0, 10.0], &[15.0, 0.0, 9.0, 21.0]],
            &[&[3.0, 5.0], &[7.0, 11.0, 13.0], &[0.5, -0.75]],
            &[&[0.0, 0.0], &[1.0, 2.0]],
            &[&[1e-30, 3e-30], &[2.0, 5.0]],
        ] {
            let (weights, kernel) = outer(factors);
            // What is stored may be rounded: it is what counts.
            let exact =
                factors.iter().flat_map(|f| f.iter()).all(|f| f.fract().abs() % 0.25 == 0.0);
            let found = exactly(&weights, &kernel);
            assert!(found.is_some() || !exact, "{factors:?}");
            if let Some(found) = found {
                let slices: Vec<&[f64]> = found.iter().map(Vec::as_slice).collect();
                assert_eq!(outer(&slices).0, weights);
                for factor in &found[..found.len() - 1] {
                    assert!(factor.iter().map(|f| f.abs()).sum::<f64>() <= 1.0);
                }
            }
        }
    }

    #[test]
    fn a_single_bit_makes_a_kernel_inseparable() {
        let (mut weights, kernel) = outer(&[&[1.0, 4.0, 6.0, 4.0, 1.0], &[1.0, 3.0, 3.0, 1.0]]);
        assert!(exactly(&weights, &kernel).is_some());
        for i in 0..weights.len() {
            let old = weights[i];
            weights[i] = old.next_up();
            assert!(exactly(&weights, &kernel).is_none(), "{i}");
            assert!(nearly(&weights, &kernel, 1e-15).is_some(), "{i}");
            weights[i] = old * 1.01;
            assert!(nearly(&weights, &kernel, 1e-5).is_none(), "{i}");
            weights[i] = f64::NAN;
            assert!(
                exactly(&weights, &kernel).is_none() && nearly(&weights, &kernel, 1.0).is_none()
            );
            weights[i] = old;
        }
        assert!(nearly(&[0.0; 4], &[2, 2], 1e-7).is_some());
    }
}
