//! Dealing neighbouring elements out to several vectors, and taking them up again.

use crate::fft::Wave;
use crate::tile::Array;
use crate::view::Element;

/// A vector whose elements can be dealt.
pub trait Deal: Wave {
    /// Of 2 * `LANES` neighbours, in two vectors, those at even places and those at odd ones.
    ///
    /// # Safety
    /// The CPU must have the instructions of this vector type.
    unsafe fn unzip(self, next: Self) -> (Self, Self);

    /// The inverse of [`unzip`](Deal::unzip).
    ///
    /// # Safety
    /// The CPU must have the instructions of this vector type.
    unsafe fn zip(self, odd: Self) -> (Self, Self);
}

impl<T: Element, const LANES: usize> Deal for Array<T, LANES> {
    #[inline(always)]
    unsafe fn unzip(self, next: Self) -> (Self, Self) {
        let at = |i: usize| if i < LANES { self.0[i] } else { next.0[i - LANES] };
        let every = |first| Array(std::array::from_fn(|i| at(2 * i + first)));
        (every(0), every(1))
    }

    #[inline(always)]
    unsafe fn zip(self, odd: Self) -> (Self, Self) {
        let at = |i: usize| if i.is_multiple_of(2) { self.0[i / 2] } else { odd.0[i / 2] };
        let from = |first| Array(std::array::from_fn(|i| at(first + i)));
        (from(0), from(LANES))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::Deal;

    impl Deal for __m512 {
        #[inline(always)]
        unsafe fn unzip(self, next: Self) -> (Self, Self) {
            // SAFETY: the caller vouches for the instructions; so in all of these.
            unsafe {
                let even =
                    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
                (_mm512_permutex2var_ps(self, even, next), _mm512_permutex2var_ps(self, odd, next))
            }
        }

        #[inline(always)]
        unsafe fn zip(self, odd: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                (_mm512_permutex2var_ps(self, low, odd), _mm512_permutex2var_ps(self, high, odd))
            }
        }
    }

    impl Deal for __m512d {
        #[inline(always)]
        unsafe fn unzip(self, next: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
                let odd = _mm512_add_epi64(even, _mm512_set1_epi64(1));
                (_mm512_permutex2var_pd(self, even, next), _mm512_permutex2var_pd(self, odd, next))
            }
        }

        #[inline(always)]
        unsafe fn zip(self, odd: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
                let high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
                (_mm512_permutex2var_pd(self, low, odd), _mm512_permutex2var_pd(self, high, odd))
            }
        }
    }

    /// Quarters 0, 2, 1, 3.
    #[inline(always)]
    unsafe fn middle_swapped(v: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_permute4x64_pd::<0b11_01_10_00>(v) }
    }

    impl Deal for __m256 {
        #[inline(always)]
        unsafe fn unzip(self, next: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let even = _mm256_shuffle_ps::<0b10_00_10_00>(self, next);
                let odd = _mm256_shuffle_ps::<0b11_01_11_01>(self, next);
                let whole = |v| _mm256_castpd_ps(middle_swapped(_mm256_castps_pd(v)));
                (whole(even), whole(odd))
            }
        }

        #[inline(always)]
        unsafe fn zip(self, odd: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let (low, high) = (_mm256_unpacklo_ps(self, odd), _mm256_unpackhi_ps(self, odd));
                (
                    _mm256_permute2f128_ps::<0x20>(low, high),
                    _mm256_permute2f128_ps::<0x31>(low, high),
                )
            }
        }
    }

    impl Deal for __m256d {
        #[inline(always)]
        unsafe fn unzip(self, next: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let (even, odd) = (_mm256_unpacklo_pd(self, next), _mm256_unpackhi_pd(self, next));
                (middle_swapped(even), middle_swapped(odd))
            }
        }

        #[inline(always)]
        unsafe fn zip(self, odd: Self) -> (Self, Self) {
            // SAFETY: as above.
            unsafe {
                let (low, high) = (_mm256_unpacklo_pd(self, odd), _mm256_unpackhi_pd(self, odd));
                (
                    _mm256_permute2f128_pd::<0x20>(low, high),
                    _mm256_permute2f128_pd::<0x31>(low, high),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// # Safety
    /// The CPU must have the instructions of `V`.
    unsafe fn deals<V: Deal>() {
        let numbers: Vec<V::Element> =
            (0..2 * V::LANES).map(|i| V::Element::from_f64(i as f64)).collect();
        let mut found = numbers.clone();
        // SAFETY: both halves of the lists are vectors.
        unsafe {
            let (first, second) = numbers.split_at(V::LANES);
            let (even, odd) = V::load(first.as_ptr()).unzip(V::load(second.as_ptr()));
            even.store(found.as_mut_ptr());
            odd.store(found.as_mut_ptr().add(V::LANES));
            let dealt = (0..2 * V::LANES).map(|i| (i % V::LANES * 2 + i / V::LANES) as f64);
            assert!(found.iter().map(|v| v.to_f64()).eq(dealt));
            let (first, second) = even.zip(odd);
            first.store(found.as_mut_ptr());
            second.store(found.as_mut_ptr().add(V::LANES));
        }
        assert!(found == numbers);
    }

    #[test]
    fn neighbours_are_dealt_and_taken_up_again() {
        // SAFETY: arrays need no instructions; the others are asked for.
        unsafe {
            deals::<Array<f32, 4>>();
            deals::<Array<f64, 2>>();
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::*;
                if is_x86_feature_detected!("avx2") {
                    deals::<__m256>();
                    deals::<__m256d>();
                }
                if is_x86_feature_detected!("avx512f") {
                    deals::<__m512>();
                    deals::<__m512d>();
                }
            }
        }
    }
}
