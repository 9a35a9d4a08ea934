//! Multi-channel convolution of strided arrays, by one idea: the input is staged once into a *slab*
//! in which every tap of the kernel is a constant shift, so that a convolution is a matrix product
//! whose right-hand rows are shifted views of one flat buffer.
//!
//! Data flows one way through the modules:
//!
//! | module | what it does |
//! |---|---|
//! | [`geometry`] | options and shapes in, a checked [`geometry::Geometry`] out: all validation |
//! | [`problem`] | a geometry with its arrays: what every method gets |
//! | [`offer`] | what a method says of it: its cost, or why it declines |
//! | [`plan`] | which method computes it |
//! | [`explain`] | what is known of a convolution before it is computed |
//! | [`view`] | strided arrays of the caller |
//! | [`number`] | the numbers that they hold, and those that are computed with |
//! | [`exact`] | integers that may be summed as floats |
//! | [`convert`] | runs of numbers, from one kind to another |
//! | [`slab`] | staging, the offset of every tap |
//! | [`cover`] | vectors laid over positions |
//! | [`operand`] | how operations address their operands |
//! | [`packed`] | weights laid out for vectors of output channels |
//! | [`prepared`] | what methods make of weights, for a call or for a plan |
//! | [`contract`] | the loop nest: blocks, groups of channels, tiles |
//! | [`quads`] | 8-bit numbers, four at a time |
//! | [`complex`] | complex numbers by three real products |
//! | [`tile`] | the register kernel, and instruction sets |
//! | [`store`] | bias, activation, writing results |
//! | [`fft`] | long kernels, by products of transforms |
//! | [`winograd`] | kernels of three, by transforms of small tiles |
//! | [`separable`] | kernels of rank one, as passes along their axes |
//! | [`pointwise`] | few outputs of many channels, a tap at a time |
//! | [`adjoint`] | gradients of inputs, transposed convolution: forward again, by phases |
//! | [`gradient`] | gradients of weights: the same slab and tile, summed over positions |
//! | [`local`] | layers with a kernel of its own at each position, which are no matrix product |
//! | [`parallel`] | threads and their scratch |
//! | [`error`] | what can be wrong, and how it is said |
//!
//! Every result is a chain of fused multiply-adds in the order of its taps, cut every
//! [`tile::CHAIN`], so its bits depend on the problem alone: not on threads, memory layout, tile or
//! instruction set.

pub mod adjoint;
pub mod complex;
pub mod contract;
mod convert;
pub mod cover;
pub mod error;
pub mod exact;
pub mod explain;
pub mod fft;
pub mod geometry;
pub mod gradient;
pub mod local;
pub mod memory;
pub mod number;
pub mod offer;
pub mod operand;
pub mod packed;
pub mod parallel;
pub mod plan;
pub mod pointwise;
pub mod prepared;
pub mod problem;
#[cfg(feature = "python")]
mod python;
pub mod quads;
pub mod separable;
pub mod slab;
pub mod store;
pub mod tile;
pub mod view;
pub mod winograd;
