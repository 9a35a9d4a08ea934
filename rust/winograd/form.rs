//! The transforms of one axis: F(2,3) and F(4,3) as matrices.
//!
//! `y = A ((G w) * (B d))` gives `m` outputs `y` of a kernel `w` of three taps from the `m + 2` inputs `d`
//! that their windows hold, with one product for each of `m + 2` *points* instead of three for each output
//! (S. Winograd, *Arithmetic Complexity of Computations*, 1980; A. Lavin and S. Gray, "Fast algorithms for
//! convolutional neural networks", arXiv:1509.09308). The points are 0, 1, -1 (F(4,3): 2, -2) and infinity.
//! Of several axes each is transformed by itself, one after the other.

use crate::fft::Wave;
use crate::view::Element;

/// Most points of an axis.
pub const MOST: usize = 6;

/// Taps of a kernel that is transformed.
pub const TAPS: usize = 3;

/// Rows of a matrix.
type Matrix<const COLUMNS: usize> = [[f64; COLUMNS]; MOST];

/// The transforms of one axis. No row begins with -1, which would be one operation more.
pub trait Form {
    /// What it is.
    const KIND: Kind;
    /// Outputs of a tile: m.
    const OUTPUTS: usize = Self::KIND.outputs();
    /// Its points: m + 2.
    const POINTS: usize = Self::KIND.points();
    /// B, a row a point.
    const INPUT: Matrix<MOST>;
    /// G, a row a point.
    const WEIGHT: Matrix<TAPS>;
    /// A, a row an output.
    const OUTPUT: Matrix<MOST>;
}

/// Which transforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// F(2,3): exact where sums of a few inputs and halves of weights are.
    Two,
    /// F(4,3): fewer products, an error some ten times greater.
    Four,
}

impl Kind {
    /// Outputs of a tile along an axis.
    pub const fn outputs(self) -> usize {
        match self {
            Kind::Two => 2,
            Kind::Four => 4,
        }
    }

    /// Points of an axis.
    pub const fn points(self) -> usize {
        self.outputs() + TAPS - 1
    }

    /// What an axis adds to the bound of the error: the greatest that a row of |A| (|G| |w|) * (|B| |d|) can
    /// be for weights and inputs with |w|_1 = max |d| = 1, which it is for a single tap.
    pub fn growth(self) -> f64 {
        match self {
            Kind::Two => growth::<Two>(),
            Kind::Four => growth::<Four>(),
        }
    }
}

fn growth<F: Form>() -> f64 {
    let sum = |row: &[f64]| row.iter().map(|c| c.abs()).sum::<f64>();
    let of = |row: &[f64; MOST], tap: usize| {
        let product = |k: usize| row[k].abs() * F::WEIGHT[k][tap].abs() * sum(&F::INPUT[k]);
        (0..F::POINTS).map(product).sum::<f64>()
    };
    let rows = F::OUTPUT[..F::OUTPUTS].iter();
    rows.flat_map(|row| (0..TAPS).map(move |tap| of(row, tap))).fold(0.0, f64::max)
}

/// F(2,3).
pub struct Two;

impl Form for Two {
    const KIND: Kind = Kind::Two;
    const INPUT: Matrix<MOST> = [
        [1., 0., -1., 0., 0., 0.],
        [0., 1., 1., 0., 0., 0.],
        [0., 1., -1., 0., 0., 0.],
        [0., 1., 0., -1., 0., 0.],
        [0.; MOST],
        [0.; MOST],
    ];
    const WEIGHT: Matrix<TAPS> =
        [[1., 0., 0.], [0.5, 0.5, 0.5], [-0.5, 0.5, -0.5], [0., 0., 1.], [0.; 3], [0.; 3]];
    const OUTPUT: Matrix<MOST> = [
        [1., 1., 1., 0., 0., 0.],
        [0., 1., -1., -1., 0., 0.],
        [0.; MOST],
        [0.; MOST],
        [0.; MOST],
        [0.; MOST],
    ];
}

/// F(4,3).
pub struct Four;

impl Form for Four {
    const KIND: Kind = Kind::Four;
    const INPUT: Matrix<MOST> = [
        [4., 0., -5., 0., 1., 0.],
        [0., -4., -4., 1., 1., 0.],
        [0., 4., -4., -1., 1., 0.],
        [0., -2., -1., 2., 1., 0.],
        [0., 2., -1., -2., 1., 0.],
        [0., 4., 0., -5., 0., 1.],
    ];
    const WEIGHT: Matrix<TAPS> = [
        [1. / 4., 0., 0.],
        [-1. / 6., -1. / 6., -1. / 6.],
        [-1. / 6., 1. / 6., -1. / 6.],
        [1. / 24., 1. / 12., 1. / 6.],
        [1. / 24., -1. / 12., 1. / 6.],
        [0., 0., 1.],
    ];
    const OUTPUT: Matrix<MOST> = [
        [1., 1., 1., 1., 1., 0.],
        [0., 1., -1., 2., -2., 0.],
        [0., 1., 1., 4., 4., 0.],
        [0., 1., -1., 8., -8., 1.],
        [0.; MOST],
        [0.; MOST],
    ];
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

    fn convolves<F: Form>() {
        let w = [3.0, -5.0, 2.0];
        let d: Vec<f64> = (0..F::POINTS).map(|i| (i * i) as f64 - 4.0).collect();
        let dot = |row: &[f64], v: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
        let products: Vec<f64> =
            (0..F::POINTS).map(|k| dot(&F::WEIGHT[k], &w) * dot(&F::INPUT[k], &d)).collect();
        for (i, row) in F::OUTPUT[..F::OUTPUTS].iter().enumerate() {
            let expected = dot(&w, &d[i..i + TAPS]);
            assert!((dot(row, &products) - expected).abs() < 1e-12, "output {i}");
        }
        for row in F::INPUT.iter().chain(&F::OUTPUT) {
            assert!(row.iter().find(|&&c| c != 0.0) != Some(&-1.0), "a sign to turn: {row:?}");
        }
    }

    #[test]
    fn tiles_hold_the_sums_over_windows() {
        convolves::<Two>();
        convolves::<Four>();
        assert_eq!(Kind::Two.growth(), 4.0);
        assert!(Kind::Four.growth() > 20.0);
    }
}
