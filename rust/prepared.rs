//! Weights as methods want them, which serve a call, or all calls of a plan.

use std::any::Any;
use std::convert::Infallible;
use std::sync::OnceLock;

/// What a method makes of weights.
pub trait Made: Any + Send + Sync {
    /// Bytes that it takes.
    fn bytes(&self) -> usize;
}

/// One of the things that are made: each has a place of its own.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// Packed for vectors of output channels.
    Packed,
    /// Transformed.
    Spectra,
    /// Transformed for tiles.
    Filters,
    /// Their exact factors, or that there are none.
    Factors,
    /// Their factors where near ones are asked for.
    NearFactors,
    /// Those of each tap by itself.
    Pointwise,
    /// Those of three products of complex numbers. What lies in the other places is of these, then.
    Three,
}

/// As many as there are.
const SLOTS: usize = Slot::Three as usize + 1;

/// A place for each thing that methods make of the weights of one element.
pub struct Prepared {
    /// Whether a plan keeps them, so that they cost its calls nothing.
    pub kept: bool,
    places: [OnceLock<Box<dyn Made>>; SLOTS],
}

impl Prepared {
    /// Empty places, of a plan or of one call.
    pub fn new(kept: bool) -> Self {
        Prepared { kept, places: [const { OnceLock::new() }; SLOTS] }
    }

    /// What is in a place, which `make` fills if it is empty: see [`once`].
    pub fn once<V: Made, E>(
        &self,
        slot: Slot,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<&V, E> {
        let made = once(&self.places[slot as usize], || Ok(Box::new(make()?) as Box<dyn Made>))?;
        let made: &dyn Any = &**made;
        Ok(made.downcast_ref().expect("one kind of thing goes to a slot"))
    }

    /// Bytes of all that is there.
    pub fn bytes(&self) -> usize {
        self.places.iter().filter_map(OnceLock::get).map(|made| made.bytes()).sum()
    }
}

/// Weights as each phase of the gradient of an input wants them.
#[derive(Default)]
pub struct Phases(OnceLock<Vec<Prepared>>);

impl Phases {
    /// Places for `count` of them, of a plan or of one call; `None` if there are places for others already,
    /// since a plan keeps them for one way of cutting its groups.
    pub fn of(&self, count: usize, kept: bool) -> Option<&[Prepared]> {
        let make = || Ok((0..count).map(|_| Prepared::new(kept)).collect());
        let Ok(places) = once::<_, Infallible>(&self.0, make);
        (places.len() == count).then_some(places)
    }

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
