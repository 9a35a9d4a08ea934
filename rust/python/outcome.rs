//! The array that a call returns: a new one, or the caller's.

use numpy::prelude::*;
use numpy::{PyArrayDescrMethods, PyUntypedArray};
use pyo3::prelude::*;

use super::array::{Array, data, empty, overlaps_itself, share_memory};
use super::dtype::{Number, Part};
use super::numbers::Numbers;
use super::object::{Any, wrong_type};
use crate::error::Error;
use crate::geometry::check_out_shape;
use crate::view::{Element, ViewMut};

/// Checks an array that the caller provides for the result.
pub(super) fn check_out<'py>(
    out: Any<'_, 'py>,
    (expected, number): (&[usize], Number),
    inputs: [(&'static str, Option<&Array<'py>>); 3],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let out = out
        .cast::<PyUntypedArray>()
        .map_err(|_| wrong_type("out", "a numpy.ndarray or None", out))?;
    check_out_shape(out.shape(), expected)?;
    let dtype = out.dtype();
    if Number::of(&dtype)? != Some(number) || dtype.is_native_byteorder() == Some(false) {
        let found = dtype.str()?.to_string();
        return Err(Error::OutDtype { found, expected: number.name() }.into());
    }
    if !out.getattr("flags")?.getattr("writeable")?.extract::<bool>()? {
        return Err(Error::OutReadOnly.into());
    }
    for (argument, array) in inputs {
        if let Some(array) = array
            && share_memory(out, &array.array)?
        {
            return Err(Error::OutOverlap { argument }.into());
        }
    }
    if overlaps_itself(out) {
        return Err(Error::OutSelfOverlap { shape: out.shape().into() }.into());
    }
    Ok(out.clone())
}

/// The array that a call returns, and the one that it computes.
pub(super) struct Outcome<'py> {
    result: Bound<'py, PyUntypedArray>,
    /// The result, or what it is rounded from where parts of it are added up one by one.
    pub(super) sums: Bound<'py, PyUntypedArray>,
    number: Number,
}

impl<'py> Outcome<'py> {
    /// A new array, or the caller's, checked. If sums are added to what it holds, it must be the caller's.
    pub(super) fn new(
        py: Python<'py>,
        out: Any<'_, 'py>,
        expected: &[usize],
        (numbers, accumulate): (&Numbers, bool),
        inputs: [(&'static str, Option<&Array<'py>>); 3],
    ) -> PyResult<Self> {
        let (result, sum) = (numbers.result, numbers.sum());
        // The sums of complex numbers are added up in the result, and would be rounded each time.
        let apart = result.complex && sum != result;
        let array = match out.is_none() {
            true if accumulate => return Err(Error::AccumulateWithoutOut.into()),
            true => empty(py, result, expected)?,
            false => check_out(out, (expected, result), inputs)?,
        };
        if !apart {
            return Ok(Outcome { sums: array.clone(), result: array, number: result });
        }
        let sums = empty(py, sum, expected)?;
        if accumulate {
            copy(&sums, &array)?;
        }
        Ok(Outcome { result: array, sums, number: sum })
    }

    /// A view of a part of what is computed.
    pub(super) fn view<T: Element>(
        &self,
        part: Part,
        shape: &[usize],
        strides: Vec<isize>,
    ) -> ViewMut<'_, T> {
        let Number { scalar, .. } = self.number;
        let first = if part == Part::Imaginary { scalar.size() } else { 0 };
        // SAFETY: the array is new or was checked: writable, of these numbers, apart from the inputs, and
        // without elements that overlap; the second number of a complex one lies behind the first.
        unsafe { ViewMut::new(data(&self.sums).add(first), scalar, shape, strides) }
    }

    /// The same of complex numbers, the parts of which are a last axis.
    pub(super) fn parts<T: Element>(&self, shape: &[usize], strides: &[isize]) -> ViewMut<'_, T> {
        let scalar = self.number.scalar;
        assert!(self.number.complex, "real numbers have one part");
        let (shape, strides) =
            ([shape, &[2]].concat(), [strides, &[scalar.size() as isize]].concat());
        // SAFETY: as above.
        unsafe { ViewMut::new(data(&self.sums), scalar, &shape, strides) }
    }

    /// Sets the imaginary part to 0.
    pub(super) fn clear_imaginary(&self) -> PyResult<()> {
        self.sums.setattr("imag", 0)
    }

    /// The result.
    pub(super) fn finish(self) -> PyResult<Py<PyAny>> {
        if !self.sums.is(&self.result) {
            copy(&self.result, &self.sums)?;
        }
        Ok(self.result.into_any().unbind())
    }
}

/// Copies an array, converted.
fn copy(to: &Bound<'_, PyUntypedArray>, from: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    to.py().import("numpy")?.call_method1("copyto", (to, from, "same_kind")).map(|_| ())
}
