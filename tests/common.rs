//! What the tests and the benches of the crate share: random numbers, and convolutions with arrays
//! of their own.

#![allow(dead_code)] // neither of them uses all

use faltung::geometry::{Activation, Geometry, Spec};
use faltung::operand::Weights;
use faltung::parallel::{Stopped, Team};
use faltung::plan::{Asked, Planned};
use faltung::prepared::Prepared;
use faltung::problem::Problem;
use faltung::store::Store;
use faltung::tile::Kernels;
use faltung::view::{Element, View, ViewMut, contiguous};

/// Random numbers that are the same in every run (SplitMix64: Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn integer(&mut self, low: isize, high: isize) -> isize {
        low + (self.bits() % (high - low + 1) as u64) as isize
    }

    /// Numbers of either sign over twelve binades: what they add up to depends on the order. Integers
    /// have all of their bits.
    pub fn floats<T: Element>(&mut self, len: usize) -> Vec<T> {
        if T::SCALAR.is_integer() {
            return (0..len).map(|_| T::from_u64(self.bits())).collect();
        }
        let float = |_| {
            let mantissa = (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
            T::from_f64(mantissa * f64::powi(2.0, self.integer(-6, 6) as i32))
        };
        (0..len).map(float).collect()
    }
}

/// A convolution and its arrays, which lie in C order.
pub struct Convolution<T> {
    pub geometry: Geometry,
    pub x: Vec<T>,
    pub x_shape: Vec<usize>,
    pub weight: Vec<T>,
    weight_shape: Vec<usize>,
    pub flip: bool,
    pub padding: T,
    /// One number an output channel, or none at all.
    pub bias: Vec<T>,
    pub activation: Activation,
    /// The plain sum, unless it is set to something else.
    pub asked: Asked,
}

impl<T: Planned> Convolution<T> {
    /// Of random arrays, batched, with neither bias nor activation.
    pub fn random(spec: &Spec, x: &[usize], weight: &[usize]) -> Self {
        let mut random = Random(1);
        Convolution {
            geometry: Geometry::new(spec, x, weight, None).expect("a valid convolution"),
            x: random.floats(x.iter().product()),
            x_shape: x.into(),
            weight: random.floats(weight.iter().product()),
            weight_shape: weight.into(),
            flip: false,
            padding: T::default(),
            bias: Vec::new(),
            activation: Activation::None,
            asked: Asked::direct(),
        }
    }

    /// The input as the engine wants it: `[channel, batch, *spatial]`.
    pub fn view(&self) -> View<'_> {
        let mut view = View::from_slice(&self.x, &self.x_shape);
        for (a, b) in self.swaps() {
            view.swap_axes(a, b);
        }
        view
    }

    /// Computes it into `out`, which is in C order.
    pub fn run(&self, kernels: &Kernels<T>, team: &Team<'_>, out: &mut [T]) -> Result<(), Stopped> {
        let weight = View::from_slice(&self.weight, &self.weight_shape);
        let mut out = ViewMut::from_slice(out, &self.geometry.output_shape());
        for (a, b) in self.swaps() {
            out.swap_axes(a, b);
        }
        let problem = Problem {
            geometry: &self.geometry,
            x: &self.view(),
            weights: &Weights::new(&weight, &self.weight_shape, self.flip)?,
            prepared: &Prepared::new(false),
            padding: self.padding,
            exact: T::SCALAR.is_integer(),
            store: &Store { out, bias: &self.bias, activation: self.activation, accumulate: false },
        };
        T::run(self.asked, &problem, kernels, team)
    }

    /// The swaps of neighbouring axes that bring the channels to the front.
    fn swaps(&self) -> impl Iterator<Item = (usize, usize)> {
        let channels = if self.geometry.channels_last { self.x_shape.len() - 1 } else { 1 };
        (0..channels).rev().map(|axis| (axis, axis + 1))
    }

    /// Elements between neighbours of an array of `shape`, input or result, on the engine's axes.
    pub fn strides(&self, shape: &[usize]) -> Vec<usize> {
        let mut strides: Vec<usize> =
            contiguous(shape, 1).into_iter().map(|stride| stride as usize).collect();
        self.swaps().for_each(|(a, b)| strides.swap(a, b));
        strides
    }

    /// Elements of the result.
    pub fn out_len(&self) -> usize {
        self.geometry.output_shape().iter().product()
    }
}
