//! What is known of a convolution before it is computed, as dicts.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::numbers::with_element;
use super::object::Any;
use super::outcome::Outcome;
use super::{Call, Way};
use crate::complex;
use crate::explain::{Candidate, candidates};
use crate::number::Quad;
use crate::offer::{self, Declined, Description};
use crate::parallel::{Stopped, Team};
use crate::plan::{self, Method};
use crate::problem::Problem;
use crate::quads;
use crate::tile::{self, Kernels, Tiled};

/// The facts behind `faltung.explain`, which documents them. Neither `x` nor a result is looked at, but for
/// their shapes and strides.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of the Python function, one by one
pub(super) fn explain<'py>(
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
    method: Any<'_, 'py>,
    precision: Any<'_, 'py>,
    threads: Any<'_, 'py>,
    kept: Any<'_, 'py>,
) -> PyResult<Bound<'py, PyDict>> {
    let call = Call::new(
        rank,
        [x, weight, bias],
        [stride, padding, dilation, groups, padding_mode],
        [padding_value, flip, activation, channels_last],
        [dtype, accumulate, method, precision, threads, kept],
    )?;
    match call.way() {
        Way::Signed(kernels) => of_quads(py, &call, kernels),
        Way::Unsigned(kernels) => of_quads(py, &call, kernels),
        Way::Sums(sums) => with_element!(sums, T => {
            let kernels = tile::kernels::<T>()?;
            if call.is_three() {
                let bytes = complex::bytes::<T>(&call.geometry);
                let products = Products { all: 3, together: true, bytes };
                return facts::<T>(py, &call, (kernels, products), |out, tell| {
                    unstopped(|team| call.three(out, team, |three| Ok(three.show(tell))))
                });
            }
            let passes = call.passes();
            let products = Products { all: passes.len(), together: false, bytes: 0 };
            facts::<T>(py, &call, (kernels, products), |out, tell| {
                call.with::<T, _>(out, &passes[0], tell)
            })
        }),
    }
}

/// The real convolutions that a call is: how many, whether a method computes them all at once, and bytes that
/// the input and what is summed take, laid out for that.
#[derive(Clone, Copy)]
struct Products {
    all: usize,
    together: bool,
    bytes: usize,
}

/// Does `work` with a team that nobody stops.
fn unstopped(work: impl FnOnce(&Team<'_>) -> Result<PyResult<()>, Stopped>) -> PyResult<()> {
    match work(&Team { threads: 1, stop: &|| false }) {
        Ok(told) => told,
        Err(Stopped::Failed(error)) => Err(error.into()),
        Err(Stopped::Interrupted) => unreachable!("nobody stops it"),
    }
}

/// The facts of 8-bit numbers four at a time.
fn of_quads<'py, const SIGNED: bool>(
    py: Python<'py>,
    call: &Call<'py>,
    kernels: &Kernels<Quad<SIGNED>>,
) -> PyResult<Bound<'py, PyDict>>
where
    Quad<SIGNED>: Tiled,
{
    let products = Products { all: 1, together: true, bytes: quads::bytes(&call.geometry) };
    let facts = facts(py, call, (kernels, products), |out, tell| {
        unstopped(|team| call.with_quads(out, team, |problem| Ok(tell(problem))))
    })?;
    facts.set_item("dots", true)?;
    Ok(facts)
}

/// What a method would do with a problem, which `with` calls its argument with.
fn facts<'py, T: Tiled>(
    py: Python<'py>,
    call: &Call<'py>,
    (kernels, products): (&Kernels<T>, Products),
    with: impl FnOnce(&Outcome<'py>, &mut dyn FnMut(&Problem<'_, T>) -> PyResult<()>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyDict>> {
    let geometry = &call.geometry;
    let shape = geometry.output_shape();
    let none = py.None();
    let inputs = [("", None); 3];
    let out = Outcome::new(py, none.bind(py), &shape, (&call.numbers, false), inputs)?;
    let facts = PyDict::new(py);
    with(&out, &mut |problem| {
        let chosen = call.asked.choose(problem);
        let rivals = PyList::empty(py);
        for candidate in candidates(problem, call.asked.precision, kernels, call.threads)? {
            rivals.append(dict(py, &candidate, products)?)?;
        }
        facts.set_item("small", plan::is_small(problem.geometry, size_of::<T>()))?;
        facts.set_item("method", chosen.name())?;
        facts.set_item("methods", rivals)
    })?;
    let elements = |shape: &[usize]| shape.iter().map(|&n| n as f64).product::<f64>();
    let outputs = geometry.groups * geometry.outputs;
    let weights = outputs * geometry.channels * geometry.kernel_taps();
    let bytes = call.x.number.size() as f64 * elements(&geometry.input_shape())
        + call.weight.number.size() as f64 * weights as f64
        + call.numbers.result.size() as f64 * elements(&shape);
    facts.set_item("asked", call.asked.method.map(Method::name))?;
    facts.set_item("precision", call.asked.precision.name())?;
    facts.set_item("output_shape", shape)?;
    facts.set_item("dtype", call.numbers.result.name())?;
    facts.set_item("sums", T::NAME)?;
    facts.set_item("dots", false)?;
    facts.set_item("products", products.all)?;
    let flops = geometry.flops() * call.passes().len() as f64;
    facts.set_item("flops", flops)?;
    facts.set_item("bytes", bytes)?;
    facts.set_item("bound", offer::bound(flops, bytes, size_of::<T>()))?;
    facts.set_item("isa", kernels.isa.name())?;
    facts.set_item("threads", call.threads)?;
    Ok(facts)
}

/// What a method says of a problem, and what that comes to for all products.
fn dict<'py>(
    py: Python<'py>,
    candidate: &Candidate,
    products: Products,
) -> PyResult<Bound<'py, PyDict>> {
    let times = if products.together { 1.0 } else { products.all as f64 };
    let dict = PyDict::new(py);
    let reason = |declined: &Option<Declined>| declined.as_ref().map(|d| d.reason().to_owned());
    dict.set_item("method", candidate.method.name())?;
    dict.set_item("weights", candidate.offer.as_ref().ok().map(|cost| times * cost.weights))?;
    dict.set_item("work", candidate.offer.as_ref().ok().map(|cost| times * cost.work))?;
    let declined = candidate.offer.clone().err().or_else(|| candidate.unsuited.clone());
    dict.set_item("declines", reason(&declined))?;
    dict.set_item("refuses", reason(&candidate.refuses))?;
    if let Some(Description {
        flops,
        workspace,
        roundings,
        growth,
        levels,
        forms,
        tile,
        roles,
        block,
        in_place,
    }) = &candidate.description
    {
        dict.set_item("flops", times * flops)?;
        dict.set_item("workspace", workspace.saturating_add(products.bytes))?;
        dict.set_item("roundings", roundings)?;
        dict.set_item("growth", growth)?;
        dict.set_item("levels", levels)?;
        dict.set_item("forms", forms)?;
        dict.set_item("tile", tile)?;
        dict.set_item("roles", roles)?;
        dict.set_item("block", block)?;
        dict.set_item("in_place", in_place)?;
    }
    Ok(dict)
}
