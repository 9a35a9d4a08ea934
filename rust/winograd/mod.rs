//! Convolution by transforms of small tiles, for kernels of three taps: Winograd's.
//!
//! `docs/accuracy.md` has the error and what was measured. In short: along each axis with a kernel of three
//! and a stride of one, outputs are computed two (or four) at a time from four (six) *points*: the input is
//! transformed to them ([`form`]), and so are the weights; at each point the products are summed over
//! channels, and what taps are left, by the same tile kernel as all else; and the sums are transformed back.
//! That takes 4 products where the plain sum takes 6, on each axis (or 6 for 12).
//!
//! Every transform is a sum in an order that its matrix alone decides, and the sums over channels are
//! chains as those of the direct method are, so the promise about bits holds here as well.
//!
//! Where a tile holds something that is not finite, its results are those of the plain sum.

mod adjoint;
mod engine;
mod filters;
mod form;
mod frame;
mod nest;
mod odd;
mod ready;
mod region;
mod role;
mod tiling;
mod vector;

pub use adjoint::Transforms;
pub use engine::Place;
pub use filters::Filters;
pub use form::Form;
pub use tiling::{Tiling, is_able};

use std::sync::OnceLock;

use crate::contract;
use crate::error::{Error, Shape};
use crate::geometry::{Axis, Geometry};
use crate::offer::{Cost, Declined, Description, Precision};
use crate::operand;
use crate::parallel::{Stopped, Team};
use crate::prepared::{Slot, once};
use crate::problem::Problem;
use crate::tile::{Kernels, Tiled};
use engine::engine;
use filters::{Layout, Panels, Stager};
use frame::Frame;
use nest::{Nest, Weights};
use role::Role;
use tiling::Side;

/// Work below which a call stays on its caller's thread, in products.
const SERIAL: f64 = 2.5e6;

/// Floating-point operations of a plain sum below which tiles save nothing worth the 5 microseconds that it takes
/// to ask where three axes can be transformed: of 2600 random shapes, F(2,3) saved a tenth of none below 40
/// million, F(4,3) of one of 11 million (Sapphire Rapids).
const LEAST_FLOPS: f64 = 1.5e7;

/// Share of the plain sum's products that tiles may take. Near to that, rows hold hardly more than a tile of each
/// residue of a dilation, and their transforms take a multiple of what is predicted: 35 to 2 channels of 63x46x7
/// with dilation 5 took 9.7 ms, predicted 2.6, and directly 3.9 (Sapphire Rapids).
const MOST_PRODUCTS: f64 = 0.9;

/// How a convolution would be transformed, if it can be.
pub fn tiling(geometry: &Geometry, element: usize, precision: Precision) -> Option<Tiling> {
    if geometry.positions() * geometry.channels * geometry.outputs == 0 {
        return None;
    }
    Tiling::new(geometry, element, precision)
}

/// The predicted time of a convolution of elements of some bytes.
pub fn offer(geometry: &Geometry, element: usize, precision: Precision) -> Result<Cost, Declined> {
    let axes = &geometry.axes[1..];
    if !axes.iter().any(is_able) {
        let all = |of: fn(&Axis) -> usize| Shape(axes.iter().map(of).collect());
        let reason = format!(
            "no axis has a kernel of 3, a stride of 1, and more outputs than the dilation (kernel {}, stride \
             {}, output {})",
            all(|axis| axis.kernel),
            all(|axis| axis.stride),
            all(|axis| axis.output),
        );
        return Err(Declined::Cannot(reason.into()));
    }
    if geometry.flops() < LEAST_FLOPS {
        let reason = format!(
            "the plain sum takes {:.1} MFLOP, and transforms of tiles need {} to pay",
            geometry.flops() / 1e6,
            LEAST_FLOPS / 1e6,
        );
        return Err(Declined::NotWorth(reason.into()));
    }
    match tiling(geometry, element, precision) {
        Some(tiling) if 2.0 * tiling.products(geometry) > MOST_PRODUCTS * geometry.flops() => {
            let reason = format!(
                "tiles take {:.1} of {:.1} million products, which saves too few for their transforms",
                tiling.products(geometry) / 1e6,
                geometry.flops() / 2e6,
            );
            Err(Declined::NotWorth(reason.into()))
        }
        Some(tiling) => Ok(tiling.time(geometry, element, geometry.axes[0].output)),
        None => Err(Declined::NotWorth("there is nothing to sum".into())),
    }
}

/// How a convolution would be computed.
pub fn describe<T: Tiled>(
    problem: &Problem<'_, T>,
    precision: Precision,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Description, Error> {
    let geometry = problem.geometry;
    let Some(tiling) = tiling(geometry, size_of::<T>(), precision) else {
        return Ok(Description::default());
    };
    let frame = Frame::new(problem, &tiling, kernels, threads)?;
    let layout = Layout::new(geometry, &tiling, kernels);
    let filters = if frame.weights { 0 } else { layout.size(tiling.points()) };
    let workspace = frame.scratch(&tiling, threads).saturating_add(filters);
    let left: Vec<usize> = tiling.sides.iter().map(Side::taps).collect();
    let roundings = operand::roundings(&left, geometry.channels, nest::CHAIN);
    let Panels { role, shape, .. } = layout.panels;
    let (channels, tiles) = ("output channels", "tiles");
    Ok(Description {
        flops: 2.0 * tiling.products(geometry),
        workspace: workspace.saturating_mul(size_of::<T>()),
        roundings: Some(roundings + tiling.roundings()),
        growth: Some(tiling.growth()),
        forms: tiling.sides[1..].iter().map(|side| side.form.map(Form::name)).collect(),
        tile: Some((shape.rows, shape.columns * kernels.lanes)),
        roles: Some(match role {
            Role::Outputs => (channels, tiles),
            Role::Tiles => (tiles, channels),
        }),
        block: frame.block(&tiling),
        ..Description::default()
    })
}

/// Computes a convolution by transforms of tiles; one that has no axis for it, or nothing to sum, directly.
pub fn convolve<T: Tiled>(
    problem: &Problem<'_, T>,
    precision: Precision,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    let Some(tiling) = tiling(geometry, size_of::<T>(), precision) else {
        return contract::direct(problem, kernels, team);
    };
    let serial = tiling.products(geometry) < SERIAL;
    let team = &Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    let engine = engine::<T>(kernels.isa);
    let frame = Frame::new(problem, &tiling, kernels, team.threads)?;
    let own = OnceLock::new();
    let weights = if frame.weights {
        Weights::Staged(Stager::new(problem, &tiling, (kernels, engine))?)
    } else {
        let make = || Filters::new(problem, &tiling, (kernels, engine), team);
        let mut filters = problem.prepared.once(Slot::Filters, make)?;
        if !filters.is_of(&tiling) {
            // A plan's, of an input whose shape has other axes transformed.
            filters = once(&own, make)?;
        }
        if filters.odd() {
            return contract::direct(problem, kernels, team);
        }
        Weights::Kept(filters)
    };
    let mut space = frame.space::<T>()?;
    let nest = Nest::new(problem, &tiling, weights, (kernels, engine), (frame, &mut space))?;
    team.share_stages(&nest.stages(), |turn| nest.work(turn))?;
    if nest.odd_weights() {
        return contract::direct(problem, kernels, team);
    }
    odd::finish(&nest.spots(), nest.step(), (problem, kernels), team)
}
