//! What `faltung.grad` and `faltung.conv_transpose` call: gradients of inputs, weights and biases.

use numpy::PyUntypedArray;
use numpy::prelude::*;
use pyo3::prelude::*;

use super::arguments::{self, Any, boolean, integers, shape, spec, wrong_type};
use super::array::{Array, canonical, check_out, data, empty, ordered};
use super::interruptible;
use crate::adjoint::{self, Adjoint};
use crate::error::Error;
use crate::fft::Transformed;
use crate::geometry::{Activation, Geometry, OutputSize, PerAxis, Spec};
use crate::gradient;
use crate::operand::Weights;
use crate::parallel::Team;
use crate::plan::Method;
use crate::store::Store;
use crate::tile::{self, Tiled};
use crate::view::{Scalar, ViewMut};

/// The adjoint of a convolution, with its arguments parsed and checked.
struct Call<'py> {
    geometry: Geometry,
    /// The gradient of the output, or the input of a transposed convolution, by its name.
    gradient: (&'static str, Array<'py>),
    weight: Array<'py>,
    bias: Option<Array<'py>>,
    flip: bool,
    activation: Activation,
    accumulate: bool,
    method: Option<Method>,
    threads: usize,
}

impl<'py> Call<'py> {
    fn run<T: Transformed + numpy::Element>(
        &self,
        py: Python<'py>,
        out: Any<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let (name, gradient) = &self.gradient;
        let inputs =
            [(*name, Some(gradient)), ("weight", Some(&self.weight)), ("bias", self.bias.as_ref())];
        let result = result::<T>(py, out, &self.geometry.input_shape(), inputs, self.accumulate)?;
        let (lens, strides) = canonical(&self.geometry, &gradient.array);
        let gradient = gradient.view(&lens, strides);
        let lens = self.weight.shape();
        let weight = self.weight.view(lens, self.weight.array.strides().to_vec());
        let (out_lens, out_strides) = canonical(&self.geometry, &result);
        // SAFETY: the array is new or was checked: writable, of this type, apart from the inputs, and
        // without elements that overlap.
        let out = unsafe { ViewMut::<T>::new(data(&result), &out_lens, out_strides) };
        let mut bias = vec![T::default(); self.bias.as_ref().map_or(0, |bias| bias.shape()[0])];
        if let Some(array) = &self.bias {
            let strides = array.array.strides();
            array.view(array.shape(), strides.to_vec()).read(0, strides[0], &mut bias);
        }
        let kernels = tile::kernels::<T>()?;
        interruptible(py, self.geometry.flops(), |stop| {
            let weights = Weights::new(&weight, lens, self.flip)?;
            let store = Store {
                out,
                bias: &bias,
                activation: self.activation,
                accumulate: self.accumulate,
            };
            let problem = Adjoint {
                geometry: &self.geometry,
                gradient: &gradient,
                weights: &weights,
                store: &store,
            };
            adjoint::input(self.method, &problem, kernels, &Team { threads: self.threads, stop })
        })?;
        Ok(result.into_any().unbind())
    }
}

/// The array that a call returns: a new one, or the caller's, checked.
fn result<'py, T: Tiled + numpy::Element>(
    py: Python<'py>,
    out: Any<'_, 'py>,
    expected: &[usize],
    inputs: [(&'static str, Option<&Array<'py>>); 3],
    accumulate: bool,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    if !out.is_none() {
        return check_out::<T>(out, expected, inputs);
    }
    if accumulate {
        return Err(Error::AccumulateWithoutOut.into());
    }
    empty::<T>(py, expected)
}

fn wide<'a, 'py: 'a>(arrays: impl IntoIterator<Item = &'a Array<'py>>) -> bool {
    arrays.into_iter().any(|array| array.format.scalar == Scalar::F64)
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
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let input = shape("input_size", input_size)?;
    let weight = Array::new("weight", weight)?;
    let gradient = Array::new("grad_output", grad_output)?;
    let spec = options(rank, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let geometry = Geometry::new(&spec, &input, weight.shape(), None)?;
    geometry.check_gradient(&spec, gradient.shape())?;
    let wide = wide([&weight, &gradient]);
    let call = Call {
        geometry,
        gradient: ("grad_output", gradient),
        weight,
        bias: None,
        flip: boolean("flip", flip)?,
        activation: Activation::None,
        accumulate: boolean("accumulate", accumulate)?,
        method: arguments::method(method)?,
        threads: arguments::threads(threads)?,
    };
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
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
    out: Any<'_, 'py>,
    method: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let x = Array::new("x", x)?;
    let weight = Array::new("weight", weight)?;
    let bias = if bias.is_none() { None } else { Some(Array::new("bias", bias)?) };
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
    let wide = wide([Some(&x), Some(&weight), bias.as_ref()].into_iter().flatten());
    let call = Call {
        geometry,
        gradient: ("x", x),
        weight,
        bias,
        flip: boolean("flip", flip)?,
        activation: arguments::activation(activation)?,
        accumulate: false,
        method: arguments::method(method)?,
        threads: arguments::threads(threads)?,
    };
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
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
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let x = Array::new("x", x)?;
    let weight = shape("weight_size", weight_size)?;
    let gradient = Array::new("grad_output", grad_output)?;
    let spec = options(rank, [stride, padding, dilation, groups, padding_mode], channels_last)?;
    let geometry = Geometry::new(&spec, x.shape(), &weight, None)?;
    geometry.check_gradient(&spec, gradient.shape())?;
    let call = WeightCall {
        per_sample: samples(per_sample, geometry.batched)?,
        padding: padding_value
            .extract()
            .map_err(|_| wrong_type("padding_value", "a number", padding_value))?,
        flip: boolean("flip", flip)?,
        accumulate: boolean("accumulate", accumulate)?,
        threads: arguments::threads(threads)?,
        geometry,
        weight,
        x,
        gradient,
    };
    let wide = wide([&call.x, &call.gradient]);
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
}

/// The gradient of a weight, with its arguments parsed and checked.
struct WeightCall<'py> {
    geometry: Geometry,
    weight: Vec<usize>,
    x: Array<'py>,
    gradient: Array<'py>,
    padding: f64,
    flip: bool,
    per_sample: bool,
    accumulate: bool,
    threads: usize,
}

impl<'py> WeightCall<'py> {
    fn run<T: Tiled + numpy::Element>(
        &self,
        py: Python<'py>,
        out: Any<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let inputs = [("x", Some(&self.x)), ("grad_output", Some(&self.gradient)), ("", None)];
        let images = self.per_sample.then_some(self.geometry.axes[0].input);
        let lens: Vec<usize> = images.iter().chain(&self.weight).copied().collect();
        fits(&lens)?;
        let result = result::<T>(py, out, &lens, inputs, self.accumulate)?;
        let mut strides = result.strides().to_vec();
        let mut lens = lens;
        if !self.per_sample {
            strides.insert(0, 0);
            lens.insert(0, 1);
        }
        // SAFETY: the array is new or was checked: writable, of this type, apart from the inputs, and
        // without elements that overlap.
        let out = unsafe { ViewMut::<T>::new(data(&result), &lens, strides) };
        let (lens, strides) = canonical(&self.geometry, &self.x.array);
        let x = self.x.view(&lens, strides);
        let (lens, strides) = canonical(&self.geometry, &self.gradient.array);
        let gradient = self.gradient.view(&lens, strides);
        let kernels = tile::kernels::<T>()?;
        interruptible(py, self.geometry.flops(), |stop| {
            let problem = gradient::Problem {
                geometry: &self.geometry,
                x: &x,
                gradient: &gradient,
                padding: T::from_f64(self.padding),
                flip: self.flip,
                out: &out,
                accumulate: self.accumulate,
                per_sample: self.per_sample,
            };
            gradient::weight(&problem, kernels, &Team { threads: self.threads, stop })
        })?;
        Ok(result.into_any().unbind())
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
    let mut bytes = lens.iter().copied().chain([8]).filter(|&n| n != 0);
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
    accumulate: Any<'_, 'py>,
    out: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let gradient = Array::new("grad_output", grad_output)?;
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
    let call = BiasCall {
        batched,
        channels_last,
        per_sample: samples(per_sample, batched)?,
        accumulate: boolean("accumulate", accumulate)?,
        threads: arguments::threads(threads)?,
        gradient,
    };
    let wide = wide([&call.gradient]);
    if wide { call.run::<f64>(py, out) } else { call.run::<f32>(py, out) }
}

/// The gradient of a bias, with its arguments parsed and checked.
struct BiasCall<'py> {
    gradient: Array<'py>,
    batched: bool,
    channels_last: bool,
    per_sample: bool,
    accumulate: bool,
    threads: usize,
}

impl<'py> BiasCall<'py> {
    fn run<T: Tiled + numpy::Element>(
        &self,
        py: Python<'py>,
        out: Any<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let (lens, strides) = ordered((self.batched, self.channels_last), &self.gradient.array);
        let inputs = [("grad_output", Some(&self.gradient)), ("", None), ("", None)];
        let images = self.per_sample.then_some(lens[1]);
        let expected: Vec<usize> = images.into_iter().chain([lens[0]]).collect();
        let result = result::<T>(py, out, &expected, inputs, self.accumulate)?;
        let image = if self.per_sample { result.strides()[0] } else { 0 };
        let to = [image, *result.strides().last().expect("one number an output channel")];
        let shape = [if self.per_sample { lens[1] } else { 1 }, lens[0]];
        // SAFETY: as for the gradients of weights.
        let out = unsafe { ViewMut::<T>::new(data(&result), &shape, to.to_vec()) };
        let gradient = self.gradient.view(&lens, strides);
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
        Ok(result.into_any().unbind())
    }
}

/// Adds these functions to the extension module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(conv_bias, module)?)?;
    module.add_function(wrap_pyfunction!(conv_input, module)?)?;
    module.add_function(wrap_pyfunction!(conv_weight, module)?)?;
    module.add_function(wrap_pyfunction!(conv_transpose, module)?)
}
