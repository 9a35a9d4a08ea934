//! Integers as floats: where no sum of theirs is ever rounded, however it is ordered, tiles multiply and add
//! them in one instruction, which integers of 32 and 64 bits have not.

use crate::memory::Workspace;
use crate::view::{Element, Scalar, View};

/// A float that sums are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// Which holds integers up to 2 to the 24.
    Single,
    /// Which holds them up to 2 to the 53.
    Double,
}

/// Positions of an output channel from which looking at all weights pays: with fewer, the weights are
/// about as many as their products.
const FEWEST_POSITIONS: usize = 32;

/// Weights that are looked at together: as many as can be summed in 32 bits if they have 16 each.
const CHUNK: usize = 1 << 15;

/// The numbers of a sum of products.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    /// What the input holds, and the weights.
    pub scalars: (Scalar, Scalar),
    /// The largest of what surrounds the input, and of what is added at the end.
    pub others: (u64, u64),
    /// Positions of an output channel.
    pub positions: usize,
}

impl Sum {
    /// The narrowest float that holds every sum of some of its products, if there is one. The heaviest
    /// output is that of [`heaviest`], which is asked only where it may matter.
    pub fn float(&self, heaviest: impl FnOnce() -> Option<u64>) -> Option<Float> {
        let (x, weights) = self.scalars;
        if x.size() > 4 || weights.size() > 4 || self.positions < FEWEST_POSITIONS {
            return None;
        }
        let (padding, bias) = self.others;
        let bound = x.largest().max(padding).saturating_mul(heaviest()?).saturating_add(bias);
        let holds = |mantissa: u32| bound <= 1 << mantissa;
        holds(24).then_some(Float::Single).or(holds(53).then_some(Float::Double))
    }
}

/// The largest sum of absolute values of an output's weights, which are integers of 32 bits at most, in an
/// array of this shape, outputs first; `None` where there is no memory to look at them.
pub fn heaviest(weights: &View<'_>, shape: &[usize]) -> Option<u64> {
    // Sums of 32 bits have vectors.
    match weights.scalar().size() {
        ..=2 => most(weights, shape, |row: &[i32]| {
            u64::from(row.iter().map(|weight| weight.unsigned_abs()).sum::<u32>())
        }),
        _ => {
            most(weights, shape, |row: &[i64]| row.iter().map(|weight| weight.unsigned_abs()).sum())
        }
    }
}

/// The largest of what the elements of the entries of the first axis add up to, so many at a time.
fn most<T: Element>(array: &View<'_>, shape: &[usize], sum: impl Fn(&[T]) -> u64) -> Option<u64> {
    let (&entries, shape) = shape.split_first()?;
    let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
    let mut space = Workspace::new::<T>("a row of weights", len).ok()?;
    let row = &mut space.elements_mut()[..len];
    let sums = (0..entries).map(|entry| {
        array.entry(entry).read_all(shape, row);
        row.chunks(CHUNK).map(&sum).sum()
    });
    sums.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_hold_sums_up_to_their_mantissas() {
        let sum = Sum { scalars: (Scalar::I8, Scalar::I8), others: (0, 0), positions: 100 };
        let float = |sum: &Sum, heaviest| sum.float(|| Some(heaviest));
        assert_eq!(float(&sum, 1 << 17), Some(Float::Single));
        assert_eq!(float(&sum, (1 << 17) + 1), Some(Float::Double));
        assert_eq!(float(&Sum { others: (0, 1), ..sum }, 1 << 17), Some(Float::Double));
        assert_eq!(float(&Sum { others: (255, 0), ..sum }, 1 << 17), Some(Float::Double));
        assert_eq!(float(&sum, 1 << 46), Some(Float::Double));
        assert_eq!(float(&sum, (1 << 46) + 1), None);
        assert_eq!(float(&Sum { positions: 31, ..sum }, 1), None);
        assert_eq!(sum.float(|| None), None);
    }

    #[test]
    fn the_heaviest_output_is_found_in_any_layout() {
        let data: Vec<i32> = (0..24).map(|i| if i % 2 == 0 { i } else { -i }).collect();
        let turned = View::strided(&data, &[4, 2, 3], vec![4, 48, 16]);
        // Elements i, i + 4, ... of six.
        assert_eq!(heaviest(&turned, &[4, 2, 3]), Some(3 + 7 + 11 + 15 + 19 + 23));
        assert_eq!(heaviest(&View::from_slice(&data, &[2, 12]), &[2, 12]), Some(210));
        assert_eq!(heaviest(&View::from_slice::<i32>(&[], &[0, 3]), &[0, 3]), None);
    }
}
