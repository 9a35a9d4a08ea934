//! NumPy arrays: what the engine can read and write, and new ones.

use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::prelude::*;
use numpy::{PyArrayDescrMethods, PyUntypedArray};
use pyo3::prelude::*;

use super::arguments::{Any, wrong_type};
use crate::error::Error;
use crate::geometry::{Geometry, check_out_shape};
use crate::tile::Tiled;
use crate::view::{Format, Scalar, View, span};

/// An array argument.
pub(super) struct Array<'py> {
    pub(super) array: Bound<'py, PyUntypedArray>,
    pub(super) format: Format,
}

impl<'py> Array<'py> {
    /// An array, or whatever `numpy.asarray` makes one of.
    pub(super) fn new(argument: &'static str, object: Any<'_, 'py>) -> PyResult<Self> {
        let array = match object.cast::<PyUntypedArray>() {
            Ok(array) => array.clone(),
            Err(_) => {
                let numpy = object.py().import("numpy")?;
                numpy.call_method1("asarray", (object,))?.cast_into::<PyUntypedArray>()?
            }
        };
        let dtype = array.dtype();
        let scalar = match dtype.num() {
            n if n == numpy::npyffi::NPY_TYPES::NPY_FLOAT as i32 => Scalar::F32,
            n if n == numpy::npyffi::NPY_TYPES::NPY_DOUBLE as i32 => Scalar::F64,
            _ => return Err(Error::Dtype { argument, dtype: dtype.str()?.to_string() }.into()),
        };
        let swapped = dtype.is_native_byteorder() == Some(false);
        Ok(Array { array, format: Format { scalar, swapped } })
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// A view of it with its axes in another order.
    pub(super) fn view(&self, shape: &[usize], strides: Vec<isize>) -> View<'_> {
        // SAFETY: `shape` and `strides` are a permutation of the array's own (and axes of one), and
        // the array lives as long as `self`. That no one writes to it meanwhile is up to the caller,
        // as with all of NumPy that releases the interpreter.
        unsafe { View::new(data(&self.array), self.format, shape, strides) }
    }
}

/// The address of an array's first element.
pub(super) fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: the object is an array, whose header this reads.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

/// Shape and byte strides of an input or a result as `[channel, batch, *spatial]`.
pub(super) fn canonical(
    geometry: &Geometry,
    array: &Bound<'_, PyUntypedArray>,
) -> (Vec<usize>, Vec<isize>) {
    ordered((geometry.batched, geometry.channels_last), array)
}

/// The same of an array that has a batch or none, and its channels last or not.
pub(super) fn ordered(
    (batched, channels_last): (bool, bool),
    array: &Bound<'_, PyUntypedArray>,
) -> (Vec<usize>, Vec<isize>) {
    let order = |mut axes: Vec<isize>, absent: isize| {
        if !batched {
            axes.insert(0, absent);
        }
        // (batch, channel, *spatial) or (batch, *spatial, channel).
        let channel = axes.remove(if channels_last { axes.len() - 1 } else { 1 });
        axes.insert(0, channel);
        axes
    };
    let shape = order(array.shape().iter().map(|&n| n as isize).collect(), 1);
    let strides = order(array.strides().to_vec(), 0);
    (shape.into_iter().map(|n| n as usize).collect(), strides)
}

/// A new array in C order whose elements are not set.
pub(super) fn empty<'py, T: numpy::Element>(
    py: Python<'py>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut dims = dims(shape);
    let make = || {
        // SAFETY: `PyArray_Empty` takes over the dtype, reads as many dims as it is told, and gives a
        // new array or raises (which `PyArray::new` would turn into a panic).
        unsafe {
            let dtype = T::get_dtype(py).into_dtype_ptr();
            let len = dims.len() as i32;
            let array = PY_ARRAY_API.PyArray_Empty(py, len, dims.as_mut_ptr(), dtype, 0);
            Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
        }
    };
    let bytes = shape.iter().fold(size_of::<T>(), |bytes, &n| bytes.saturating_mul(n));
    super::memory::with_blocks(py, bytes, make)
}

/// A new array in C order whose elements are 0.
pub(super) fn zeros<'py, T: numpy::Element>(
    py: Python<'py>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut dims = dims(shape);
    // SAFETY: as for `empty`.
    unsafe {
        let dtype = T::get_dtype(py).into_dtype_ptr();
        let len = dims.len() as i32;
        let array = PY_ARRAY_API.PyArray_Zeros(py, len, dims.as_mut_ptr(), dtype, 0);
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// A shape as NumPy's C functions take it.
fn dims(shape: &[usize]) -> Vec<npy_intp> {
    shape.iter().map(|&n| n as npy_intp).collect()
}

/// Whether two arrays have an element in common.
pub(super) fn share_memory(
    a: &Bound<'_, PyUntypedArray>,
    b: &Bound<'_, PyUntypedArray>,
) -> PyResult<bool> {
    let bounds = |array: &Bound<'_, PyUntypedArray>| {
        let data = data(array) as isize;
        let span = span(array.shape(), array.strides(), array.dtype().itemsize());
        data + span.start..data + span.end
    };
    let (x, y) = (bounds(a), bounds(b));
    if x.start >= y.end || y.start >= x.end {
        return Ok(false);
    }
    // Exact up to some effort; what is too hard to tell counts as shared.
    let numpy = a.py().import("numpy")?;
    numpy.call_method1("shares_memory", (a, b, 100_000)).map_or(Ok(true), |shared| shared.extract())
}

/// Whether two elements of an array may lie in the same bytes.
pub(super) fn overlaps_itself(array: &Bound<'_, PyUntypedArray>) -> bool {
    let axes = array.shape().iter().zip(array.strides());
    let mut axes: Vec<(usize, usize)> =
        axes.filter(|(n, _)| **n > 1).map(|(&n, &s)| (s.unsigned_abs(), n)).collect();
    axes.sort_unstable();
    let mut reach = array.dtype().itemsize();
    array.len() > 0
        && axes.into_iter().any(|(stride, n)| {
            let overlaps = stride < reach;
            reach += stride * (n - 1);
            overlaps
        })
}

/// Checks an array that the caller provides for the result.
pub(super) fn check_out<'py, T: Tiled>(
    out: Any<'_, 'py>,
    expected: &[usize],
    inputs: [(&'static str, Option<&Array<'py>>); 3],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let out = out
        .cast::<PyUntypedArray>()
        .map_err(|_| wrong_type("out", "a numpy.ndarray or None", out))?;
    check_out_shape(out.shape(), expected)?;
    let dtype = out.dtype();
    let same = dtype.num() == if size_of::<T>() == 4 { 11 } else { 12 };
    if !same || dtype.is_native_byteorder() == Some(false) {
        let found = dtype.str()?.to_string();
        return Err(Error::OutDtype { found, expected: T::NAME }.into());
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
