//! What all steps of a convolution by transforms know, and how large its values are.

use crate::problem::Problem;

use super::block::{Engine, Transformed};
use super::blocks::Blocks;

/// A convolution, its blocks, and what transforms them.
pub struct Frame<'a, T: Transformed> {
    /// The convolution.
    pub problem: &'a Problem<'a, T>,
    /// Its blocks.
    pub blocks: &'a Blocks<T>,
    /// What transforms them.
    pub engine: &'a Engine<T>,
    /// Whether the weights were made smaller.
    pub heavy: bool,
}

impl<T: Transformed> Frame<'_, T> {
    /// Blocks of all images.
    pub fn positions(&self) -> usize {
        self.blocks.count(self.problem.geometry)
    }

    /// Input channels of a group, phases counted.
    pub fn inputs(&self) -> usize {
        self.blocks.inputs(self.problem.geometry)
    }

    /// Whether a group is one channel to one, which needs no values but a panel's.
    pub fn lone(&self) -> bool {
        self.inputs() == 1 && self.problem.geometry.outputs == 1
    }

    /// Elements between vectors of the values of `positions` blocks of some channels.
    pub fn pitch(&self, positions: usize, channels: usize) -> usize {
        // Odd, so that neighbouring vectors do not share a set of the cache.
        (positions.saturating_mul(channels) | 1).saturating_mul(self.blocks.transform.unit())
    }

    /// Elements of such values.
    pub fn values(&self, positions: usize, channels: usize) -> usize {
        self.pitch(positions, channels).saturating_mul(self.blocks.transform.units())
    }
}
