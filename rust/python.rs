//! The extension module `faltung._core`: arrays in, the interpreter released, arrays or errors out.
//! There is no arithmetic here, and no check of values beyond what types cannot say.

mod ladder;

use std::cell::RefCell;

use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::prelude::*;
use numpy::{PyArrayDescrMethods, PyUntypedArray};
use pyo3::exceptions::{PyImportError, PyMemoryError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::contract::Problem;
use crate::error::{Error, Kind};
use crate::geometry::{Activation, Geometry, Padding, PaddingMode, PerAxis, Spec, check_out_shape};
use crate::operand::Weights;
use crate::parallel::{self, Stopped, Team};
use crate::plan::{self, Method};
use crate::store::Store;
use crate::tile::{self, Tiled};
use crate::view::{Format, Scalar, View, ViewMut, span};

/// Work above which the interpreter lock is released, in floating-point operations: some 10 us.
const DETACH_FLOPS: f64 = 1e6;

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let message = error.to_string();
        match error.kind() {
            Kind::Value => PyValueError::new_err(message),
            Kind::Type => PyTypeError::new_err(message),
            Kind::Memory => PyMemoryError::new_err(message),
        }
    }
}

type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// The name of an object's type, for errors.
fn type_name(object: Any<'_, '_>) -> String {
    object.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string())
}

fn wrong_type(argument: &'static str, expected: impl Into<String>, found: Any<'_, '_>) -> PyErr {
    Error::ArgumentType { argument, expected: expected.into(), found: type_name(found) }.into()
}

/// An integer: anything with `__index__`. `Ok(None)` where the object is of another type.
fn integer(argument: &'static str, object: Any<'_, '_>) -> PyResult<Option<i64>> {
    // The usual sequence, told apart before the conversion raises an error for it.
    if object.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    match object.extract::<i64>() {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
            let value = object.str().map_or_else(|_| "?".into(), |text| text.to_string());
            Err(Error::Name { argument, value, choices: "a number of at most 63 bits" }.into())
        }
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The items of a sequence; strings, mappings and sets are none. `None` for anything else.
fn items<'py>(object: Any<'_, 'py>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    if let Ok(tuple) = object.cast::<PyTuple>() {
        return Ok(Some(tuple.iter().collect()));
    }
    let sequence = object.hasattr("__getitem__")? && object.hasattr("__len__")?;
    if !sequence || object.is_instance_of::<PyString>() || object.hasattr("keys")? {
        return Ok(None);
    }
    match object.try_iter() {
        Ok(iterator) => iterator.collect::<PyResult<_>>().map(Some),
        // An array without dimensions has the methods of a sequence and refuses.
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn integers(argument: &'static str, object: Any<'_, '_>) -> PyResult<PerAxis<i64>> {
    if let Some(value) = integer(argument, object)? {
        return Ok(PerAxis::All(value));
    }
    let expected = "an int or a sequence of ints";
    let items = items(object)?.ok_or_else(|| wrong_type(argument, expected, object))?;
    let each = items.iter().map(|item| {
        integer(argument, item)?.ok_or_else(|| wrong_type(argument, "a sequence of ints", item))
    });
    each.collect::<PyResult<_>>().map(PerAxis::Each)
}

fn padding(object: Any<'_, '_>) -> PyResult<Padding> {
    const ARGUMENT: &str = "padding";
    let expected = "an int, a sequence with one int or one (before, after) pair an axis, or one of \
                    \"valid\", \"same\", \"same_lower\", \"full\", \"causal\"";
    if let Some(value) = integer(ARGUMENT, object)? {
        return Ok(Padding::Sides(PerAxis::All((value, value))));
    }
    if let Ok(name) = object.cast::<PyString>() {
        return match name.to_cow()?.as_ref() {
            "valid" => Ok(Padding::Valid),
            "same" => Ok(Padding::Same),
            "same_lower" => Ok(Padding::SameLower),
            "full" => Ok(Padding::Full),
            "causal" => Ok(Padding::Causal),
            other => Err(Error::Name {
                argument: ARGUMENT,
                value: format!("{other:?}"),
                choices: "\"valid\", \"same\", \"same_lower\", \"full\", \"causal\", or numbers",
            }
            .into()),
        };
    }
    let sides = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    let each = sides.iter().map(|side| {
        if let Some(value) = integer(ARGUMENT, side)? {
            return Ok((value, value));
        }
        let pair = items(side)?.unwrap_or_default();
        match pair.as_slice() {
            [before, after] => match (integer(ARGUMENT, before)?, integer(ARGUMENT, after)?) {
                (Some(before), Some(after)) => Ok((before, after)),
                _ => Err(wrong_type(ARGUMENT, "ints in each (before, after) pair", side)),
            },
            _ => Err(wrong_type(ARGUMENT, expected, side)),
        }
    });
    Ok(Padding::Sides(PerAxis::Each(each.collect::<PyResult<_>>()?)))
}

fn padding_mode(object: Any<'_, '_>) -> PyResult<PerAxis<PaddingMode>> {
    const ARGUMENT: &str = "padding_mode";
    let parse = |name: &Bound<'_, PyString>| match name.to_cow()?.as_ref() {
        "zeros" | "constant" => Ok(PaddingMode::Constant),
        "reflect" => Ok(PaddingMode::Reflect),
        "symmetric" => Ok(PaddingMode::Symmetric),
        "replicate" | "edge" => Ok(PaddingMode::Replicate),
        "circular" | "wrap" => Ok(PaddingMode::Circular),
        other => Err(PyErr::from(Error::Name {
            argument: ARGUMENT,
            value: format!("{other:?}"),
            choices: "\"zeros\" (\"constant\"), \"reflect\", \"symmetric\", \"replicate\" (\"edge\") \
                      or \"circular\" (\"wrap\")",
        })),
    };
    if let Ok(name) = object.cast::<PyString>() {
        return parse(name).map(PerAxis::All);
    }
    let expected = "a str or a sequence with one str an axis";
    let names = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    let each = names.iter().map(|name| {
        parse(name.cast::<PyString>().map_err(|_| wrong_type(ARGUMENT, expected, name))?)
    });
    each.collect::<PyResult<_>>().map(PerAxis::Each)
}

fn activation(object: Any<'_, '_>) -> PyResult<Activation> {
    const ARGUMENT: &str = "activation";
    let expected = "None, \"relu\" or (\"clip\", low, high)";
    if object.is_none() {
        return Ok(Activation::None);
    }
    let unknown = |value| Error::Name {
        argument: ARGUMENT,
        value,
        choices: "None, \"relu\" or (\"clip\", low, high)",
    };
    if let Ok(name) = object.cast::<PyString>() {
        return match name.to_cow()?.as_ref() {
            "relu" => Ok(Activation::Relu),
            other => Err(unknown(format!("{other:?}")).into()),
        };
    }
    let parts = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    match parts.as_slice() {
        [name, low, high] if name.eq("clip")? => {
            let bound = |bound: Any<'_, '_>| {
                bound
                    .extract::<f64>()
                    .map_err(|_| wrong_type(ARGUMENT, "clipped at numbers", bound))
            };
            Ok(Activation::clip(bound(low)?, bound(high)?)?)
        }
        _ => Err(unknown(object.repr()?.to_string()).into()),
    }
}

fn boolean(argument: &'static str, object: Any<'_, '_>) -> PyResult<bool> {
    object.extract().map_err(|_| wrong_type(argument, "True or False", object))
}

fn threads(object: Any<'_, '_>) -> PyResult<usize> {
    if object.is_none() {
        return Ok(parallel::num_threads()?);
    }
    match integer("threads", object)? {
        Some(value) => Ok(parallel::check_threads(value)?),
        None => Err(wrong_type("threads", "an int or None", object)),
    }
}

fn method(object: Any<'_, '_>) -> PyResult<Option<Method>> {
    match object.cast::<PyString>() {
        Ok(name) => Ok(Method::parse(&name.to_cow()?)?),
        Err(_) => Err(wrong_type("method", "a str", object)),
    }
}

/// An array argument.
struct Array<'py> {
    array: Bound<'py, PyUntypedArray>,
    format: Format,
}

impl<'py> Array<'py> {
    /// An array, or whatever `numpy.asarray` makes one of.
    fn new(argument: &'static str, object: Any<'_, 'py>) -> PyResult<Self> {
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

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// A view of it with its axes in another order.
    fn view(&self, shape: &[usize], strides: Vec<isize>) -> View<'_> {
        // SAFETY: `shape` and `strides` are a permutation of the array's own (and axes of one), and
        // the array lives as long as `self`. That no one writes to it meanwhile is up to the caller,
        // as with all of NumPy that releases the interpreter.
        unsafe { View::new(data(&self.array), self.format, shape, strides) }
    }
}

/// The address of an array's first element.
fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: the object is an array, whose header this reads.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

/// Shape and byte strides of an input or a result as `[channel, batch, *spatial]`.
fn canonical(geometry: &Geometry, array: &Bound<'_, PyUntypedArray>) -> (Vec<usize>, Vec<isize>) {
    let order = |mut axes: Vec<isize>, absent: isize| {
        if !geometry.batched {
            axes.insert(0, absent);
        }
        // (batch, channel, *spatial) or (batch, *spatial, channel).
        let channel = axes.remove(if geometry.channels_last { axes.len() - 1 } else { 1 });
        axes.insert(0, channel);
        axes
    };
    let shape = order(array.shape().iter().map(|&n| n as isize).collect(), 1);
    let strides = order(array.strides().to_vec(), 0);
    (shape.into_iter().map(|n| n as usize).collect(), strides)
}

/// A new array in C order whose elements are not set. (`PyArray::new` would panic where NumPy raises.)
fn empty<'py, T: numpy::Element>(
    py: Python<'py>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut dims: Vec<npy_intp> = shape.iter().map(|&n| n as npy_intp).collect();
    let dtype = T::get_dtype(py).into_dtype_ptr();
    // SAFETY: `PyArray_Empty` takes over the dtype, reads as many dims as it is told, and gives a new
    // array or raises.
    unsafe {
        let array = PY_ARRAY_API.PyArray_Empty(py, dims.len() as i32, dims.as_mut_ptr(), dtype, 0);
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// Whether two arrays have an element in common.
fn share_memory(a: &Bound<'_, PyUntypedArray>, b: &Bound<'_, PyUntypedArray>) -> PyResult<bool> {
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
fn overlaps_itself(array: &Bound<'_, PyUntypedArray>) -> bool {
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
fn check_out<'py, T: Tiled>(
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

/// A call of `conv` with everything parsed and checked.
struct Call<'py> {
    geometry: Geometry,
    x: Array<'py>,
    weight: Array<'py>,
    bias: Option<Array<'py>>,
    padding: f64,
    flip: bool,
    activation: Activation,
    method: Option<Method>,
    threads: usize,
}

impl<'py> Call<'py> {
    fn run<T: Tiled + numpy::Element>(
        &self,
        py: Python<'py>,
        out: Any<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let expected = self.geometry.output_shape();
        let result = if out.is_none() {
            empty::<T>(py, &expected)?
        } else {
            let inputs = [
                ("x", Some(&self.x)),
                ("weight", Some(&self.weight)),
                ("bias", self.bias.as_ref()),
            ];
            check_out::<T>(out, &expected, inputs)?
        };
        let (shape, strides) = canonical(&self.geometry, &self.x.array);
        let x = self.x.view(&shape, strides);
        let shape = self.weight.shape();
        let weight = self.weight.view(shape, self.weight.array.strides().to_vec());
        let (out_shape, out_strides) = canonical(&self.geometry, &result);
        // SAFETY: the array is new or was checked: writable, of this type, apart from the inputs, and
        // without elements that overlap.
        let out = unsafe { ViewMut::<T>::new(data(&result), &out_shape, out_strides) };
        let mut bias = vec![T::default(); self.bias.as_ref().map_or(0, |bias| bias.shape()[0])];
        if let Some(array) = &self.bias {
            let strides = array.array.strides();
            array.view(array.shape(), strides.to_vec()).read(0, strides[0], &mut bias);
        }
        let stopped = RefCell::new(None);
        let stop = || {
            // Python looks at signals on its main thread only, and elsewhere says there are none.
            Python::attach(|py| py.check_signals()).is_err_and(|error| {
                stopped.replace(Some(error));
                true
            })
        };
        let kernels = tile::kernels::<T>()?;
        let compute = || {
            let weights = Weights::new(&weight, shape, self.flip)?;
            let store = Store { out, bias: &bias, activation: self.activation };
            let problem = Problem {
                geometry: &self.geometry,
                x: &x,
                weights: &weights,
                padding: T::from_f64(self.padding),
                store: &store,
            };
            plan::run(self.method, &problem, kernels, &Team { threads: self.threads, stop: &stop })
        };
        let done = if self.geometry.flops() < DETACH_FLOPS {
            compute()
        } else {
            let compute = Detached(compute);
            py.detach(move || compute.call())
        };
        match (done, stopped.into_inner()) {
            (Err(Stopped::Failed(error)), _) => Err(error.into()),
            (Err(Stopped::Interrupted), Some(error)) => Err(error),
            _ => Ok(result.into_any().unbind()),
        }
    }
}

/// Work for `Python::detach`, which asks for `Send` so that nothing bound to the interpreter gets in.
struct Detached<F>(F);

// SAFETY: `detach` calls it on this very thread. What it captures of Python are addresses of arrays
// that `Call` keeps alive, and a `RefCell` that is only used with the interpreter attached.
unsafe impl<F> Send for Detached<F> {}

impl<F: FnOnce() -> R, R> Detached<F> {
    fn call(self) -> R {
        (self.0)()
    }
}

/// Convolution: the work behind `faltung.conv` and its siblings, which document the arguments.
/// `rank` is the number of spatial axes, 0 to take it from the weight.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of the Python functions, one by one
fn conv<'py>(
    py: Python<'py>,
    rank: usize,
    x: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    bias: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    padding_value: Any<'_, 'py>,
    flip: Any<'_, 'py>,
    activation: Any<'_, 'py>,
    channels_last: Any<'_, 'py>,
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let x = Array::new("x", x)?;
    let weight = Array::new("weight", weight)?;
    let bias = if bias.is_none() { None } else { Some(Array::new("bias", bias)?) };
    let channels_last = boolean("channels_last", channels_last)?;
    let options = [stride, padding, dilation, groups, padding_mode];
    let spec = spec((rank > 0).then_some(rank), options, channels_last)?;
    let geometry =
        Geometry::new(&spec, x.shape(), weight.shape(), bias.as_ref().map(Array::shape))?;
    let wide = [Some(&x), Some(&weight), bias.as_ref()]
        .into_iter()
        .flatten()
        .any(|array| array.format.scalar == Scalar::F64);
    let call = Call {
        geometry,
        padding: padding_value
            .extract()
            .map_err(|_| wrong_type("padding_value", "a number", padding_value))?,
        flip: boolean("flip", flip)?,
        activation: self::activation(activation)?,
        method: self::method(method)?,
        threads: self::threads(threads)?,
        x,
        weight,
        bias,
    };
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
}

/// The options that shapes depend on: stride, padding, dilation, groups and padding mode.
fn spec(rank: Option<usize>, options: [Any<'_, '_>; 5], channels_last: bool) -> PyResult<Spec> {
    let [stride, padding, dilation, groups, mode] = options;
    Ok(Spec {
        rank,
        stride: integers("stride", stride)?,
        padding: self::padding(padding)?,
        dilation: integers("dilation", dilation)?,
        groups: integer("groups", groups)?.ok_or_else(|| wrong_type("groups", "an int", groups))?,
        mode: padding_mode(mode)?,
        channels_last,
    })
}

/// A shape argument.
fn shape(argument: &'static str, object: Any<'_, '_>) -> PyResult<Vec<usize>> {
    match integers(argument, object)? {
        PerAxis::Each(sizes) => sizes
            .into_iter()
            .map(|n| {
                let value = n.to_string();
                let choices = "a shape of sizes that are at least 0";
                usize::try_from(n).map_err(|_| Error::Name { argument, value, choices }.into())
            })
            .collect(),
        PerAxis::All(_) => Err(wrong_type(argument, "a shape (a sequence of ints)", object)),
    }
}

/// The shape of a convolution's result: the work behind `faltung.output_shape`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of the Python function, one by one
fn output_shape<'py>(
    py: Python<'py>,
    x_shape: Any<'_, 'py>,
    weight_shape: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    channels_last: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let channels_last = boolean("channels_last", channels_last)?;
    let spec = spec(None, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let (x, weight) = (shape("x_shape", x_shape)?, shape("weight_shape", weight_shape)?);
    let geometry = Geometry::new(&spec, &x, &weight, None)?;
    Ok(PyTuple::new(py, geometry.output_shape())?.into_any().unbind())
}

/// What this build is and what it runs on.
#[pyfunction]
fn config(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let names = |isas: Vec<tile::Isa>| isas.into_iter().map(tile::Isa::name).collect::<Vec<_>>();
    let tiles = |sizes: Vec<(usize, usize)>| {
        sizes.into_iter().map(|(rows, columns)| format!("{rows}x{columns}")).collect::<Vec<_>>()
    };
    let of_dtype = PyDict::new(py);
    of_dtype.set_item("float32", tiles(tile::kernels::<f32>()?.tiles()))?;
    of_dtype.set_item("float64", tiles(tile::kernels::<f64>()?.tiles()))?;
    let config = PyDict::new(py);
    config.set_item("version", env!("CARGO_PKG_VERSION"))?;
    config.set_item("isa", tile::isa()?.name())?;
    config.set_item("available", names(tile::available()))?;
    config.set_item("tiles", of_dtype)?;
    config.set_item("threads", parallel::num_threads()?)?;
    Ok(config)
}

/// Threads that a call uses unless it says otherwise.
#[pyfunction]
fn get_num_threads() -> PyResult<usize> {
    Ok(parallel::num_threads()?)
}

/// Sets the number of threads; None goes back to the default.
#[pyfunction]
fn set_num_threads(threads: Any<'_, '_>) -> PyResult<()> {
    let number = match integer("threads", threads)? {
        None if !threads.is_none() => return Err(wrong_type("threads", "an int or None", threads)),
        number => number,
    };
    Ok(parallel::set_num_threads(number)?)
}

/// The private extension module under `faltung`.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A wrong environment is said at once, where it can be acted on.
    let ready = tile::isa().and(parallel::num_threads().map(|_| tile::Isa::Scalar));
    ready.map_err(|error| PyImportError::new_err(error.to_string()))?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(conv, module)?)?;
    module.add_function(wrap_pyfunction!(output_shape, module)?)?;
    module.add_function(wrap_pyfunction!(config, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    ladder::register(module)?;
    Ok(())
}
