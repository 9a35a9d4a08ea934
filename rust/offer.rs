//! What a method says of a problem: what it would cost, or why it declines, and how it would go about it.

use std::borrow::Cow;

use crate::error::Error;

/// What a problem would take, in nanoseconds on one thread of a nominal machine (3 GHz with AVX-512). It
/// depends on the problem alone, never on the machine, so that "auto" gives the same bits everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// What is done with the weights alone, which a plan does once.
    pub weights: f64,
    /// All else.
    pub work: f64,
}

impl Cost {
    /// Both.
    pub fn whole(self) -> f64 {
        self.weights + self.work
    }
}

/// How exact a result must be, where methods and what they allow themselves differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the plain sum, in its order.
    Exact,
    /// About as the plain sum: with a bound of the error, or where that is of another kind with errors as
    /// measured, within three times its.
    #[default]
    High,
    /// Transforms of tiles may round more than that.
    Fast,
}

impl Precision {
    /// The name that `precision=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Exact => "exact",
            Precision::High => "high",
            Precision::Fast => "fast",
        }
    }

    /// The precision called `name`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let all = [Precision::Exact, Precision::High, Precision::Fast];
        all.into_iter().find(|precision| precision.name() == name).ok_or_else(|| Error::Name {
            argument: "precision",
            value: format!("{name:?}"),
            choices: "\"high\", \"fast\" or \"exact\"",
        })
    }
}

/// Why a method is not for a problem: a clause that can follow "because".
#[derive(Clone, Debug, PartialEq)]
pub enum Declined {
    /// It would be slower than the direct sum for certain: "auto" asks no further, `method=` still may.
    NotWorth(Cow<'static, str>),
    /// It cannot compute the problem.
    Cannot(Cow<'static, str>),
}

impl Declined {
    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Declined::NotWorth(reason) | Declined::Cannot(reason) => reason,
        }
    }
}

/// Floating-point operations a nanosecond of the nominal machine, in float32, and bytes that it moves to and
/// from memory.
const PEAK: f64 = 240.0;
const MEMORY: f64 = 30.0;

/// Bytes of its second-level cache; and of the last one, as many as a core may count on.
pub const NEAR_BYTES: f64 = 2097152.0;
const LAST_BYTES: f64 = 33554432.0;

/// Nanoseconds of a byte that no cache holds, beside what a method takes for it where one does (as fitted to the
/// direct sum, which most of the large shapes were timed with).
const LAST: f64 = 0.036;

/// The least nanoseconds in which the nominal machine could do some plain sums over some bytes: its roofline.
pub fn bound(flops: f64, bytes: f64, element: usize) -> f64 {
    (flops / PEAK * element as f64 / 4.0).max(bytes / MEMORY)
}

/// What it takes that arrays of so many bytes are larger than the nominal machine's caches: as long as a method
/// says for each that the second-level one does not hold, and for those beyond the last one alike.
pub fn far(bytes: f64, rate: f64) -> f64 {
    rate * (bytes - NEAR_BYTES).max(0.0) + LAST * (bytes - LAST_BYTES).max(0.0)
}

/// How a method computes a problem.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Floating-point operations that it takes; for transforms, about.
    pub flops: f64,
    /// Bytes that it takes beside its arrays, at most.
    pub workspace: usize,
    /// The k of its bound of the error, gamma(k) times the sum of the absolute values of all products;
    /// `None` where the bound is of another kind.
    pub roundings: Option<usize>,
    /// If that is of sums at points of transforms: by what it is multiplied, with the sum over channels of
    /// |w|_1 max |x| over a tile in the place of that sum.
    pub growth: Option<f64>,
    /// Binary logarithm of the numbers that are transformed together, on which the other bound depends.
    pub levels: Option<f64>,
    /// How each spatial axis is transformed by tiles, if it is.
    pub forms: Vec<Option<&'static str>>,
    /// Rows of a tile, and elements of its columns.
    pub tile: Option<(usize, usize)>,
    /// What its rows and its vectors are.
    pub roles: Option<(&'static str, &'static str)>,
    /// Outputs of a block, on each axis: the batch, then the spatial ones.
    pub block: Vec<usize>,
    /// Whether the input is read where it lies.
    pub in_place: bool,
}
