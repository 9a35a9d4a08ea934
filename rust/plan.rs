//! Which method computes a convolution.
//!
//! [`METHODS`] is a list in which each method says what a problem would cost it, or declines. A new method
//! is one file and one row.

use crate::contract::{self, Problem};
use crate::error::Error;
use crate::fft::{self, Transformed};
use crate::geometry::Geometry;
use crate::parallel::{Stopped, Team};
use crate::tile::Kernels;
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
}

/// Nanoseconds of the direct sum below which no other method is asked: to choose blocks for transforms
/// takes some 15 microseconds.
const CHOICE: f64 = 40e3;

/// Every method, the reference first.
pub const METHODS: [Method; 3] = [Method::Direct, Method::Fft, Method::Winograd];

impl Method {
    /// The name that `method=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Method::Direct => "direct",
            Method::Fft => "fft",
            Method::Winograd => "winograd",
        }
    }

    /// The method called `name`, or `None` for "auto".
    pub fn parse(name: &str) -> Result<Option<Method>, Error> {
        match METHODS.into_iter().find(|method| method.name() == name) {
            None if name != "auto" => Err(Error::Name {
                argument: "method",
                value: format!("{name:?}"),
                choices: "\"auto\", \"direct\", \"fft\" or \"winograd\"",
            }),
            method => Ok(method),
        }
    }

    /// The predicted time in nanoseconds for elements of some bytes, on one thread of a nominal machine
    /// (3 GHz with AVX-512); `None` where it declines. It depends on the problem alone, never on the
    /// machine, so that "auto" gives the same bits everywhere.
    pub fn cost(self, geometry: &Geometry, element: usize) -> Option<f64> {
        match self {
            Method::Direct => Some(contract::cost(geometry, element)),
            Method::Fft => fft::cost(geometry, element),
            Method::Winograd => winograd::cost(geometry, element, false),
        }
    }

    /// The method that "auto" takes: the one of the least cost, but the direct sum, which rounds least,
    /// unless another saves a tenth.
    pub fn choose(geometry: &Geometry, element: usize) -> Self {
        if Method::Direct.cost(geometry, element).is_some_and(|cost| cost < CHOICE) {
            return Method::Direct;
        }
        let costs = METHODS.into_iter().filter_map(|method| {
            let bias = if method == Method::Direct { 0.9 } else { 1.0 };
            Some((method, bias * method.cost(geometry, element)?))
        });
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Method::Direct, |(method, _)| method)
    }
}

/// Computes a convolution by `method`, or by the one that "auto" takes.
pub fn run<T: Transformed>(
    method: Option<Method>,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    if method == Some(Method::Winograd) {
        winograd::check(problem.geometry)?;
    }
    match method.unwrap_or_else(|| Method::choose(problem.geometry, size_of::<T>())) {
        Method::Direct => contract::direct(problem, kernels, team),
        Method::Fft => fft::convolve(problem, kernels, team),
        Method::Winograd => winograd::convolve(problem, false, kernels, team),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};

    fn chosen(x: &[usize], weight: &[usize], groups: i64) -> &'static str {
        let spec = Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding: Padding::Same,
            dilation: PerAxis::All(1),
            groups,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        };
        Method::choose(&Geometry::new(&spec, x, weight, None).unwrap(), 4).name()
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
            (&[1, 3, 224, 224], &[64, 3, 7, 7], 1, "fft"),
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
            assert_eq!(chosen(x, weight, groups), method, "{x:?} {weight:?}");
        }
    }
}
