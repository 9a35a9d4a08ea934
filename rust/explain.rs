//! What is known of a convolution before it is computed: which method "auto" takes, what each would cost
//! or why it declines, and how it would go about it. Numbers alone; the text is Python's.

use crate::contract;
use crate::error::Error;
use crate::fft;
use crate::offer::{Cost, Declined, Description, Precision};
use crate::plan::{METHODS, Method};
use crate::pointwise;
use crate::problem::Problem;
use crate::separable;
use crate::tile::{Kernels, Tiled};
use crate::winograd;

/// One method, for a problem.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub method: Method,
    /// What it would cost, or why it declines to say.
    pub offer: Result<Cost, Declined>,
    /// Why it cannot keep that offer, under "auto".
    pub unsuited: Option<Declined>,
    /// Why it cannot be asked for by name.
    pub refuses: Option<Declined>,
    /// How it would compute the problem, where it can.
    pub description: Option<Description>,
}

/// What each method has to say of a problem, in the order of their list.
pub fn candidates<T: Tiled>(
    problem: &Problem<'_, T>,
    precision: Precision,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Vec<Candidate>, Error> {
    let of = |method: Method| {
        let refuses = method.refuses(problem, precision);
        let offer = method.offer(problem.geometry, size_of::<T>(), precision);
        let unsuited = offer.as_ref().ok().and_then(|_| method.suits(problem, false).err());
        let description = match refuses {
            None => Some(describe((method, precision), problem, kernels, threads)?),
            Some(_) => None,
        };
        Ok(Candidate { method, offer, unsuited, refuses, description })
    };
    METHODS.into_iter().map(of).collect()
}

fn describe<T: Tiled>(
    (method, precision): (Method, Precision),
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Description, Error> {
    match method {
        Method::Direct => contract::describe(problem, kernels, threads),
        Method::Fft => fft::describe(problem.geometry, size_of::<T>(), threads),
        Method::Winograd => winograd::describe(problem, precision, kernels, threads),
        Method::Separable => Ok(separable::describe(problem.geometry, size_of::<T>(), threads)),
        Method::Pointwise => Ok(pointwise::describe(problem.geometry, size_of::<T>(), threads)),
    }
}
