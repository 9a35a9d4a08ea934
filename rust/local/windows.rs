//! Where the windows of a locally connected layer lie, and how patches are gathered and scattered.

use std::array::from_fn;
use std::ops::Range;

use crate::geometry::Geometry;
use crate::view::Element;

/// Elements that a copy of a short run may write or read beyond its end.
pub const OVERRUN: usize = 16;

/// Where the windows lie in a padded copy of an image.
pub struct Windows {
    /// Elements of one padded channel: what windows touch, and no more.
    pub plane: usize,
    /// Elements that the input has on each axis.
    pub inputs: Vec<usize>,
    /// For each axis the input element at each padded one; `None` is padding by 0.
    sources: Vec<Vec<Option<usize>>>,
    /// Of the innermost axis the padded elements that show consecutive input: (first, input, len).
    inner: (usize, usize, usize),
    /// Output positions on each axis.
    outputs: Vec<usize>,
    /// Padded elements between neighbouring positions on each axis.
    advance: Vec<usize>,
    /// Where each run of consecutive taps begins, from the first tap on, through all channels.
    pub runs: Vec<usize>,
    /// Taps of a run.
    pub run: usize,
}

impl Windows {
    pub fn new(geometry: &Geometry) -> Self {
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
    pub fn rows(&self) -> impl Iterator<Item = Option<usize>> {
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
    pub fn stage<T: Element>(&self, image: &[T], padded: &mut Vec<T>) {
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
    pub fn unstage<T: Element>(&self, padded: &[T], image: &mut [T]) {
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
    pub fn start(&self, position: usize) -> usize {
        let (mut left, mut start) = (position, 0);
        for (n, advance) in self.outputs.iter().zip(&self.advance).rev() {
            start += left % n * advance;
            left /= n;
        }
        start
    }

    /// Calls `visit` with the first padded element under the window at each position of a block.
    #[inline(always)]
    pub fn each(&self, block: &Range<usize>, mut visit: impl FnMut(usize)) {
        let advance = self.advance[self.outputs.len() - 1];
        self.each_row(block, usize::MAX, |start, len| {
            (0..len).for_each(|i| visit(start + i * advance));
        });
    }

    /// Calls `visit` with the first padded element under the first window of each row of positions
    /// of a block, or of at most `most` of a row, and with how many they are.
    #[inline(always)]
    pub fn each_row(&self, block: &Range<usize>, most: usize, mut visit: impl FnMut(usize, usize)) {
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
    pub fn territories(&self, mut blocks: Vec<Range<usize>>) -> Vec<Range<usize>> {
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
    pub fn lone<T: Element>(&self, block: &Range<usize>, from: (&[T], &[T]), y: &mut [T]) -> bool {
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
    pub fn gather<T: Element>(&self, planes: &[T], block: &Range<usize>, patches: &mut [T]) {
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
    pub fn scatter<T: Element>(
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
