//! A convolution with its arrays, as every method gets it; and its adjoint.

use crate::geometry::{Axis, Geometry, PaddingMode};
use crate::operand::Weights;
use crate::prepared::{Phases, Prepared};
use crate::store::Store;
use crate::tile::Tiled;
use crate::view::View;

/// A convolution with its arrays.
pub struct Problem<'a, T> {
    /// Sizes, checked.
    pub geometry: &'a Geometry,
    /// Input, canonical strides `[channel, batch, *spatial]`.
    pub x: &'a View<'a>,
    /// Weights.
    pub weights: &'a Weights<'a, T>,
    /// Places for what methods make of them, filled by the first that wants it.
    pub prepared: &'a Prepared,
    /// What lies outside the input in constant mode.
    pub padding: T,
    /// Whether no sum may be rounded: of integers, which floats may hold as well.
    pub exact: bool,
    /// The result and what is done to it.
    pub store: &'a Store<'a, T>,
}

/// The gradient of an input, with its arrays.
pub struct Adjoint<'a, T> {
    /// Of the convolution whose adjoint it is. An output may be longer or shorter than the
    /// convolution would have it: what its positions would need beyond the input counts for nothing.
    pub geometry: &'a Geometry,
    /// The gradient of the output, canonical strides `[output channel, batch, *positions]`.
    pub gradient: &'a View<'a>,
    /// Weights of the convolution.
    pub weights: &'a Weights<'a, T>,
    /// Places for what methods make of the weights, if a plan keeps it.
    pub kept: Option<&'a Phases>,
    /// The gradient of the input, canonical strides, and what is done to it.
    pub store: &'a Store<'a, T>,
}

impl<T: Tiled> Problem<'_, T> {
    /// Whether what lies around images, if they are padded, is zeros.
    pub fn has_zeros_around(&self) -> bool {
        let mut padded = self.geometry.axes.iter().filter(|axis| axis.pads());
        // Of minus zero, sums of products that underflow would be others.
        let zero = self.padding.to_f64().to_bits() == 0;
        padded.all(|axis| zero && axis.mode == PaddingMode::Constant)
    }

    /// Does `work` with one image of its batch.
    pub fn image<R>(&self, image: usize, work: impl FnOnce(&Problem<'_, T>) -> R) -> R {
        let mut geometry = self.geometry.clone();
        geometry.axes[0] = Axis::plain(1);
        let at = |strides: &[isize]| image as isize * strides[1];
        let strides = self.store.out.strides();
        let out = self.store.out.part(at(strides), strides.to_vec());
        work(&Problem {
            geometry: &geometry,
            x: &self.x.part(at(self.x.strides())),
            store: &Store { out, ..*self.store },
            ..*self
        })
    }
}
