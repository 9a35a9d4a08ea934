//! What a convolution is: shapes and options in, a [`Geometry`] out.
//!
//! All validation is here. Whatever holds a `Geometry` may rely on every size, sum and product that
//! it needs being representable, so nothing after it fails.

use crate::error::{Error, Shape};

/// An option given once for all spatial axes or once an axis.
#[derive(Clone, Debug, PartialEq)]
pub enum PerAxis<T> {
    /// One value for every axis.
    All(T),
    /// One value an axis, outermost first.
    Each(Vec<T>),
}

impl<T: Clone> PerAxis<T> {
    fn get(&self, axis: usize) -> T {
        match self {
            PerAxis::All(value) => value.clone(),
            PerAxis::Each(values) => values[axis].clone(),
        }
    }

    fn check(&self, argument: &'static str, rank: usize) -> Result<(), Error> {
        match self {
            PerAxis::Each(values) if values.len() != rank => {
                Err(Error::AxisCount { argument, found: values.len(), rank })
            }
            _ => Ok(()),
        }
    }
}

/// How much padding each side of an axis gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Padding {
    /// (before, after); negative crops.
    Sides(PerAxis<(i64, i64)>),
    /// None: only whole windows.
    Valid,
    /// Output = ceil(input / stride), the odd one after (TensorFlow's "SAME", ONNX's `SAME_UPPER`).
    Same,
    /// The same with the odd one before (ONNX's `SAME_LOWER`).
    SameLower,
    /// dilation * (kernel - 1) on both sides: every window that touches the input.
    Full,
    /// dilation * (kernel - 1) before: no output sees later input.
    Causal,
}

/// What lies outside the input. The names mean what they mean to `numpy.pad` and PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingMode {
    /// One value everywhere.
    Constant,
    /// `d c b | a b c d | c b a`
    Reflect,
    /// `c b a | a b c d | d c b`
    Symmetric,
    /// `a a a | a b c d | d d d`
    Replicate,
    /// `b c d | a b c d | a b c`
    Circular,
}

impl PaddingMode {
    /// The name that errors print.
    fn name(self) -> &'static str {
        match self {
            PaddingMode::Constant => "zeros",
            PaddingMode::Reflect => "reflect",
            PaddingMode::Symmetric => "symmetric",
            PaddingMode::Replicate => "replicate",
            PaddingMode::Circular => "circular",
        }
    }
}

/// What is applied to each output after its bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(y, 0), as `numpy.maximum` has it: NaN stays NaN.
    Relu,
    /// min(max(y, low), high), as `numpy.clip` has it: NaN stays NaN.
    Clip {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
    },
}

impl Activation {
    /// A clip between two bounds.
    pub fn clip(low: f64, high: f64) -> Result<Self, Error> {
        if low <= high {
            Ok(Activation::Clip { low, high })
        } else {
            Err(Error::Clip { low, high })
        }
    }
}

/// The options of a convolution as they were given, unchecked.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Spatial axes that the caller asks for; `None` takes them from the weight.
    pub rank: Option<usize>,
    /// Output positions lie this far apart in the input.
    pub stride: PerAxis<i64>,
    /// Padding of each side.
    pub padding: Padding,
    /// Taps lie this far apart in the input.
    pub dilation: PerAxis<i64>,
    /// Channels are split into this many independent groups.
    pub groups: i64,
    /// What lies outside.
    pub mode: PerAxis<PaddingMode>,
    /// Whether channels are the last axis of x and of the result.
    pub channels_last: bool,
}

/// How long the result of a transposed convolution is.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputSize {
    /// So much longer than the shortest that it can be.
    Padding(PerAxis<i64>),
    /// So long on each spatial axis.
    Exact(PerAxis<i64>),
}

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

    fn new(spec: &Spec, axis: usize, input: usize, kernel: usize) -> Result<Self, Error> {
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
}

impl Axis {
    /// The least and the greatest input that has `output` positions.
    fn inputs(&self, spec: &Spec, output: usize) -> Option<(i128, i128)> {
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
fn transposed_len(
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
        let mut shape: Vec<usize> =
            self.axes[..self.batched as usize].iter().map(|a| a.input).collect();
        let spatial = self.axes[1..].iter().map(|a| a.input);
        let channels = self.groups * self.channels;
        if self.channels_last {
            shape.extend(spatial.chain([channels]));
        } else {
            shape.extend([channels].into_iter().chain(spatial));
        }
        shape
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Vec<usize> {
        let batch = self.axes[..self.batched as usize].iter();
        let spatial = self.axes[1..].iter().map(|a| a.output);
        let channels = self.groups * self.outputs;
        let mut shape: Vec<usize> = batch.map(|a| a.output).collect();
        if self.channels_last {
            shape.extend(spatial.chain([channels]));
        } else {
            shape.extend([channels].into_iter().chain(spatial));
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
