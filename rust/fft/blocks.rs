//! Blocks of a convolution in memory: which element lies where, and what is read to fill one.

use std::any::Any;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::slab::{row, split};
use crate::view::{Run, Runs, advance};

use super::block::{Transform, Transformed};
use super::tiling::Tiling;

/// Blocks and their transform, with where elements lie in a block.
#[derive(Debug)]
pub struct Blocks<T> {
    /// How the convolution is cut.
    pub tiling: Arc<Tiling>,
    /// Of one block.
    pub transform: Transform<T>,
    /// Elements between neighbours on each axis.
    pitches: Vec<usize>,
}

impl<T: Transformed> Blocks<T> {
    /// Of a tiling, for vectors of some lanes.
    fn new(tiling: Arc<Tiling>, lanes: usize) -> Result<Self, Error> {
        let transform = Transform::new(&tiling.shape, lanes)?;
        let mut pitches = vec![0; tiling.sides.len()];
        let mut pitch = 1;
        for (a, side) in tiling.sides.iter().enumerate().rev() {
            if side.size > 1 || a == tiling.inner {
                pitches[a] = pitch;
                pitch = if a == tiling.inner { transform.pitch() } else { pitch * side.size };
            }
        }
        Ok(Blocks { tiling, transform, pitches })
    }

    /// Where element `q` of an axis lies.
    pub fn place(&self, axis: usize, q: usize) -> usize {
        if axis != self.tiling.fold {
            return q * self.pitches[axis];
        }
        let half = self.tiling.sides[axis].size / 2;
        if q < half {
            q * self.pitches[axis]
        } else {
            self.transform.plane() + (q - half) * self.pitches[axis]
        }
    }

    /// The element of each axis that lies at `at`.
    pub fn coordinates(&self, at: usize) -> Vec<usize> {
        let plane = self.transform.plane();
        let mut left = at % plane;
        let mut found: Vec<usize> = self
            .pitches
            .iter()
            .map(|&pitch| {
                let q = left.checked_div(pitch).unwrap_or(0);
                left -= q * pitch;
                q
            })
            .collect();
        found[self.tiling.fold] += at / plane * (self.tiling.sides[self.tiling.fold].size / 2);
        found
    }

    /// Channels and their phases.
    pub fn inputs(&self, geometry: &Geometry) -> usize {
        geometry.channels * self.tiling.phases()
    }

    /// The phase of each axis that phase `index` of a channel is.
    pub fn phase(&self, index: usize) -> Vec<usize> {
        let mut left = index;
        let mut phase = vec![0; self.tiling.sides.len()];
        for (to, side) in phase.iter_mut().zip(&self.tiling.sides).rev() {
            *to = left % side.phases.len();
            left /= side.phases.len();
        }
        phase
    }

    /// Blocks of all images.
    pub fn count(&self, geometry: &Geometry) -> usize {
        geometry.axes[0].output * self.tiling.blocks().product::<usize>()
    }

    /// The outputs of block `index`, on each axis.
    pub fn outputs(&self, index: usize) -> Vec<Range<usize>> {
        let counts: Vec<usize> = self.tiling.blocks().collect();
        let mut left = index;
        let mut ranges = vec![0..0; counts.len()];
        for ((range, n), side) in ranges.iter_mut().zip(counts).zip(&self.tiling.sides).rev() {
            let start = left % n * side.len;
            *range = start..side.axis.output.min(start + side.len);
            left /= n;
        }
        // These blocks are of one image, whichever it is.
        ranges[0] = left..left + 1;
        ranges
    }

    /// Calls `each` with where every row of a block's first elements begins, `counts` on each axis, and
    /// with its index.
    pub fn rows(&self, counts: &[usize], mut each: impl FnMut(usize, &[usize])) {
        let mut outer = counts.to_vec();
        outer[self.tiling.inner] = 1;
        let mut index = vec![0; outer.len()];
        for _ in 0..outer.iter().product() {
            let at = index.iter().enumerate().map(|(a, &i)| self.place(a, i)).sum();
            each(at, &index);
            advance(&mut index, &outer);
        }
    }

    /// The runs that fill a block of one phase.
    pub fn runs(
        &self,
        geometry: &Geometry,
        outputs: &[Range<usize>],
        phase: &[usize],
        strides: &[isize],
    ) -> Runs {
        let mut runs = vec![Run { to: 0, len: 1, from: Some((0, 0)) }];
        let inner = self.tiling.inner;
        // The inner axis last: it alone has runs of more than one.
        let order = (0..self.pitches.len()).filter(|&a| a != inner).chain([inner]);
        for a in order {
            let (side, range) = (&self.tiling.sides[a], &outputs[a]);
            let axis = &geometry.axes[a];
            let count = range.len() + side.reach;
            let first = range.start * axis.stride + side.phases[phase[a]].residue;
            let mut along = Vec::new();
            row(axis, first..first + count * axis.stride, strides[a], &mut along);
            if a != inner {
                split(&mut along, 0);
            }
            along.iter_mut().for_each(|run| run.to = self.place(a, run.to));
            let join = |outer: &Run, inner: &Run| Run {
                to: outer.to + inner.to,
                len: inner.len,
                from: outer.from.zip(inner.from).map(|((row, _), (at, step))| (row + at, step)),
            };
            runs = runs.iter().flat_map(|o| along.iter().map(move |i| join(o, i))).collect();
        }
        Runs::new(runs)
    }
}

/// What a thread keeps of the last few problems: their tilings take some 20 us to choose, and the tables
/// of a transform of 4096 numbers some 100 us to make, more than a small call. A thread's own, since a
/// lock that another held in a fork would never be released in the child.
struct Kept {
    /// With a batch of one, and channels first: neither matters to blocks.
    geometry: Geometry,
    element: usize,
    tiling: Arc<Tiling>,
    /// Blocks of one number of lanes.
    blocks: Option<Arc<dyn Any + Send + Sync>>,
}

/// Most problems that are kept.
const KEPT: usize = 8;

/// Most bytes of tables that are kept for one of them.
const KEPT_BYTES: usize = 2 << 20;

/// Calls `work` with what is kept of a problem, which is made if there is none.
fn with_kept<R>(
    geometry: &Geometry,
    element: usize,
    work: impl FnOnce(&mut Kept) -> Result<R, Error>,
) -> Result<R, Error> {
    thread_local!(static CACHE: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) });
    CACHE.with_borrow_mut(|cache| {
        let same = |kept: &Kept| {
            let (a, b) = (&kept.geometry, geometry);
            (kept.element, a.groups, a.channels, a.outputs)
                == (element, b.groups, b.channels, b.outputs)
                && a.axes[1..] == b.axes[1..]
        };
        // The one that was asked for last comes last.
        let kept = match cache.iter().position(same) {
            Some(index) => cache.remove(index),
            None => {
                let mut geometry =
                    Geometry { batched: true, channels_last: false, ..geometry.clone() };
                geometry.axes[0] = Axis::plain(1);
                let tiling = Arc::new(Tiling::new(&geometry, element)?);
                Kept { geometry, element, tiling, blocks: None }
            }
        };
        if cache.len() == KEPT {
            cache.remove(0);
        }
        cache.push(kept);
        work(cache.last_mut().expect("just pushed"))
    })
}

/// The tiling of a problem.
pub fn tiling(geometry: &Geometry, element: usize) -> Result<Arc<Tiling>, Error> {
    with_kept(geometry, element, |kept| Ok(kept.tiling.clone()))
}

/// The blocks of a problem, for vectors of some lanes.
pub fn blocks<T: Transformed>(geometry: &Geometry, lanes: usize) -> Result<Arc<Blocks<T>>, Error> {
    with_kept(geometry, size_of::<T>(), |kept| {
        let found = kept.blocks.clone().and_then(|blocks| blocks.downcast::<Blocks<T>>().ok());
        if let Some(blocks) = found.filter(|blocks| blocks.transform.lanes() == lanes) {
            return Ok(blocks);
        }
        let blocks = Arc::new(Blocks::<T>::new(kept.tiling.clone(), lanes)?);
        if blocks.transform.bytes() <= KEPT_BYTES {
            kept.blocks = Some(blocks.clone());
        }
        Ok(blocks)
    })
}
