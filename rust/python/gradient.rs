//! What `faltung.grad` and `faltung.conv_transpose` call: gradients of inputs, weights and biases.

use numpy::prelude::*;
use pyo3::prelude::*;

use super::arguments::{self, Constant, boolean, integers, shape, spec};
use super::array::{Array, canonical, ordered};
use super::dtype::{Number, Part, Wanted};
use super::interruptible;
use super::numbers::{Numbers, with_element};
use super::object::{Any, wrong_type};
use super::outcome::Outcome;
use super::plan::Kept;
use crate::adjoint;
use crate::error::Error;
use crate::geometry::{Activation, Geometry, OutputSize, PerAxis, Spec};
use crate::gradient;
use crate::number::Scalar;
use crate::operand::Weights;
use crate::parallel::Team;
use crate::plan::{Asked, Planned};
use crate::problem::Adjoint;
use crate::store::Store;
use crate::tile::{self, Tiled};

/// The adjoint of a convolution, with its arguments parsed and checked.
struct Call<'py> {
    geometry: Geometry,
    numbers: Numbers,
    /// The gradient of the output, or the input of a transposed convolution, by its name.
    gradient: (&'static str, Array<'py>),
    weight: Array<'py>,
    bias: Option<Array<'py>>,
    flip: bool,
    /// Whether the weight is conjugated: an adjoint rather than a transposed matrix.
    conjugated: bool,
    activation: Activation,
    accumulate: bool,
    asked: Asked,
    threads: usize,
    kept: Option<Bound<'py, Kept>>,
}

impl<'py> Call<'py> {
    fn run<T: Planned>(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Py<PyAny>> {
        let (name, gradient) = &self.gradient;
        let inputs =
            [(*name, Some(gradient)), ("weight", Some(&self.weight)), ("bias", self.bias.as_ref())];
        let expected = self.geometry.input_shape();
        let result = Outcome::new(py, out, &expected, (&self.numbers, self.accumulate), inputs)?;
        let kernels = tile::kernels::<T>()?;
        let kept = self.kept.as_ref().filter(|_| !self.numbers.result.complex);
        let kept = kept.map(|kept| &kept.get().of::<T>().adjoint);
        for pass in self.numbers.passes((gradient, &self.weight), self.conjugated) {
            if pass.nothing && self.accumulate {
                continue;
            }
            let (lens, strides) = canonical(&self.geometry, &gradient.array);
            let gradient = gradient.view(&lens, strides, (pass.first, false));
            let lens = self.weight.shape();
            let weight = self.weight.whole(pass.second);
            let (out_lens, out_strides) = canonical(&self.geometry, &result.sums);
            let out = result.view::<T>(pass.result, &out_lens, out_strides);
            let bias = super::bias(&self.bias, &pass);
            let nothing = Geometry { outputs: 0, ..self.geometry.clone() };
            let geometry = if pass.nothing { &nothing } else { &self.geometry };
            interruptible(py, self.geometry.flops(), |stop| {
                let weights = Weights::new(&weight, lens, self.flip)?;
                let activation = self.numbers.activation(self.activation);
                let accumulate = self.accumulate || pass.adds;
                let store = Store { out, bias: &bias, activation, accumulate };
                let (gradient, weights, store) = (&gradient, &weights, &store);
                let problem = Adjoint { geometry, gradient, weights, kept, store };
                adjoint::input(self.asked, &problem, kernels, &Team { threads: self.threads, stop })
            })?;
        }
        result.finish()
    }
}

/// The options of a convolution, and its padding mode.
fn options<'py>(
    rank: usize,
    options: [Any<'_, 'py>; 5],
    channels_last: Any<'_, 'py>,
) -> PyResult<Spec> {
    spec((rank > 0).then_some(rank), options, boolean("channels_last", channels_last)?)
}

/// The gradient of a convolution's input: the work behind `faltung.grad.conv_input`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of the Python functions, one by one
fn conv_input<'py>(
    py: Python<'py>,
    rank: usize,
    input_size: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    grad_output: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    flip: Any<'_, 'py>,
    channels_last: Any<'_, 'py>,
    dtype: Any<'_, 'py>,
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    precision: Any<'_, 'py>,
    threads: Any<'_, 'py>,
    kept: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let wanted = Wanted::new(dtype, py.None().bind(py))?;
    let input = shape("input_size", input_size)?;
    let weight = Array::new("weight", weight, &wanted)?;
    let gradient = Array::new("grad_output", grad_output, &wanted)?;
    let spec = options(rank, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let geometry = Geometry::new(&spec, &input, weight.shape(), None)?;
    geometry.check_gradient(&spec, gradient.shape())?;
    let numbers = Numbers::new([&weight, &gradient], &wanted, Activation::None)?;
    let call = Call {
        geometry,
        numbers,
        gradient: ("grad_output", gradient),
        weight,
        bias: None,
        flip: boolean("flip", flip)?,
        conjugated: true,
        activation: Activation::None,
        accumulate: boolean("accumulate", accumulate)?,
        asked: arguments::asked(method, precision)?,
        threads: arguments::threads(threads)?,
        kept: Kept::given(kept)?,
    };
    arguments::check_method(call.asked, numbers.integers)?;
    with_element!(numbers.sums, T => call.run::<T>(py, out))
}

/// Transposed convolution: the work behind `faltung.conv_transpose`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as above
fn conv_transpose<'py>(
    py: Python<'py>,
    rank: usize,
    x: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    bias: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    output_padding: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    output_size: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
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
    let wanted = Wanted::new(dtype, accumulate)?;
    let x = Array::new("x", x, &wanted)?;
    let weight = Array::new("weight", weight, &wanted)?;
    let bias = Array::optional("bias", bias, &wanted)?;
    let spec = options(rank, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let more = integers("output_padding", output_padding)?;
    let size = if output_size.is_none() {
        OutputSize::Padding(more)
    } else {
        let none = match &more {
            PerAxis::All(value) => *value == 0,
            PerAxis::Each(values) => values.iter().all(|&value| value == 0),
        };
        if !none {
            return Err(Error::OutputSizeTwice.into());
        }
        OutputSize::Exact(integers("output_size", output_size)?)
    };
    let lens = bias.as_ref().map(Array::shape);
    let geometry = Geometry::transposed(&spec, x.shape(), weight.shape(), lens, &size)?;
    let activation = arguments::activation(activation)?;
    let arrays = [Some(&x), Some(&weight), bias.as_ref()];
    let numbers = Numbers::new(arrays.into_iter().flatten(), &wanted, activation)?;
    arguments::check_activation(activation, numbers.integers)?;
    let call = Call {
        geometry,
        numbers,
        gradient: ("x", x),
        weight,
        bias,
        flip: boolean("flip", flip)?,
        conjugated: false,
        activation,
        accumulate: false,
        asked: arguments::asked(method, precision)?,
        threads: arguments::threads(threads)?,
        kept: Kept::given(kept)?,
    };
    arguments::check_method(call.asked, numbers.integers)?;
    with_element!(numbers.sums, T => call.run::<T>(py, out))
}

/// The gradient of a convolution's weight: the work behind `faltung.grad.conv_weight`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as above
fn conv_weight<'py>(
    py: Python<'py>,
    rank: usize,
    x: Any<'_, 'py>,
    weight_size: Any<'_, 'py>,
    grad_output: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    padding_value: Any<'_, 'py>,
    flip: Any<'_, 'py>,
    channels_last: Any<'_, 'py>,
    per_sample: Any<'_, 'py>,
    dtype: Any<'_, 'py>,
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    precision: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let wanted = Wanted::new(dtype, py.None().bind(py))?;
    let x = Array::new("x", x, &wanted)?;
    let weight = shape("weight_size", weight_size)?;
    let gradient = Array::new("grad_output", grad_output, &wanted)?;
    let spec = options(rank, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let geometry = Geometry::new(&spec, x.shape(), &weight, None)?;
    geometry.check_gradient(&spec, gradient.shape())?;
    let numbers = Numbers::new([&x, &gradient], &wanted, Activation::None)?;
    let call = WeightCall {
        numbers,
        per_sample: samples(per_sample, geometry.batched)?,
        padding: Constant::new("padding_value", padding_value)?,
        flip: boolean("flip", flip)?,
        accumulate: boolean("accumulate", accumulate)?,
        asked: arguments::asked(method, precision)?,
        threads: arguments::threads(threads)?,
        geometry,
        weight,
        x,
        gradient,
    };
    arguments::check_method(call.asked, numbers.integers)?;
    call.padding.check("padding_value", (call.x.number, numbers.integers))?;
    with_element!(numbers.sums, T => call.run::<T>(py, out))
}

/// The gradient of a weight, with its arguments parsed and checked.
struct WeightCall<'py> {
    geometry: Geometry,
    numbers: Numbers,
    weight: Vec<usize>,
    x: Array<'py>,
    gradient: Array<'py>,
    padding: Constant,
    flip: bool,
    per_sample: bool,
    accumulate: bool,
    asked: Asked,
    threads: usize,
}

impl<'py> WeightCall<'py> {
    fn run<T: Tiled>(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Py<PyAny>> {
        let inputs = [("x", Some(&self.x)), ("grad_output", Some(&self.gradient)), ("", None)];
        let images = self.per_sample.then_some(self.geometry.axes[0].input);
        let mut lens: Vec<usize> = images.iter().chain(&self.weight).copied().collect();
        fits(&lens)?;
        let result = Outcome::new(py, out, &lens, (&self.numbers, self.accumulate), inputs)?;
        let mut strides = result.sums.strides().to_vec();
        if !self.per_sample {
            strides.insert(0, 0);
            lens.insert(0, 1);
        }
        let kernels = tile::kernels::<T>()?;
        // Of what a loss depends on through a complex number, the gradient is by its conjugate.
        for pass in self.numbers.passes((&self.gradient, &self.x), true) {
            if pass.nothing {
                if !self.accumulate {
                    result.clear_imaginary()?;
                }
                continue;
            }
            let out = result.view::<T>(pass.result, &lens, strides.clone());
            let (x_lens, x_strides) = canonical(&self.geometry, &self.x.array);
            let x = self.x.view(&x_lens, x_strides, pass.second);
            let (g_lens, g_strides) = canonical(&self.geometry, &self.gradient.array);
            let gradient = self.gradient.view(&g_lens, g_strides, (pass.first, false));
            let (part, negated) = pass.second;
            let padding: T = self.padding.part(part);
            interruptible(py, self.geometry.flops(), |stop| {
                let problem = gradient::Problem {
                    geometry: &self.geometry,
                    x: &x,
                    gradient: &gradient,
                    padding: if negated { padding.neg() } else { padding },
                    exact: self.numbers.integers,
                    flip: self.flip,
                    out: &out,
                    accumulate: self.accumulate || pass.adds,
                    per_sample: self.per_sample,
                };
                gradient::weight(
                    self.asked,
                    &problem,
                    kernels,
                    &Team { threads: self.threads, stop },
                )
            })?;
        }
        result.finish()
    }
}

/// Whether each image is to have a gradient of its own, which takes a batch.
fn samples(per_sample: Any<'_, '_>, batched: bool) -> PyResult<bool> {
    let per_sample = boolean("per_sample", per_sample)?;
    if per_sample && !batched {
        return Err(Error::SamplesWithoutBatch.into());
    }
    Ok(per_sample)
}

/// Checks that an array of this shape can be.
fn fits(lens: &[usize]) -> Result<(), Error> {
    // Bytes of the widest element, as for the result of a convolution.
    let mut bytes = lens.iter().copied().chain([16]).filter(|&n| n != 0);
    if bytes.try_fold(1isize, |p, n| p.checked_mul(isize::try_from(n).ok()?)).is_none() {
        let shape = lens.iter().map(|&n| n as u128).collect();
        return Err(Error::TooLarge { what: "the gradient", shape });
    }
    Ok(())
}

/// The gradient of a convolution's bias: the work behind `faltung.grad.conv_bias`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as above
fn conv_bias<'py>(
    py: Python<'py>,
    rank: Any<'_, 'py>,
    grad_output: Any<'_, 'py>,
    channels_last: Any<'_, 'py>,
    per_sample: Any<'_, 'py>,
    dtype: Any<'_, 'py>,
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let wanted = Wanted::new(dtype, py.None().bind(py))?;
    let gradient = Array::new("grad_output", grad_output, &wanted)?;
    let dimensions = gradient.shape().len();
    let rank = match arguments::integer("rank", rank)? {
        Some(rank) => usize::try_from(rank).unwrap_or(0),
        None if rank.is_none() => dimensions.saturating_sub(2),
        None => return Err(wrong_type("rank", "an int or None", rank)),
    };
    let channels_last = boolean("channels_last", channels_last)?;
    if rank == 0 || (dimensions != rank + 1 && dimensions != rank + 2) {
        let shape = gradient.shape().into();
        return Err(Error::GradientRank { shape, rank, channels_last }.into());
    }
    let batched = dimensions == rank + 2;
    let numbers = Numbers::new([&gradient], &wanted, Activation::None)?;
    let call = BiasCall {
        numbers,
        batched,
        channels_last,
        per_sample: samples(per_sample, batched)?,
        accumulate: boolean("accumulate", accumulate)?,
        threads: arguments::threads(threads)?,
        gradient,
    };
    with_element!(numbers.sums, T => call.run::<T>(py, out))
}

/// The gradient of a bias, with its arguments parsed and checked.
struct BiasCall<'py> {
    numbers: Numbers,
    gradient: Array<'py>,
    batched: bool,
    channels_last: bool,
    per_sample: bool,
    accumulate: bool,
    threads: usize,
}

impl<'py> BiasCall<'py> {
    fn run<T: Tiled>(&self, py: Python<'py>, out: Any<'_, 'py>) -> PyResult<Py<PyAny>> {
        let (lens, strides) = ordered((self.batched, self.channels_last), &self.gradient.array);
        let inputs = [("grad_output", Some(&self.gradient)), ("", None), ("", None)];
        let images = self.per_sample.then_some(lens[1]);
        let expected: Vec<usize> = images.into_iter().chain([lens[0]]).collect();
        let result = Outcome::new(py, out, &expected, (&self.numbers, self.accumulate), inputs)?;
        let sums = result.sums.strides();
        let image = if self.per_sample { sums[0] } else { 0 };
        let to = [image, *sums.last().expect("one number an output channel")];
        let shape = [if self.per_sample { lens[1] } else { 1 }, lens[0]];
        let complex = self.gradient.number.complex;
        if self.numbers.result.complex && !complex && !self.accumulate {
            result.clear_imaginary()?;
        }
        let parts = [Part::Real, Part::Imaginary];
        for part in parts.into_iter().take(if complex { 2 } else { 1 }) {
            let out = result.view::<T>(part, &shape, to.to_vec());
            let gradient = self.gradient.view(&lens, strides.clone(), (part, false));
            let flops = lens.iter().product::<usize>() as f64;
            interruptible(py, flops, |stop| {
                let bias = gradient::Bias {
                    gradient: &gradient,
                    lens: &lens,
                    out: &out,
                    accumulate: self.accumulate,
                    per_sample: self.per_sample,
                };
                gradient::bias(&bias, &Team { threads: self.threads, stop })
            })?;
        }
        result.finish()
    }
}

/// All gradients of a convolution, with its arguments parsed and checked once: the work behind `Plan.vjp`.
/// `wanted` says of the input, the weight and the bias whether theirs is asked for; the others are None.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of the Python functions, one by one
fn vjp<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    bias: Any<'_, 'py>,
    grad_output: Any<'_, 'py>,
    wanted: [bool; 3],
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
    method: Any<'_, 'py>,
    precision: Any<'_, 'py>,
    threads: Any<'_, 'py>,
    kept: Any<'_, 'py>,
) -> PyResult<[Option<Py<PyAny>>; 3]> {
    let plain = Wanted::default();
    let given = [stride, padding, dilation, groups, padding_mode];
    let spec = options(0, given, channels_last)?;
    // What an activation has cut off is seen from the result, so that the call is made again.
    let forward = if activation.is_none() {
        None
    } else {
        Some(super::Call::new(
            0,
            [x, weight, bias],
            given,
            [padding_value, flip, activation, channels_last],
            [dtype, accumulate, method, precision, threads, kept],
        )?)
    };
    let (geometry, x, weight) = match &forward {
        Some(call) => (call.geometry.clone(), call.x.clone(), call.weight.clone()),
        None => {
            let (x, weight) = (Array::new("x", x, &plain)?, Array::new("weight", weight, &plain)?);
            let bias = Array::optional("bias", bias, &plain)?;
            let bias = bias.as_ref().map(Array::shape);
            (Geometry::new(&spec, x.shape(), weight.shape(), bias)?, x, weight)
        }
    };
    let given = Array::new("grad_output", grad_output, &plain)?;
    geometry.check_gradient(&spec, given.shape())?;
    let (flip, threads) = (boolean("flip", flip)?, arguments::threads(threads)?);
    let none = py.None();
    let none = none.bind(py);
    // Dtypes are those of the array that was given, whatever its copy has.
    let gradient = match &forward {
        Some(call) => {
            let y = Array::new("the result", call.compute(py, none)?.bind(py), &plain)?;
            copied(py, &given, Some((&y, call.activation)), threads)?
        }
        None if given.is_converted() && wanted.iter().filter(|&&wanted| wanted).count() > 1 => {
            copied(py, &given, None, threads)?
        }
        None => given.clone(),
    };
    let mut found = [None, None, None];
    if wanted[0] {
        let call = Call {
            geometry: geometry.clone(),
            numbers: Numbers::new([&weight, &given], &plain, Activation::None)?,
            gradient: ("grad_output", gradient.clone()),
            weight: weight.clone(),
            bias: None,
            flip,
            conjugated: true,
            activation: Activation::None,
            accumulate: false,
            asked: arguments::asked(method, precision)?,
            threads,
            kept: Kept::given(kept)?,
        };
        arguments::check_method(call.asked, call.numbers.integers)?;
        found[0] = Some(with_element!(call.numbers.sums, T => call.run::<T>(py, none))?);
    }
    if wanted[1] {
        let call = WeightCall {
            geometry: geometry.clone(),
            numbers: Numbers::new([&x, &given], &plain, Activation::None)?,
            weight: weight.shape().to_vec(),
            x,
            gradient: gradient.clone(),
            padding: Constant::new("padding_value", padding_value)?,
            flip,
            per_sample: false,
            accumulate: false,
            asked: gradient::asked(arguments::asked(method, precision)?, &geometry),
            threads,
        };
        call.padding.check("padding_value", (call.x.number, call.numbers.integers))?;
        found[1] = Some(with_element!(call.numbers.sums, T => call.run::<T>(py, none))?);
    }
    if wanted[2] {
        let call = BiasCall {
            numbers: Numbers::new([&given], &plain, Activation::None)?,
            batched: geometry.batched,
            channels_last: geometry.channels_last,
            per_sample: false,
            accumulate: false,
            threads,
            gradient,
        };
        found[2] = Some(with_element!(call.numbers.sums, T => call.run::<T>(py, none))?);
    }
    Ok(found)
}

/// Elements that a thread copies at a time: they stay in its first-level cache.
const COPIED: usize = 1 << 11;

/// A copy of a gradient for several calls to read, with halves as singles and bytes in this machine's order;
/// and with 0 where the activation that made `y` did not let a result through.
fn copied<'py>(
    py: Python<'py>,
    gradient: &Array<'py>,
    y: Option<(&Array<'py>, Activation)>,
    threads: usize,
) -> PyResult<Array<'py>> {
    let single = Number { scalar: Scalar::F32, ..gradient.number };
    let half = gradient.number.size() < single.size() && !gradient.number.scalar.is_integer();
    let number = if half { single } else { gradient.number };
    let numbers = Numbers::new([gradient], &Wanted::result(number), Activation::None)?;
    let none = py.None();
    let inputs = [("", None), ("", None), ("", None)];
    let copy = Outcome::new(py, none.bind(py), gradient.shape(), (&numbers, false), inputs)?;
    with_element!(numbers.sums, T => copy_to::<T>(py, gradient, y, (&copy, threads)))?;
    Array::new("grad_output", copy.finish()?.bind(py), &Wanted::default())
}

fn copy_to<T: Tiled>(
    py: Python<'_>,
    gradient: &Array<'_>,
    y: Option<(&Array<'_>, Activation)>,
    (copy, threads): (&Outcome<'_>, usize),
) -> PyResult<()> {
    let shape = gradient.shape();
    let len = shape.iter().product::<usize>();
    let y =
        y.and_then(|(y, activation)| Some((y.whole((Part::Real, false)), activation.bounds()?)));
    let parts = [Part::Real, Part::Imaginary];
    for part in parts.into_iter().take(if gradient.number.complex { 2 } else { 1 }) {
        let from = gradient.whole((part, false));
        let strides = copy.sums.strides().to_vec();
        let step = *strides.last().expect("a gradient has axes");
        let to = copy.view::<T>(part, shape, strides);
        interruptible(py, len as f64, |stop| {
            Team { threads, stop }.share(len.div_ceil(COPIED), |turn| {
                let (mut numbers, mut results) = ([T::default(); COPIED], [0f64; COPIED]);
                while let Some(item) = turn.next() {
                    let first = item * COPIED;
                    let count = COPIED.min(len - first);
                    let (numbers, results) = (&mut numbers[..count], &mut results[..count]);
                    from.read_from(shape, first, numbers);
                    if let Some((y, (low, high))) = &y {
                        y.read_from(shape, first, results);
                        let cut = |result: f64| !(*low < result && result < *high);
                        let both = numbers.iter_mut().zip(results);
                        both.filter(|(_, result)| cut(**result))
                            .for_each(|(number, _)| *number = T::default());
                    }
                    // SAFETY: the copy is new and in C order, and each thread has elements of its own.
                    unsafe { to.write(first as isize * step, step, numbers) };
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Adds these functions to the extension module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(conv_bias, module)?)?;
    module.add_function(wrap_pyfunction!(conv_input, module)?)?;
    module.add_function(wrap_pyfunction!(conv_weight, module)?)?;
    module.add_function(wrap_pyfunction!(conv_transpose, module)?)?;
    module.add_function(wrap_pyfunction!(vjp, module)?)
}
