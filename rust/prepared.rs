//! Weights as methods want them, which a plan keeps from call to call.

use std::sync::OnceLock;

use crate::fft::Kept;
use crate::packed::Packed;
use crate::separable::Found;
use crate::tile::Tiled;
use crate::winograd::Filters;

/// A place for each method that makes something of the weights.
#[derive(Debug)]
pub struct Prepared<T> {
    /// Packed for vectors of output channels.
    pub packed: OnceLock<Packed<T>>,
    /// Transformed.
    pub spectra: OnceLock<Kept>,
    /// Transformed for tiles.
    pub filters: OnceLock<Filters<T>>,
    /// Their factors, or that there are none.
    pub factors: OnceLock<Found<T>>,
}

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Prepared {
            packed: OnceLock::new(),
            spectra: OnceLock::new(),
            filters: OnceLock::new(),
            factors: OnceLock::new(),
        }
    }
}

impl<T: Tiled> Prepared<T> {
    /// Bytes of all that is there.
    pub fn bytes(&self) -> usize {
        let packed = self.packed.get().map_or(0, Packed::bytes);
        let filters = self.filters.get().map_or(0, Filters::bytes);
        packed + filters + self.spectra.get().map_or(0, Kept::bytes)
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
