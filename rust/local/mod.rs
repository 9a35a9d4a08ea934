//! Locally connected layers: convolution with a kernel of its own at each output position.
//!
//! Each weight is used once an image, so the layer can be no faster than its weights are read, and
//! the aim is just that. All three sums run over contiguous weights:
//!
//! | | for each output channel and position, with `patch` the input under its window |
//! |---|---|
//! | [`Layer::forward`] | y = dot(w, patch) |
//! | [`Layer::input`] | patch of dx += g * w |
//! | [`Layer::weight`] | dw = g * patch |
//!
//! A patch is gathered once for all output channels, from a padded copy of the image. A block of
//! positions has as many as half of the second-level cache holds the patches of; with a batch, as
//! many as it holds the weights of, which then come from memory once for all images.
//!
//! Two output channels are computed at once: two streams of weights, which memory delivers faster
//! than one.
//!
//! The order of every sum depends on shapes alone. It is not that of a convolution (one chain of
//! multiply-adds): products are rounded, and added in a few partial sums, which compiles to vectors
//! of any instruction set without code for each.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

mod dot;
mod windows;

use crate::error::{Error, room};
use crate::geometry::Geometry;
use crate::memory::with_scratch;
use crate::parallel::{Stopped, Team, Turn, even_parts};
use crate::view::Element;
use dot::{LANES, dots};
use windows::{OVERRUN, Windows};

/// Bytes of what an item of work uses again: half of the second-level cache of today's cores.
const BLOCK_BYTES: usize = 512 << 10;

/// Weights of a territory, at least: see [`Layer::input`]. Its sums depend on it, and so it depends
/// neither on the batch nor on the element.
const TERRITORY: usize = 1 << 16;

/// Products below which a call stays on its caller's thread: about 50 us, the time in which a
/// sleeping helper would just have begun.
const SERIAL_PRODUCTS: usize = 1 << 17;

/// What needs memory, for the error.
const PADDED: &str = "the padded input";

/// A locally connected layer. Arrays are in C order: x `[batch, channels, *in]`, w `[outputs, *out,
/// channels / groups, *kernel]`, y `[batch, outputs, *out]`.
pub struct Layer {
    windows: Windows,
    groups: usize,
    /// Of one group.
    channels: usize,
    /// Of one group.
    outputs: usize,
    batch: usize,
    /// Output positions of one image.
    positions: usize,
    /// Taps of one output.
    taps: usize,
}

impl Layer {
    /// The layer whose windows lie as those of a convolution.
    pub fn new(geometry: &Geometry) -> Self {
        Layer {
            windows: Windows::new(geometry),
            groups: geometry.groups,
            channels: geometry.channels,
            outputs: geometry.outputs,
            batch: geometry.axes[0].input,
            positions: geometry.axes[1..].iter().map(|axis| axis.output).product(),
            taps: geometry.channels * geometry.kernel_taps(),
        }
    }

    /// Elements of x, of w and of y.
    pub fn sizes(&self) -> [usize; 3] {
        let inputs: usize = self.windows.inputs.iter().product();
        let outputs = self.groups * self.outputs;
        [
            self.batch * self.groups * self.channels * inputs,
            outputs * self.positions * self.taps,
            self.batch * outputs * self.positions,
        ]
    }

    /// y = the layer of x.
    pub fn forward<T: Element>(
        &self,
        (x, w): (&[T], &[T]),
        y: &mut [T],
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        assert_eq!([x.len(), w.len(), y.len()], self.sizes());
        if self.products() == 0 {
            y.fill(T::default());
            return Ok(());
        }
        let team = self.team(team);
        let padded = self.stage(x, &team)?;
        let blocks = self.blocks::<T>();
        let items = self.deal(y.chunks_mut(self.positions), &blocks, 1);
        share(&team, items, |turn, item, y| {
            let (group, block) = self.item(item, &blocks);
            self.with_patches(block.len(), |patches: &mut [T]| {
                for (n, y) in y.chunks_mut(self.outputs).enumerate() {
                    if !turn.goes_on(self.work(&block)) {
                        return;
                    }
                    let planes = self.planes(&padded, n, group);
                    if let [y] = y {
                        let w = self.kernels(w, group, 0, &block);
                        if self.windows.lone(&block, (w, planes), y) {
                            continue;
                        }
                    }
                    self.windows.gather(planes, &block, patches);
                    for (pair, y) in y.chunks_mut(2).enumerate() {
                        let w = |m| self.kernels(w, group, 2 * pair + m, &block);
                        match y {
                            [a, b] => dots([w(0), w(1)], (patches, self.taps), [a, b]),
                            [a] => dots([w(0)], (patches, self.taps), [a]),
                            _ => {}
                        }
                    }
                }
            })
        })
    }

    /// dw = the gradient of the weights, given that of y.
    pub fn weight<T: Element>(
        &self,
        (x, dy): (&[T], &[T]),
        dw: &mut [T],
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        assert_eq!([x.len(), dw.len(), dy.len()], self.sizes());
        if self.products() == 0 {
            dw.fill(T::default());
            return Ok(());
        }
        let team = self.team(team);
        let padded = self.stage(x, &team)?;
        let blocks = self.blocks::<T>();
        let rows = dw.chunks_mut(self.positions * self.taps);
        let items = self.deal(rows, &blocks, self.taps);
        share(&team, items, |turn, item, dw| {
            let (group, block) = self.item(item, &blocks);
            self.with_patches(block.len(), |patches: &mut [T]| {
                for n in 0..self.batch {
                    if !turn.goes_on(self.work(&block)) {
                        return;
                    }
                    let planes = self.planes(&padded, n, group);
                    self.windows.gather(planes, &block, patches);
                    for (o, dw) in dw.iter_mut().enumerate() {
                        let dy = self.outputs(dy, n, group, o, &block);
                        let patches = patches.chunks_exact(self.taps);
                        for ((dw, patch), &dy) in
                            dw.chunks_exact_mut(self.taps).zip(patches).zip(dy)
                        {
                            if n == 0 {
                                dw.iter_mut().zip(patch).for_each(|(dw, &x)| *dw = dy.mul(x));
                            } else {
                                dw.iter_mut()
                                    .zip(patch)
                                    .for_each(|(dw, &x)| *dw = dw.add(dy.mul(x)));
                            }
                        }
                    }
                }
            })
        })
    }

    /// dx = the gradient of the input, given that of y: the adjoint of [`Layer::forward`].
    pub fn input<T: Element>(
        &self,
        (w, dy): (&[T], &[T]),
        dx: &mut [T],
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        assert_eq!([dx.len(), w.len(), dy.len()], self.sizes());
        dx.fill(T::default());
        if self.products() == 0 {
            return Ok(());
        }
        let team = self.team(team);
        let plane = self.windows.plane;
        let size = self.batch * self.groups * self.channels * plane;
        let mut padded = room(PADDED, size)?;
        padded.resize(size, T::default());
        // Windows of neighbouring blocks overlap, those of every other block do not. So first all
        // even blocks add their patches, then all odd ones, each to a territory of its own.
        let least = (TERRITORY / (self.outputs * self.taps)).clamp(1, self.positions);
        let territories = self.windows.territories(even_parts(0..self.positions, least).collect());
        for parity in 0..2 {
            let mut items: Vec<Vec<&mut [T]>> = Vec::new();
            items.resize_with(territories.len().div_ceil(2) * self.groups, Vec::new);
            for (i, plane) in padded.chunks_mut(plane).enumerate() {
                let group = i / self.channels % self.groups;
                let mut rest = plane;
                let mut start = 0;
                for (b, _) in territories.iter().enumerate().filter(|(b, _)| b % 2 == parity) {
                    let begin = self.windows.start(territories[b].start);
                    let end = territories.get(b + 2).map(|next| self.windows.start(next.start));
                    let (_, from) = rest.split_at_mut(begin - start);
                    let end = end.unwrap_or(begin + from.len());
                    let (own, after) = from.split_at_mut(end - begin);
                    items[b / 2 * self.groups + group].push(own);
                    (rest, start) = (after, end);
                }
            }
            share(&team, items, |turn, item, planes| {
                let (half, group) = (item / self.groups, item % self.groups);
                let Some(territory) = territories.get(2 * half + parity) else { return Ok(()) };
                let begin = self.windows.start(territory.start);
                for block in even_parts(territory.clone(), self.block_len::<T>()) {
                    self.with_patches(block.len(), |patches: &mut [T]| {
                        for (n, planes) in planes.chunks_mut(self.channels).enumerate() {
                            if !turn.goes_on(self.work(&block)) {
                                return;
                            }
                            self.patches((w, dy), (n, group), &block, patches);
                            self.windows.scatter(patches, &block, (planes, begin));
                        }
                    })?;
                }
                Ok(())
            })?;
        }
        let images: Vec<_> = dx.chunks_mut((dx.len() / self.batch).max(1)).collect();
        share(&team, images, |_, n, image| {
            let padded = &padded[n * self.groups * self.channels * plane..];
            self.windows.unstage(padded, image);
            Ok(())
        })
    }

    /// The patches of dx at one block of one image: the sum over output channels of dy * w.
    fn patches<T: Element>(
        &self,
        (w, dy): (&[T], &[T]),
        (n, group): (usize, usize),
        block: &Range<usize>,
        patches: &mut [T],
    ) {
        patches.fill(T::default());
        let at = |o: usize| {
            let w = self.kernels(w, group, o, block).chunks_exact(self.taps);
            w.zip(self.outputs(dy, n, group, o, block))
        };
        // Two streams, as in `dots`; each sum still in the order of the channels.
        for o in (0..self.outputs - self.outputs % 2).step_by(2) {
            let patches = patches.chunks_exact_mut(self.taps);
            for ((patch, (a, &da)), (b, &db)) in patches.zip(at(o)).zip(at(o + 1)) {
                for ((sum, &a), &b) in patch.iter_mut().zip(a).zip(b) {
                    *sum = sum.add(da.mul(a)).add(db.mul(b));
                }
            }
        }
        if self.outputs % 2 == 1 {
            let patches = patches.chunks_exact_mut(self.taps);
            for (patch, (w, &dy)) in patches.zip(at(self.outputs - 1)) {
                patch.iter_mut().zip(w).for_each(|(sum, &w)| *sum = sum.add(dy.mul(w)));
            }
        }
    }

    /// Products that a call takes.
    pub fn products(&self) -> usize {
        self.batch.saturating_mul(self.sizes()[1])
    }

    /// As many threads as the work is worth.
    fn team<'t>(&self, team: &Team<'t>) -> Team<'t> {
        let serial = self.products() < SERIAL_PRODUCTS;
        Team { threads: if serial { 1 } else { team.threads }, stop: team.stop }
    }

    /// Positions of one block: as many as the cache holds the patches of, and if they are used
    /// again for the next image, the weights of.
    fn block_len<T>(&self) -> usize {
        let again = if self.batch > 1 { self.outputs } else { 1 };
        (BLOCK_BYTES / (again * self.taps * size_of::<T>())).clamp(1, self.positions)
    }

    /// The blocks of positions of an image.
    fn blocks<T>(&self) -> Vec<Range<usize>> {
        even_parts(0..self.positions, self.block_len::<T>()).collect()
    }

    /// Vector operations that a block of one image and group takes.
    fn work(&self, block: &Range<usize>) -> usize {
        self.outputs * block.len() * self.taps / LANES
    }

    /// Deals rows, one for each image and output channel, to items, one for each block and group:
    /// each gets its own part, of `width` elements a position.
    fn deal<'r, T>(
        &self,
        rows: impl Iterator<Item = &'r mut [T]>,
        blocks: &[Range<usize>],
        width: usize,
    ) -> Vec<Vec<&'r mut [T]>> {
        let mut items: Vec<Vec<&mut [T]>> = Vec::new();
        items.resize_with(blocks.len() * self.groups, Vec::new);
        for (i, mut row) in rows.enumerate() {
            let group = i / self.outputs % self.groups;
            for (b, block) in blocks.iter().enumerate() {
                let (own, rest) = row.split_at_mut(block.len() * width);
                items[b * self.groups + group].push(own);
                row = rest;
            }
        }
        items
    }

    /// Which group and which block an item is.
    fn item(&self, item: usize, blocks: &[Range<usize>]) -> (usize, Range<usize>) {
        (item % self.groups, blocks[item / self.groups].clone())
    }

    /// The kernels of output `o` of a group at a block.
    fn kernels<'w, T>(&self, w: &'w [T], group: usize, o: usize, block: &Range<usize>) -> &'w [T] {
        let first = (group * self.outputs + o) * self.positions;
        &w[(first + block.start) * self.taps..(first + block.end) * self.taps]
    }

    /// Output `o` of a group of one image at a block.
    fn outputs<'y, T>(
        &self,
        y: &'y [T],
        n: usize,
        group: usize,
        o: usize,
        block: &Range<usize>,
    ) -> &'y [T] {
        let outputs = self.outputs;
        let first = ((n * self.groups + group) * outputs + o) * self.positions;
        &y[first + block.start..first + block.end]
    }

    /// The padded planes of one group of one image, and what is behind them.
    fn planes<'p, T>(&self, padded: &'p [Vec<T>], n: usize, group: usize) -> &'p [T] {
        &padded[n][group * self.channels * self.windows.plane..]
    }

    /// Calls `work` with room for the patches of `positions` positions.
    fn with_patches<T: Element>(
        &self,
        positions: usize,
        work: impl FnOnce(&mut [T]),
    ) -> Result<(), Error> {
        with_scratch(positions * self.taps + OVERRUN, work)
    }

    /// A padded copy of each image, with [`OVERRUN`].
    fn stage<T: Element>(&self, x: &[T], team: &Team<'_>) -> Result<Vec<Vec<T>>, Stopped> {
        let inputs = x.len() / self.batch;
        let mut padded = Vec::new();
        padded.resize_with(self.batch, Vec::new);
        share(team, padded.iter_mut().collect(), |_, n, padded| {
            let channels = self.groups * self.channels;
            **padded = room(PADDED, channels * self.windows.plane + OVERRUN)?;
            self.windows.stage(&x[n * inputs..(n + 1) * inputs], padded);
            Ok(())
        })?;
        Ok(padded)
    }
}

/// Does `work` on every item, each on one thread.
fn share<I: Send>(
    team: &Team<'_>,
    items: Vec<I>,
    work: impl Fn(&Turn<'_>, usize, &mut I) -> Result<(), Error> + Sync,
) -> Result<(), Stopped> {
    // Never contended: it only shows the compiler that an item is one thread's.
    let items: Vec<Mutex<I>> = items.into_iter().map(Mutex::new).collect();
    team.share(items.len(), |turn| {
        while let Some(i) = turn.next() {
            work(turn, i, &mut items[i].lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Padding, PaddingMode, PerAxis, Spec};

    /// A geometry with something odd about every axis, large enough for several blocks.
    fn geometry(mode: PaddingMode, groups: i64, weight: &[usize], x: &[usize]) -> Geometry {
        let rank = weight.len() - 2;
        let pairs = [(2, 1), (-1, 3), (0, 2)];
        let spec = Spec {
            rank: None,
            stride: PerAxis::Each([2, 1, 1][..rank].to_vec()),
            padding: Padding::Sides(PerAxis::Each(pairs[..rank].to_vec())),
            dilation: PerAxis::Each([1, 2, 1][..rank].to_vec()),
            groups,
            mode: PerAxis::All(mode),
            channels_last: false,
        };
        Geometry::new(&spec, x, weight, None).unwrap()
    }

    fn geometries() -> Vec<Geometry> {
        use PaddingMode::{Circular, Constant, Reflect};
        vec![
            geometry(Constant, 1, &[48, 3, 3, 3], &[2, 3, 50, 40]),
            geometry(Reflect, 2, &[24, 2, 4, 3], &[1, 4, 90, 45]),
            geometry(Circular, 3, &[3, 1, 5], &[2, 3, 40_000]),
            geometry(Constant, 1, &[1, 1, 9], &[1, 1, 60_000]),
            geometry(Constant, 1, &[2, 2, 3, 1, 3], &[1, 2, 30, 17, 40]),
            geometry(Constant, 1, &[4, 0, 3], &[2, 0, 9]),
        ]
    }

    /// Small integers, so that every order of a sum is exact.
    fn integers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 97 % 9) as f32 - 4.0).collect()
    }

    /// Calls `visit` with the indices of x, w and y of every product, from the definition.
    fn products(geometry: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
        let axes = &geometry.axes[1..];
        let positions: usize = axes.iter().map(|a| a.output).product();
        let kernel: usize = axes.iter().map(|a| a.kernel).product();
        let inputs: usize = axes.iter().map(|a| a.input).product();
        let outputs = geometry.groups * geometry.outputs;
        for y in 0..geometry.axes[0].input * outputs * positions {
            let (n, o, p) = (y / positions / outputs, y / positions % outputs, y % positions);
            for t in 0..geometry.channels * kernel {
                let channel = o / geometry.outputs * geometry.channels + t / kernel;
                let (mut p_left, mut k_left, mut stride, mut x) = (p, t % kernel, 1, Some(0));
                for axis in axes.iter().rev() {
                    let q =
                        p_left % axis.output * axis.stride + k_left % axis.kernel * axis.dilation;
                    x = x.zip(axis.source(q as isize)).map(|(x, i)| x + i * stride);
                    p_left /= axis.output;
                    k_left /= axis.kernel;
                    stride *= axis.input;
                }
                if let Some(x) = x {
                    let image = n * geometry.groups * geometry.channels + channel;
                    let w = (o * positions + p) * geometry.channels * kernel + t;
                    visit(image * inputs + x, w, y);
                }
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        for geometry in geometries() {
            let layer = Layer::new(&geometry);
            let [nx, nw, ny] = layer.sizes();
            let (x, w, dy) = (integers(nx, 1), integers(nw, 2), integers(ny, 3));
            let (mut y, mut dx, mut dw) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nw]);
            products(&geometry, |i, j, k| {
                y[k] += w[j] * x[i];
                dx[i] += w[j] * dy[k];
                dw[j] += x[i] * dy[k];
            });
            for threads in [1, 3] {
                let team = Team { threads, stop: &|| false };
                // What results hold before must not matter.
                let mut result = vec![f32::NAN; ny];
                layer.forward((&x, &w), &mut result, &team).unwrap();
                assert!(result == y, "{geometry:?}");
                let mut result = vec![f32::NAN; nx];
                layer.input((&w, &dy), &mut result, &team).unwrap();
                assert!(result == dx, "{geometry:?}");
                let mut result = vec![f32::NAN; nw];
                layer.weight((&x, &dy), &mut result, &team).unwrap();
                assert!(result == dw, "{geometry:?}");
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        for geometry in geometries() {
            let layer = Layer::new(&geometry);
            let [nx, nw, ny] = layer.sizes();
            let floats =
                |len, seed| integers(len, seed).iter().map(|v| v.sin()).collect::<Vec<_>>();
            let (x, w, dy) = (floats(nx, 1), floats(nw, 2), floats(ny, 3));
            let run = |threads| {
                let team = Team { threads, stop: &|| false };
                let (mut y, mut dx, mut dw) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nw]);
                layer.forward((&x, &w), &mut y, &team).unwrap();
                layer.input((&w, &dy), &mut dx, &team).unwrap();
                layer.weight((&x, &dy), &mut dw, &team).unwrap();
                (y, dx, dw)
            };
            assert!(run(1) == run(4), "{geometry:?}");
        }
    }

    #[test]
    fn windows_of_every_other_territory_are_apart() {
        for geometry in geometries().into_iter().filter(|geometry| geometry.channels > 0) {
            let layer = Layer::new(&geometry);
            let windows = &layer.windows;
            let territories = windows.territories(even_parts(0..layer.positions, 1).collect());
            assert!(territories.len() > 2, "nothing to see");
            let touched = |block: &Range<usize>| {
                let mut elements = vec![false; windows.plane];
                windows.each(block, |start| {
                    for run in windows.runs.iter().filter(|run| **run < windows.plane) {
                        elements[start + run..start + run + windows.run].fill(true);
                    }
                });
                elements
            };
            for pair in territories.windows(3).step_by(7) {
                let both = touched(&pair[0]).into_iter().zip(touched(&pair[2]));
                assert!(both.into_iter().all(|(a, b)| !(a && b)));
            }
        }
    }
}
