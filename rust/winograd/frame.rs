//! How the work is cut into blocks and parts, and what memory that needs.

use crate::contract::wanted_items;
use crate::error::Error;
use crate::memory::{LINE, Workspace};
use crate::problem::Problem;
use crate::tile::{Kernels, Tiled};

use super::filters::{self, Layout};
use super::form::Form;
use super::region::{Cuts, Plane};
use super::role::Role;
use super::tiling::{Tiling, WEIGHTS_BYTES};

/// Bytes of sums that a part of the output channels has at all points; and the most of them where a block's
/// values of the input, which each part reads, are beyond the second-level cache. (256 to 256 channels,
/// 56 x 56, F(4,3): 10.7 ms with the less, 8.1 with the more; Sapphire Rapids.)
const SUMS_BYTES: usize = 512 << 10;
const MOST_SUMS_BYTES: usize = 8 << 20;
const CACHED_BYTES: usize = 3 << 19;

/// Panels of weights that a part of the output channels has at least, where vectors are of tiles: these are read
/// from the second-level cache once a part.
const FEWEST_PANELS: usize = 2;

/// Bytes of values and a panel of weights up to which one thread transforms weights a panel at a time: the
/// second-level cache. (512 to 512 channels of 14 x 14, beyond it: 5.5 ms, and 5.1 with all of them first; 256 to
/// 256: 1.32 and 1.38. Two threads would read from each other's caches: 3.3 and 4.1, 0.86 and 1.08; Sapphire
/// Rapids.)
const STAGED_WEIGHTS_BYTES: usize = 2 << 20;

/// Bytes of planes that are staged before the first of them is transformed, and the most planes: vectors that
/// are read as soon as parts of them were stored wait until these stores are done. Larger planes are left long
/// enough by themselves. (With 16 KiB, 64 to 64 channels of 56 x 56 took 1.20 ms instead of 1.15; Sapphire
/// Rapids.)
const STAGED_BYTES: usize = 8 << 10;
const MOST_STAGED: usize = 8;

/// Elements of a thread's scratch memory.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A staged plane, how many of them are staged at a time, and whether they are dealt.
    pub staged: usize,
    pub planes: usize,
    pub dealt: bool,
    /// Results of some output channels: of an output channel, or, where vectors are of these, of a row of
    /// tiles, and the same turned.
    pub results: usize,
    /// Values of the input at all points: between channels, and between points.
    pub value: usize,
    pub values: usize,
    /// Sums of a part of the output channels: between channels, or panels of them where these are vectors, and
    /// between points.
    pub row: usize,
    pub sums: usize,
    /// Panels of a part at most.
    pub panels: usize,
    pub totals: usize,
    /// A panel of weights at all points, and what it is made with; or none.
    pub weights: usize,
    pub turned: usize,
}

impl Sizes {
    /// All of them at so many points: of each part of a desk in the nest. Values may be shared.
    pub fn parts(&self, (points, shared): (usize, bool)) -> [usize; 8] {
        let (values, sums) = (if shared { 0 } else { self.values * points }, self.sums * points);
        let staged = self.staged * self.planes;
        let dealt = if self.dealt { staged } else { 0 };
        [staged, dealt, self.results, values, sums, self.totals, self.weights, self.turned]
    }
}

/// How the work is cut, and what that needs.
pub struct Frame {
    pub cuts: Cuts,
    pub plane: Plane,
    pub parts: usize,
    pub sizes: Sizes,
    /// Whether weights are transformed a panel at a time, where it is wanted: where each is wanted once. Beside
    /// values and sums a panel stays in the second-level cache, which all of them would not.
    pub weights: bool,
    /// Elements of the values of the input of a block, where all threads share them; and such blocks.
    pub shared: Option<(usize, usize)>,
}

impl Frame {
    /// For some threads.
    pub fn new<T: Tiled>(
        problem: &Problem<'_, T>,
        tiling: &Tiling,
        kernels: &Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let wanted = wanted_items(threads);
        let cuts = Cuts::new(tiling, geometry, size_of::<T>(), wanted.div_ceil(geometry.groups));
        let largest = cuts.region(tiling, 0);
        let lanes = kernels.lanes;
        let layout = Layout::new(geometry, tiling, kernels);
        let panels = layout.panels;
        let plane = Plane::new(tiling, geometry, &largest, (size_of::<T>(), lanes, panels.role))?;
        let items = cuts.count() * geometry.groups;
        // As many blocks as threads are shared out evenly as they are. (256 to 256 channels of 28 x 28, weights packed:
        // two threads take 1.9 ms with a block each, 2.5 with parts of both; Sapphire Rapids.)
        let few = items < 2 * threads && !items.is_multiple_of(threads);
        let parts = if few { wanted.div_ceil(items) } else { 1 };
        let fewest = if panels.role == Role::Tiles { 1 } else { FEWEST_PANELS };
        let parts = parts.min(panels.count.div_ceil(fewest)).max(1);
        let strides = &problem.x.strides()[1..];
        let shape = plane.shape(tiling, &largest, strides, (problem.store, lanes))?;
        let line = LINE / size_of::<T>();
        let odd_lines = |n: usize| (n.div_ceil(line) | 1) * line;
        // A smaller block may round its rows up once more.
        let value = odd_lines(shape.values + lanes);
        let planes = shape.plane * shape.planes;
        // Rows of several residues are woven, which writes a vector more.
        let woven = if plane.weave.width > 1 { shape.together } else { 0 };
        let outputs = shape.line * tiling.dealt().map_or(1, Form::outputs);
        // Sums of a panel, between its rows, and of how many output channels such a row is.
        let (results, row, each) = match panels.role {
            Role::Outputs => (planes + woven * (outputs + lanes), odd_lines(shape.sums + lanes), 1),
            Role::Tiles => {
                let results = 2 * shape.together * outputs * lanes;
                (results, odd_lines(shape.tiles * panels.width), panels.width)
            }
        };
        let values = value * geometry.channels * tiling.points() * size_of::<T>();
        let bytes = if values > CACHED_BYTES { MOST_SUMS_BYTES } else { SUMS_BYTES };
        let of_panel = row * panels.width.div_ceil(each);
        let most = (bytes / size_of::<T>() / (of_panel * tiling.points()))
            .clamp(fewest, panels.count.div_ceil(parts).max(fewest));
        let size = |elements: usize| elements.saturating_mul(size_of::<T>());
        let panel_bytes = size(layout.of_one().size(tiling.points()));
        let weights = panels.role == Role::Tiles
            && cuts.count() == 1
            && !problem.prepared.kept
            && !problem.store.accumulate
            && size(layout.size(tiling.points())) > WEIGHTS_BYTES
            && (threads > 1 || values.saturating_add(panel_bytes) <= STAGED_WEIGHTS_BYTES);
        let most = if weights { 1 } else { most };
        let rows = (most * panels.width).min(geometry.outputs).div_ceil(each);
        let values = odd_lines(value * geometry.channels);
        let shared = (parts > 1).then(|| (values.saturating_mul(tiling.points()), items));
        let plane_bytes = 2 * shape.staged * size_of::<T>();
        let sizes = Sizes {
            staged: shape.staged,
            planes: (STAGED_BYTES / plane_bytes.max(1))
                .clamp(1, MOST_STAGED.min(geometry.channels)),
            dealt: tiling.dealt().is_some(),
            results,
            value,
            values,
            row,
            sums: odd_lines(row * rows),
            panels: most,
            totals: kernels.most_totals(),
            weights: if weights { layout.of_one().size(tiling.points()) } else { 0 },
            turned: if weights { filters::scratch(geometry, lanes) } else { 0 },
        };
        Ok(Frame { cuts, plane, parts, sizes, weights, shared })
    }

    /// Elements of scratch memory that some threads take.
    pub fn scratch(&self, tiling: &Tiling, threads: usize) -> usize {
        let one = self.sizes.parts((tiling.points(), self.shared.is_some()));
        let one = one.iter().fold(0, |sum: usize, &n| sum.saturating_add(n));
        one.saturating_mul(threads).saturating_add(self.values())
    }

    /// Elements of the values that threads share.
    pub fn values(&self) -> usize {
        self.shared.map_or(0, |(one, blocks)| one.saturating_mul(blocks))
    }

    /// Memory for these.
    pub fn space<T: Tiled>(&self) -> Result<Workspace, Error> {
        match self.shared {
            Some(_) => Workspace::new::<T>("the transformed input", self.values()),
            None => Ok(Workspace::default()),
        }
    }

    /// Outputs of a block on each axis, of each residue.
    pub fn block(&self, tiling: &Tiling) -> Vec<usize> {
        self.cuts.region(tiling, 0).outputs(tiling)
    }
}
