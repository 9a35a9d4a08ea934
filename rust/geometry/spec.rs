//! The options of a convolution, as they are given.

use crate::error::Error;

/// An option given once for all spatial axes or once an axis.
#[derive(Clone, Debug, PartialEq)]
pub enum PerAxis<T> {
    /// One value for every axis.
    All(T),
    /// One value an axis, outermost first.
    Each(Vec<T>),
}

impl<T: Clone> PerAxis<T> {
    pub(super) fn get(&self, axis: usize) -> T {
        match self {
            PerAxis::All(value) => value.clone(),
            PerAxis::Each(values) => values[axis].clone(),
        }
    }

    pub(super) fn check(&self, argument: &'static str, rank: usize) -> Result<(), Error> {
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
    pub(super) fn name(self) -> &'static str {
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

    /// The bounds that it keeps to.
    pub fn bounds(self) -> Option<(f64, f64)> {
        match self {
            Activation::None => None,
            Activation::Relu => Some((0.0, f64::INFINITY)),
            Activation::Clip { low, high } => Some((low, high)),
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
