//! Weights as methods want them, which serve a call, or all calls of a plan.

use std::convert::Infallible;
use std::sync::OnceLock;

use crate::complex;
use crate::fft::Kept;
use crate::packed::Packed;
use crate::separable::Found;
use crate::tile::Tiled;
use crate::winograd::Filters;

/// A place for each method that makes something of the weights.
#[derive(Debug)]
pub struct Prepared<T> {
    /// Whether a plan keeps them, so that they cost its calls nothing.
    pub kept: bool,
    /// Packed for vectors of output channels.
    pub packed: OnceLock<Packed<T>>,
    /// Transformed.
    pub spectra: OnceLock<Kept>,
    /// Transformed for tiles.
    pub filters: OnceLock<Filters<T>>,
    /// Their factors, or that there are none: exact ones, and near ones.
    pub factors: [OnceLock<Found<T>>; 2],
    /// Those of three products of complex numbers. The others are of these, then.
    pub three: OnceLock<complex::Packed>,
}

impl<T> Prepared<T> {
    /// Empty places, of a plan or of one call.
    pub fn new(kept: bool) -> Self {
        Prepared {
            kept,
            packed: OnceLock::new(),
            spectra: OnceLock::new(),
            filters: OnceLock::new(),
            factors: [const { OnceLock::new() }; 2],
            three: OnceLock::new(),
        }
    }
}

impl<T: Tiled> Prepared<T> {
    /// Bytes of all that is there.
    pub fn bytes(&self) -> usize {
        let packed = self.packed.get().map_or(0, Packed::bytes);
        let filters = self.filters.get().map_or(0, Filters::bytes);
        let three = self.three.get().map_or(0, complex::Packed::bytes);
        packed + filters + three + self.spectra.get().map_or(0, Kept::bytes)
    }
}

/// Weights as each phase of the gradient of an input wants them.
#[derive(Debug)]
pub struct Phases<T>(OnceLock<Vec<Prepared<T>>>);

impl<T> Default for Phases<T> {
    fn default() -> Self {
        Phases(OnceLock::new())
    }
}

impl<T> Phases<T> {
    /// Places for `count` of them, of a plan or of one call; `None` if there are places for others already,
    /// since a plan keeps them for one way of cutting its groups.
    pub fn of(&self, count: usize, kept: bool) -> Option<&[Prepared<T>]> {
        let make = || Ok((0..count).map(|_| Prepared::new(kept)).collect());
        let Ok(places) = once::<_, Infallible>(&self.0, make);
        (places.len() == count).then_some(places)
    }
}

impl<T: Tiled> Phases<T> {
    /// Bytes of all that is there.
    pub fn bytes(&self) -> usize {
        self.0.get().map_or(0, |places| places.iter().map(Prepared::bytes).sum())
    }
}

/// What is in a place, which `make` fills if it is empty. Two calls that find nothing there both make it,
/// since neither may wait for the other (a thread that forks would leave it waiting for good), and one's
/// is kept.
pub fn once<V, E>(place: &OnceLock<V>, make: impl FnOnce() -> Result<V, E>) -> Result<&V, E> {
    match place.get() {
        Some(made) => Ok(made),
        None => {
            let made = make()?;
            Ok(place.get_or_init(|| made))
        }
    }
}
