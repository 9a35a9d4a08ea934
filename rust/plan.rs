//! Which method computes a convolution.
//!
//! [`METHODS`] is a list in which each method says what a problem would cost it, or why it declines. A new
//! method is one file with an `offer` and a way to compute, and one row here.

use std::borrow::Cow;

use crate::contract;
use crate::error::Error;
use crate::fft::{self, Transformed};
use crate::geometry::{Axis, Geometry};
use crate::offer::{Cost, Declined, Precision};
use crate::parallel::{Stopped, Team};
use crate::pointwise;
use crate::problem::Problem;
use crate::separable;
use crate::tile::{Kernels, Tiled};
use crate::winograd;

/// A way of computing a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Sums of products over shifted views of the input: exact on integers, and the reference.
    Direct,
    /// Products of transforms, for long kernels.
    Fft,
    /// Transforms of small tiles, for kernels of three.
    Winograd,
    /// Passes along the axes, for kernels of rank one.
    Separable,
    /// Sums over channels a tap at a time, for many channels and few outputs.
    Pointwise,
}

/// What a call asks of the choice of a method.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// A method by its name, or `None` for the one that "auto" takes.
    pub method: Option<Method>,
    /// How exact it must be.
    pub precision: Precision,
}

impl Asked {
    /// Checks that the two go together.
    pub fn new(method: Option<Method>, precision: Precision) -> Result<Self, Error> {
        match method {
            Some(method) if !method.keeps(precision) => {
                Err(Error::MethodOfPrecision { method: method.name() })
            }
            _ => Ok(Asked { method, precision }),
        }
    }

    /// The plain sum, whatever else there is.
    pub fn direct() -> Self {
        Asked { method: Some(Method::Direct), precision: Precision::Exact }
    }

    /// The method that it comes to.
    pub fn choose<T: Tiled>(self, problem: &Problem<'_, T>) -> Method {
        self.method.unwrap_or_else(|| Method::choose(problem, self.precision))
    }
}

/// Every method, the reference first.
pub const METHODS: [Method; 5] =
    [Method::Direct, Method::Fft, Method::Winograd, Method::Separable, Method::Pointwise];

/// Why only the plain sum is for integers.
const INEXACT: Declined = Declined::Cannot(Cow::Borrowed("integers are summed exactly"));

/// Why only the plain sum is exact.
const ROUNDS: Declined = Declined::Cannot(Cow::Borrowed(
    "it adds in another order than the plain sum, and precision is \"exact\"",
));

/// Nanoseconds of the direct sum below which no other method is asked, which takes a few microseconds once its
/// blocks are known: of 2600 random shapes, the shortest of which another saved a tenth took 17.7 microseconds
/// (Sapphire Rapids).
const CHOICE: f64 = 15e3;

/// What another method must take of the direct sum's time to be preferred to it, which rounds least.
pub const PREFERRED: f64 = 0.9;

/// Floating-point operations that no method is asked about, not even the direct sum: to say what it would cost
/// takes a microsecond.
const CHOICE_FLOPS: f64 = 5e5;

/// Whether the direct sum is taken without asking any other method.
pub fn is_small(geometry: &Geometry, element: usize) -> bool {
    geometry.flops() < CHOICE_FLOPS || contract::offer(geometry, element).whole() < CHOICE
}

impl Method {
    /// The name that `method=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Method::Direct => "direct",
            Method::Fft => "fft",
            Method::Winograd => "winograd",
            Method::Separable => "separable",
            Method::Pointwise => "pointwise",
        }
    }

    /// The method called `name`, or `None` for "auto".
    pub fn parse(name: &str) -> Result<Option<Method>, Error> {
        match METHODS.into_iter().find(|method| method.name() == name) {
            None if name != "auto" => Err(Error::Name {
                argument: "method",
                value: format!("{name:?}"),
                choices: "\"auto\", \"direct\", \"fft\", \"winograd\", \"separable\" or \"pointwise\"",
            }),
            method => Ok(method),
        }
    }

    /// Whether it is as exact as that asks for, some way or other.
    fn keeps(self, precision: Precision) -> bool {
        self == Method::Direct || precision != Precision::Exact
    }

    /// What a convolution of elements of some bytes would cost it, or why it declines.
    pub fn offer(
        self,
        geometry: &Geometry,
        element: usize,
        precision: Precision,
    ) -> Result<Cost, Declined> {
        match self {
            _ if !self.keeps(precision) => Err(ROUNDS),
            Method::Direct => Ok(contract::offer(geometry, element)),
            Method::Fft => fft::offer(geometry, element),
            Method::Winograd => winograd::offer(geometry, element, precision),
            Method::Separable => separable::offer(geometry, element),
            Method::Pointwise => pointwise::offer(geometry, element),
        }
    }

    /// Whether it can keep its offer, for which some must see more than a geometry. `asked` for by name, it
    /// may be less exact than under "auto".
    pub fn suits<T: Tiled>(self, problem: &Problem<'_, T>, asked: bool) -> Result<(), Declined> {
        match self {
            Method::Direct => Ok(()),
            _ if problem.exact => Err(INEXACT),
            Method::Fft | Method::Winograd => Ok(()),
            Method::Separable => separable::suits(problem, asked),
            Method::Pointwise => pointwise::suits(problem),
        }
    }

    /// The method that "auto" takes: the one of the least cost, but the direct sum, which rounds least,
    /// unless another saves a tenth. A batch gets what each of its images gets alone, so that bits agree.
    fn choose<T: Tiled>(problem: &Problem<'_, T>, precision: Precision) -> Self {
        if problem.exact || problem.geometry.flops() < CHOICE_FLOPS {
            return Method::Direct;
        }
        let mut image = problem.geometry.clone();
        image.axes[0] = Axis::plain(image.axes[0].output.min(1));
        let suits = |method: Method| method.suits(problem, false).is_ok();
        Method::best(&image, size_of::<T>(), precision, suits)
    }

    /// The same, where `suits` tells which methods keep their offers. It is asked of the best alone.
    fn best(
        geometry: &Geometry,
        element: usize,
        precision: Precision,
        suits: impl Fn(Method) -> bool,
    ) -> Self {
        if precision == Precision::Exact || is_small(geometry, element) {
            return Method::Direct;
        }
        let direct = contract::offer(geometry, element).whole();
        let mut rivals: Vec<(Method, f64)> = METHODS[1..]
            .iter()
            .filter_map(|&method| {
                Some((method, method.offer(geometry, element, precision).ok()?.whole()))
            })
            .filter(|&(_, cost)| cost < PREFERRED * direct)
            .collect();
        rivals.sort_by(|a, b| a.1.total_cmp(&b.1));
        rivals.into_iter().find(|&(method, _)| suits(method)).map_or(Method::Direct, |best| best.0)
    }

    /// The predicted time of the one that "auto" takes for a geometry, whatever the weights are, but not a tap at a
    /// time.
    pub fn least(geometry: &Geometry, element: usize, precision: Precision) -> f64 {
        let direct = contract::part(geometry, element).whole();
        let of = |method: Method| method.offer(geometry, element, precision).ok().map(Cost::whole);
        if direct < CHOICE || precision == Precision::Exact {
            return direct;
        }
        [Method::Fft, Method::Winograd].into_iter().filter_map(of).fold(direct, f64::min)
    }

    /// Why it cannot compute a problem that it was asked for by name, if so.
    pub fn refuses<T: Tiled>(
        self,
        problem: &Problem<'_, T>,
        precision: Precision,
    ) -> Option<Declined> {
        let offer = self.offer(problem.geometry, size_of::<T>(), precision).map(|_| ());
        let cannot = |declined: &Declined| matches!(declined, Declined::Cannot(_));
        match offer {
            Err(declined) if cannot(&declined) => Some(declined),
            _ => self.suits(problem, true).err().filter(cannot),
        }
    }
}

/// Computes a convolution as it is asked for.
pub fn run<T: Transformed>(
    asked: Asked,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let method = asked.choose(problem);
    let by_name = asked.method.is_some();
    if by_name && let Some(declined) = method.refuses(problem, asked.precision) {
        let reason = declined.reason().to_owned();
        return Err(Error::Method { name: method.name(), reason }.into());
    }
    match method {
        Method::Direct => contract::direct(problem, kernels, team),
        Method::Fft => fft::convolve(problem, kernels, team),
        Method::Winograd => winograd::convolve(problem, asked.precision, kernels, team),
        Method::Separable => separable::convolve(problem, by_name, kernels, team),
        Method::Pointwise => pointwise::convolve(problem, kernels, team),
    }
}

/// An element that convolutions are computed with.
pub trait Planned: Tiled {
    /// Computes a convolution as it is asked for.
    fn run(
        asked: Asked,
        problem: &Problem<'_, Self>,
        kernels: &Kernels<Self>,
        team: &Team<'_>,
    ) -> Result<(), Stopped>;
}

macro_rules! planned {
    ($element:ident, $run:expr) => {
        impl Planned for $element {
            fn run(
                asked: Asked,
                problem: &Problem<'_, Self>,
                kernels: &Kernels<Self>,
                team: &Team<'_>,
            ) -> Result<(), Stopped> {
                $run(asked, problem, kernels, team)
            }
        }
    };
}

/// Integers have but the plain sum: it is exact, and others are not.
fn integers<T: Tiled>(
    _: Asked,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    contract::direct(problem, kernels, team)
}

planned!(f32, run);
planned!(f64, run);
planned!(i32, integers);
planned!(i64, integers);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};

    fn geometry(x: &[usize], weight: &[usize], groups: i64) -> Geometry {
        let spec = Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding: Padding::Same,
            dilation: PerAxis::All(1),
            groups,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        };
        Geometry::new(&spec, x, weight, None).unwrap()
    }

    #[test]
    fn methods_are_chosen_by_shape() {
        for (x, weight, groups, method) in [
            (&[1usize, 64, 56, 56][..], &[64usize, 64, 3, 3][..], 1, "winograd"),
            (&[1, 256, 14, 14], &[256, 256, 3, 3], 1, "winograd"),
            (&[1, 512, 7, 7], &[512, 512, 3, 3], 1, "direct"),
            (&[1, 3, 224, 224], &[32, 3, 3, 3], 1, "direct"),
            (&[1, 144, 56, 56], &[144, 1, 3, 3], 144, "direct"),
            (&[1, 64, 8, 56, 56], &[128, 64, 3, 3, 3], 1, "winograd"),
            (&[1, 3, 224, 224], &[64, 3, 9, 9], 1, "fft"),
            (&[1, 96, 56, 56], &[96, 1, 7, 7], 96, "direct"),
            (&[1, 1, 8, 8], &[1, 1, 3, 3], 1, "direct"),
            (&[1, 1, 8, 8], &[1, 1, 7, 7], 1, "direct"),
            (&[1, 1, 480_000], &[1, 1, 1025], 1, "fft"),
            (&[1, 1, 480_000], &[1, 1, 101], 1, "fft"),
            (&[1, 1, 1080, 1920], &[1, 1, 31, 31], 1, "fft"),
            (&[1, 128, 56, 56], &[128, 1, 31, 31], 128, "fft"),
            (&[8, 64, 4096], &[64, 64, 64], 1, "fft"),
            (&[1, 16, 64, 64], &[16, 16, 15, 15], 1, "fft"),
        ] {
            let geometry = geometry(x, weight, groups);
            let best = |precision| {
                Method::best(&geometry, 4, precision, |method| method != Method::Separable).name()
            };
            assert_eq!(best(Precision::High), method, "{x:?} {weight:?}");
            assert_eq!(best(Precision::Exact), "direct");
        }
    }

    #[test]
    fn a_method_says_why_it_declines() {
        let small = geometry(&[1, 1, 80, 80], &[1, 1, 3, 3], 1);
        let declined = Method::Fft.offer(&small, 4, Precision::High).unwrap_err();
        assert!(declined.reason().starts_with("the kernel has 9 taps"), "{declined:?}");
        // That it is slow is no reason against asking for it.
        assert!(matches!(declined, Declined::NotWorth(_)));
        let channels = geometry(&[1, 3, 80, 80], &[1, 3, 9, 9], 1);
        let separable = Method::Separable.offer(&channels, 4, Precision::High);
        assert!(matches!(separable, Err(Declined::Cannot(_))));
        let empty = geometry(&[0, 1, 80, 80], &[1, 1, 9, 9], 1);
        assert!(Method::Fft.offer(&empty, 4, Precision::High).is_err());
        assert!(Method::Direct.offer(&empty, 4, Precision::Exact).is_ok());
    }
}
