//! The transform of one axis: F(2,3) as matrices.
//!
//! `y = A ((G w) * (B d))` gives `m = 2` outputs `y` of a kernel `w` of three taps from the `m + 2` inputs `d`
//! that their windows hold, with one product for each of `m + 2` *points* instead of three for each output
//! (S. Winograd, *Arithmetic Complexity of Computations*, 1980; A. Lavin and S. Gray, "Fast algorithms for
//! convolutional neural networks", arXiv:1509.09308). The points are 0, 1, -1 and infinity.
//! Of several axes each is transformed by itself, one after the other.

use crate::fft::Wave;
use crate::view::Element;

/// Taps of a kernel that is transformed.
pub const TAPS: usize = 3;

/// Outputs of a tile along an axis: m.
pub const OUTPUTS: usize = 2;

/// Points of an axis: m + 2.
pub const POINTS: usize = OUTPUTS + TAPS - 1;

// No row begins with -1, which would be one operation more.

/// B, a row a point.
pub const INPUT: [[f64; POINTS]; POINTS] =
    [[1., 0., -1., 0.], [0., 1., 1., 0.], [0., 1., -1., 0.], [0., 1., 0., -1.]];

/// G, a row a point.
pub const WEIGHT: [[f64; TAPS]; POINTS] =
    [[1., 0., 0.], [0.5, 0.5, 0.5], [-0.5, 0.5, -0.5], [0., 0., 1.]];

/// A, a row an output.
pub const OUTPUT: [[f64; POINTS]; OUTPUTS] = [[1., 1., 1., 0.], [0., 1., -1., -1.]];

/// What an axis adds to the bound of the error: the greatest that a row of |A| (|G| |w|) * (|B| |d|) can
/// be for weights and inputs with |w|_1 = max |d| = 1, which it is for a single tap.
pub fn growth() -> f64 {
    let sum = |row: &[f64]| row.iter().map(|c| c.abs()).sum::<f64>();
    let of = |row: &[f64; POINTS], tap: usize| {
        let product = |k: usize| row[k].abs() * WEIGHT[k][tap].abs() * sum(&INPUT[k]);
        (0..POINTS).map(product).sum::<f64>()
    };
    OUTPUT.iter().flat_map(|row| (0..TAPS).map(move |tap| of(row, tap))).fold(0.0, f64::max)
}

/// The product of one row of a matrix and some vectors: sums in the order of the columns, and fused
/// multiply-adds where a factor is not one. With the matrix a constant, nothing else is left of this.
///
/// # Safety
/// The CPU must have the instructions of `V`.
#[inline(always)]
pub unsafe fn product<V: Wave, const COLUMNS: usize>(
    row: &[f64; COLUMNS],
    values: &[V; COLUMNS],
) -> V {
    let factor = |c: f64| V::Element::from_f64(c);
    let mut sum: Option<V> = None;
    for (&c, &value) in row.iter().zip(values) {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            sum = match sum {
                _ if c == 0.0 => sum,
                None if c == 1.0 => Some(value),
                None => Some(value.mul(V::set(factor(c)))),
                Some(sum) if c == 1.0 => Some(sum.add(value)),
                Some(sum) if c == -1.0 => Some(sum.sub(value)),
                Some(sum) => Some(value.mul_add(V::set(factor(c)), sum)),
            }
        }
    }
    // SAFETY: as above.
    sum.unwrap_or(unsafe { V::zero() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_the_sums_over_windows() {
        let w = [3.0, -5.0, 2.0];
        let d: Vec<f64> = (0..POINTS).map(|i| (i * i) as f64 - 4.0).collect();
        let dot = |row: &[f64], v: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
        let products: Vec<f64> =
            (0..POINTS).map(|k| dot(&WEIGHT[k], &w) * dot(&INPUT[k], &d)).collect();
        for (i, row) in OUTPUT.iter().enumerate() {
            assert_eq!(dot(row, &products), dot(&w, &d[i..i + TAPS]), "output {i}");
        }
        for row in INPUT.iter().chain(&OUTPUT) {
            assert!(row.iter().find(|&&c| c != 0.0) != Some(&-1.0), "a sign to turn: {row:?}");
        }
        assert_eq!(growth(), 4.0);
    }
}
