//! How a convolution is cut into items of work: blocks of positions that a slab holds, and parts of the
//! output channels where those are few.

use std::ops::Range;

use crate::geometry::Geometry;
use crate::parallel::even_part;
use crate::slab::{Block, extent};

/// Bytes of a slab: half of the second-level cache of today's cores, which have 1 or 2 MiB, so that
/// the rows of weights that go over it have the other half. Between 256 KiB and 1200 KiB there is no
/// difference beyond noise in eight layers (Zen 5, Sapphire Rapids).
pub(super) const SLAB_BYTES: usize = 512 << 10;

/// Items that each thread gets at least where there is work enough, so that a thread which loses its
/// core for a while leaves others something to take over.
const ITEMS_PER_THREAD: usize = 4;

/// Threads may be idle at the end of a call, for want of blocks, for one in so many parts of its time.
const MOST_IDLE: usize = 50;

/// Items that work is cut into at least, where there is enough of it.
pub(crate) fn wanted_items(threads: usize) -> usize {
    if threads > 1 { ITEMS_PER_THREAD * threads } else { 1 }
}

/// Into how many parts the groups, the images and the first axis of an image are cut, where a convolution is computed a
/// part at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    pub groups: usize,
    pub images: usize,
    pub rows: usize,
}

impl Cuts {
    /// A single part.
    pub const ONE: Cuts = Cuts { groups: 1, images: 1, rows: 1 };

    pub fn count(self) -> usize {
        self.groups * self.images * self.rows
    }

    /// Which of the groups' parts, the images' and the first axis's part `number` is.
    pub fn nth(self, number: usize) -> (usize, usize, usize) {
        let (number, row) = (number / self.rows, number % self.rows);
        (number / self.images, number % self.images, row)
    }
}

/// How a convolution is cut into items.
pub(super) struct Split {
    /// Blocks on each axis.
    pub blocks: Vec<usize>,
    /// Parts of a group's output channels.
    pub cuts: usize,
}

impl Split {
    /// For `threads` threads and vectors of `lanes` elements of `element` bytes, of positions unless they
    /// are of `outputs`. At most `cuts` parts of a group's output channels are worth having.
    pub fn new(
        geometry: &Geometry,
        (element, lanes): (usize, usize),
        (threads, cuts): (usize, usize),
        (lone_images, outputs): (bool, bool),
    ) -> Self {
        let mut lens = if lone_images {
            let mut one = geometry.clone();
            one.axes[0].output = 1;
            block_lens(&one, SLAB_BYTES / element)
        } else {
            block_lens(geometry, SLAB_BYTES / element)
        };
        let blocks = |lens: &[usize]| -> Vec<usize> {
            geometry.axes.iter().zip(lens).map(|(axis, &len)| axis.output.div_ceil(len)).collect()
        };
        let count = |lens: &[usize]| blocks(lens).iter().product::<usize>() * geometry.groups;
        // More and smaller blocks until all threads have enough of them, as long as a block keeps a
        // few tiles; then parts of the output channels, for each of which a block is staged anew.
        let (wanted, least) = (wanted_items(threads), 16 * lanes);
        // Vectors of positions begin where those of other blocks do: where 8 blocks of 7 rows of 56 took the
        // place of 7 of 8 rows, a 1x1 layer from 64 to 256 channels was a fifth slower (Sapphire Rapids).
        let fits = |axis: usize| outputs || lens[axis + 1..].iter().product::<usize>() % lanes == 0;
        let axis = lens.iter().position(|&len| len > 1).filter(|&axis| threads > 1 && fits(axis));
        let even = axis.and_then(|axis| {
            let mut even = blocks(&lens);
            let others = count(&lens) / even[axis];
            let positions: usize = lens.iter().product();
            let most = even[axis] * positions / (least.min(positions) / 2).max(1);
            let output = geometry.axes[axis].output;
            even[axis] = even_blocks((output, others), (even[axis], most), (threads, wanted))?;
            Some(even)
        });
        if let Some(blocks) = even {
            return Split { blocks, cuts: 1 };
        }
        while count(&lens) < wanted {
            let positions: usize = lens.iter().product();
            let Some(axis) = lens.iter().position(|&len| len > 1) else { break };
            if positions / 2 < least {
                break;
            }
            lens[axis] = lens[axis].div_ceil(2);
        }
        let cuts = if threads > 1 { wanted.div_ceil(count(&lens)).min(cuts).max(1) } else { 1 };
        Split { blocks: blocks(&lens), cuts }
    }

    /// The most positions of a block on each axis.
    pub fn lens(&self, geometry: &Geometry) -> Vec<usize> {
        geometry.axes.iter().zip(&self.blocks).map(|(a, &n)| a.output.div_ceil(n)).collect()
    }

    /// The group and the block of a part; blocks are as even as can be.
    pub fn block(&self, geometry: &Geometry, part: usize) -> (usize, Block) {
        nth_block(geometry, &self.blocks, part)
    }

    /// Which units of a group's output channels are a cut's.
    pub fn units(&self, units: usize, cut: usize) -> Range<usize> {
        even_part(&(0..units), self.cuts, cut)
    }
}

/// Blocks of an axis of so many outputs, of each of which there are `others`, that leave threads idle for no longer
/// than [`MOST_IDLE`] says: `fewest` or the next number that does, up to `most`.
fn even_blocks(
    (output, others): (usize, usize),
    (fewest, most): (usize, usize),
    (threads, wanted): (usize, usize),
) -> Option<usize> {
    let most = most.min(2 * fewest.max(wanted.div_ceil(others))).min(output);
    (fewest..=most).find(|&n| {
        let rounds = (others * n).div_ceil(threads);
        let (longest, mean) = (rounds * output.div_ceil(n) * threads, others * output);
        others * n >= wanted && (longest - mean) * MOST_IDLE <= mean
    })
}

/// Block `part` of a geometry cut into `blocks` on each axis, as even as can be, and which round of
/// all blocks it is in.
pub(crate) fn nth_block(geometry: &Geometry, blocks: &[usize], part: usize) -> (usize, Block) {
    let mut left = part;
    let mut block = Block(vec![0..0; blocks.len()]);
    for (range, (axis, &n)) in block.0.iter_mut().zip(geometry.axes.iter().zip(blocks)).rev() {
        *range = even_part(&(0..axis.output), n, left % n);
        left /= n;
    }
    (left, block)
}

/// How many output positions a block has on each axis: as many as a slab of `budget` elements holds,
/// in the shape that stages the fewest elements a position.
pub(crate) fn block_lens(geometry: &Geometry, budget: usize) -> Vec<usize> {
    let size = |lens: &[usize]| {
        let extents = geometry.axes.iter().zip(lens).map(|(axis, &len)| extent(axis, len));
        extents.fold(geometry.channels.max(1), usize::saturating_mul)
    };
    let whole: Vec<usize> = geometry.axes.iter().map(|axis| axis.output).collect();
    if size(&whole) <= budget {
        return whole;
    }
    // The innermost axis first, for long rows: at least a few vectors and as many positions as the
    // kernel has taps, however large that makes the slab.
    let mut lens = vec![1; whole.len()];
    let inner = lens.len() - 1;
    let (mut low, mut high) = (geometry.axes[inner].kernel.max(64).min(whole[inner]), whole[inner]);
    while low < high {
        lens[inner] = low + (high - low).div_ceil(2);
        if size(&lens) <= budget { low = lens[inner] } else { high = lens[inner] - 1 }
    }
    lens[inner] = low;
    // Then whichever axis saves most by growing; of those that save the same the innermost, so that its
    // rows go on where the last one ends.
    let grown = |lens: &[usize], axis: usize| {
        let mut lens = lens.to_vec();
        lens[axis] = whole[axis].min(lens[axis] + lens[axis].div_ceil(4));
        let (size, positions) = (size(&lens), lens.iter().product::<usize>());
        (size <= budget).then_some((size as f64 / positions as f64, lens))
    };
    loop {
        let growable = (0..inner).rev().filter(|&axis| lens[axis] < whole[axis]);
        let candidates = growable.filter_map(|axis| grown(&lens, axis));
        match candidates.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, best)) => lens = best,
            None => return lens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};
    use crate::slab::Layout;

    fn geometry(x: &[usize], w: &[usize], groups: i64) -> Geometry {
        let spec = Spec {
            rank: None,
            stride: PerAxis::All(1),
            padding: Padding::Same,
            dilation: PerAxis::All(1),
            groups,
            mode: PerAxis::All(PaddingMode::Constant),
            channels_last: false,
        };
        Geometry::new(&spec, x, w, None).unwrap()
    }

    #[test]
    fn items_hold_every_result_once() {
        for (x, w, groups) in [
            (&[3usize, 4, 40, 50][..], &[6usize, 2, 3, 3][..], 2),
            (&[1, 200, 30, 31], &[9, 200, 3, 3], 1),
            (&[2, 8, 9, 10, 11], &[16, 8, 3, 1, 2], 1),
            (&[1, 1, 100_000], &[1, 1, 9], 1),
        ] {
            let geometry = geometry(x, w, groups);
            for threads in [1, 2, 7] {
                let split = Split::new(&geometry, (4, 16), (threads, 5), (false, false));
                let (lens, parts) = (split.lens(&geometry), split.blocks.iter().product::<usize>());
                let mut seen = vec![0u8; geometry.output_shape().iter().product()];
                for item in 0..geometry.groups * parts * split.cuts {
                    let (group, block) = split.block(&geometry, item / split.cuts);
                    assert!(block.0.iter().zip(&lens).all(|(range, &len)| range.len() <= len));
                    let first = group * geometry.outputs;
                    let channels = split.units(geometry.outputs, item % split.cuts);
                    let mut index = vec![0; block.0.len()];
                    let shape: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
                    for _ in 0..shape.iter().product() {
                        let position = block.0.iter().zip(&index).zip(&geometry.axes);
                        let at = position.fold(0, |at, ((r, i), a)| at * a.output + r.start + i);
                        for channel in channels.clone() {
                            seen[(first + channel) * geometry.positions() + at] += 1;
                        }
                        crate::view::advance(&mut index, &shape);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{x:?} {w:?} {threads}");
            }
        }
    }

    #[test]
    fn threads_share_evenly() {
        let split = |x: &[usize], w: &[usize], outputs| {
            let split = Split::new(&geometry(x, w, 1), (4, 16), (2, 16), (false, outputs));
            (split.blocks, split.cuts)
        };
        let signal = (&[1usize, 512, 1600][..], &[512usize, 512, 3][..]);
        assert_eq!(split(signal.0, signal.1, true), (vec![1, 8], 1));
        assert_eq!(split(&[1, 128, 128, 128], &[128, 128, 1, 1], false), (vec![1, 26, 1], 1));
        // Where blocks of other sizes would begin within a vector, and where they would be too small, there
        // are parts of the output channels.
        assert_eq!(split(&[1, 64, 56, 56], &[256, 64, 1, 1], false), (vec![1, 7, 1], 2));
        assert_eq!(split(&[1, 256, 14, 14], &[256, 256, 3, 3], true), (vec![1, 1, 1], 8));
    }

    #[test]
    fn blocks_fit_the_slab_they_are_meant_for() {
        for (x, w) in [
            (&[1usize, 64, 224, 224][..], &[64usize, 64, 3, 3][..]),
            (&[1, 64, 8, 56, 56], &[128, 64, 3, 3, 3]),
            (&[1, 1, 1 << 24], &[1, 1, 1025]),
        ] {
            let geometry = geometry(x, w, 1);
            let lens = block_lens(&geometry, SLAB_BYTES / 4);
            let layout = Layout::new(&geometry, &lens, 4).unwrap();
            let bytes = layout.size(geometry.channels, 16) * 4;
            // The layout rounds planes up to an odd number of lines.
            assert!(bytes <= SLAB_BYTES + geometry.channels * 192, "{lens:?}: {bytes}");
            assert!(bytes > SLAB_BYTES / 2, "{lens:?}: {bytes}");
        }
    }
}
