//! NumPy arrays: what the engine can read and write, and new ones.

use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::prelude::*;
use numpy::{PyArrayDescrMethods, PyUntypedArray};
use pyo3::prelude::*;

use super::dtype::{Number, Part, Wanted, is_long};
use super::object::Any;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::view::{Format, Scalar, View, span};

/// An array argument.
#[derive(Clone)]
pub(super) struct Array<'py> {
    pub(super) array: Bound<'py, PyUntypedArray>,
    /// What it holds.
    pub(super) number: Number,
    /// Whether its bytes are in the order that this machine does not use.
    swapped: bool,
}

impl<'py> Array<'py> {
    /// An array, or whatever `numpy.asarray` makes one of.
    pub(super) fn new(
        argument: &'static str,
        object: Any<'_, 'py>,
        wanted: &Wanted,
    ) -> PyResult<Self> {
        let mut array = match object.cast::<PyUntypedArray>() {
            Ok(array) => array.clone(),
            Err(_) => {
                let numpy = object.py().import("numpy")?;
                numpy.call_method1("asarray", (object,))?.cast_into::<PyUntypedArray>()?
            }
        };
        let mut dtype = array.dtype();
        let number = match Number::of(&dtype)? {
            Some(number) => number,
            None if is_long(&dtype) && wanted.doubles() => {
                let complex = dtype.kind() == b'c';
                let number = Number { scalar: Scalar::F64, complex };
                array = array.call_method1("astype", (number.name(),))?.cast_into()?;
                dtype = array.dtype();
                number
            }
            None => {
                let long = is_long(&dtype);
                return Err(Error::Dtype { argument, dtype: dtype.str()?.to_string(), long }.into());
            }
        };
        let swapped = dtype.is_native_byteorder() == Some(false);
        Ok(Array { array, number, swapped })
    }

    /// The same of an argument that may be None.
    pub(super) fn optional(
        argument: &'static str,
        object: Any<'_, 'py>,
        wanted: &Wanted,
    ) -> PyResult<Option<Self>> {
        if object.is_none() { Ok(None) } else { Self::new(argument, object, wanted).map(Some) }
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// Whether its numbers are floats that must be converted as they are read.
    pub(super) fn is_converted(&self) -> bool {
        let scalar = self.number.scalar;
        self.swapped || matches!(scalar, Scalar::F16 | Scalar::Bf16)
    }

    /// A view of a part of it as it is, with the other sign if `negated`.
    pub(super) fn whole(&self, part: (Part, bool)) -> View<'_> {
        self.view(self.shape(), self.array.strides().to_vec(), part)
    }

    /// A view of a part of it with its axes in another order, with the other sign if `negated`.
    pub(super) fn view(
        &self,
        shape: &[usize],
        strides: Vec<isize>,
        (part, negated): (Part, bool),
    ) -> View<'_> {
        let Number { scalar, complex } = self.number;
        let first = if complex && part == Part::Imaginary { scalar.size() } else { 0 };
        let format = Format { scalar, swapped: self.swapped, negated };
        // SAFETY: `shape` and `strides` are a permutation of the array's own (and axes of one), the
        // second number of a complex one lies behind the first, and the array lives as long as `self`.
        // That no one writes to it meanwhile is up to the caller, as with all of NumPy that releases the
        // interpreter.
        unsafe { View::new(data(&self.array).add(first), format, shape, strides) }
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
    let (shape, strides) = (array.shape(), array.strides());
    (order((batched, channels_last), shape, 1), order((batched, channels_last), strides, 0))
}

/// What an array has for each axis, as `[channel, batch, *spatial]`; for a batch that it has not, `absent`.
fn order<N: Copy>((batched, channels_last): (bool, bool), axes: &[N], absent: N) -> Vec<N> {
    let (batch, rest) = if batched { (axes[0], &axes[1..]) } else { (absent, axes) };
    let (channel, spatial) = if channels_last {
        (rest[rest.len() - 1], &rest[..rest.len() - 1])
    } else {
        (rest[0], &rest[1..])
    };
    let mut ordered = Vec::with_capacity(spatial.len() + 2);
    ordered.extend([channel, batch]);
    ordered.extend_from_slice(spatial);
    ordered
}

/// A new array in C order whose elements are not set.
pub(super) fn empty<'py>(
    py: Python<'py>,
    number: Number,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut dims = dims(shape);
    let dtype = number.dtype(py)?;
    let make = || {
        // SAFETY: `PyArray_Empty` takes over the dtype, reads as many dims as it is told, and gives a
        // new array or raises (which `PyArray::new` would turn into a panic).
        unsafe {
            let dtype = dtype.into_dtype_ptr();
            let len = dims.len() as i32;
            let array = PY_ARRAY_API.PyArray_Empty(py, len, dims.as_mut_ptr(), dtype, 0);
            Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
        }
    };
    let bytes = shape.iter().fold(number.size(), |bytes, &n| bytes.saturating_mul(n));
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
