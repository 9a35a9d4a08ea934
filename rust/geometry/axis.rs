//! One axis: where windows lie on it, and what padding shows.

use std::ops::Range;

use crate::error::Error;

use super::spec::{OutputSize, Padding, PaddingMode, Spec};

/// One spatial axis of a checked convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Length of the input.
    pub input: usize,
    /// Taps of the kernel.
    pub kernel: usize,
    /// Input elements between output positions.
    pub stride: usize,
    /// Input elements between taps.
    pub dilation: usize,
    /// Padding before the input; negative crops.
    pub before: isize,
    /// Padding after the input; negative crops.
    pub after: isize,
    /// What the padding holds.
    pub mode: PaddingMode,
    /// Output positions.
    pub output: usize,
}

impl Axis {
    /// An axis without a kernel: as many outputs as inputs. The batch is one.
    pub fn plain(len: usize) -> Self {
        Axis {
            input: len,
            kernel: 1,
            stride: 1,
            dilation: 1,
            before: 0,
            after: 0,
            mode: PaddingMode::Constant,
            output: len,
        }
    }

    /// Whether there is padding, rather than none or crops.
    pub fn pads(&self) -> bool {
        self.before > 0 || self.after > 0
    }

    /// Whether its padding shows elements of the input again.
    pub fn shows_again(&self) -> bool {
        self.mode != PaddingMode::Constant && self.pads()
    }

    /// The part of the input that is left after cropping, as (first, length).
    pub fn kept(&self) -> (usize, usize) {
        let first = (-self.before).max(0) as usize;
        let last = self.input - (-self.after).max(0) as usize;
        (first, last - first)
    }

    /// The input element that padded position `q` shows, or `None` where the constant stands.
    ///
    /// `q` counts from the first padded (or kept) element, as windows do.
    pub fn source(&self, q: isize) -> Option<usize> {
        let (first, len) = self.kept();
        let i = q - self.before.max(0);
        let n = len as isize;
        let inside = match self.mode {
            _ if (0..n).contains(&i) => i,
            PaddingMode::Constant => return None,
            PaddingMode::Replicate => i.clamp(0, n - 1),
            PaddingMode::Circular => i.rem_euclid(n),
            PaddingMode::Symmetric => {
                let j = i.rem_euclid(2 * n);
                if j < n { j } else { 2 * n - 1 - j }
            }
            // One element has no other to reflect: NumPy repeats it.
            PaddingMode::Reflect if n == 1 => 0,
            PaddingMode::Reflect => {
                let j = i.rem_euclid(2 * n - 2);
                if j < n { j } else { 2 * n - 2 - j }
            }
        };
        Some(first + inside as usize)
    }

    /// Which of `len` padded positions from `first` on, `step` apart, are in the input.
    pub fn inside(&self, first: usize, step: usize, len: usize) -> Range<usize> {
        let (kept, kept_len) = self.kept();
        // Where input element 0 would be, padding in front of it or not.
        let reach = |end: usize| {
            let end = end as isize + self.before - first as isize;
            (end.max(0) as usize).div_ceil(step).min(len)
        };
        reach(kept)..reach(kept + kept_len)
    }

    pub(super) fn new(
        spec: &Spec,
        axis: usize,
        input: usize,
        kernel: usize,
    ) -> Result<Self, Error> {
        let positive = |argument, value: i64| {
            if value >= 1 {
                Ok(value as usize)
            } else {
                Err(Error::BelowOne { argument, axis, value })
            }
        };
        let stride = positive("stride", spec.stride.get(axis))?;
        let dilation = positive("dilation", spec.dilation.get(axis))?;
        let mode = spec.mode.get(axis);
        // i128 holds every sum and product below: each factor has at most 63 bits.
        let reach = dilation as i128 * (kernel as i128 - 1);
        let too_large = || Error::TooLarge {
            what: "the padded input",
            shape: vec![(input as i128 + 2 * reach) as u128],
        };
        let side = |value: i128| i64::try_from(value).map_err(|_| too_large());
        let (before, after) = match &spec.padding {
            Padding::Sides(sides) => sides.get(axis),
            Padding::Valid => (0, 0),
            Padding::Same | Padding::SameLower => {
                let output = (input as i128 + stride as i128 - 1) / stride as i128;
                let total = ((output - 1) * stride as i128 + reach + 1 - input as i128).max(0);
                let (less, more) = (side(total / 2)?, side(total - total / 2)?);
                if spec.padding == Padding::Same { (less, more) } else { (more, less) }
            }
            Padding::Full => (side(reach)?, side(reach)?),
            Padding::Causal => (side(reach)?, 0),
        };
        let kept = input as i128 + before.min(0) as i128 + after.min(0) as i128;
        if (before < 0 || after < 0) && kept < 1 {
            return Err(Error::Crop { axis, size: input, before, after });
        }
        let padded = input as i128 + before as i128 + after as i128;
        if padded < reach + 1 {
            let span = (reach + 1) as u128;
            return Err(Error::KernelTooLarge {
                axis,
                kernel,
                dilation,
                span,
                input,
                before,
                after,
            });
        }
        if input == 0 && mode != PaddingMode::Constant {
            return Err(Error::EmptyAxis { axis, mode: mode.name() });
        }
        if padded > isize::MAX as i128 / 2 {
            return Err(too_large());
        }
        Ok(Axis {
            input,
            kernel,
            stride,
            dilation,
            before: before as isize,
            after: after as isize,
            mode,
            output: ((padded - reach - 1) / stride as i128) as usize + 1,
        })
    }

    /// The least and the greatest input that has `output` positions.
    pub(super) fn inputs(&self, spec: &Spec, output: usize) -> Option<(i128, i128)> {
        let (stride, output) = (self.stride as i128, output as i128);
        let (least, most) = match spec.padding {
            Padding::Same | Padding::SameLower => ((output - 1) * stride + 1, output * stride),
            _ => {
                let reach = self.dilation as i128 * (self.kernel as i128 - 1);
                let padding = self.before as i128 + self.after as i128;
                let least = (output - 1) * stride + reach + 1 - padding;
                (least, least + stride - 1)
            }
        };
        // Cropping leaves something.
        let crop = -(self.before.min(0) as i128 + self.after.min(0) as i128);
        let least = least.max(i128::from(crop > 0) + crop).max(0);
        (least <= most).then_some((least, most))
    }
}

/// How long the result of a transposed convolution is on an axis.
pub(super) fn transposed_len(
    spec: &Spec,
    axis: usize,
    (input, kernel): (usize, usize),
    size: &OutputSize,
) -> Result<usize, Error> {
    if kernel == 0 {
        return Ok(1); // an empty kernel is refused with the others' words
    }
    let same = matches!(spec.padding, Padding::Same | Padding::SameLower);
    let value = match size {
        OutputSize::Padding(padding) => padding.get(axis),
        OutputSize::Exact(sizes) => sizes.get(axis),
    };
    let (stride, dilation) = (spec.stride.get(axis).max(1), spec.dilation.get(axis).max(1));
    let reach = dilation as i128 * (kernel as i128 - 1);
    let padding = match &spec.padding {
        Padding::Sides(sides) => {
            let (before, after) = sides.get(axis);
            before as i128 + after as i128
        }
        Padding::Full => 2 * reach,
        Padding::Causal => reach,
        Padding::Valid | Padding::Same | Padding::SameLower => 0,
    };
    let (stride, dilation, outputs) = (stride as i128, dilation as i128, input as i128);
    let (least, longest) = if same {
        ((outputs - 1) * stride + 1, outputs * stride)
    } else {
        let least = (outputs - 1) * stride + reach + 1 - padding;
        (least, least + stride.max(dilation) - 1)
    };
    let len = match size {
        OutputSize::Padding(_) if same && value != 0 => return Err(Error::OutputPaddingSame),
        OutputSize::Padding(_) if same => longest,
        OutputSize::Padding(_) => {
            if !(0..=longest - least).contains(&(value as i128)) {
                return Err(Error::OutputPadding { axis, value, most: (longest - least) as usize });
            }
            least + value as i128
        }
        OutputSize::Exact(_) => {
            if input > 0 && !(least.max(1)..=longest).contains(&(value as i128)) {
                return Err(Error::OutputSize { axis, value, least: least.max(1), most: longest });
            }
            value as i128
        }
    };
    if input == 0 || len < 1 {
        return Err(Error::EmptyTransposed { axis, input, size: len });
    }
    let too_large = |_| Error::TooLarge { what: "the result", shape: vec![len as u128] };
    usize::try_from(len).map_err(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_shows_what_numpy_pad_shows() {
        let shown = |mode, input, before: isize, after: isize| -> Vec<Option<usize>> {
            let axis = Axis { before, after, mode, ..Axis::plain(input) };
            (0..input as isize + before + after).map(|q| axis.source(q)).collect()
        };
        let all = |indices: &[usize]| indices.iter().copied().map(Some).collect::<Vec<_>>();
        let none = |n| vec![None; n];
        assert_eq!(
            shown(PaddingMode::Constant, 2, 2, 1),
            [none(2), all(&[0, 1]), none(1)].concat()
        );
        assert_eq!(shown(PaddingMode::Reflect, 3, 3, 4), all(&[1, 2, 1, 0, 1, 2, 1, 0, 1, 2]));
        assert_eq!(shown(PaddingMode::Symmetric, 3, 4, 2), all(&[2, 2, 1, 0, 0, 1, 2, 2, 1]));
        assert_eq!(shown(PaddingMode::Replicate, 2, 2, 1), all(&[0, 0, 0, 1, 1]));
        assert_eq!(shown(PaddingMode::Circular, 3, 4, 1), all(&[2, 0, 1, 2, 0, 1, 2, 0]));
        // Cropped first: the cropped element is never shown again.
        assert_eq!(shown(PaddingMode::Circular, 4, -1, 2), all(&[1, 2, 3, 1, 2]));
        assert_eq!(shown(PaddingMode::Reflect, 1, 1, 1), all(&[0, 0, 0]));
    }
}
