//! How the positions of products of rows are cut into blocks.

use std::ops::Range;

use super::super::LANES;
use super::super::division::slices;
use crate::geometry::Geometry;
use crate::parallel::even_part;

/// Steps of a block at most: of a tile's rows and columns as much as the first-level cache holds.
const STEPS: usize = 128;

/// Vectors of all rows of both operands in a block, about, where the input's are staged: half of a second-level
/// cache of today.
const STAGED: usize = 16 << 10;

/// Steps of such a block at least.
const LEAST_STEPS: usize = 32;

/// Steps of a slice at least, if there are more than one.
const STEPS_OF_SLICE: usize = 256;

/// Blocks of positions that follow each other in C order: some images, or a part of one. As inner products each is a
/// chain of whole vectors, and a chain of the positions that the block's images end with, where these fill none.
#[derive(Clone, Debug)]
pub(in super::super) struct Blocks {
    pub images: usize,
    /// Positions of an image on each axis; one axis alone where nothing but one tap is between them and the input.
    pub lens: Vec<usize>,
    /// The axis that blocks cut; those before it they have one index of.
    axis: usize,
    /// Parts of it, of a multiple of `unit` positions.
    parts: usize,
    unit: usize,
    /// Parts of the images. The last is the largest, so that what is staged for so many ends with the last image.
    batches: usize,
}

/// One of them: positions of each image that follow each other without a gap.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Block {
    pub images: Range<usize>,
    /// On each axis.
    pub ranges: Vec<Range<usize>>,
    /// The number of the first position, and how many there are.
    pub first: usize,
    pub positions: usize,
}

/// Steps of a block at most.
fn steps(one: &Geometry) -> usize {
    let rows = one.channels.saturating_mul(one.kernel_taps()).saturating_add(one.outputs);
    let staged = (STAGED / rows.max(1)).clamp(LEAST_STEPS, STEPS);
    if super::is_plain(one) { STEPS } else { staged }
}

/// Positions of a row in a block, about.
pub(super) fn row(one: &Geometry) -> usize {
    one.positions().min(steps(one) * LANES)
}

impl Blocks {
    /// For the positions of some images.
    pub fn new(one: &Geometry) -> Self {
        let (images, axes) = one.axes.split_first().expect("a geometry has axes");
        let outputs: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
        let lens = if super::is_plain(one) { vec![outputs.iter().product()] } else { outputs };
        let steps = steps(one);
        let inner = |axis: usize| lens[axis + 1..].iter().product::<usize>();
        let most = steps * LANES;
        let last = lens.len() - 1;
        let axis = (0..last).find(|&axis| inner(axis) <= most).unwrap_or(last);
        let unit = if axis == last { LANES } else { 1 };
        let along = (most / inner(axis).max(1) / unit).max(1) * unit;
        let parts = lens[axis].div_ceil(along).max(1);
        let of_image = (lens.iter().product::<usize>()).div_ceil(LANES).max(1);
        let fit = if axis == 0 && parts == 1 { (steps / of_image).max(1) } else { 1 };
        let batches = images.output.div_ceil(fit).max(1);
        Blocks { images: images.output, lens, axis, parts, unit, batches }
    }

    /// Blocks of so many images as one has.
    fn of_images(&self) -> usize {
        self.lens[..self.axis].iter().product::<usize>() * self.parts
    }

    pub fn count(&self) -> usize {
        self.batches * self.of_images()
    }

    /// Slices of a sum: as for other forms, but so few that adding across lanes is little beside products.
    pub fn slices(&self, geometry: &Geometry, one: &Geometry, per_sample: bool) -> usize {
        let most = slices(geometry, one, self.count(), per_sample);
        most.min((self.steps() / STEPS_OF_SLICE).max(1))
    }

    /// Steps of all blocks.
    pub fn steps(&self) -> usize {
        let one = |number| self.nth(number).positions.div_ceil(LANES);
        let parts: usize = (0..self.parts).map(one).sum();
        self.images * (self.of_images() / self.parts) * parts
    }

    /// The most positions of a block on each axis, and images.
    pub fn most(&self) -> (Vec<usize>, usize) {
        let units = self.lens[self.axis].div_ceil(self.unit);
        let along = (units.div_ceil(self.parts) * self.unit).min(self.lens[self.axis]);
        let lens = self.lens.iter().enumerate();
        let of_axis = lens.map(|(axis, &len)| match axis.cmp(&self.axis) {
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal => along,
            std::cmp::Ordering::Greater => len,
        });
        (of_axis.collect(), self.images.div_ceil(self.batches))
    }

    /// Whether some block ends with positions that fill no vector, and whether some has a whole one.
    pub fn kinds(&self) -> (bool, bool) {
        let mut kinds = (false, false);
        for number in 0..self.parts {
            let positions = self.nth(number).positions;
            kinds = (kinds.0 || !positions.is_multiple_of(LANES), kinds.1 || positions >= LANES);
        }
        kinds
    }

    pub fn nth(&self, number: usize) -> Block {
        let of_images = self.of_images();
        let (batch, number) = (number / of_images, number % of_images);
        let (mut outer, part) = (number / self.parts, number % self.parts);
        let len = self.lens[self.axis];
        let units = even_part(&(0..len.div_ceil(self.unit)), self.parts, part);
        let along = units.start * self.unit..len.min(units.end * self.unit);
        let inner: usize = self.lens[self.axis + 1..].iter().product();
        let mut ranges: Vec<Range<usize>> = self.lens.iter().map(|&len| 0..len).collect();
        for (range, &len) in ranges[..self.axis].iter_mut().zip(&self.lens).rev() {
            *range = outer % len..outer % len + 1;
            outer /= len;
        }
        ranges[self.axis] = along.clone();
        Block {
            images: even_part(&(0..self.images), self.batches, batch),
            ranges,
            first: (number / self.parts * len + along.start) * inner,
            positions: along.len() * inner,
        }
    }
}

impl Block {
    /// Whole vectors of an image.
    pub fn vectors(&self) -> usize {
        self.positions / LANES
    }

    /// Positions behind them.
    pub fn left(&self) -> usize {
        self.positions % LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Axis;

    #[test]
    fn blocks_have_each_position_once() {
        for (images, lens, kernel) in [
            (1, vec![5000], 1),
            (3, vec![7, 7], 1),
            (70, vec![3, 5], 1),
            (1, vec![145, 117], 3),
            (2, vec![3, 60, 50], 3),
            (2, vec![4, 2, 5000], 2),
            (40, vec![5, 6, 7], 3),
        ] {
            let kernels = lens.iter().map(|&len| Axis { kernel, ..Axis::plain(len) });
            let axes: Vec<Axis> = [Axis::plain(images)].into_iter().chain(kernels).collect();
            let geometry = Geometry {
                batched: true,
                channels_last: false,
                groups: 1,
                channels: 2,
                outputs: 9,
                axes,
            };
            let blocks = Blocks::new(&geometry);
            let all: usize = lens.iter().product();
            let mut seen = vec![0; images * all];
            let mut steps = 0;
            let (most, together) = blocks.most();
            for number in 0..blocks.count() {
                let block = blocks.nth(number);
                assert!(block.images.len() <= together);
                assert!(block.ranges.iter().zip(&most).all(|(range, &len)| range.len() <= len));
                for image in block.images.clone() {
                    steps += block.positions.div_ceil(LANES);
                    let first = image * all + block.first;
                    seen[first..first + block.positions].iter_mut().for_each(|n| *n += 1);
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{images} of {lens:?}");
            assert_eq!(steps, blocks.steps(), "{images} of {lens:?}");
        }
    }
}
