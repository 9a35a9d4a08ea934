//! Which method computes a gradient of weights.

use super::tiles::{self, SLICE, VALUES};
use super::{Form, OUTER_PLANE, Problem};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::LINE;
use crate::offer::{Declined, Precision};
use crate::plan::{Asked, Method};
use crate::tile::{NOMINAL, Tiled};
use crate::winograd;

/// What is paid for, in nanoseconds of float32.
struct Rates {
    /// A cycle of tiles of products.
    product: f64,
    /// An element of both operands that is staged, or a value of it at a point.
    value: f64,
    /// A sum, of a weight or at a point, with all that is done to it once a slice.
    sum: f64,
    /// The same that is kept from block to block.
    kept: f64,
    /// Elements or values of a channel in a block, about, and blocks of a slice.
    block: usize,
    blocks: usize,
    /// What a value or a sum costs more in float64: those at points leave the second-level cache.
    wide: f64,
}

/// Of the plain sum and of transforms, fitted to the times of 30 shapes of 1 to 512 channels in each of float32 and
/// float64 (one thread of a Sapphire Rapids core), and those of volumes adjusted by hand; no other shapes were held
/// against them.
const RATES: [Rates; 2] = [
    Rates {
        product: 0.37,
        value: 0.2,
        sum: 0.55,
        kept: 0.0,
        wide: 2.0,
        block: OUTER_PLANE,
        blocks: 1,
    },
    Rates {
        product: 0.41,
        value: 0.25,
        sum: 0.55,
        kept: 0.1,
        wide: 3.0,
        block: VALUES,
        blocks: SLICE,
    },
];

/// The same along three axes, where a value is written to as many pages as there are points.
const MANY: [Rates; 2] =
    [Rates { product: 0.43, ..RATES[0] }, Rates { value: 0.55, sum: 2.25, ..RATES[1] }];

/// What transforms must take of the plain sum's time to be preferred to it, which rounds less.
const PREFERRED: f64 = 0.9;

/// Floating-point operations below which the plain sum is taken at once.
const LEAST_FLOPS: f64 = 1.5e7;

/// The transform of each axis, or `None` for the plain sum.
pub(super) fn forms<T: Tiled>(
    asked: Asked,
    problem: &Problem<'_, T>,
) -> Result<Option<Vec<Option<winograd::Form>>>, Error> {
    let geometry = problem.geometry;
    let cannot = |method: Method, declined: Declined| Error::WeightMethod {
        name: method.name(),
        reason: declined.reason().to_owned(),
    };
    match asked.method {
        Some(Method::Direct) => Ok(None),
        Some(method @ Method::Winograd) => {
            let forms = tiles::forms(geometry).map_err(|declined| cannot(method, declined))?;
            Ok((geometry.positions() > 0).then_some(forms))
        }
        Some(method) => {
            let reason = "only \"direct\" and \"winograd\" sum over positions";
            Err(cannot(method, Declined::Cannot(reason.into())))
        }
        None if problem.exact || asked.precision == Precision::Exact => Ok(None),
        None => {
            // Images with gradients of their own get what each gets alone.
            Ok(chosen(&problem.one(), size_of::<T>()))
        }
    }
}

/// What the gradient of the weights of a plan asks for, whose method is its convolution's: that where it can
/// compute it, and else the plain sum.
pub fn asked(plan: Asked, geometry: &Geometry) -> Asked {
    match plan.method {
        None => plan,
        Some(Method::Winograd) if tiles::forms(geometry).is_ok() => plan,
        Some(_) => Asked::direct(),
    }
}

/// The transforms, if they are predicted to be faster.
fn chosen(geometry: &Geometry, element: usize) -> Option<Vec<Option<winograd::Form>>> {
    if geometry.flops() < LEAST_FLOPS || Form::of(geometry) != Form::Outer {
        return None;
    }
    let forms = tiles::forms(geometry).ok()?;
    let points: usize = forms.iter().flatten().map(|form| form.points()).product();
    let (mut tiles, mut junk) = (1, 1.0);
    for (axis, form) in geometry.axes.iter().zip(&forms) {
        let len = axis.output.div_ceil(form.map_or(1, winograd::Form::outputs));
        tiles *= len;
        if form.is_some() {
            // What lies between rows of tiles is transformed with them.
            junk *= (len + 1) as f64 / len as f64;
        }
    }
    let [direct, transformed] = if forms.iter().flatten().count() > 2 { &MANY } else { &RATES };
    let steps = geometry.positions();
    let direct = time(geometry, (steps, geometry.kernel_taps()), (1, 1.0), element, direct);
    let transformed = time(geometry, (tiles, points), (points, junk), element, transformed);
    (transformed < PREFERRED * direct).then_some(forms)
}

/// The predicted time of so many steps for each of some sums of a pair of channels, with `values` of each operand a
/// step, of the input with some junk.
fn time(
    geometry: &Geometry,
    (steps, sums): (usize, usize),
    (values, junk): (usize, f64),
    element: usize,
    rates: &Rates,
) -> f64 {
    let Geometry { groups, channels, outputs, .. } = *geometry;
    let wide = if element > 4 { rates.wide } else { 1.0 };
    let vectors = (outputs * element).div_ceil(LINE);
    let cycles = NOMINAL.choose(channels, &[vectors], (usize::MAX, true)).1;
    let blocks = (steps * values).div_ceil(rates.block);
    let slices = super::division::slices(geometry, geometry, blocks / rates.blocks, false) as f64;
    let products = (steps * sums) as f64 * cycles * rates.product;
    let staged = (channels as f64 * junk + outputs as f64) * (steps * values) as f64;
    let done = slices * rates.sum + (blocks as f64 - slices) * rates.kept;
    let pairs = (channels * outputs * sums) as f64;
    groups as f64 * (products + wide * (staged * rates.value + pairs * done))
}
