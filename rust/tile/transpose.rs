//! Transposing, a square of vectors at a time.

use super::vector::Vector;

/// Transposes `L` rows of one vector of `L` elements each: `to[j * to_pitch + i] = from[i * pitch + j]`.
///
/// Each of log2(L) rounds interleaves the first half of the rows with the second (Stone, "Parallel
/// processing with the perfect shuffle", 1971).
///
/// # Safety
/// The CPU must have the instructions of `V`, `L` must be its lanes, and every row of both must be
/// readable or writable.
#[inline(always)]
pub unsafe fn square<V: Vector, const L: usize>(
    (from, pitch): (*const V::Element, usize),
    (to, to_pitch): (*mut V::Element, usize),
) {
    const { assert!(V::LANES == L && L.is_power_of_two()) }
    // SAFETY: the caller vouches for the instructions and for every row.
    unsafe {
        let mut rows: [V; L] = std::array::from_fn(|i| V::load(from.add(i * pitch)));
        let mut left = L;
        while left > 1 {
            let halves = rows;
            for i in 0..L / 2 {
                (rows[2 * i], rows[2 * i + 1]) = halves[i].zip(halves[i + L / 2]);
            }
            left /= 2;
        }
        for (j, row) in rows.into_iter().enumerate() {
            row.store(to.add(j * to_pitch));
        }
    }
}
