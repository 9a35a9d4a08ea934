//! Everything that can be wrong with a call: one variant a rule, the values inside, and a sentence
//! that names the argument, what it holds and the way out.

use std::fmt;

/// Which kind of mistake an [`Error`] is; the Python layer raises a class for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that cannot be (`ValueError`).
    Value,
    /// A type that cannot be (`TypeError`).
    Type,
    /// More memory than there can be (`MemoryError`).
    Memory,
}

/// A shape, printed as Python prints a tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(pub Vec<usize>);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "({one},)"),
            many => {
                let items: Vec<String> = many.iter().map(usize::to_string).collect();
                write!(f, "({})", items.join(", "))
            }
        }
    }
}

impl From<&[usize]> for Shape {
    fn from(shape: &[usize]) -> Self {
        Shape(shape.to_vec())
    }
}

/// Why a convolution cannot be: one variant a rule.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its message in `Display`, and its fields are the values there
pub enum Error {
    WeightRank {
        shape: Shape,
        rank: Option<usize>,
    },
    InputRank {
        shape: Shape,
        rank: usize,
        channels_last: bool,
    },
    Channels {
        found: usize,
        axis: usize,
        weight: usize,
        groups: usize,
        swapped: bool,
        channels_last: bool,
    },
    Groups {
        groups: i64,
    },
    OutputsByGroups {
        outputs: usize,
        groups: usize,
    },
    Bias {
        shape: Shape,
        outputs: usize,
    },
    EmptyKernel {
        axis: usize,
        shape: Shape,
    },
    TransposedWeight {
        shape: Shape,
        rank: Option<usize>,
    },
    TransposedChannels {
        found: usize,
        axis: usize,
        weight: usize,
        swapped: bool,
        channels_last: bool,
    },
    ChannelsByGroups {
        channels: usize,
        groups: usize,
    },
    Gradient {
        found: Shape,
        expected: Shape,
    },
    GradientLength {
        axis: usize,
        found: usize,
        input: usize,
        gives: usize,
        fits: Option<(i128, i128)>,
    },
    EmptyTransposed {
        axis: usize,
        input: usize,
        size: i128,
    },
    OutputPadding {
        axis: usize,
        value: i64,
        most: usize,
    },
    OutputSize {
        axis: usize,
        value: i64,
        least: i128,
        most: i128,
    },
    OutputSizeTwice,
    OutputPaddingSame,
    AccumulateWithoutOut,
    SamplesWithoutBatch,
    GradientRank {
        shape: Shape,
        rank: usize,
        channels_last: bool,
    },
    AxisCount {
        argument: &'static str,
        found: usize,
        rank: usize,
    },
    BelowOne {
        argument: &'static str,
        axis: usize,
        value: i64,
    },
    Crop {
        axis: usize,
        size: usize,
        before: i64,
        after: i64,
    },
    EmptyAxis {
        axis: usize,
        mode: &'static str,
    },
    KernelTooLarge {
        axis: usize,
        kernel: usize,
        dilation: usize,
        span: u128,
        input: usize,
        before: i64,
        after: i64,
    },
    TooLarge {
        what: &'static str,
        shape: Vec<u128>,
    },
    NoMemory {
        what: &'static str,
        bytes: u128,
    },
    Name {
        argument: &'static str,
        value: String,
        choices: &'static str,
    },
    Method {
        name: &'static str,
        reason: String,
    },
    WeightMethod {
        name: &'static str,
        reason: String,
    },
    Clip {
        low: f64,
        high: f64,
    },
    Dtype {
        argument: &'static str,
        dtype: String,
        long: bool,
    },
    WantedDtype {
        argument: &'static str,
        dtype: String,
    },
    NoCommonDtype {
        dtypes: String,
    },
    Accumulator {
        given: &'static str,
        natural: &'static str,
        least: &'static str,
    },
    RealOfComplex {
        natural: &'static str,
    },
    ActivationOfComplex {
        dtype: &'static str,
    },
    ClipOfUnsigned,
    NotWhole {
        argument: &'static str,
        value: String,
    },
    ComplexConstant {
        argument: &'static str,
    },
    MethodOfIntegers {
        method: &'static str,
    },
    MethodOfPrecision {
        method: &'static str,
    },
    ArgumentType {
        argument: &'static str,
        expected: String,
        found: String,
    },
    OutShape {
        found: Shape,
        expected: Shape,
    },
    OutDtype {
        found: String,
        expected: &'static str,
    },
    OutReadOnly,
    OutOverlap {
        argument: &'static str,
    },
    OutSelfOverlap {
        shape: Shape,
    },
    Threads {
        value: i64,
        most: usize,
    },
    Isa {
        value: String,
        available: String,
    },
    ThreadVariable {
        name: &'static str,
        value: String,
        most: usize,
    },
}

impl Error {
    /// The kind of mistake, which decides the class that Python raises.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Dtype { .. }
            | Error::WantedDtype { .. }
            | Error::NoCommonDtype { .. }
            | Error::Accumulator { .. }
            | Error::RealOfComplex { .. }
            | Error::ActivationOfComplex { .. }
            | Error::ClipOfUnsigned
            | Error::ComplexConstant { .. }
            | Error::ArgumentType { .. }
            | Error::OutDtype { .. } => Kind::Type,
            Error::TooLarge { .. } | Error::NoMemory { .. } => Kind::Memory,
            _ => Kind::Value,
        }
    }
}

impl std::error::Error for Error {}

/// An empty vector with room for `len` items. To be used wherever `len` grows with an argument:
/// memory that the system does not give is then an error, and not the end of the process.
pub fn room<T>(what: &'static str, len: usize) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    let bytes = len as u128 * size_of::<T>() as u128;
    items.try_reserve_exact(len).map_err(|_| Error::NoMemory { what, bytes })?;
    Ok(items)
}

/// What arrays may hold.
const DTYPES: &str = "bool, int8 to int64, uint8 to uint64, float16, bfloat16, float32, float64, complex64 \
                      and complex128";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::WeightRank { shape, rank: None } => write!(
                f,
                "weight has {} dimensions (shape {shape}), but needs at least 3: (outputs, \
                 channels / groups, *kernel); for one plain kernel pass weight[None, None]",
                shape.0.len()
            ),
            Error::WeightRank { shape, rank: Some(rank) } => {
                let found = shape.0.len();
                write!(
                    f,
                    "weight has {found} dimensions (shape {shape}), but conv{rank}d takes {}: \
                     (outputs, channels / groups, {rank} kernel {}); ",
                    rank + 2,
                    if *rank == 1 { "size" } else { "sizes" }
                )?;
                match found {
                    3..=5 => write!(f, "for this weight call conv{}d", found - 2),
                    6.. => write!(f, "for this weight call conv"),
                    _ => write!(f, "for one plain kernel pass weight[None, None]"),
                }
            }
            Error::InputRank { shape, rank, channels_last } => {
                let layout =
                    if *channels_last { "*spatial, channels" } else { "channels, *spatial" };
                write!(
                    f,
                    "x has {} dimensions (shape {shape}), but a weight with {rank} kernel {} takes {} \
                     (batch, {layout}) or {} ({layout})",
                    shape.0.len(),
                    if *rank == 1 { "axis" } else { "axes" },
                    rank + 2,
                    rank + 1
                )?;
                if shape.0.len() == *rank {
                    let index = if *channels_last { "x[..., None]" } else { "x[None]" };
                    write!(f, "; for one channel pass {index}")?;
                }
                Ok(())
            }
            Error::Channels { found, axis, weight, groups, swapped, channels_last } => {
                write!(
                    f,
                    "x has {found} channels (axis {axis}), but weight expects {} \
                     (weight.shape[1] * groups = {weight} * {groups})",
                    *weight as u128 * *groups as u128
                )?;
                match (swapped, channels_last) {
                    (true, false) => write!(f, "; is x channels-last? pass channels_last=True"),
                    (true, true) => write!(f, "; is x channels-first? pass channels_last=False"),
                    _ if *weight != 0
                        && *weight != *found
                        && found % weight == 0
                        && *groups == 1 =>
                    {
                        write!(f, "; is it grouped? pass groups={}", found / weight)
                    }
                    _ => Ok(()),
                }
            }
            Error::Groups { groups } => write!(f, "groups is {groups}, but must be at least 1"),
            Error::OutputsByGroups { outputs, groups } => write!(
                f,
                "weight has {outputs} outputs (weight.shape[0]), which groups={groups} does not divide; \
                 each group makes weight.shape[0] / groups of them"
            ),
            Error::Bias { shape, outputs } => write!(
                f,
                "bias has shape {shape}, but weight has {outputs} outputs; pass one number an output, \
                 shape ({outputs},)"
            ),
            Error::EmptyKernel { axis, shape } => write!(
                f,
                "weight has no taps: kernel axis {axis} (weight.shape[{}]) is 0 in shape {shape}; \
                 a kernel is at least 1 long on each axis",
                axis + 2
            ),
            Error::TransposedWeight { shape, rank } => {
                let takes = match rank {
                    Some(rank) => format!("conv_transpose{rank}d takes {}", rank + 2),
                    None => "needs at least 3".into(),
                };
                write!(
                    f,
                    "weight has {} dimensions (shape {shape}), but {takes}: (channels of x, outputs / \
                     groups, *kernel)",
                    shape.0.len()
                )
            }
            Error::TransposedChannels { found, axis, weight, swapped, channels_last } => {
                write!(
                    f,
                    "x has {found} channels (axis {axis}), but weight expects {weight} \
                     (weight.shape[0])"
                )?;
                match (swapped, channels_last) {
                    (true, false) => write!(f, "; is x channels-last? pass channels_last=True"),
                    (true, true) => write!(f, "; is x channels-first? pass channels_last=False"),
                    _ => Ok(()),
                }
            }
            Error::ChannelsByGroups { channels, groups } => write!(
                f,
                "x has {channels} channels, which groups={groups} does not divide; each group takes \
                 weight.shape[0] / groups of them"
            ),
            Error::Gradient { found, expected } => write!(
                f,
                "grad_output has shape {found}, but the convolution gives shape {expected}"
            ),
            Error::GradientLength { axis, found, input, gives, fits } => {
                write!(
                    f,
                    "grad_output is {found} long on spatial axis {axis}, but the convolution of an \
                     input of {input} gives {gives}; "
                )?;
                match fits {
                    Some((least, most)) if least == most => {
                        write!(f, "an input of {least} gives {found}")
                    }
                    Some((least, most)) => {
                        write!(f, "an input of {least} to {most} gives {found}")
                    }
                    None => write!(f, "no input gives {found}"),
                }
            }
            Error::EmptyTransposed { axis, input, size } => {
                write!(
                    f,
                    "the result would be {size} long on spatial axis {axis}, where x is {input}"
                )?;
                match input {
                    0 => write!(f, "; x must not be empty there"),
                    _ => write!(f, "; pass less padding, or output_size"),
                }
            }
            Error::OutputPadding { axis, value, most } => write!(
                f,
                "output_padding is {value} on spatial axis {axis}, but must be from 0 to {most}, less \
                 than the stride or the dilation"
            ),
            Error::OutputSize { axis, value, least, most } => write!(
                f,
                "output_size is {value} on spatial axis {axis}, but with these options it can be from \
                 {least} to {most}"
            ),
            Error::OutputSizeTwice => {
                write!(
                    f,
                    "output_padding and output_size both say how long the result is; pass one"
                )
            }
            Error::SamplesWithoutBatch => {
                write!(
                    f,
                    "per_sample=True keeps the images of a batch apart, but there is no batch axis"
                )
            }
            Error::GradientRank { shape, rank, channels_last } => {
                let layout =
                    if *channels_last { "*spatial, channels" } else { "channels, *spatial" };
                let axes = if *rank == 1 { "axis" } else { "axes" };
                write!(
                    f,
                    "grad_output has {} dimensions (shape {shape}), but (batch, {layout}) or \
                     ({layout}) is needed, with {} spatial {axes}",
                    shape.0.len(),
                    (*rank).max(1)
                )
            }
            Error::AccumulateWithoutOut => {
                write!(f, "accumulate=True adds to out; pass out, an array to add to")
            }
            Error::OutputPaddingSame => write!(
                f,
                "output_padding does not go with padding=\"same\", where the result is stride times as \
                 long as x; pass output_size for another length"
            ),
            Error::AxisCount { argument, found, rank } => write!(
                f,
                "{argument} has {found} {}, but there {} {rank} spatial {}; pass one for all or \
                 one an axis",
                if *found == 1 { "entry" } else { "entries" },
                if *rank == 1 { "is" } else { "are" },
                if *rank == 1 { "axis" } else { "axes" },
            ),
            Error::BelowOne { argument, axis, value } => {
                write!(f, "{argument} is {value} on spatial axis {axis}, but must be at least 1")
            }
            Error::Crop { axis, size, before, after } => write!(
                f,
                "padding ({before}, {after}) crops all of spatial axis {axis}, which is {size} long; \
                 negative padding may leave no fewer than 1"
            ),
            Error::EmptyAxis { axis, mode } => write!(
                f,
                "x is empty on spatial axis {axis}, so padding_mode={mode:?} has nothing to repeat; \
                 only padding_mode=\"zeros\" pads an empty axis"
            ),
            Error::KernelTooLarge { axis, kernel, dilation, span, input, before, after } => {
                write!(f, "kernel is {span} long on spatial axis {axis}")?;
                if *dilation != 1 {
                    write!(f, " ({kernel} taps with dilation {dilation})")?;
                }
                write!(
                    f,
                    ", but the padded input is {} ({input} with padding ({before}, {after})); \
                     pass a smaller kernel, or padding=\"same\" or \"full\"",
                    *input as i128 + *before as i128 + *after as i128
                )
            }
            Error::TooLarge { what, shape } => {
                let items: Vec<String> = shape.iter().map(u128::to_string).collect();
                write!(
                    f,
                    "{what} would have shape ({}), more bytes than an array can hold on this machine",
                    items.join(", ")
                )
            }
            Error::NoMemory { what, bytes } => write!(
                f,
                "{what} needs {bytes} bytes, which this machine does not give; pass a smaller kernel \
                 or dilation, or the input in parts"
            ),
            Error::Name { argument, value, choices } => {
                write!(f, "{argument} is {value}, but must be {choices}")
            }
            Error::Method { name, reason } => write!(
                f,
                "method is {name:?}, which cannot compute this convolution because {reason}; \
                 faltung.explain with the same arguments tells what each method would take"
            ),
            Error::WeightMethod { name, reason } => write!(
                f,
                "method is {name:?}, which cannot compute the gradient of weights because {reason}; pass \
                 method=\"auto\""
            ),
            Error::Clip { low, high } => write!(
                f,
                "activation (\"clip\", {low}, {high}) needs low <= high, neither of them NaN"
            ),
            Error::Dtype { argument, dtype, long: true } => write!(
                f,
                "{argument} has dtype {dtype}, which is computed in float64 only where that is asked for; \
                 pass dtype=numpy.float64 (or complex128)"
            ),
            Error::Dtype { argument, dtype, .. } => write!(
                f,
                "{argument} has dtype {dtype}, but {DTYPES} are supported; convert it, for example \
                 {argument}.astype(numpy.float32)"
            ),
            Error::WantedDtype { argument, dtype } => {
                write!(f, "{argument} is {dtype}, but must be one of {DTYPES}")
            }
            Error::NoCommonDtype { dtypes } => write!(
                f,
                "NumPy has no dtype for both of {dtypes}; convert one, for example \
                 x.astype(numpy.float32)"
            ),
            Error::Accumulator { given, natural, least } => write!(
                f,
                "accumulate is {given}, but sums of {natural} are kept in {least} or wider; pass \
                 accumulate=numpy.{least}"
            ),
            Error::RealOfComplex { natural } => write!(
                f,
                "dtype is real, but the result is {natural}; pass dtype=numpy.{natural} and take the \
                 real part of the result"
            ),
            Error::ActivationOfComplex { dtype } => write!(
                f,
                "activation compares numbers, which {dtype} ones do not allow; pass activation=None"
            ),
            Error::ClipOfUnsigned => write!(
                f,
                "activation does not clip uint64, whose sums are kept modulo 2**64; pass \
                 dtype=numpy.int64"
            ),
            Error::NotWhole { argument, value } => write!(
                f,
                "{argument} is {value}, but all arrays hold integers; pass a whole number, or \
                 dtype=numpy.float64"
            ),
            Error::ComplexConstant { argument } => {
                write!(
                    f,
                    "{argument} is complex, but x is real; pass a real number, or a complex x"
                )
            }
            Error::MethodOfIntegers { method } => write!(
                f,
                "method is \"{method}\", but integers are summed exactly, which only \"direct\" does; \
                 pass method=\"auto\", or dtype=numpy.float64"
            ),
            Error::MethodOfPrecision { method } => write!(
                f,
                "precision is \"exact\", but method is \"{method}\", which adds in another order than the \
                 plain sum; pass method=\"auto\" or \"direct\", or precision=\"high\""
            ),
            Error::ArgumentType { argument, expected, found } => {
                write!(f, "{argument} must be {expected}, not {found}")
            }
            Error::OutShape { found, expected } => write!(
                f,
                "out has shape {found}, but the result has shape {expected}; \
                 pass out=numpy.empty({expected}, dtype)"
            ),
            Error::OutDtype { found, expected } => write!(
                f,
                "out has dtype {found}, but the result is {expected} in native byte order; \
                 pass out=numpy.empty(shape, numpy.{expected}), or another dtype"
            ),
            Error::OutReadOnly => write!(f, "out is read-only; pass a writable array"),
            Error::OutOverlap { argument } => write!(
                f,
                "out shares memory with {argument}, which would change while it is still read; \
                 pass a separate array, or copy {argument} first"
            ),
            Error::OutSelfOverlap { shape } => write!(
                f,
                "out of shape {shape} has elements that share memory (as a broadcast view has); pass \
                 an array whose elements are distinct"
            ),
            Error::Threads { value, most } => write!(
                f,
                "threads is {value}, but must be from 1 to {most}; None takes the default"
            ),
            Error::Isa { value, available } => write!(
                f,
                "FALTUNG_ISA is {value:?}, but this machine has {available}; unset it to take the fastest"
            ),
            Error::ThreadVariable { name, value, most } => write!(
                f,
                "{name} is {value:?}, but must be a whole number from 1 to {most}; unset it to use every \
                 core this process may run on"
            ),
        }
    }
}
