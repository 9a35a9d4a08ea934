//! NumPy's dtypes as numbers that the engine knows, and `dtype=` and `accumulate=`.

use numpy::npyffi::NPY_TYPES;
use numpy::{Complex32, Complex64, PyArrayDescr, PyArrayDescrMethods};
use pyo3::prelude::*;

use super::object::Any;
use crate::error::Error;
use crate::number::Scalar;

/// What arrays hold: real numbers, or pairs of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) scalar: Scalar,
    pub(super) complex: bool,
}

/// A part of complex numbers; real ones have but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Real,
    Imaginary,
}

/// NumPy's number for each dtype that it has itself.
const DTYPES: [(NPY_TYPES, Number); 14] = {
    use NPY_TYPES::*;
    const fn real(scalar: Scalar) -> Number {
        Number { scalar, complex: false }
    }
    const fn complex(scalar: Scalar) -> Number {
        Number { scalar, complex: true }
    }
    [
        (NPY_FLOAT, real(Scalar::F32)),
        (NPY_DOUBLE, real(Scalar::F64)),
        (NPY_UBYTE, real(Scalar::U8)),
        (NPY_BYTE, real(Scalar::I8)),
        (NPY_SHORT, real(Scalar::I16)),
        (NPY_USHORT, real(Scalar::U16)),
        (NPY_INT, real(Scalar::I32)),
        (NPY_UINT, real(Scalar::U32)),
        (NPY_LONGLONG, real(Scalar::I64)),
        (NPY_ULONGLONG, real(Scalar::U64)),
        (NPY_BOOL, real(Scalar::Bool)),
        (NPY_HALF, real(Scalar::F16)),
        (NPY_CFLOAT, complex(Scalar::F32)),
        (NPY_CDOUBLE, complex(Scalar::F64)),
    ]
};

impl Number {
    /// What arrays of a dtype hold, if the engine knows it.
    pub(super) fn of(dtype: &Bound<'_, PyArrayDescr>) -> PyResult<Option<Self>> {
        let (num, size) = (dtype.num(), dtype.itemsize());
        let named = |long: NPY_TYPES| num == long as i32;
        // As long as an int or as a long long, by the platform.
        let num = match (named(NPY_TYPES::NPY_LONG), named(NPY_TYPES::NPY_ULONG)) {
            (true, _) if size == 8 => NPY_TYPES::NPY_LONGLONG as i32,
            (true, _) => NPY_TYPES::NPY_INT as i32,
            (_, true) if size == 8 => NPY_TYPES::NPY_ULONGLONG as i32,
            (_, true) => NPY_TYPES::NPY_UINT as i32,
            _ => num,
        };
        let known = DTYPES.iter().find(|(known, _)| num == *known as i32);
        if let Some(&(_, number)) = known {
            return Ok(Some(number));
        }
        // That of the package ml_dtypes, which NumPy does not have itself.
        let is_brain = size == 2 && num >= NPY_TYPES::NPY_USERDEF as i32 && {
            dtype.getattr("name")?.extract::<String>()? == "bfloat16"
        };
        Ok(is_brain.then_some(Number { scalar: Scalar::Bf16, complex: false }))
    }

    /// Its dtype, in this machine's byte order.
    pub(super) fn dtype<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDescr>> {
        // By their types where those are Rust's too: NumPy takes a fifth of a microsecond to read a name.
        Ok(match (self.scalar, self.complex) {
            (Scalar::F32, false) => numpy::dtype::<f32>(py),
            (Scalar::F64, false) => numpy::dtype::<f64>(py),
            (Scalar::F32, true) => numpy::dtype::<Complex32>(py),
            (Scalar::F64, true) => numpy::dtype::<Complex64>(py),
            (Scalar::Bool, _) => numpy::dtype::<bool>(py),
            (Scalar::I8, _) => numpy::dtype::<i8>(py),
            (Scalar::I16, _) => numpy::dtype::<i16>(py),
            (Scalar::I32, _) => numpy::dtype::<i32>(py),
            (Scalar::I64, _) => numpy::dtype::<i64>(py),
            (Scalar::U8, _) => numpy::dtype::<u8>(py),
            (Scalar::U16, _) => numpy::dtype::<u16>(py),
            (Scalar::U32, _) => numpy::dtype::<u32>(py),
            (Scalar::U64, _) => numpy::dtype::<u64>(py),
            (Scalar::F16, _) => PyArrayDescr::new(py, self.name())?,
            (Scalar::Bf16, _) => {
                PyArrayDescr::new(py, &py.import("ml_dtypes")?.getattr("bfloat16")?)?
            }
        })
    }

    /// The name of its dtype.
    pub(super) fn name(self) -> &'static str {
        match (self.scalar, self.complex) {
            (Scalar::Bool, _) => "bool",
            (Scalar::I8, _) => "int8",
            (Scalar::I16, _) => "int16",
            (Scalar::I32, _) => "int32",
            (Scalar::I64, _) => "int64",
            (Scalar::U8, _) => "uint8",
            (Scalar::U16, _) => "uint16",
            (Scalar::U32, _) => "uint32",
            (Scalar::U64, _) => "uint64",
            (Scalar::F16, _) => "float16",
            (Scalar::Bf16, _) => "bfloat16",
            (Scalar::F32, false) => "float32",
            (Scalar::F64, false) => "float64",
            (_, true) if self.scalar == Scalar::F32 => "complex64",
            (_, true) => "complex128",
        }
    }

    /// Bytes of one.
    pub(super) fn size(self) -> usize {
        self.scalar.size() * if self.complex { 2 } else { 1 }
    }
}

/// A float of extended precision, which the engine does not compute with.
pub(super) fn is_long(dtype: &Bound<'_, PyArrayDescr>) -> bool {
    let num = dtype.num();
    num == NPY_TYPES::NPY_LONGDOUBLE as i32 || num == NPY_TYPES::NPY_CLONGDOUBLE as i32
}

/// What a caller asks for: `dtype=` and `accumulate=`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) result: Option<Number>,
    pub(super) sum: Option<Number>,
}

impl Wanted {
    pub(super) fn new(dtype: Any<'_, '_>, accumulate: Any<'_, '_>) -> PyResult<Self> {
        Ok(Wanted { result: wanted("dtype", dtype)?, sum: wanted("accumulate", accumulate)? })
    }

    /// A result of these numbers, whatever its operands have.
    pub(super) fn result(number: Number) -> Self {
        Wanted { result: Some(number), sum: None }
    }

    /// Whether doubles were asked for by name, so that what is wider may be computed in them.
    pub(super) fn doubles(&self) -> bool {
        let double = |number: Option<Number>| number.is_some_and(|n| n.scalar == Scalar::F64);
        double(self.result) || double(self.sum)
    }
}

/// A dtype argument.
fn wanted(argument: &'static str, object: Any<'_, '_>) -> PyResult<Option<Number>> {
    if object.is_none() {
        return Ok(None);
    }
    // What NumPy cannot make one of is named as it is.
    let dtype = PyArrayDescr::new(object.py(), object);
    let number = dtype.as_ref().map_or(Ok(None), Number::of)?;
    let named = || match &dtype {
        Ok(dtype) => dtype.str().map(|name| name.to_string()),
        Err(_) => object.repr().map(|name| name.to_string()),
    };
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Error::WantedDtype { argument, dtype: named()? }.into()),
    }
}
