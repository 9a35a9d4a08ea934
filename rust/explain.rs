//! What is known of a convolution before it is computed: which method "auto" takes, what each would cost
//! or why it declines, and how it would go about it. Numbers alone; the text is Python's.

use crate::contract::{self, Problem};
use crate::error::Error;
use crate::fft::{self, Transformed};
use crate::plan::{Cost, Declined, METHODS, Method};
use crate::separable;
use crate::tile::Kernels;

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
    /// Binary logarithm of the numbers that are transformed together, on which the other bound depends.
    pub levels: Option<f64>,
    /// Rows of a tile, and elements of its columns.
    pub tile: Option<(usize, usize)>,
    /// What its rows and its vectors are.
    pub roles: Option<(&'static str, &'static str)>,
    /// Outputs of a block, on each axis: the batch, then the spatial ones.
    pub block: Vec<usize>,
    /// Whether the input is read where it lies.
    pub in_place: bool,
}

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
pub fn candidates<T: Transformed>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Vec<Candidate>, Error> {
    let of = |method: Method| {
        let refuses = method.refuses(problem);
        let offer = method.offer(problem.geometry, size_of::<T>());
        let unsuited = offer.as_ref().ok().and_then(|_| method.suits(problem, false).err());
        let description = match refuses {
            None => Some(describe(method, problem, kernels, threads)?),
            Some(_) => None,
        };
        Ok(Candidate { method, offer, unsuited, refuses, description })
    };
    METHODS.into_iter().map(of).collect()
}

fn describe<T: Transformed>(
    method: Method,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    threads: usize,
) -> Result<Description, Error> {
    match method {
        Method::Direct => contract::describe(problem, kernels, threads),
        Method::Fft => fft::describe(problem.geometry, size_of::<T>(), threads),
        Method::Separable => Ok(separable::describe(problem.geometry, size_of::<T>(), threads)),
    }
}
