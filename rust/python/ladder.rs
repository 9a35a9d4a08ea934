//! What `faltung.ladder` calls: locally connected layers and their gradients.
//!
//! Python has brought the arrays to C order, one dtype and the shapes with batch and
//! channels, and has checked that they fit together.

use numpy::prelude::*;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn, PyUntypedArray};
use pyo3::prelude::*;

use super::arguments::{shape, spec};
use super::array::zeros;
use super::interruptible;
use super::numbers::{Sums, with_element};
use super::object::Any;
use crate::geometry::Geometry;
use crate::local::Layer;
use crate::number::Element;
use crate::parallel::{Stopped, Team};

/// A call with its options parsed.
struct Call<'a, 'py> {
    geometry: Geometry,
    threads: usize,
    operands: [Any<'a, 'py>; 2],
}

impl<'a, 'py> Call<'a, 'py> {
    /// For images and weights of these shapes, `(N, C, *in)` and `(O, *out, C / groups, *kernel)`.
    fn new(
        (x, weight): (&[usize], &[usize]),
        options: [Any<'_, 'py>; 5],
        threads: Any<'_, 'py>,
        operands: [Any<'a, 'py>; 2],
    ) -> PyResult<Self> {
        let rank = x.len().saturating_sub(2);
        let spec = spec(Some(rank), options, false)?;
        let kernel: Vec<usize> =
            weight.iter().take(1).chain(weight.iter().skip(rank + 1)).copied().collect();
        let geometry = Geometry::new(&spec, x, &kernel, None)?;
        Ok(Call { geometry, threads: super::arguments::threads(threads)?, operands })
    }

    /// A new array of `shape` that `work` fills, given the layer and the operands.
    fn run<T: Element + numpy::Element>(
        &self,
        py: Python<'py>,
        shape: Vec<usize>,
        work: impl Fn(&Layer, (&[T], &[T]), &mut [T], &Team<'_>) -> Result<(), Stopped>,
    ) -> PyResult<Py<PyAny>> {
        let [a, b] = self.operands.map(|operand| operand.extract::<PyReadonlyArrayDyn<'py, T>>());
        let (a, b) = (a?, b?);
        let operands = (a.as_slice()?, b.as_slice()?);
        let result = zeros::<T>(py, &shape)?.cast_into::<PyArrayDyn<T>>()?;
        {
            let mut result = result.readwrite();
            let result = result.as_slice_mut()?;
            let layer = Layer::new(&self.geometry);
            let flops = 2.0 * layer.products() as f64;
            interruptible(py, flops, |stop| {
                work(&layer, operands, result, &Team { threads: self.threads, stop })
            })?;
        }
        Ok(result.into_any().unbind())
    }

    /// What the operands hold.
    fn sums(&self) -> Sums {
        let [a, _] = self.operands;
        if a.cast::<PyArrayDyn<f64>>().is_ok() {
            Sums::F64
        } else if a.cast::<PyArrayDyn<f32>>().is_ok() {
            Sums::F32
        } else if a.cast::<PyArrayDyn<i64>>().is_ok() {
            Sums::I64
        } else {
            Sums::I32
        }
    }
}

/// The sums of a locally connected layer, `(N, O, *out)`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the options of the Python functions, one by one
fn local<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let options = [stride, padding, dilation, groups, padding_mode];
    let shapes = (shape_of(x)?, shape_of(weight)?);
    let call = Call::new((&shapes.0, &shapes.1), options, threads, [x, weight])?;
    let out = call.geometry.output_shape();
    with_element!(call.sums(), T => call.run::<T>(py, out, Layer::forward))
}

/// The gradient of its input, of shape `x_shape`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as above
fn local_input<'py>(
    py: Python<'py>,
    x_shape: Any<'_, 'py>,
    weight: Any<'_, 'py>,
    gradient: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let options = [stride, padding, dilation, groups, padding_mode];
    let x = shape("x_shape", x_shape)?;
    let call = Call::new((&x, &shape_of(weight)?), options, threads, [weight, gradient])?;
    with_element!(call.sums(), T => call.run::<T>(py, x, Layer::input))
}

/// The gradient of its weight, of shape `weight_shape`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as above
fn local_weight<'py>(
    py: Python<'py>,
    x: Any<'_, 'py>,
    weight_shape: Any<'_, 'py>,
    gradient: Any<'_, 'py>,
    stride: Any<'_, 'py>,
    padding: Any<'_, 'py>,
    dilation: Any<'_, 'py>,
    groups: Any<'_, 'py>,
    padding_mode: Any<'_, 'py>,
    threads: Any<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let options = [stride, padding, dilation, groups, padding_mode];
    let weight = shape("weight_shape", weight_shape)?;
    let call = Call::new((&shape_of(x)?, &weight), options, threads, [x, gradient])?;
    with_element!(call.sums(), T => call.run::<T>(py, weight, Layer::weight))
}

/// The shape of an array.
fn shape_of(array: Any<'_, '_>) -> PyResult<Vec<usize>> {
    Ok(array.cast::<PyUntypedArray>()?.shape().to_vec())
}

/// Adds these functions to the extension module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(local, module)?)?;
    module.add_function(wrap_pyfunction!(local_input, module)?)?;
    module.add_function(wrap_pyfunction!(local_weight, module)?)
}
