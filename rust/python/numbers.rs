//! Which numbers a call computes with: from those of its arrays, and those that are asked for, to those of
//! its result and of its sums.

use numpy::{PyArrayDescr, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::array::Array;
use super::dtype::{Number, Part, Wanted};
use crate::error::Error;
use crate::exact::Float;
use crate::geometry::Activation;
use crate::number::Scalar;

/// What sums are kept in, which is the element that the engine computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    F32,
    F64,
    I32,
    I64,
}

impl Sums {
    /// Those of a number that sums can be kept in.
    fn of(number: Number) -> Option<Self> {
        match number.scalar {
            Scalar::F32 => Some(Sums::F32),
            Scalar::F64 => Some(Sums::F64),
            Scalar::I32 => Some(Sums::I32),
            Scalar::I64 => Some(Sums::I64),
            _ => None,
        }
    }
}

impl From<Float> for Sums {
    fn from(float: Float) -> Self {
        match float {
            Float::Single => Sums::F32,
            Float::Double => Sums::F64,
        }
    }
}

/// Calls a function that is generic over the element for what sums are kept in.
macro_rules! with_element {
    ($sums:expr, $element:ident => $call:expr) => {
        with_element!(@each $sums, $element => $call, F32 f32, F64 f64, I32 i32, I64 i64)
    };
    (@each $sums:expr, $element:ident => $call:expr, $($variant:ident $type:ident),*) => {
        match $sums {
            $(crate::python::numbers::Sums::$variant => {
                type $element = $type;
                $call
            })*
        }
    };
}
pub(super) use with_element;

/// The numbers of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Of the result.
    pub(super) result: Number,
    /// Of its sums, or their real and imaginary parts.
    pub(super) sums: Sums,
    /// Whether all operands and the result are integers.
    pub(super) integers: bool,
}

impl Numbers {
    /// Of a call with some arrays, by their names.
    ///
    /// The result is what NumPy's `result_type` says, or what is asked for. Integers are summed modulo 2
    /// to the 32 or, for results of 64 bits, 64, so that every result is exact modulo 2 to its bits; floats
    /// in the narrowest float that holds all operands, at least a single.
    pub(super) fn new<'a, 'py: 'a>(
        arrays: impl IntoIterator<Item = &'a Array<'py>> + Clone,
        wanted: &Wanted,
        activation: Activation,
    ) -> PyResult<Self> {
        let mut all = arrays.clone().into_iter();
        let first = all.next().expect("a call has arrays");
        let natural = if all.all(|array| array.number == first.number) {
            first.number
        } else {
            promoted(first.array.py(), arrays.clone())?
        };
        let result = wanted.result.unwrap_or(natural);
        let complex = arrays.clone().into_iter().any(|array| array.number.complex);
        if complex && !result.complex {
            return Err(Error::RealOfComplex { natural: natural.name() }.into());
        }
        if result.complex && activation != Activation::None {
            return Err(Error::ActivationOfComplex { dtype: result.name() }.into());
        }
        let integer = |array: &'a Array<'py>| array.number.scalar.is_integer();
        let from_integers = arrays.clone().into_iter().all(integer);
        let integers = from_integers && result.scalar.is_integer();
        let widest =
            arrays.into_iter().map(|array| array.number.scalar.size()).max().unwrap_or_default();
        let sums = if let Some(sum) = wanted.sum {
            // A single holds integers of 16 bits.
            let single = if from_integers { widest <= 2 } else { natural.scalar != Scalar::F64 };
            let holds = |sums: &Sums| match sums {
                Sums::I32 => integers && widest <= 4,
                Sums::I64 => integers,
                Sums::F32 => single,
                Sums::F64 => true,
            };
            Sums::of(sum).filter(holds).ok_or_else(|| {
                let least = match (integers, natural.complex, single) {
                    (true, ..) if widest > 4 => "int64",
                    (true, ..) => "int32",
                    (_, true, true) => "complex64",
                    (_, true, false) => "complex128",
                    (_, false, true) => "float32",
                    (_, false, false) => "float64",
                };
                Error::Accumulator { given: sum.name(), natural: natural.name(), least }
            })?
        } else if integers {
            let clipped = activation != Activation::None;
            let bits = match result.scalar {
                // Whether a sum is 0 is to be seen from all of it.
                Scalar::Bool => widest,
                // Bounds want to see what is beyond the last signed integer.
                Scalar::U32 if clipped => 8,
                _ if clipped => result.size().max(widest),
                _ => result.size(),
            };
            if bits > 4 { Sums::I64 } else { Sums::I32 }
        } else {
            let wide = |number: Number| match number.scalar {
                Scalar::F64 => true,
                scalar => scalar.is_integer() && scalar.size() > 2,
            };
            let result_is_wide = result.scalar == Scalar::F64;
            if wide(natural) || result_is_wide { Sums::F64 } else { Sums::F32 }
        };
        if integers && result.scalar == Scalar::U64 && matches!(activation, Activation::Clip { .. })
        {
            return Err(Error::ClipOfUnsigned.into());
        }
        Ok(Numbers { result, sums, integers })
    }

    /// The activation as sums see it: integers of 64 bits without a sign are never below 0, and are not
    /// told from negative ones.
    pub(super) fn activation(&self, activation: Activation) -> Activation {
        match activation {
            Activation::Relu if self.integers && self.result.scalar == Scalar::U64 => {
                Activation::None
            }
            other => other,
        }
    }

    /// What sums are kept in, as an array would hold it.
    pub(super) fn sum(&self) -> Number {
        let scalar = match self.sums {
            Sums::F32 => Scalar::F32,
            Sums::F64 => Scalar::F64,
            Sums::I32 => Scalar::I32,
            Sums::I64 => Scalar::I64,
        };
        Number { scalar, complex: self.result.complex }
    }
}

/// The dtype that NumPy combines those of several arrays to.
fn promoted<'a, 'py: 'a>(
    py: Python<'py>,
    arrays: impl IntoIterator<Item = &'a Array<'py>> + Clone,
) -> PyResult<Number> {
    let floats = |array: &'a Array<'py>| {
        !array.number.complex && matches!(array.number.scalar, Scalar::F32 | Scalar::F64)
    };
    if arrays.clone().into_iter().all(floats) {
        return Ok(Number { scalar: Scalar::F64, complex: false });
    }
    let dtypes: Vec<_> = arrays.into_iter().map(|array| array.array.dtype()).collect();
    let dtypes = PyTuple::new(py, dtypes)?;
    let combined = py.import("numpy")?.call_method1("result_type", dtypes.clone());
    let combined = combined.map_err(|_| Error::NoCommonDtype { dtypes: dtypes.to_string() })?;
    let combined = combined.cast_into::<PyArrayDescr>()?;
    let unknown =
        || Error::WantedDtype { argument: "the result", dtype: combined.to_string() }.into();
    Number::of(&combined)?.ok_or_else(unknown)
}

/// One of the real operations that an operation on complex numbers is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// The part of the first operand.
    pub(super) first: Part,
    /// The part of the second operand, and whether it has the other sign.
    pub(super) second: (Part, bool),
    /// The part of the result.
    pub(super) result: Part,
    /// Whether it is added to what earlier ones have left there.
    pub(super) adds: bool,
    /// Whether nothing is summed: the part is that of a sum of real products.
    pub(super) nothing: bool,
}

impl Numbers {
    /// The real operations that a sum of products is, of two operands either of which may be complex; the
    /// second may be conjugated.
    pub(super) fn passes(
        &self,
        (first, second): (&Array<'_>, &Array<'_>),
        conjugated: bool,
    ) -> Vec<Pass> {
        use Part::{Imaginary, Real};
        let pass = |first, second, result, negated| Pass {
            first,
            second: (second, negated),
            result,
            adds: false,
            nothing: false,
        };
        let mut passes = vec![pass(Real, Real, Real, false)];
        if !self.result.complex {
            return passes;
        }
        if first.number.complex && second.number.complex {
            passes.push(Pass { adds: true, ..pass(Imaginary, Imaginary, Real, !conjugated) });
        }
        let before = passes.len();
        if second.number.complex {
            passes.push(pass(Real, Imaginary, Imaginary, conjugated));
        }
        if first.number.complex {
            let adds = second.number.complex;
            passes.push(Pass { adds, ..pass(Imaginary, Real, Imaginary, false) });
        }
        if passes.len() == before {
            passes.push(Pass { nothing: true, ..pass(Real, Real, Imaginary, false) });
        }
        passes
    }
}
