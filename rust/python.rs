//! The extension module `faltung._core`: arrays in, the interpreter released, arrays or errors out.
//! There is no arithmetic here, and no check of values beyond what types cannot say.

mod arguments;
mod array;
mod explain;
mod gradient;
mod ladder;
mod memory;
mod plan;

use std::cell::RefCell;

use numpy::PyUntypedArray;
use numpy::prelude::*;
use pyo3::exceptions::{
    PyImportError, PyKeyboardInterrupt, PyMemoryError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use arguments::{Any, boolean, integer, shape, spec, wrong_type};
use array::{Array, canonical, check_out, data, empty};

use crate::contract::Problem;
use crate::error::{Error, Kind};
use crate::fft::Transformed;
use crate::geometry::{Activation, Geometry};
use crate::operand::Weights;
use crate::parallel::{self, Stopped, Team};
use crate::plan::Method;
use crate::store::Store;
use crate::tile::{self, Tiled};
use crate::view::{Scalar, ViewMut};

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
    kept: Option<Bound<'py, plan::Kept>>,
}

impl<'py> Call<'py> {
    fn run<T: Transformed + numpy::Element>(
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
        let kernels = tile::kernels::<T>()?;
        self.with::<T, _>(&result, |problem| {
            interruptible(py, self.geometry.flops(), |stop| {
                let team = Team { threads: self.threads, stop };
                crate::plan::run(self.method, problem, kernels, &team)
            })
        })?;
        Ok(result.into_any().unbind())
    }

    /// Does `work` with the convolution whose result belongs into an array.
    fn with<T: Transformed + numpy::Element, R>(
        &self,
        result: &Bound<'py, PyUntypedArray>,
        work: impl FnOnce(&Problem<'_, T>) -> PyResult<R>,
    ) -> PyResult<R> {
        let (shape, strides) = canonical(&self.geometry, &self.x.array);
        let x = self.x.view(&shape, strides);
        let shape = self.weight.shape();
        let weight = self.weight.view(shape, self.weight.array.strides().to_vec());
        let (out_shape, out_strides) = canonical(&self.geometry, result);
        // SAFETY: the array is new or was checked: writable, of this type, apart from the inputs, and
        // without elements that overlap.
        let out = unsafe { ViewMut::<T>::new(data(result), &out_shape, out_strides) };
        let mut bias = vec![T::default(); self.bias.as_ref().map_or(0, |bias| bias.shape()[0])];
        if let Some(array) = &self.bias {
            let strides = array.array.strides();
            array.view(array.shape(), strides.to_vec()).read(0, strides[0], &mut bias);
        }
        let weights = Weights::new(&weight, shape, self.flip)?;
        let store = Store { out, bias: &bias, activation: self.activation, accumulate: false };
        work(&Problem {
            geometry: &self.geometry,
            x: &x,
            weights: &weights,
            prepared: self.kept.as_ref().map(|kept| kept.get().of::<T>()),
            padding: T::from_f64(self.padding),
            store: &store,
        })
    }

    /// Parses and checks the arguments of a convolution but `out`, and tells whether it is computed in
    /// float64.
    fn new(
        rank: usize,
        [x, weight, bias]: [Any<'_, 'py>; 3],
        options: [Any<'_, 'py>; 5],
        [padding_value, flip, activation, channels_last]: [Any<'_, 'py>; 4],
        [method, threads, kept]: [Any<'_, 'py>; 3],
    ) -> PyResult<(Self, bool)> {
        let x = Array::new("x", x)?;
        let weight = Array::new("weight", weight)?;
        let bias = if bias.is_none() { None } else { Some(Array::new("bias", bias)?) };
        let channels_last = boolean("channels_last", channels_last)?;
        let spec = spec((rank > 0).then_some(rank), options, channels_last)?;
        let geometry =
            Geometry::new(&spec, x.shape(), weight.shape(), bias.as_ref().map(Array::shape))?;
        let wide = [Some(&x), Some(&weight), bias.as_ref()]
            .into_iter()
            .flatten()
            .any(|array| array.format.scalar == Scalar::F64);
        let call = Call {
            geometry,
            padding: arguments::number("padding_value", padding_value)?,
            flip: boolean("flip", flip)?,
            activation: arguments::activation(activation)?,
            method: arguments::method(method)?,
            threads: arguments::threads(threads)?,
            kept: if kept.is_none() { None } else { Some(kept.cast::<plan::Kept>()?.clone()) },
            x,
            weight,
            bias,
        };
        Ok((call, wide))
    }
}

/// Does `work` without the interpreter, if it is worth that, and lets signals end it.
fn interruptible(
    py: Python<'_>,
    flops: f64,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<(), Stopped>,
) -> PyResult<()> {
    let stopped = RefCell::new(None);
    let stop = || {
        // Python looks at signals on its main thread only, and elsewhere says there are none.
        Python::attach(|py| py.check_signals()).is_err_and(|error| {
            stopped.replace(Some(error));
            true
        })
    };
    let done = if flops < DETACH_FLOPS {
        work(&stop)
    } else {
        let work = Detached(|| work(&stop));
        py.detach(move || work.call())
    };
    match (done, stopped.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(error)) => Err(error),
        (Err(Stopped::Failed(error)), None) => Err(error.into()),
        (Err(Stopped::Interrupted), None) => Err(PyKeyboardInterrupt::new_err(())),
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
/// `rank` is the number of spatial axes, 0 to take it from the weight; `kept` is a plan's [`plan::Kept`]
/// of this very weight, or None.
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
    kept: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let (call, wide) = Call::new(
        rank,
        [x, weight, bias],
        [stride, padding, dilation, groups, padding_mode],
        [padding_value, flip, activation, channels_last],
        [method, threads, kept],
    )?;
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
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
    let of_dtype = PyDict::new(py);
    of_dtype.set_item("float32", tiles::<f32>()?)?;
    of_dtype.set_item("float64", tiles::<f64>()?)?;
    let config = PyDict::new(py);
    config.set_item("version", env!("CARGO_PKG_VERSION"))?;
    config.set_item("isa", tile::isa()?.name())?;
    config.set_item("available", names(tile::available()))?;
    config.set_item("tiles", of_dtype)?;
    config.set_item("threads", parallel::num_threads()?)?;
    Ok(config)
}

/// The largest tiles of an element, as "rows x elements".
fn tiles<T: Tiled>() -> PyResult<Vec<String>> {
    let sizes = tile::kernels::<T>()?.tiles();
    Ok(sizes.map(|(rows, columns)| format!("{rows}x{columns}")).collect())
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
    module.add_function(wrap_pyfunction!(explain::explain, module)?)?;
    module.add_function(wrap_pyfunction!(config, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    gradient::register(module)?;
    module.add_class::<plan::Kept>()?;
    ladder::register(module)?;
    Ok(())
}
