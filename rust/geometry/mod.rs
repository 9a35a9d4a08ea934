//! What a convolution is: shapes and options in, a [`Geometry`] out.
//!
//! All validation is here. Whatever holds a `Geometry` may rely on every size, sum and product that
//! it needs being representable, so nothing after it fails.

mod axis;
mod spec;

pub use axis::Axis;
pub use spec::{Activation, OutputSize, Padding, PaddingMode, PerAxis, Spec};

use crate::error::{Error, Shape};
use axis::transposed_len;

/// A checked convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// Whether x has a batch axis.
    pub batched: bool,
    /// Whether channels are the last axis of x and of the result.
    pub channels_last: bool,
    /// Groups of channels.
    pub groups: usize,
    /// Input channels of one group.
    pub channels: usize,
    /// Output channels of one group.
    pub outputs: usize,
    /// The batch (an axis without a kernel), then the spatial axes, outermost first.
    pub axes: Vec<Axis>,
}

impl Geometry {
    /// Checks a convolution of `x` with `weight` and, where given, `bias`.
    pub fn new(
        spec: &Spec,
        x: &[usize],
        weight: &[usize],
        bias: Option<&[usize]>,
    ) -> Result<Self, Error> {
        let rank = weight.len().saturating_sub(2);
        if rank == 0 || spec.rank.is_some_and(|asked| asked != rank) {
            return Err(Error::WeightRank { shape: weight.into(), rank: spec.rank });
        }
        let batched = x.len() == rank + 2;
        if !batched && x.len() != rank + 1 {
            let channels_last = spec.channels_last;
            return Err(Error::InputRank { shape: x.into(), rank, channels_last });
        }
        spec.stride.check("stride", rank)?;
        spec.dilation.check("dilation", rank)?;
        spec.mode.check("padding_mode", rank)?;
        if let Padding::Sides(sides) = &spec.padding {
            sides.check("padding", rank)?;
        }
        if spec.groups < 1 {
            return Err(Error::Groups { groups: spec.groups });
        }
        let groups = spec.groups as usize;
        if !weight[0].is_multiple_of(groups) {
            return Err(Error::OutputsByGroups { outputs: weight[0], groups });
        }
        let inner = &x[batched as usize..];
        let (channel_axis, spatial) = if spec.channels_last {
            (x.len() - 1, &inner[..rank])
        } else {
            (x.len() - 1 - rank, &inner[1..])
        };
        if weight[1] as u128 * groups as u128 != x[channel_axis] as u128 {
            let other = if spec.channels_last { x.len() - 1 - rank } else { x.len() - 1 };
            return Err(Error::Channels {
                found: x[channel_axis],
                axis: channel_axis,
                weight: weight[1],
                groups,
                swapped: weight[1] as u128 * groups as u128 == x[other] as u128,
                channels_last: spec.channels_last,
            });
        }
        if let Some(shape) = bias
            && shape != [weight[0]]
        {
            return Err(Error::Bias { shape: shape.into(), outputs: weight[0] });
        }
        if let Some(axis) = weight[2..].iter().position(|&k| k == 0) {
            return Err(Error::EmptyKernel { axis, shape: weight.into() });
        }
        let mut axes = Vec::with_capacity(rank + 1);
        axes.push(Axis::plain(if batched { x[0] } else { 1 }));
        for (axis, (&input, &kernel)) in spatial.iter().zip(&weight[2..]).enumerate() {
            axes.push(Axis::new(spec, axis, input, kernel)?);
        }
        let geometry = Geometry {
            batched,
            channels_last: spec.channels_last,
            groups,
            channels: weight[1],
            outputs: weight[0] / groups,
            axes,
        };
        // Bytes of the widest element, so that the answer does not depend on the dtype.
        let bytes = geometry.axes.iter().map(|a| a.output).chain([weight[0], 16]);
        // NumPy keeps the same bound when an axis is empty: it leaves out zeros.
        if bytes.filter(|&n| n != 0).try_fold(1isize, |p, n| p.checked_mul(n as isize)).is_none() {
            let shape = geometry.output_shape().into_iter().map(|n| n as u128).collect();
            return Err(Error::TooLarge { what: "the result", shape });
        }
        Ok(geometry)
    }

    /// The convolution whose adjoint is the transposed convolution of `x` with `weight`, `(channels
    /// of x, outputs / groups, *kernel)`: what is its input is the result, and its output is `x`.
    ///
    /// With more output padding than a stride, as a dilation allows, that convolution would have
    /// more outputs than `x`; it has those of `x`.
    pub fn transposed(
        spec: &Spec,
        x: &[usize],
        weight: &[usize],
        bias: Option<&[usize]>,
        size: &OutputSize,
    ) -> Result<Self, Error> {
        let rank = weight.len().saturating_sub(2);
        if rank == 0 || spec.rank.is_some_and(|asked| asked != rank) {
            return Err(Error::TransposedWeight { shape: weight.into(), rank: spec.rank });
        }
        let channels_last = spec.channels_last;
        if x.len() != rank + 1 && x.len() != rank + 2 {
            return Err(Error::InputRank { shape: x.into(), rank, channels_last });
        }
        if spec.groups < 1 {
            return Err(Error::Groups { groups: spec.groups });
        }
        let groups = spec.groups as usize;
        let first = x.len() - rank - 1;
        let channel_axis = if channels_last { x.len() - 1 } else { first };
        if x[channel_axis] != weight[0] {
            let other = if channels_last { first } else { x.len() - 1 };
            return Err(Error::TransposedChannels {
                found: x[channel_axis],
                axis: channel_axis,
                weight: weight[0],
                swapped: x[other] == weight[0],
                channels_last,
            });
        }
        if !weight[0].is_multiple_of(groups) {
            return Err(Error::ChannelsByGroups { channels: weight[0], groups });
        }
        let outputs = weight[1].checked_mul(groups).ok_or_else(|| Error::TooLarge {
            what: "the result",
            shape: vec![weight[1] as u128 * groups as u128],
        })?;
        if let Some(shape) = bias
            && shape != [outputs]
        {
            return Err(Error::Bias { shape: shape.into(), outputs });
        }
        match size {
            OutputSize::Padding(padding) => padding.check("output_padding", rank)?,
            OutputSize::Exact(sizes) => sizes.check("output_size", rank)?,
        }
        spec.stride.check("stride", rank)?;
        spec.dilation.check("dilation", rank)?;
        if let Padding::Sides(sides) = &spec.padding {
            sides.check("padding", rank)?;
        }
        let spatial = if channels_last { first } else { first + 1 };
        let mut result = x.to_vec();
        result[channel_axis] = outputs;
        for axis in 0..rank {
            let (input, kernel) = (x[spatial + axis], weight[axis + 2]);
            result[spatial + axis] = transposed_len(spec, axis, (input, kernel), size)?;
        }
        let mut geometry = Geometry::new(spec, &result, weight, None)?;
        for (axis, &len) in geometry.axes[1..].iter_mut().zip(&x[spatial..]) {
            axis.output = len;
        }
        // Bytes of the widest element, as for the result of a convolution.
        let bytes = result.iter().copied().chain([16]).filter(|&n| n != 0);
        if bytes.clone().try_fold(1isize, |p, n| p.checked_mul(n as isize)).is_none() {
            let shape = result.iter().map(|&n| n as u128).collect();
            return Err(Error::TooLarge { what: "the result", shape });
        }
        Ok(geometry)
    }

    /// Checks that `found` is the shape of the result, and tells which inputs would have it.
    pub fn check_gradient(&self, spec: &Spec, found: &[usize]) -> Result<(), Error> {
        let expected = self.output_shape();
        if found == expected {
            return Ok(());
        }
        let first =
            if self.channels_last { self.batched as usize } else { self.batched as usize + 1 };
        let spatial = first..first + self.axes.len() - 1;
        let others = |shape: &[usize]| {
            shape.iter().enumerate().all(|(i, &n)| spatial.contains(&i) || n == expected[i])
        };
        if found.len() == expected.len() && others(found) {
            let differs = spatial.clone().find(|&i| found[i] != expected[i]).unwrap_or(first);
            let (axis, found) = (&self.axes[differs - first + 1], found[differs]);
            let fits = axis.inputs(spec, found).filter(|_| found > 0);
            return Err(Error::GradientLength {
                axis: differs - first,
                found,
                input: axis.input,
                gives: axis.output,
                fits,
            });
        }
        Err(Error::Gradient { found: found.into(), expected: expected.as_slice().into() })
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Vec<usize> {
        self.shape(self.groups * self.channels, |axis| axis.input)
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Vec<usize> {
        self.shape(self.groups * self.outputs, |axis| axis.output)
    }

    /// The shape of an array of so many channels.
    fn shape(&self, channels: usize, len: impl Fn(&Axis) -> usize) -> Vec<usize> {
        let mut shape = Vec::with_capacity(self.axes.len() + 1);
        let batch = usize::from(self.batched);
        shape.extend(self.axes[..batch].iter().map(&len));
        if !self.channels_last {
            shape.push(channels);
        }
        shape.extend(self.axes[1..].iter().map(&len));
        if self.channels_last {
            shape.push(channels);
        }
        shape
    }

    /// Taps of one channel.
    pub fn kernel_taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// Output positions of one channel, the batch counted in.
    pub fn positions(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    /// Rows of the results of one image and output channel.
    pub fn image_rows(&self) -> f64 {
        let rows = &self.axes[1..self.axes.len() - 1];
        rows.iter().map(|axis| axis.output as f64).product()
    }

    /// Bytes of the input and the result of one image, of elements of some bytes.
    pub fn image_bytes(&self, element: usize) -> f64 {
        let of = |channels: usize, len: fn(&Axis) -> usize| {
            let spatial = self.axes[1..].iter().map(|axis| len(axis) as f64).product::<f64>();
            (self.groups * channels) as f64 * spatial
        };
        let elements = of(self.channels, |axis| axis.input) + of(self.outputs, |axis| axis.output);
        elements * element as f64
    }

    /// Floating-point operations: two for each tap of each output.
    pub fn flops(&self) -> f64 {
        let taps = self.channels as f64 * self.kernel_taps() as f64;
        2.0 * (self.groups * self.outputs) as f64 * self.positions() as f64 * taps
    }
}

/// Checks that `shape` is what `expected` says, for an array the caller provides for the result.
pub fn check_out_shape(found: &[usize], expected: &[usize]) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::OutShape { found: Shape(found.to_vec()), expected: Shape(expected.to_vec()) })
}

/// The greatest number that divides both.
pub(crate) fn gcd<N: Copy + Default + PartialEq + std::ops::Rem<Output = N>>(a: N, b: N) -> N {
    if b == N::default() { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(padding: Padding) -> Spec {
        Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding,
            dilation: PerAxis::All(1),
            groups: 1,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        }
    }

    fn sides(before: i64, after: i64) -> Padding {
        Padding::Sides(PerAxis::All((before, after)))
    }

    #[test]
    fn outputs_are_the_windows_that_fit() {
        for input in 1..8 {
            for kernel in 1..4 {
                for (stride, dilation) in [(1, 1), (2, 1), (3, 2), (1, 3)] {
                    for (before, after) in [(0, 0), (1, 1), (2, 0), (-1, 1), (0, -2), (4, 5)] {
                        let mut spec = spec(sides(before, after));
                        spec.stride = PerAxis::All(stride);
                        spec.dilation = PerAxis::All(dilation);
                        let padded = input + before + after;
                        let span = dilation * (kernel - 1) + 1;
                        let fits =
                            (0..).map(|i| i * stride + span).take_while(|&end| end <= padded);
                        let expected = fits.count();
                        let shape = [1, 1, input as usize];
                        match Geometry::new(&spec, &shape, &[1, 1, kernel as usize], None) {
                            Ok(geometry) => assert_eq!(geometry.axes[1].output, expected),
                            Err(Error::Crop { .. }) => {
                                assert!(input + before.min(0) + after.min(0) < 1)
                            }
                            Err(Error::KernelTooLarge { .. }) => assert_eq!(expected, 0),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn named_paddings_give_the_lengths_they_promise() {
        let output = |padding, stride| {
            let spec = Spec { stride: PerAxis::All(stride), ..spec(padding) };
            let geometry = Geometry::new(&spec, &[1, 1, 10], &[1, 1, 4], None).unwrap();
            let axis = geometry.axes[1];
            (axis.output, axis.before, axis.after)
        };
        assert_eq!(output(Padding::Valid, 1), (7, 0, 0));
        assert_eq!(output(Padding::Same, 1), (10, 1, 2));
        assert_eq!(output(Padding::Same, 3), (4, 1, 2));
        assert_eq!(output(Padding::Same, 4), (3, 1, 1));
        assert_eq!(output(Padding::SameLower, 1), (10, 2, 1));
        assert_eq!(output(Padding::Full, 1), (13, 3, 3));
        assert_eq!(output(Padding::Causal, 1), (10, 3, 0));
    }

    #[test]
    fn sizes_beyond_an_integer_are_errors() {
        let huge = usize::MAX / 4;
        let far = i64::MAX;
        let new =
            |spec: &Spec, x: &[usize], w: &[usize]| Geometry::new(spec, x, w, None).unwrap_err();
        assert!(matches!(new(&spec(sides(0, 0)), &[1, huge], &[8, 1, 1]), Error::TooLarge { .. }));
        assert!(matches!(new(&spec(sides(far, far)), &[1, 9], &[1, 1, 3]), Error::TooLarge { .. }));
        let wide = Spec { dilation: PerAxis::All(far), ..spec(Padding::Full) };
        assert!(matches!(new(&wide, &[1, 9], &[1, 1, 9]), Error::TooLarge { .. }));
        let wide = Spec { dilation: PerAxis::All(far), ..spec(sides(0, 0)) };
        assert!(matches!(new(&wide, &[1, 9], &[1, 1, 9]), Error::KernelTooLarge { .. }));
    }
}
