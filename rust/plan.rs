//! Which method computes a convolution.
//!
//! [`METHODS`] is an ordered list: the first that accepts a problem takes it, the reference last. A
//! new method is one file and one row.

use crate::contract::{self, Problem};
use crate::error::Error;
use crate::fft::{self, Transformed};
use crate::geometry::Geometry;
use crate::parallel::{Stopped, Team};
use crate::tile::Kernels;

/// A way of computing a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Sums of products over shifted views of the input: exact on integers, and the reference.
    Direct,
    /// Products of transforms, for long kernels.
    Fft,
}

/// Every method, in the order in which they are asked.
pub const METHODS: [Method; 2] = [Method::Direct, Method::Fft];

impl Method {
    /// The name that `method=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Method::Direct => "direct",
            Method::Fft => "fft",
        }
    }

    /// The method called `name`, or `None` for "auto".
    pub fn parse(name: &str) -> Result<Option<Method>, Error> {
        match METHODS.into_iter().find(|method| method.name() == name) {
            None if name != "auto" => Err(Error::Name {
                argument: "method",
                value: format!("{name:?}"),
                choices: "\"auto\", \"direct\" or \"fft\"",
            }),
            method => Ok(method),
        }
    }

    /// Whether it can do a problem. It may ask for the problem alone, never for the machine, so that
    /// "auto" gives the same bits everywhere.
    fn accepts(self, _: &Geometry) -> bool {
        match self {
            Method::Direct => true,
            Method::Fft => false,
        }
    }
}

/// Computes a convolution by `method`, or by the first that accepts it.
pub fn run<T: Transformed>(
    method: Option<Method>,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let accepts = |method: &Method| method.accepts(problem.geometry);
    match method.or_else(|| METHODS.into_iter().find(accepts)) {
        Some(Method::Fft) => fft::convolve(problem, kernels, team),
        Some(Method::Direct) | None => contract::direct(problem, kernels, team),
    }
}
