//! The extension module `faltung._core`: arrays in, the interpreter released, arrays or errors out.
//! There is no arithmetic here, and no check of values beyond what types cannot say.

mod arguments;
mod array;
mod dtype;
mod explain;
mod gradient;
mod ladder;
mod memory;
mod numbers;
mod object;
mod outcome;
mod plan;

use std::cell::RefCell;
use std::sync::OnceLock;

use numpy::prelude::*;
use pyo3::exceptions::{
    PyImportError, PyKeyboardInterrupt, PyMemoryError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use arguments::{Constant, boolean, integer, shape, spec};
use array::{Array, canonical};
use dtype::{Part, Wanted};
use numbers::{Numbers, Pass, Sums, with_element};
use object::{Any, wrong_type};
use outcome::Outcome;

use crate::complex::{self, Complex};
use crate::contract;
use crate::error::{Error, Kind};
use crate::exact;
use crate::geometry::{Activation, Geometry};
use crate::number::{Quad, Scalar};
use crate::offer::Precision;
use crate::operand::Weights;
use crate::parallel::{self, Stopped, Team};
use crate::plan::{Asked, Method, Planned};
use crate::prepared::{Prepared, Slot, once};
use crate::problem::Problem;
use crate::quads;
use crate::store::Store;
use crate::tile::{self, Kernels, Tiled};
use crate::view::{Element, View};

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

/// What a call is computed with.
enum Way {
    /// 8-bit numbers four at a time, the weights among which have signs.
    Signed(&'static Kernels<Quad<true>>),
    /// The same, the weights of which have none.
    Unsigned(&'static Kernels<Quad<false>>),
    /// Numbers that sums are kept in.
    Sums(Sums),
}

/// A call of `conv` with everything parsed and checked.
struct Call<'py> {
    geometry: Geometry,
    numbers: Numbers,
    x: Array<'py>,
    weight: Array<'py>,
    bias: Option<Array<'py>>,
    padding: Constant,
    flip: bool,
    activation: Activation,
    asked: Asked,
    threads: usize,
    kept: Option<Bound<'py, plan::Kept>>,
}

impl<'py> Call<'py> {
    fn run<T: Planned>(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Py<PyAny>> {
        let result = self.outcome(py, out)?;
        let kernels = tile::kernels::<T>()?;
        let run =
            |problem: &Problem<'_, T>, team: &Team<'_>| T::run(self.asked, problem, kernels, team);
        // Images that are computed by all passes; else the whole batch is.
        let mut images = None;
        if self.is_three() {
            let three = |team: &Team<'_>| {
                images =
                    Some(self.three(&result, team, |three| {
                        three.run(team, |problem| run(problem, team))
                    })?);
                Ok(())
            };
            self.interruptible(py, three)?;
        }
        for pass in self.passes().iter().take_while(|_| images != Some(Vec::new())) {
            self.with::<T, _>(&result, pass, |problem| {
                self.interruptible(py, |team| match &images {
                    None => run(problem, team),
                    Some(images) => images
                        .iter()
                        .try_for_each(|&image| problem.image(image, |problem| run(problem, team))),
                })
            })?;
        }
        result.finish()
    }

    /// Does `work` on its threads, and lets signals end it.
    fn interruptible(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Team<'_>) -> Result<(), Stopped>,
    ) -> PyResult<()> {
        interruptible(py, self.geometry.flops(), |stop| work(&Team { threads: self.threads, stop }))
    }

    /// The array that it is computed into: a new one, or the caller's.
    fn outcome(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Outcome<'py>> {
        let expected = self.geometry.output_shape();
        let inputs =
            [("x", Some(&self.x)), ("weight", Some(&self.weight)), ("bias", self.bias.as_ref())];
        Outcome::new(py, out, &expected, (&self.numbers, false), inputs)
    }

    /// The real convolutions that it is.
    fn passes(&self) -> Vec<Pass> {
        self.numbers.passes((&self.x, &self.weight), false)
    }

    /// A part of the input, canonical.
    fn x_view(&self, part: Part) -> View<'_> {
        let (shape, strides) = canonical(&self.geometry, &self.x.array);
        self.x.view(&shape, strides, (part, false))
    }

    /// Does `work` with what one of these reads and where it leaves its result.
    fn with_views<T: Element, R>(
        &self,
        result: &Outcome<'py>,
        pass: &Pass,
        work: impl FnOnce(&View<'_>, Store<'_, T>) -> R,
    ) -> R {
        let (shape, strides) = canonical(&self.geometry, &result.sums);
        let out = result.view(pass.result, &shape, strides);
        let bias = bias(&self.bias, pass);
        let activation = self.numbers.activation(self.activation);
        let store = Store { out, bias: &bias, activation, accumulate: pass.adds };
        work(&self.x_view(pass.first), store)
    }

    /// Does `work` with one of these, the result of which belongs into a part of an array.
    fn with<T: Planned, R>(
        &self,
        result: &Outcome<'py>,
        pass: &Pass,
        work: impl FnOnce(&Problem<'_, T>) -> PyResult<R>,
    ) -> PyResult<R> {
        let nothing = pass.nothing.then(|| Geometry { channels: 0, ..self.geometry.clone() });
        let weight = self.weight.whole(pass.second);
        let weights = Weights::new(&weight, self.weight.shape(), self.flip)?;
        let kept = self.kept.as_ref().filter(|_| !self.numbers.result.complex);
        let own = Prepared::new(false);
        self.with_views(result, pass, |x, store| {
            work(&Problem {
                geometry: nothing.as_ref().unwrap_or(&self.geometry),
                x,
                weights: &weights,
                prepared: kept.map_or(&own, |kept| &kept.get().of::<T>().forward),
                padding: self.padding.part(pass.first),
                exact: self.numbers.integers,
                store: &store,
            })
        })
    }

    /// Whether it is three real convolutions: of complex numbers, unless it must be as exact as the plain sum.
    fn is_three(&self) -> bool {
        let Call { numbers, x, weight, asked, .. } = self;
        let rounds = asked.precision != Precision::Exact
            && matches!(asked.method, None | Some(Method::Fft | Method::Winograd));
        let complex = numbers.result.complex && x.number.complex && weight.number.complex;
        complex && rounds && self.padding.is_zero()
    }

    /// Does `work` with those.
    fn three<T: Planned, R>(
        &self,
        result: &Outcome<'py>,
        team: &Team<'_>,
        work: impl FnOnce(&Complex<'_, T>) -> Result<R, Stopped>,
    ) -> Result<R, Stopped> {
        let parts = [Part::Real, Part::Imaginary];
        let own = Prepared::new(false);
        let prepared = self.kept.as_ref().map_or(&own, |kept| &kept.get().of::<T>().forward);
        let pack = || {
            let views = parts.map(|part| self.weight.whole((part, false)));
            complex::Packed::new::<T>(views.each_ref(), self.weight.shape(), team)
        };
        let packed = prepared.once(Slot::Three, pack)?;
        let (shape, strides) = canonical(&self.geometry, &result.sums);
        let x = parts.map(|part| self.x_view(part));
        let bias = parts.map(|part| bias_of(&self.bias, part));
        work(&Complex {
            geometry: &self.geometry,
            x: x.each_ref(),
            weights: (packed, self.flip),
            prepared,
            out: &result.parts(&shape, &strides),
            bias: bias.each_ref().map(Vec::as_slice),
        })
    }

    /// Parses and checks the arguments of a convolution but `out`.
    fn new(
        rank: usize,
        [x, weight, bias]: [Any<'_, 'py>; 3],
        options: [Any<'_, 'py>; 5],
        [padding_value, flip, activation, channels_last]: [Any<'_, 'py>; 4],
        [dtype, accumulate, method, precision, threads, kept]: [Any<'_, 'py>; 6],
    ) -> PyResult<Self> {
        let wanted = Wanted::new(dtype, accumulate)?;
        let x = Array::new("x", x, &wanted)?;
        let weight = Array::new("weight", weight, &wanted)?;
        let bias = Array::optional("bias", bias, &wanted)?;
        let channels_last = boolean("channels_last", channels_last)?;
        let spec = spec((rank > 0).then_some(rank), options, channels_last)?;
        let geometry =
            Geometry::new(&spec, x.shape(), weight.shape(), bias.as_ref().map(Array::shape))?;
        let activation = arguments::activation(activation)?;
        let arrays = [Some(&x), Some(&weight), bias.as_ref()];
        let numbers = Numbers::new(arrays.into_iter().flatten(), &wanted, activation)?;
        let call = Call {
            geometry,
            padding: Constant::new("padding_value", padding_value)?,
            flip: boolean("flip", flip)?,
            activation,
            asked: arguments::asked(method, precision)?,
            threads: arguments::threads(threads)?,
            kept: plan::Kept::given(kept)?,
            numbers,
            x,
            weight,
            bias,
        };
        call.padding.check("padding_value", (call.x.number, numbers.integers))?;
        arguments::check_activation(activation, numbers.integers)?;
        Ok(call)
    }

    /// Computes it, into a new array or the caller's.
    fn compute(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Py<PyAny>> {
        arguments::check_method(self.asked, self.numbers.integers)?;
        match self.way() {
            Way::Signed(kernels) => self.run_quads(py, kernels, out),
            Way::Unsigned(kernels) => self.run_quads(py, kernels, out),
            Way::Sums(sums) => with_element!(sums, T => self.run::<T>(py, out)),
        }
    }

    /// What it is best computed with.
    fn way(&self) -> Way {
        let quads = || {
            let signed = || self.quads::<true>().map(Way::Signed);
            signed().or_else(|| self.quads::<false>().map(Way::Unsigned))
        };
        quads().unwrap_or_else(|| Way::Sums(self.sums()))
    }

    /// The kernels for its 8-bit numbers four at a time, if that is how it is best computed. Their rows, which
    /// are weights, have signs or have not.
    fn quads<const SIGNED: bool>(&self) -> Option<&'static Kernels<Quad<SIGNED>>>
    where
        Quad<SIGNED>: Tiled,
    {
        let Call { geometry, numbers, x, weight, .. } = self;
        let (x, weight) = (x.number.scalar, weight.number.scalar);
        let enough = match numbers.sums {
            Sums::I32 => true,
            // Neither a bias nor bounds may have more bits than sums.
            Sums::I64 => {
                let bounded = matches!(self.activation, Activation::Clip { .. });
                self.bias.is_none() && !bounded && quads::are_whole(geometry)
            }
            Sums::F32 | Sums::F64 => false,
        };
        let signed = weight != Scalar::U8;
        let isa = tile::isa().ok().filter(|&isa| isa != tile::Isa::Scalar)?;
        let padding = self.padding.integer();
        let suits = numbers.integers && enough && quads::suit(geometry, (x, weight), padding);
        if suits && signed == SIGNED { tile::kernels_of(isa) } else { None }
    }

    fn run_quads<const SIGNED: bool>(
        &self,
        py: Python<'py>,
        kernels: &Kernels<Quad<SIGNED>>,
        out: Any<'_, 'py>,
    ) -> PyResult<Py<PyAny>>
    where
        Quad<SIGNED>: Tiled,
    {
        let result = self.outcome(py, out)?;
        self.interruptible(py, |team| {
            self.with_quads(&result, team, |problem| contract::direct(problem, kernels, team))
        })?;
        result.finish()
    }

    /// Does `work` with the convolution of quads that it is.
    fn with_quads<const SIGNED: bool, R>(
        &self,
        result: &Outcome<'py>,
        team: &Team<'_>,
        work: impl FnOnce(&Problem<'_, Quad<SIGNED>>) -> Result<R, Stopped>,
    ) -> Result<R, Stopped>
    where
        Quad<SIGNED>: Tiled,
    {
        let weight = self.weight.whole((Part::Real, false));
        let pack = || quads::Packed::new::<SIGNED>(&weight, self.weight.shape());
        let own = OnceLock::new();
        let packed = once(self.kept.as_ref().map_or(&own, |kept| kept.get().quads()), pack)?;
        self.with_views(result, &self.passes()[0], |x, store| {
            let (geometry, weights) = (&self.geometry, (packed, self.flip));
            let padding = self.padding.integer().unwrap_or_default();
            quads::Bytes { geometry, x, weights, padding, store }.with(team, work)
        })
    }

    /// What it computes with: integers with floats, where no sum of them is ever rounded.
    fn sums(&self) -> Sums {
        if !self.numbers.integers {
            return self.numbers.sums;
        }
        let bias: Vec<i64> = bias_of(&self.bias, Part::Real);
        let bias = bias.iter().map(|number| number.unsigned_abs()).max().unwrap_or(0);
        let sum = exact::Sum {
            scalars: (self.x.number.scalar, self.weight.number.scalar),
            others: (self.padding.magnitude(), bias),
            positions: self.geometry.positions(),
        };
        let weight = self.weight.whole((Part::Real, false));
        let heaviest = || exact::heaviest(&weight, self.weight.shape());
        let float = sum.float(|| match &self.kept {
            Some(kept) => kept.get().heaviest(heaviest),
            None => heaviest(),
        });
        float.map_or(self.numbers.sums, Sums::from)
    }
}

/// The part of a bias that a pass adds, each number an element.
fn bias<T: Element>(bias: &Option<Array<'_>>, pass: &Pass) -> Vec<T> {
    if pass.adds { Vec::new() } else { bias_of(bias, pass.result) }
}

/// A part of a bias.
fn bias_of<T: Element>(bias: &Option<Array<'_>>, part: Part) -> Vec<T> {
    let Some(array) = bias else { return Vec::new() };
    let mut numbers = vec![T::default(); array.shape()[0]];
    if part == Part::Real || array.number.complex {
        array.whole((part, false)).read(0, array.array.strides()[0], &mut numbers);
    }
    numbers
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
    dtype: Any<'_, 'py>,
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    precision: Any<'_, 'py>,
    threads: Any<'_, 'py>,
    kept: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let call = Call::new(
        rank,
        [x, weight, bias],
        [stride, padding, dilation, groups, padding_mode],
        [padding_value, flip, activation, channels_last],
        [dtype, accumulate, method, precision, threads, kept],
    )?;
    call.compute(py, out)
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
    of_dtype.set_item("int32", tiles::<i32>()?)?;
    of_dtype.set_item("int64", tiles::<i64>()?)?;
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
