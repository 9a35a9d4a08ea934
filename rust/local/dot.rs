//! Dot products of weights and patches.

use std::array::from_fn;

use crate::view::Element;

/// Partial sums of a dot product. Odd square kernels have a multiple of 8 taps and one more.
pub const LANES: usize = 8;

/// The dot products of `M` kernels with each patch, position by position. Two kernels at once are
/// two streams from memory, which it delivers faster than one, and share the loads of the patch.
#[inline(always)]
pub fn dots<T: Element, const M: usize>(
    w: [&[T]; M],
    (patches, taps): (&[T], usize),
    mut y: [&mut [T]; M],
) {
    for (i, patch) in patches.chunks_exact(taps).take(y[0].len()).enumerate() {
        let sums = dot(w.map(|w| &w[i * taps..(i + 1) * taps]), patch);
        for (y, sum) in y.iter_mut().zip(sums) {
            y[i] = sum;
        }
    }
}

/// The dot products of `M` slices with another, each in an order that depends on the length alone.
#[inline(always)]
pub fn dot<T: Element, const M: usize>(a: [&[T]; M], b: &[T]) -> [T; M] {
    let mut sums = [[T::default(); LANES]; M];
    let a = a.map(|a| &a[..b.len()]);
    let rest = b.len() % LANES;
    let chunks = a.map(|a| a.as_chunks::<LANES>().0);
    for (at, b) in b.as_chunks::<LANES>().0.iter().enumerate() {
        // By value, so that all sums stay in registers.
        let products: [[T; LANES]; M] = from_fn(|m| {
            let a = &chunks[m][at];
            from_fn(|i| a[i].mul(b[i]))
        });
        sums = from_fn(|m| from_fn(|i| sums[m][i].add(products[m][i])));
    }
    match b.last_chunk::<LANES>() {
        _ if rest == 0 => {}
        // The rest is the end of a last whole vector, in which what was added before counts as 0.
        Some(b) => {
            let products: [[T; LANES]; M] = from_fn(|m| {
                let a = a[m].last_chunk::<LANES>().expect("as long as b");
                from_fn(|i| if i + rest < LANES { T::default() } else { a[i].mul(b[i]) })
            });
            sums = from_fn(|m| from_fn(|i| sums[m][i].add(products[m][i])));
        }
        None => {
            for (sums, a) in sums.iter_mut().zip(a) {
                for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum = sum.add(a.mul(b));
                }
            }
        }
    }
    sums.map(|sums| {
        let pair = |i: usize| sums[i].add(sums[i + LANES / 2]);
        pair(0).add(pair(2)).add(pair(1).add(pair(3)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_takes_any_length() {
        for len in 0..70 {
            // Small integers, so that every order of a sum is exact.
            let (a, b): (Vec<f32>, Vec<f32>) =
                (0..len).map(|i| ((i * 7 % 9) as f32 - 4.0, (i * 5 % 11) as f32 - 5.0)).unzip();
            let sum = |a: &[f32]| a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>();
            assert_eq!(dot([&a[..], &b], &b), [sum(&a), sum(&b)]);
        }
    }
}
