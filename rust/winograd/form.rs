//! The transforms of one axis: F(2,3) and F(4,3) as matrices.
//!
//! `y = A ((G w) * (B d))` gives `m` outputs `y` of a kernel `w` of three taps from the `m + 2` inputs `d`
//! that their windows hold, with one product for each of `m + 2` *points* instead of three for each output
//! (S. Winograd, *Arithmetic Complexity of Computations*, 1980; A. Lavin and S. Gray, "Fast algorithms for
//! convolutional neural networks", arXiv:1509.09308).
//!
//! The points of F(2,3) are 0, 1, -1 and infinity. Those of F(4,3) are 0, 2/3, -2/3, 3/2, -3/2 and infinity:
//! of points that are one another's negatives and reciprocals, which round least (B. Barabasz, A. Anderson,
//! K. Soodhalter, D. Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep neural
//! networks", arXiv:1803.10986), the best of those tried. With the usual 1, -1, 2, -2 the error is 2.2 times as
//! large, in float32 over 64 channels and two axes.
//!
//! Of several axes each is transformed by itself, one after the other.

use crate::fft::Wave;
use crate::offer::Precision;
use crate::view::Element;

/// Taps of a kernel that is transformed.
pub const TAPS: usize = 3;

/// Which transform an axis has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// F(2,3): exact where sums of a few inputs and halves of weights are.
    Two,
    /// F(4,3): fewer products, and a greater error.
    Four,
}

/// The matrices of a transform.
#[derive(Debug)]
pub struct Matrices<const OUTPUTS: usize, const POINTS: usize> {
    /// B, a row a point.
    pub input: [[f64; POINTS]; POINTS],
    /// G, a row a point.
    pub weight: [[f64; TAPS]; POINTS],
    /// A, a row an output.
    pub output: [[f64; POINTS]; OUTPUTS],
}

// No row begins with -1, which would be one operation more.

/// F(2,3).
pub const TWO: Matrices<2, 4> = Matrices {
    input: [[1., 0., -1., 0.], [0., 1., 1., 0.], [0., 1., -1., 0.], [0., 1., 0., -1.]],
    weight: [[1., 0., 0.], [0.5, 0.5, 0.5], [-0.5, 0.5, -0.5], [0., 0., 1.]],
    output: [[1., 1., 1., 0.], [0., 1., -1., -1.]],
};

/// Points of F(4,3), their squares and cubes, and the sum of their squares.
const P: f64 = 2. / 3.;
const Q: f64 = 3. / 2.;
const PP: f64 = 4. / 9.;
const QQ: f64 = 9. / 4.;
const PPP: f64 = 8. / 27.;
const QQQ: f64 = 27. / 8.;
const S: f64 = 97. / 36.;

/// F(4,3).
pub const FOUR: Matrices<4, 6> = Matrices {
    input: [
        [1., 0., -S, 0., 1., 0.],
        [0., -Q, -QQ, P, 1., 0.],
        [0., Q, -QQ, -P, 1., 0.],
        [0., -P, -PP, Q, 1., 0.],
        [0., P, -PP, -Q, 1., 0.],
        [0., 1., 0., -S, 0., 1.],
    ],
    weight: [
        [1., 0., 0.],
        [-81. / 130., -27. / 65., -18. / 65.],
        [-81. / 130., 27. / 65., -18. / 65.],
        [8. / 65., 12. / 65., 18. / 65.],
        [8. / 65., -12. / 65., 18. / 65.],
        [0., 0., 1.],
    ],
    output: [
        [1., 1., 1., 1., 1., 0.],
        [0., P, -P, Q, -Q, 0.],
        [0., PP, PP, QQ, QQ, 0.],
        [0., PPP, -PPP, QQQ, -QQQ, 1.],
    ],
};

impl Form {
    /// Those that a precision allows.
    pub fn allowed(precision: Precision) -> &'static [Form] {
        match precision {
            Precision::Exact => &[],
            Precision::High => &[Form::Two],
            Precision::Fast => &[Form::Two, Form::Four],
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Form::Two => "F(2,3)",
            Form::Four => "F(4,3)",
        }
    }

    /// Outputs of a tile along an axis: m.
    pub const fn outputs(self) -> usize {
        match self {
            Form::Two => 2,
            Form::Four => 4,
        }
    }

    /// Points of an axis: m + 2.
    pub const fn points(self) -> usize {
        self.outputs() + TAPS - 1
    }

    /// What an axis adds to the bound of the error: the greatest that a row of |A| (|G| |w|) * (|B| |d|) can
    /// be for weights and inputs with |w|_1 = max |d| = 1, which it is for a single tap.
    pub fn growth(self) -> f64 {
        match self {
            Form::Two => TWO.growth(),
            Form::Four => FOUR.growth(),
        }
    }

    /// Roundings of a term on its way through the three transforms of an axis.
    pub fn roundings(self) -> usize {
        match self {
            Form::Two => TWO.roundings(),
            Form::Four => FOUR.roundings(),
        }
    }
}

impl<const OUTPUTS: usize, const POINTS: usize> Matrices<OUTPUTS, POINTS> {
    fn growth(&self) -> f64 {
        let sum = |row: &[f64]| row.iter().map(|c| c.abs()).sum::<f64>();
        let of = |row: &[f64; POINTS], tap: usize| {
            let product = |k: usize| row[k].abs() * self.weight[k][tap].abs() * sum(&self.input[k]);
            (0..POINTS).map(product).sum::<f64>()
        };
        let rows = self.output.iter();
        rows.flat_map(|row| (0..TAPS).map(move |tap| of(row, tap))).fold(0.0, f64::max)
    }

    fn roundings(&self) -> usize {
        most_roundings(&self.input) + most_roundings(&self.weight) + most_roundings(&self.output)
    }
}

/// Roundings of a term in a [`product`] with any row of a matrix.
fn most_roundings<const COLUMNS: usize>(matrix: &[[f64; COLUMNS]]) -> usize {
    let of = |row: &[f64; COLUMNS]| {
        let factors: Vec<f64> = row.iter().copied().filter(|&c| c != 0.0).collect();
        let scales = |c: f64| c.abs().log2().fract() == 0.0;
        let inexact = factors.iter().any(|&c| f64::from(c as f32) != c);
        let first = factors.first().is_some_and(|&c| !scales(c));
        factors.len() - 1 + usize::from(first) + usize::from(inexact)
    };
    matrix.iter().map(of).max().unwrap_or(0)
}

/// A matrix with rows and columns changed.
pub const fn turned<const ROWS: usize, const COLUMNS: usize>(
    matrix: &[[f64; COLUMNS]; ROWS],
) -> [[f64; ROWS]; COLUMNS] {
    let mut turned = [[0.0; ROWS]; COLUMNS];
    let mut at = 0;
    while at < ROWS * COLUMNS {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        turned[column][row] = matrix[row][column];
        at += 1;
    }
    turned
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

    fn holds<const OUTPUTS: usize, const POINTS: usize>(
        matrices: &Matrices<OUTPUTS, POINTS>,
        error: f64,
    ) {
        let w = [3.0, -5.0, 2.0];
        let d: Vec<f64> = (0..POINTS).map(|i| (i * i) as f64 - 4.0).collect();
        let dot = |row: &[f64], v: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
        let Matrices { input, weight, output } = matrices;
        let products: Vec<f64> =
            (0..POINTS).map(|k| dot(&weight[k], &w) * dot(&input[k], &d)).collect();
        for (i, row) in output.iter().enumerate() {
            assert!((dot(row, &products) - dot(&w, &d[i..i + TAPS])).abs() <= error, "output {i}");
        }
        for row in input.iter().chain(output) {
            assert!(row.iter().find(|&&c| c != 0.0) != Some(&-1.0), "a sign to turn: {row:?}");
        }
    }

    #[test]
    fn tiles_hold_the_sums_over_windows() {
        holds(&TWO, 0.0);
        holds(&FOUR, 1e-12);
    }

    #[test]
    fn errors_are_bounded() {
        assert_eq!((Form::Two.growth(), Form::Two.roundings()), (4.0, 5));
        // 4 of the input and its factors, 4 of the weights, 6 of the sums.
        assert_eq!((Form::Four.growth().round(), Form::Four.roundings()), (12.0, 15));
    }
}
