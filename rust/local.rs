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

use std::array::from_fn;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, room};
use crate::geometry::Geometry;
use crate::memory::with_scratch;
use crate::parallel::{Stopped, Team, Turn, even_parts};
use crate::view::Element;

/// Partial sums of a dot product. Odd square kernels have a multiple of 8 taps and one more.
const LANES: usize = 8;

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

/// Elements that a copy of a short run may write or read beyond its end.
const OVERRUN: usize = 16;

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

/// Where the windows lie in a padded copy of an image.
struct Windows {
    /// Elements of one padded channel: what windows touch, and no more.
    plane: usize,
    /// Elements that the input has on each axis.
    inputs: Vec<usize>,
    /// For each axis the input element at each padded one; `None` is padding by 0.
    sources: Vec<Vec<Option<usize>>>,
    /// Of the innermost axis the padded elements that show consecutive input: (first, input, len).
    inner: (usize, usize, usize),
    /// Output positions on each axis.
    outputs: Vec<usize>,
    /// Padded elements between neighbouring positions on each axis.
    advance: Vec<usize>,
    /// Where each run of consecutive taps begins, from the first tap on, through all channels.
    runs: Vec<usize>,
    /// Taps of a run.
    run: usize,
}

impl Windows {
    fn new(geometry: &Geometry) -> Self {
        let axes = &geometry.axes[1..];
        let sources: Vec<Vec<_>> = axes
            .iter()
            .map(|axis| {
                let extent =
                    (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
                (0..extent).map(|q| axis.source(q as isize)).collect()
            })
            .collect();
        let mut pitches = vec![1; axes.len()];
        for axis in (1..axes.len()).rev() {
            pitches[axis - 1] = pitches[axis] * sources[axis].len();
        }
        let plane = pitches[0] * sources[0].len();
        // Taps of the innermost axis follow each other unless they are dilated.
        let last = axes.len() - 1;
        let run = if axes[last].dilation == 1 { axes[last].kernel } else { 1 };
        let mut runs: Vec<usize> = (0..geometry.channels).map(|c| c * plane).collect();
        for (a, (axis, pitch)) in axes.iter().zip(&pitches).enumerate() {
            let count = if a == last { axis.kernel / run } else { axis.kernel };
            let step = axis.dilation * pitch;
            runs = runs.iter().flat_map(|&run| (0..count).map(move |k| run + k * step)).collect();
        }
        let row = &sources[last];
        let first = row.iter().position(Option::is_some).unwrap_or(row.len());
        let source = row.get(first).copied().flatten().unwrap_or(0);
        let following = |&(i, q): &(usize, &Option<usize>)| *q == Some(source + i);
        let len = row[first..].iter().enumerate().take_while(following).count();
        Windows {
            plane,
            inputs: axes.iter().map(|axis| axis.input).collect(),
            inner: (first, source, len),
            outputs: axes.iter().map(|axis| axis.output).collect(),
            advance: axes.iter().zip(&pitches).map(|(axis, pitch)| axis.stride * pitch).collect(),
            sources,
            runs,
            run,
        }
    }

    /// The padded rows of a channel, each with the first element of the input row that it shows.
    fn rows(&self) -> impl Iterator<Item = Option<usize>> {
        let outer = self.sources.len() - 1;
        let count: usize = self.sources[..outer].iter().map(Vec::len).product();
        (0..count).map(move |row| {
            let (mut left, mut stride, mut at) = (row, self.inputs[outer], 0);
            for (sources, n) in self.sources[..outer].iter().zip(&self.inputs).rev() {
                at += sources[left % sources.len()]? * stride;
                left /= sources.len();
                stride *= n;
            }
            Some(at)
        })
    }

    /// Appends a padded copy of an image, channel by channel, and the [`OVERRUN`].
    fn stage<T: Element>(&self, image: &[T], padded: &mut Vec<T>) {
        let inputs: usize = self.inputs.iter().product();
        let row = &self.sources[self.sources.len() - 1];
        let (first, source, len) = self.inner;
        for channel in image.chunks_exact(inputs) {
            for from in self.rows() {
                let Some(from) = from else {
                    padded.resize(padded.len() + row.len(), T::default());
                    continue;
                };
                let shown = |i: &Option<usize>| i.map_or(T::default(), |i| channel[from + i]);
                padded.extend(row[..first].iter().map(shown));
                padded.extend_from_slice(&channel[from + source..from + source + len]);
                padded.extend(row[first + len..].iter().map(shown));
            }
        }
        padded.resize(padded.len() + OVERRUN, T::default());
    }

    /// Adds what stands in padded channels to the input elements that they show.
    fn unstage<T: Element>(&self, padded: &[T], image: &mut [T]) {
        let inputs: usize = self.inputs.iter().product();
        let row = &self.sources[self.sources.len() - 1];
        for (plane, image) in padded.chunks_exact(self.plane).zip(image.chunks_exact_mut(inputs)) {
            for (from, to) in plane.chunks_exact(row.len()).zip(self.rows()) {
                let Some(to) = to else { continue };
                for (&from, i) in from.iter().zip(row) {
                    if let Some(i) = i {
                        image[to + i] = image[to + i].add(from);
                    }
                }
            }
        }
    }

    /// The first padded element under the window at `position`.
    fn start(&self, position: usize) -> usize {
        let (mut left, mut start) = (position, 0);
        for (n, advance) in self.outputs.iter().zip(&self.advance).rev() {
            start += left % n * advance;
            left /= n;
        }
        start
    }

    /// Calls `visit` with the first padded element under the window at each position of a block.
    #[inline(always)]
    fn each(&self, block: &Range<usize>, mut visit: impl FnMut(usize)) {
        let advance = self.advance[self.outputs.len() - 1];
        self.each_row(block, usize::MAX, |start, len| {
            (0..len).for_each(|i| visit(start + i * advance));
        });
    }

    /// Calls `visit` with the first padded element under the first window of each row of positions
    /// of a block, or of at most `most` of a row, and with how many they are.
    #[inline(always)]
    fn each_row(&self, block: &Range<usize>, most: usize, mut visit: impl FnMut(usize, usize)) {
        let row = self.outputs[self.outputs.len() - 1];
        let mut position = block.start;
        while position < block.end {
            // Divisions from row to row alone.
            let len = (row - position % row).min(block.end - position).min(most);
            visit(self.start(position), len);
            position += len;
        }
    }

    /// Blocks of at least `blocks`, joined until the windows of every other one are apart.
    fn territories(&self, mut blocks: Vec<Range<usize>>) -> Vec<Range<usize>> {
        // Within a channel: the furthest tap of the last run.
        let of_channel = self.runs.partition_point(|&run| run < self.plane);
        let reach = self.runs[of_channel - 1] + self.run - 1;
        let apart = |blocks: &[Range<usize>]| {
            blocks.windows(3).all(|b| self.start(b[0].end - 1) + reach < self.start(b[2].start))
        };
        while !apart(&blocks) {
            blocks = blocks.chunks(2).map(|b| b[0].start..b[b.len() - 1].end).collect();
        }
        blocks
    }

    /// The sums of a lone output channel: a patch that is used once is not worth gathering, if its
    /// runs are short and their length is known to the compiler. False if it is not.
    fn lone<T: Element>(&self, block: &Range<usize>, from: (&[T], &[T]), y: &mut [T]) -> bool {
        match (self.run, self.runs.len()) {
            (3, 3) => self.lone_square::<T, 3, 4>(block, from, y),
            (5, 5) => self.lone_square::<T, 5, 8>(block, from, y),
            (7, 7) => self.lone_square::<T, 7, 8>(block, from, y),
            (1, _) => self.lone_runs::<T, 1>(block, from, y),
            (2, _) => self.lone_runs::<T, 2>(block, from, y),
            (3, _) => self.lone_runs::<T, 3>(block, from, y),
            (4, _) => self.lone_runs::<T, 4>(block, from, y),
            (5, _) => self.lone_runs::<T, 5>(block, from, y),
            (6, _) => self.lone_runs::<T, 6>(block, from, y),
            (7, _) => self.lone_runs::<T, 7>(block, from, y),
            (8, _) => self.lone_runs::<T, 8>(block, from, y),
            _ => return false,
        }
        true
    }

    /// As [`Windows::lone`], for the usual kernels of `K` runs of `K`, in the same order of sums: all
    /// loops have lengths known to the compiler, and `WIDE` elements of each run are read, so that a
    /// run is whole vectors; what is beyond `K` is summed for nothing. The vectors of some positions
    /// are kept before any is added up, or LLVM would see the waste and go back to single elements.
    fn lone_square<T: Element, const K: usize, const WIDE: usize>(
        &self,
        block: &Range<usize>,
        (w, planes): (&[T], &[T]),
        y: &mut [T],
    ) {
        /// 32 and 1024 are slower (Zen 5).
        const SOME: usize = 128;
        let advance = self.advance[self.outputs.len() - 1];
        // Behind the last kernel there is nothing that could be read too much.
        let Some((last, y)) = y.split_last_mut() else { return };
        let most = block.start..block.end - 1;
        let mut sums = [[T::default(); WIDE]; SOME];
        let mut done = 0;
        self.each_row(&most, SOME, |start, len| {
            let rows: [&[T]; K] =
                from_fn(|r| &planes[start + self.runs[r]..][..(len - 1) * advance + WIDE]);
            let kernels = &w[done * K * K..];
            for (i, sums) in sums[..len].iter_mut().enumerate() {
                let kernel = &kernels[i * K * K..][..K * (K - 1) + WIDE];
                let mut own = [T::default(); WIDE];
                for r in 0..K {
                    let w: &[T; WIDE] = kernel[r * K..].first_chunk().expect("cut to hold it");
                    let x: &[T; WIDE] = rows[r][i * advance..].first_chunk().expect("likewise");
                    let products: [T; WIDE] = from_fn(|i| w[i].mul(x[i]));
                    own = from_fn(|i| own[i].add(products[i]));
                }
                *sums = own;
            }
            for (y, sums) in y[done..done + len].iter_mut().zip(&sums) {
                *y = sums[1..K].iter().fold(sums[0], |sum, &next| sum.add(next));
            }
            done += len;
        });
        let end = (&w[done * K * K..], planes);
        self.lone_runs::<T, K>(&(most.end..block.end), end, std::slice::from_mut(last));
    }

    /// As [`Windows::lone`], for runs of `RUN`.
    fn lone_runs<T: Element, const RUN: usize>(
        &self,
        block: &Range<usize>,
        (w, planes): (&[T], &[T]),
        y: &mut [T],
    ) {
        let kernels = w.chunks_exact(self.runs.len() * RUN);
        let mut outputs = y.iter_mut().zip(kernels);
        self.each(block, |start| {
            let Some((y, kernel)) = outputs.next() else { return };
            let mut sums = [T::default(); RUN];
            for (w, run) in kernel.as_chunks::<RUN>().0.iter().zip(&self.runs) {
                let x = &planes[start + run..start + run + RUN];
                for i in 0..RUN {
                    sums[i] = sums[i].add(w[i].mul(x[i]));
                }
            }
            *y = sums[1..].iter().fold(sums[0], |sum, &next| sum.add(next));
        });
    }

    /// Collects what lies under the window at each position of a block, tap by tap.
    fn gather<T: Element>(&self, planes: &[T], block: &Range<usize>, patches: &mut [T]) {
        match self.run {
            1 => self.gather_runs::<T, 1>(planes, block, patches),
            2..=4 => self.gather_runs::<T, 4>(planes, block, patches),
            5..=8 => self.gather_runs::<T, 8>(planes, block, patches),
            9..=OVERRUN => self.gather_runs::<T, OVERRUN>(planes, block, patches),
            _ => {
                let mut rows = patches.chunks_exact_mut(self.run);
                self.each(block, |start| {
                    for (run, to) in self.runs.iter().zip(rows.by_ref()) {
                        to.copy_from_slice(&planes[start + run..start + run + self.run]);
                    }
                });
            }
        }
    }

    /// As [`Windows::gather`], for runs of at most `WIDE`: a copy of that many elements is a few
    /// instructions, one of a length unknown to the compiler a call. What is too much is
    /// overwritten by the next run, or lies in the [`OVERRUN`].
    fn gather_runs<T: Element, const WIDE: usize>(
        &self,
        planes: &[T],
        block: &Range<usize>,
        patches: &mut [T],
    ) {
        let mut at = 0;
        self.each(block, |start| {
            for run in &self.runs {
                let from = start + run;
                patches[at..at + WIDE].copy_from_slice(&planes[from..from + WIDE]);
                at += self.run;
            }
        });
    }

    /// Adds patches to the channels from whose element `begin` on `planes` are given.
    fn scatter<T: Element>(
        &self,
        patches: &[T],
        block: &Range<usize>,
        (planes, begin): (&mut [&mut [T]], usize),
    ) {
        let per_channel = self.runs.len() / planes.len();
        let taps = self.runs.len() * self.run;
        let mut patches = patches.chunks_exact(taps);
        self.each(block, |start| {
            let channels =
                patches.next().into_iter().flat_map(|p| p.chunks_exact(per_channel * self.run));
            for (plane, patch) in planes.iter_mut().zip(channels) {
                let plane = &mut plane[start - begin..];
                for (run, from) in self.runs.iter().zip(patch.chunks_exact(self.run)) {
                    let to = &mut plane[*run..run + self.run];
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to = to.add(from));
                }
            }
        });
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

/// The dot products of `M` kernels with each patch, position by position. Two kernels at once are
/// two streams from memory, which it delivers faster than one, and share the loads of the patch.
#[inline(always)]
fn dots<T: Element, const M: usize>(
    w: [&[T]; M],
    (patches, taps): (&[T], usize),
    mut y: [&mut [T]; M],
) {
    for (i, patch) in patches.chunks_exact(taps).take(y[0].len()).enumerate() {
        let sums = dot(w.map(|w| &w[i * taps..(i + 1) * taps]), patch);
        for (y, sum) in y.iter_mut().zip(sums) {
            y[i] = sum;
        }
    }
}

/// The dot products of `M` slices with another, each in an order that depends on the length alone.
#[inline(always)]
fn dot<T: Element, const M: usize>(a: [&[T]; M], b: &[T]) -> [T; M] {
    let mut sums = [[T::default(); LANES]; M];
    let a = a.map(|a| &a[..b.len()]);
    let rest = b.len() % LANES;
    let chunks = a.map(|a| a.as_chunks::<LANES>().0);
    for (at, b) in b.as_chunks::<LANES>().0.iter().enumerate() {
        // By value, so that all sums stay in registers.
        let products: [[T; LANES]; M] = from_fn(|m| {
            let a = &chunks[m][at];
            from_fn(|i| a[i].mul(b[i]))
        });
        sums = from_fn(|m| from_fn(|i| sums[m][i].add(products[m][i])));
    }
    match b.last_chunk::<LANES>() {
        _ if rest == 0 => {}
        // The rest is the end of a last whole vector, in which what was added before counts as 0.
        Some(b) => {
            let products: [[T; LANES]; M] = from_fn(|m| {
                let a = a[m].last_chunk::<LANES>().expect("as long as b");
                from_fn(|i| if i + rest < LANES { T::default() } else { a[i].mul(b[i]) })
            });
            sums = from_fn(|m| from_fn(|i| sums[m][i].add(products[m][i])));
        }
        None => {
            for (sums, a) in sums.iter_mut().zip(a) {
                for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum = sum.add(a.mul(b));
                }
            }
        }
    }
    sums.map(|sums| {
        let pair = |i: usize| sums[i].add(sums[i + LANES / 2]);
        pair(0).add(pair(2)).add(pair(1).add(pair(3)))
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

    #[test]
    fn dot_takes_any_length() {
        for len in 0..70 {
            let (a, b) = (integers(len, 1), integers(len, 2));
            let sum = |a: &[f32]| a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>();
            assert_eq!(dot([&a[..], &b], &b), [sum(&a), sum(&b)]);
        }
    }
}
