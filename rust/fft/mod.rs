//! Convolution by transforms, for long kernels: overlap-save.
//!
//! `docs/fft.md` has the method, its error and what was measured. In short: blocks of the input are
//! staged as a [slab](crate::slab) is, transformed ([`block`]), multiplied by the transforms of the
//! weights, summed over channels, and transformed back; what wrapped around is dropped. Transforms of
//! an input channel serve all outputs, those of the weights all blocks and images.
//!
//! Every step is made of fused multiply-adds in an order that the problem alone decides
//! ([`tiling`]), so the promise of the direct method holds here as well: the same bits for any number of
//! threads, layout, batch and instruction set.
//!
//! What is not finite never enters a transform, where it would reach every result: it is set aside while
//! staging, and its own products are added to those results whose windows hold it. Numbers so large
//! that a sum in a transform might overflow are scaled by a power of two.

pub mod block;
mod blocks;
mod finish;
mod frame;
mod nest;
mod spectra;
mod stage;
pub mod tiling;
mod tree;
mod vector;

pub use block::Transformed;
pub(crate) use vector::Wave;

use crate::contract;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::offer::{Cost, Declined, Description};
use crate::parallel::{Stopped, Team};
use crate::prepared::{Made, Slot};
use crate::problem::Problem;
use crate::tile::Kernels;
use crate::view::Element;
use block::Engine;
use blocks::Blocks;
use frame::Frame;
use spectra::{Seen, Spectra};

/// Bytes of the weights' values that are held at a time.
const SPECTRA_BYTES: usize = 64 << 20;

/// Results below which a call stays on its caller's thread, counted with the transforms of weights.
const SERIAL: usize = 1 << 15;

/// 2 to a power.
fn power<T: Element>(bits: i32) -> T {
    T::from_f64(f64::powi(2.0, bits))
}

/// Taps of a channel, or of each phase of a stride, below which a transform never pays.
const FEWEST_TAPS: usize = 20;

/// The predicted time of a convolution of elements of some bytes. A kernel that is too small to be worth
/// the question is answered without any work.
pub fn offer(geometry: &Geometry, element: usize) -> Result<Cost, Declined> {
    // A stride leaves each of its phases so many of them.
    let phases: usize = geometry.axes.iter().map(|axis| axis.kernel.min(axis.stride)).product();
    let taps = geometry.kernel_taps() / phases;
    if taps < FEWEST_TAPS {
        let of = if phases > 1 { " in each phase of the stride" } else { "" };
        let reason =
            format!("the kernel has {taps} taps{of}, and transforms need {FEWEST_TAPS} to pay");
        return Err(Declined::NotWorth(reason.into()));
    }
    if geometry.positions() * geometry.channels == 0 {
        return Err(Declined::NotWorth("there is nothing to sum".into()));
    }
    match blocks::tiling(geometry, element) {
        Ok(tiling) => Ok(tiling.time(geometry, element, geometry.axes[0].output)),
        Err(error) => Err(Declined::NotWorth(error.to_string().into())),
    }
}

/// Bytes that a convolution of elements of some bytes takes beside its arrays, at most, on some threads.
pub fn workspace(geometry: &Geometry, element: usize, threads: usize) -> Result<usize, Error> {
    let tiling = blocks::tiling(geometry, element)?;
    let block = tiling.shape.size(tiling::LANES).saturating_mul(element);
    let count = |n: usize| n.saturating_mul(block);
    let inputs = geometry.channels.saturating_mul(tiling.phases());
    let (outputs, groups) = (geometry.outputs, geometry.groups);
    let weights = count(inputs.saturating_mul(outputs).saturating_mul(groups));
    let weights = weights.min(SPECTRA_BYTES.max(count(inputs)));
    // A block and a panel; then values of some blocks, and those of some weights.
    let desk = 2 * block;
    let blocks = tiling.blocks().fold(geometry.axes[0].output, usize::saturating_mul);
    let one = count(inputs + outputs);
    let values = nest::MOST_VALUES_BYTES.max(one).min(one.saturating_mul(blocks));
    let values = if inputs * outputs == 1 { 0 } else { values };
    let parted = weights.saturating_add(threads.saturating_mul(desk.saturating_add(values)));
    // Or the values of the whole input, and what each thread makes of them.
    let input = count(inputs.saturating_mul(blocks));
    let each = nest::WEIGHTS_BYTES + nest::MOST_VALUES_BYTES;
    let shared = if input <= nest::SHARED_BYTES && inputs * outputs > 1 {
        let each = each.min(weights.saturating_add(one.saturating_mul(blocks)));
        input.saturating_add(threads.saturating_mul(desk.saturating_add(each)))
    } else {
        0
    };
    Ok(parted.max(shared).saturating_add(tables(&tiling, element)))
}

/// How a convolution would be computed.
pub fn describe(geometry: &Geometry, element: usize, threads: usize) -> Result<Description, Error> {
    if geometry.positions() * geometry.outputs * geometry.channels == 0 {
        return Ok(Description::default());
    }
    let tiling = blocks::tiling(geometry, element)?;
    let size = tiling.shape.size(tiling::LANES) as f64;
    let levels = size.log2();
    let [groups, inputs, outputs, blocks] = [
        geometry.groups,
        geometry.channels * tiling.phases(),
        geometry.outputs,
        tiling.blocks().fold(geometry.axes[0].output, usize::saturating_mul),
    ]
    .map(|n| n as f64);
    let pairs = groups * inputs * outputs;
    // A real transform takes 2.5 n log2(n) or a little less, a complex product and sum 8.
    let transforms = pairs + blocks * groups * (inputs + outputs);
    let flops = transforms * 2.5 * size * levels + blocks * pairs * 4.0 * size;
    let block = tiling.sides.iter().map(|side| side.len).collect();
    Ok(Description {
        flops,
        workspace: workspace(geometry, element, threads)?,
        levels: Some(levels),
        block,
        ..Description::default()
    })
}

/// Bytes of a transform's tables: a lone axis has a root for each row.
fn tables(tiling: &tiling::Tiling, element: usize) -> usize {
    let numbers: usize = tiling.shape.lens.iter().sum();
    let cut = if tiling.shape.cut { tiling.shape.size(tiling::LANES) } else { 0 };
    (numbers + cut).saturating_mul(2 * element + 16)
}

/// All weights' values, which a plan keeps.
#[derive(Debug)]
pub struct Kept {
    /// Elements of the blocks on each axis, on which the values depend.
    sizes: Vec<usize>,
    /// Whether the weights were made smaller.
    heavy: bool,
    /// `None` where some weights are not finite.
    spectra: Option<Spectra>,
}

impl Kept {
    /// Whether they are few enough to be kept.
    fn fits<T: Transformed>(blocks: &Blocks<T>, geometry: &Geometry) -> bool {
        let pairs = (blocks.inputs(geometry) * geometry.outputs).saturating_mul(geometry.groups);
        pairs.saturating_mul(blocks.transform.size() * size_of::<T>()) <= SPECTRA_BYTES
    }

    /// Of the weights of a problem.
    fn new<T: Transformed>(
        problem: &Problem<'_, T>,
        blocks: &Blocks<T>,
        (engine, team): (&Engine<T>, &Team<'_>),
    ) -> Result<Self, Stopped> {
        let sizes = Self::sizes(blocks);
        for heavy in [false, true] {
            let seen = Seen::default();
            let all = 0..problem.geometry.groups * problem.geometry.outputs;
            let spectra = Spectra::new(problem, blocks, all, (engine, team), (heavy, &seen))?;
            if seen.odd() {
                break;
            }
            if heavy || !seen.large() {
                return Ok(Kept { sizes, heavy, spectra: Some(spectra) });
            }
        }
        Ok(Kept { sizes, heavy: false, spectra: None })
    }

    fn sizes<T>(blocks: &Blocks<T>) -> Vec<usize> {
        blocks.tiling.sides.iter().map(|side| side.size).collect()
    }

    /// Whether they are of such blocks.
    fn is_of<T>(&self, blocks: &Blocks<T>) -> bool {
        blocks.tiling.sides.iter().map(|side| side.size).eq(self.sizes.iter().copied())
    }
}

impl Made for Kept {
    fn bytes(&self) -> usize {
        self.spectra.as_ref().map_or(0, Spectra::bytes)
    }
}

/// Computes a convolution by transforms.
pub fn convolve<T: Transformed>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    if geometry.positions() * geometry.outputs * geometry.channels == 0 {
        return contract::direct(problem, kernels, team);
    }
    let engine = T::engine(kernels.isa);
    let blocks = &*blocks::blocks::<T>(geometry, engine.lanes)?;
    let outputs = geometry.groups * geometry.outputs;
    let pairs = outputs.saturating_mul(geometry.channels);
    let work = (geometry.positions() * outputs)
        .saturating_add(pairs.saturating_mul(blocks.transform.size()));
    let team = &Team { threads: if work < SERIAL { 1 } else { team.threads }, stop: team.stop };
    if problem.prepared.kept && Kept::fits::<T>(blocks, geometry) {
        let make = || Kept::new(problem, blocks, (engine, team));
        let kept = problem.prepared.once(Slot::Spectra, make)?;
        if kept.is_of(blocks) {
            let Some(spectra) = &kept.spectra else {
                return contract::direct(problem, kernels, team);
            };
            let frame = Frame { problem, blocks, engine, heavy: kept.heavy };
            return frame.with_spectra(spectra, team);
        }
    }
    // A second time where weights turn out to be so large that they should be made smaller.
    for heavy in [false, true] {
        let frame = Frame { problem, blocks, engine, heavy };
        let seen = Seen::default();
        if let Some(rows) = frame.shares_input(team.threads) {
            for group in 0..geometry.groups {
                frame.with_input((group, rows), &seen, team)?;
            }
        } else {
            let each = blocks.inputs(geometry) * blocks.transform.units() * blocks.transform.unit();
            let most = (SPECTRA_BYTES / size_of::<T>() / each).max(1);
            // Whole groups, or parts of one.
            let whole = most / geometry.outputs * geometry.outputs;
            let mut first = 0;
            while first < outputs {
                let group = (first / geometry.outputs + 1) * geometry.outputs;
                let end = if whole > 0 { first + whole } else { group.min(first + most) };
                let part = first..end.min(outputs);
                first = part.end;
                let spectra = Spectra::new(problem, blocks, part, (engine, team), (heavy, &seen))?;
                if seen.odd() || seen.large() && !heavy {
                    break;
                }
                frame.with_spectra(&spectra, team)?;
            }
        }
        if seen.odd() {
            // What is not finite among the weights is for the plain sum.
            return contract::direct(problem, kernels, team);
        }
        if !seen.large() {
            break;
        }
    }
    Ok(())
}
