//! Numbers: those that arrays hold ([`Scalar`], [`Stored`]), those that the engine computes with
//! ([`Element`]), and what leads from one to the other.
//!
//! Integers are computed modulo 2 to the 32 or 64, and cut to fewer bits when they are stored, so a
//! result of n bits is exact modulo 2 to the n. Halves are computed as singles and rounded once.

use std::convert::identity;

/// The numbers that arrays may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // by their names
pub enum Scalar {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
    F32,
    F64,
}

impl Scalar {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Scalar::Bool | Scalar::I8 | Scalar::U8 => 1,
            Scalar::I16 | Scalar::U16 | Scalar::F16 | Scalar::Bf16 => 2,
            Scalar::I32 | Scalar::U32 | Scalar::F32 => 4,
            Scalar::I64 | Scalar::U64 | Scalar::F64 => 8,
        }
    }

    /// Whether it is an integer, bool among them.
    pub const fn is_integer(self) -> bool {
        !matches!(self, Scalar::F16 | Scalar::Bf16 | Scalar::F32 | Scalar::F64)
    }

    /// Whether it has no negative numbers.
    pub fn is_unsigned(self) -> bool {
        matches!(self, Scalar::Bool | Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64)
    }

    /// The largest absolute value of an integer of it.
    pub fn largest(self) -> u64 {
        match (self, 8 * self.size()) {
            (Scalar::Bool, _) => 1,
            (_, bits) if self.is_unsigned() => u64::MAX >> (64 - bits),
            (_, bits) => 1 << (bits - 1),
        }
    }

    /// Whether numbers of both are the same bits, modulo 2 to the number of them.
    pub const fn same_bits(self, other: Scalar) -> bool {
        self.signed() as u8 == other.signed() as u8
    }

    /// The integer of as many bits that has a sign; of 32 bits or more, or itself.
    const fn signed(self) -> Scalar {
        match self {
            Scalar::U32 => Scalar::I32,
            Scalar::U64 => Scalar::I64,
            other => other,
        }
    }
}

/// A number that the engine computes with.
pub trait Element: Copy + Send + Sync + PartialOrd + Default + 'static {
    /// Its NumPy name.
    const NAME: &'static str;
    /// What arrays of it hold.
    const SCALAR: Scalar;
    /// Whether the factors of a product may change places.
    const COMMUTES: bool = true;
    /// The nearest element to a double; of integers, that towards zero.
    fn from_f64(value: f64) -> Self;
    /// The nearest element to a single.
    fn from_f32(value: f32) -> Self;
    /// The nearest element to an integer, or the one that agrees with it modulo 2 to its bits.
    fn from_i64(value: i64) -> Self;
    /// The same.
    fn from_u64(value: u64) -> Self;
    /// The number as an array holds it.
    fn store<S: Stored>(self) -> S;
    /// The nearest double.
    fn to_f64(self) -> f64;
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// self * factor + addend, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The number with the other sign.
    fn neg(self) -> Self;
}

/// What an [`Element`] is, and the casts to and from it, which Rust has for all its numbers alike: `$of` makes
/// one of its `$type`, which `$to` gives back.
macro_rules! casts {
    ($type:ident, $name:literal, $scalar:ident) => {
        casts!($type, $name, $scalar, identity, identity);
    };
    ($type:ident, $name:literal, $scalar:ident, $of:expr, $to:expr) => {
        const NAME: &'static str = $name;
        const SCALAR: Scalar = Scalar::$scalar;
        #[inline(always)]
        fn from_f64(value: f64) -> Self {
            $of(value as $type)
        }
        #[inline(always)]
        fn from_f32(value: f32) -> Self {
            $of(value as $type)
        }
        #[inline(always)]
        fn from_i64(value: i64) -> Self {
            $of(value as $type)
        }
        #[inline(always)]
        fn from_u64(value: u64) -> Self {
            $of(value as $type)
        }
        #[inline(always)]
        fn to_f64(self) -> f64 {
            $to(self) as f64
        }
    };
}

macro_rules! floating {
    ($type:ident, $name:literal, $scalar:ident, $of:ident) => {
        impl Element for $type {
            casts!($type, $name, $scalar);
            #[inline(always)]
            fn store<S: Stored>(self) -> S {
                S::$of(self)
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self - other
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                $type::mul_add(self, factor, addend)
            }
            #[inline(always)]
            fn neg(self) -> Self {
                -self
            }
        }
    };
}

macro_rules! integer {
    ($type:ident, $name:literal, $scalar:ident) => {
        impl Element for $type {
            casts!($type, $name, $scalar);
            #[inline(always)]
            fn store<S: Stored>(self) -> S {
                S::of_i64(i64::from(self))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                self.wrapping_mul(factor).wrapping_add(addend)
            }
            #[inline(always)]
            fn neg(self) -> Self {
                self.wrapping_neg()
            }
        }
    };
}

floating!(f32, "float32", F32, of_f32);
floating!(f64, "float64", F64, of_f64);
integer!(i32, "int32", I32);
integer!(i64, "int64", I64);

/// As an operand four 8-bit numbers, the first in the lowest byte; as a sum an integer of 32 bits. The product
/// of a row's quad and a column's is the sum of those of their numbers, of which the row's have signs and the
/// column's have none if it is `SIGNED`, else the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Quad<const SIGNED: bool>(pub i32);

impl<const SIGNED: bool> Element for Quad<SIGNED> {
    casts!(i32, "int32", I32, Quad, |quad: Self| quad.0);
    const COMMUTES: bool = false;
    #[inline(always)]
    fn store<S: Stored>(self) -> S {
        self.0.store()
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Quad(self.0.wrapping_add(other.0))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Quad(self.0.wrapping_sub(other.0))
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let (signed, unsigned) = if SIGNED { (self, other) } else { (other, self) };
        let numbers = signed.0.to_le_bytes().into_iter().zip(unsigned.0.to_le_bytes());
        Quad(numbers.map(|(a, b)| i32::from(a as i8) * i32::from(b)).sum())
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        self.mul(factor).add(addend)
    }
    #[inline(always)]
    fn neg(self) -> Self {
        Quad(self.0.wrapping_neg())
    }
}

/// A number as an array holds it.
pub trait Stored: Copy + 'static {
    /// Which.
    const SCALAR: Scalar;
    /// The number with its bytes in the other order.
    fn swap_bytes(self) -> Self;
    /// As an element, rounded or cut where that is narrower.
    fn load<T: Element>(self) -> T;
    /// Of a single, as NumPy's `astype` has it.
    fn of_f32(value: f32) -> Self;
    /// Of a double: rounded once.
    fn of_f64(value: f64) -> Self;
    /// Of an integer: modulo 2 to its bits.
    fn of_i64(value: i64) -> Self;
}

/// A truth value, in a byte: whatever is not 0 is true.
#[derive(Clone, Copy)]
pub struct Bool(u8);

/// An IEEE half.
#[derive(Clone, Copy)]
pub struct F16(u16);

/// The upper half of a single.
#[derive(Clone, Copy)]
pub struct Bf16(u16);

macro_rules! stored_integer {
    ($type:ident, $scalar:ident, $load:ident, $wide:ident) => {
        impl Stored for $type {
            const SCALAR: Scalar = Scalar::$scalar;
            #[inline(always)]
            fn swap_bytes(self) -> Self {
                $type::swap_bytes(self)
            }
            #[inline(always)]
            fn load<T: Element>(self) -> T {
                T::$load($wide::from(self))
            }
            #[inline(always)]
            fn of_f32(value: f32) -> Self {
                // What fits 32 bits, where vectors have a cast for it; then as a double.
                if value.abs() < 2_147_483_648.0 {
                    value as i32 as $type
                } else {
                    Self::of_f64(value.into())
                }
            }
            #[inline(always)]
            fn of_f64(value: f64) -> Self {
                // Both casts cut off towards zero and stop at the ends of their ranges; what an
                // unsigned integer of 64 bits holds beyond the first one's is for the second.
                if Scalar::$scalar as u8 == Scalar::U64 as u8
                    && value >= 9_223_372_036_854_775_808.0
                {
                    return value as u64 as $type;
                }
                value as i64 as $type
            }
            #[inline(always)]
            fn of_i64(value: i64) -> Self {
                value as $type
            }
        }
    };
}

stored_integer!(i8, I8, from_i64, i64);
stored_integer!(i16, I16, from_i64, i64);
stored_integer!(i32, I32, from_i64, i64);
stored_integer!(i64, I64, from_i64, i64);
stored_integer!(u8, U8, from_i64, i64);
stored_integer!(u16, U16, from_i64, i64);
stored_integer!(u32, U32, from_i64, i64);
stored_integer!(u64, U64, from_u64, u64);

impl Stored for Bool {
    const SCALAR: Scalar = Scalar::Bool;
    #[inline(always)]
    fn swap_bytes(self) -> Self {
        self
    }
    #[inline(always)]
    fn load<T: Element>(self) -> T {
        T::from_i64(i64::from(self.0 != 0))
    }
    #[inline(always)]
    fn of_f32(value: f32) -> Self {
        Bool(u8::from(value != 0.0))
    }
    #[inline(always)]
    fn of_f64(value: f64) -> Self {
        Bool(u8::from(value != 0.0))
    }
    #[inline(always)]
    fn of_i64(value: i64) -> Self {
        Bool(u8::from(value != 0))
    }
}

macro_rules! stored_float {
    ($type:ident, $scalar:ident, $load:ident) => {
        impl Stored for $type {
            const SCALAR: Scalar = Scalar::$scalar;
            #[inline(always)]
            fn swap_bytes(self) -> Self {
                $type::from_bits(self.to_bits().swap_bytes())
            }
            #[inline(always)]
            fn load<T: Element>(self) -> T {
                T::$load(self)
            }
            #[inline(always)]
            fn of_f32(value: f32) -> Self {
                value as $type
            }
            #[inline(always)]
            fn of_f64(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn of_i64(value: i64) -> Self {
                value as $type
            }
        }
    };
}

stored_float!(f32, F32, from_f32);
stored_float!(f64, F64, from_f64);

macro_rules! stored_half {
    ($type:ident, $scalar:ident, $to:ident, $of:ident) => {
        impl Stored for $type {
            const SCALAR: Scalar = Scalar::$scalar;
            #[inline(always)]
            fn swap_bytes(self) -> Self {
                $type(self.0.swap_bytes())
            }
            #[inline(always)]
            fn load<T: Element>(self) -> T {
                T::from_f32($to(self.0))
            }
            #[inline(always)]
            fn of_f32(value: f32) -> Self {
                $type($of(value))
            }
            #[inline(always)]
            fn of_f64(value: f64) -> Self {
                $type($of(odd(value)))
            }
            #[inline(always)]
            fn of_i64(value: i64) -> Self {
                Self::of_f64(value as f64)
            }
        }
    };
}

stored_half!(F16, F16, half_to_single, single_to_half);
stored_half!(Bf16, Bf16, brain_to_single, single_to_brain);

/// A double as a single, rounded to odd where it is none: a second rounding, to far fewer bits, is then
/// as if it were the only one.
#[inline(always)]
fn odd(value: f64) -> f32 {
    let near = value as f32;
    let bits = near.to_bits();
    let back = f64::from(near);
    if back == value || back.is_nan() {
        return near;
    }
    // The two singles beside it: one of them is odd, the nearest or that on its other side.
    if bits & 1 == 1 {
        return near;
    }
    let out = if back.abs() > value.abs() { bits - 1 } else { bits + 1 };
    f32::from_bits(out)
}

/// Of all but infinities and NaN, the exponent of a half moves to a single's place and is 112 too small
/// there, of subnormal numbers too: one multiplication makes it right. No branches, so that runs of them
/// compile to vectors.
#[inline(always)]
fn half_to_single(half: u16) -> f32 {
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = (u32::from(half) & 0x7fff) << 13;
    let sign = (u32::from(half) & 0x8000) << 16;
    let special = if magnitude >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    // As instructions for it do: a NaN that signals does so no more.
    let quiet = if magnitude > 0x7c00 << 13 { 0x40_0000 } else { 0 };
    let value = (f32::from_bits(magnitude) * SCALE).to_bits();
    f32::from_bits(value | special | quiet | sign)
}

/// To the nearest, of two the even one. Subnormal halves are whole numbers of 2 to the -24, which adding
/// a half to a single rounds to; others are rounded by an addition to their bits, the carry of which
/// goes on into the exponent, and at the end to infinity.
#[inline(always)]
fn single_to_half(single: f32) -> u16 {
    let bits = single.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let odd = magnitude >> 13 & 1;
    let usual = magnitude.wrapping_add(0xc800_0fff).wrapping_add(odd) >> 13;
    let nan = 0x7e00 | magnitude >> 13 & 0x3ff;
    let special = if magnitude > 0x7f80_0000 { nan } else { 0x7c00 };
    let value = if magnitude < 0x3880_0000 { small } else { usual };
    let value = if magnitude >= 0x4780_0000 { special } else { value };
    (value | sign) as u16
}

#[inline(always)]
fn brain_to_single(brain: u16) -> f32 {
    f32::from_bits(u32::from(brain) << 16)
}

/// To the nearest, of two the even one.
#[inline(always)]
fn single_to_brain(single: f32) -> u16 {
    let bits = single.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a half by its definition.
    fn value(half: u16) -> f64 {
        let (exponent, fraction) = (i32::from(half >> 10 & 31), f64::from(half & 0x3ff));
        let magnitude = match exponent {
            0 => fraction * f64::powi(2.0, -24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * f64::powi(2.0, exponent - 25),
        };
        if half >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn halves_are_what_their_bits_say() {
        for half in 0..=u16::MAX {
            let (found, expected) = (half_to_single(half), value(half));
            assert!(f64::from(found) == expected || found.is_nan() && expected.is_nan());
            assert_eq!(found.is_sign_negative(), half >> 15 == 1);
            if !expected.is_nan() {
                assert_eq!(single_to_half(found), half);
                assert_eq!(F16::of_f64(expected).0, half);
            } else {
                assert!(value(single_to_half(found)).is_nan());
            }
            let brain = brain_to_single(half);
            if !brain.is_nan() {
                assert_eq!(single_to_brain(brain), half);
            }
        }
    }

    #[test]
    fn numbers_between_halves_are_rounded_once() {
        // Between each two halves: the middle goes to the even one, and the least beside it away.
        for half in 0..0x7c00u16 {
            // Beyond the last one, where the next would be.
            let next = if half == 0x7bff { 65536.0 } else { value(half + 1) };
            let middle = (value(half) + next) / 2.0;
            let tiny = middle * f64::EPSILON;
            let even = if half % 2 == 0 { half } else { half + 1 };
            for (number, expected) in
                [(middle, even), (middle - tiny, half), (middle + tiny, half + 1)]
            {
                assert_eq!(F16::of_f64(number).0, expected, "{number}");
                assert_eq!(F16::of_f64(-number).0, expected | 0x8000);
            }
            assert_eq!(single_to_half(middle as f32), even);
        }
        for brain in [0u16, 1, 0x7f, 0x80, 0x3f80, 0x4049, 0x7f7e, 0x7f7f] {
            let at = |brain: u16| f64::from(brain_to_single(brain));
            let next = if brain == 0x7f7f { f64::powi(2.0, 128) } else { at(brain + 1) };
            let middle = (at(brain) + next) / 2.0;
            let tiny = middle * f64::EPSILON;
            let even = if brain % 2 == 0 { brain } else { brain + 1 };
            assert_eq!(Bf16::of_f64(middle).0, even);
            assert_eq!(Bf16::of_f64(middle - tiny).0, brain);
            assert_eq!(Bf16::of_f64(middle + tiny).0, brain + 1);
        }
    }

    #[test]
    fn a_product_of_quads_is_that_of_their_numbers() {
        let (signed, unsigned) = ([-128i8, 127, -1, 3], [255u8, 255, 2, 0]);
        let expected = 255 * -128 + 255 * 127 - 2;
        let rows = i32::from_le_bytes(signed.map(|number| number as u8));
        let columns = i32::from_le_bytes(unsigned);
        assert_eq!(Quad::<true>(rows).mul_add(Quad(columns), Quad(7)), Quad(expected + 7));
        assert_eq!(Quad::<false>(columns).mul(Quad(rows)), Quad(expected));
        assert_eq!(Quad::<true>(i32::MAX).add(Quad(1)), Quad(i32::MIN));
    }

    #[test]
    fn integers_wrap_and_floats_are_cut() {
        assert_eq!((u8::of_i64(9 * 200), i8::of_i64(200), u64::of_i64(-1)), (8, -56, u64::MAX));
        assert_eq!((u8::of_f64(-1.5), u8::of_f64(300.9), i16::of_f64(-2.9)), (255, 44, -2));
        assert_eq!(u64::of_f64(1.8e19), 18_000_000_000_000_000_000);
        assert_eq!((Bool::of_f64(0.5).0, Bool::of_i64(256).0, Bool(7).load::<i32>()), (1, 1, 1));
        assert_eq!(u64::MAX.load::<f64>(), 18_446_744_073_709_551_616.0);
        assert_eq!((u64::MAX.load::<i64>(), i64::MAX.load::<i32>()), (-1, -1));
    }
}
