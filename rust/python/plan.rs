//! What `faltung.Plan` keeps between calls.

use std::convert::Infallible;
use std::sync::OnceLock;

use pyo3::prelude::*;

use super::arguments::{self, Constant, boolean, spec};
use super::array::Array;
use super::dtype::{Part, Wanted};
use super::interruptible;
use super::numbers::{Numbers, with_element};
use super::object::Any;
use crate::geometry::{Geometry, Padding, PerAxis, Spec};
use crate::number::Scalar;
use crate::operand::Weights;
use crate::packed::Packed;
use crate::parallel::{self, Stopped, Team};
use crate::prepared::{Phases, Prepared, Slot, once};
use crate::quads;
use crate::tile::{self, Tiled};

/// Output channels of a group from which vectors of them may pay: half of the widest vector. With
/// fewer, a plan keeps nothing beside its weights.
const PACKED_OUTPUTS: usize = 8;

/// Weights of one element, for convolutions and for the gradients of their inputs.
pub(super) struct Places {
    pub forward: Prepared,
    pub adjoint: Phases,
}

impl Places {
    fn new() -> Self {
        Places { forward: Prepared::new(true), adjoint: Phases::default() }
    }

    fn bytes(&self) -> usize {
        self.forward.bytes() + self.adjoint.bytes()
    }
}

/// Prepared weights, for each element that convolutions are computed in.
#[pyclass(frozen, module = "faltung._core")]
pub(super) struct Kept {
    single: Places,
    double: Places,
    int: Places,
    long: Places,
    /// What [`exact::heaviest`](crate::exact::heaviest) says of them.
    heaviest: OnceLock<Option<u64>>,
    quads: OnceLock<quads::Packed>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept {
            single: Places::new(),
            double: Places::new(),
            int: Places::new(),
            long: Places::new(),
            heaviest: OnceLock::new(),
            quads: OnceLock::new(),
        }
    }
}

impl Kept {
    /// A plan's, if there is one.
    pub(super) fn given<'py>(kept: Any<'_, 'py>) -> PyResult<Option<Bound<'py, Kept>>> {
        Ok(if kept.is_none() { None } else { Some(kept.cast::<Kept>()?.clone()) })
    }

    /// The places for weights of one element.
    pub(super) fn of<T: Tiled>(&self) -> &Places {
        match T::SCALAR {
            Scalar::F32 => &self.single,
            Scalar::F64 => &self.double,
            Scalar::I32 => &self.int,
            Scalar::I64 => &self.long,
            _ => unreachable!("the engine computes in these"),
        }
    }

    /// What `look` says of the weights, which is asked once.
    pub(super) fn heaviest(&self, look: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let Ok(&heaviest) = once(&self.heaviest, || Ok::<_, Infallible>(look()));
        heaviest
    }

    /// The place for weights of 8 bits, four at a time.
    pub(super) fn quads(&self) -> &OnceLock<quads::Packed> {
        &self.quads
    }

    /// Packs an array of weights for the vectors of this machine.
    fn pack<T: Tiled>(
        &self,
        py: Python<'_>,
        (weight, flip): (&Array<'_>, bool),
        geometry: &Geometry,
    ) -> PyResult<()> {
        let kernels = tile::kernels::<T>()?;
        let threads = parallel::num_threads()?;
        let view = weight.whole((Part::Real, false));
        interruptible(py, geometry.flops(), |stop| {
            let weights = Weights::new(&view, weight.shape(), flip)?;
            let packed = Packed::new(&weights, geometry, kernels, &Team { threads, stop })?;
            // Nobody has seen this object before.
            self.of::<T>().forward.once(Slot::Packed, || Ok::<_, Stopped>(packed))?;
            Ok(())
        })
    }
}

#[pymethods]
impl Kept {
    /// Checks whatever can be checked without an input, and packs the weights.
    #[new]
    #[allow(clippy::too_many_arguments)] // the options of the Python class, one by one
    fn new<'py>(
        py: Python<'py>,
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
    ) -> PyResult<Self> {
        Constant::new("padding_value", padding_value)?;
        let activation = arguments::activation(activation)?;
        boolean("channels_last", channels_last)?;
        arguments::asked(method, precision)?;
        arguments::threads(threads)?;
        let wanted = Wanted::new(dtype, accumulate)?;
        let weight = Array::new("weight", weight, &wanted)?;
        let bias = Array::optional("bias", bias, &wanted)?;
        let spec = spec(None, [stride, padding, dilation, groups, padding_mode], false)?;
        let x = an_input(&spec, weight.shape());
        let geometry = Geometry::new(&spec, &x, weight.shape(), bias.as_ref().map(Array::shape))?;
        let kept = Kept::default();
        let flip = boolean("flip", flip)?;
        let arrays = [Some(&weight), bias.as_ref()];
        let numbers = Numbers::new(arrays.into_iter().flatten(), &wanted, activation)?;
        // What integers are summed in depends on the input too: the first call that wants them packs them.
        let known = !numbers.integers && !numbers.result.complex;
        if geometry.outputs >= PACKED_OUTPUTS && known {
            with_element!(numbers.sums, T => kept.pack::<T>(py, (&weight, flip), &geometry)?);
        }
        Ok(kept)
    }

    /// Bytes of what is kept.
    #[getter]
    fn nbytes(&self) -> usize {
        let quads = self.quads.get().map_or(0, quads::Packed::bytes);
        self.single.bytes() + self.double.bytes() + self.int.bytes() + self.long.bytes() + quads
    }
}

/// The shape of an input that every weight fits: one window, and whatever is cropped. What is wrong
/// with it is wrong with the options.
fn an_input(spec: &Spec, weight: &[usize]) -> Vec<usize> {
    let dilation = |axis: usize| match &spec.dilation {
        PerAxis::All(dilation) => *dilation,
        PerAxis::Each(all) => all.get(axis).copied().unwrap_or(1),
    };
    let cropped = |axis: usize| match &spec.padding {
        Padding::Sides(PerAxis::All((before, after))) => (*before).min(0) + (*after).min(0),
        Padding::Sides(PerAxis::Each(all)) => {
            all.get(axis).map_or(0, |(before, after)| (*before).min(0) + (*after).min(0))
        }
        _ => 0,
    };
    let kernel = weight.get(2..).unwrap_or_default().iter().enumerate();
    let window = kernel.map(|(axis, &kernel)| {
        let span = kernel.saturating_sub(1).saturating_mul(dilation(axis).max(1) as usize);
        span.saturating_add(1).saturating_add(cropped(axis).unsigned_abs() as usize)
    });
    let channels = weight.get(1).copied().unwrap_or(0).saturating_mul(spec.groups.max(0) as usize);
    [1, channels].into_iter().chain(window).collect()
}
