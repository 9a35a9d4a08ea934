//! Convolutions of complex numbers by three real ones instead of four (Gauss).
//!
//! Of x = a + bi and w = c + di,
//!
//! ```text
//! k1 = c (a + b)    k2 = (d - c) a    k3 = (c + d) b    w x = (k1 - k3) + (k1 + k2) i
//! ```
//!
//! and a sum of products is one convolution of three times as many groups: planes of a + b, a and b with
//! weights c, d - c and c + d, by whatever method is best for those. Small integers stay exact. The error is small beside
//! |w| |x| rather than beside each part: with k roundings of a term on its way through a real convolution,
//!
//! ```text
//! |found - exact| <= gamma(k + 3) ((1 + sqrt 2) sum |w| |x| + |bias|)    for either part
//! ```
//!
//! since k1 - k3 sums (|c| |a| + 2 |c| |b| + |d| |b|), a form of |a|, |b|, |c| and |d| whose norm is that of
//! \[\[1, 2\], \[0, 1\]\] (compare Higham, *Accuracy and Stability of Numerical Algorithms*, section 23.2.4).
//! Images with a result that is not finite are left to four products, since a + b may be so where neither
//! part is.

use std::ops::Range;
use std::sync::Mutex;

use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::memory::{Workspace, with_scratch};
use crate::operand::Weights;
use crate::parallel::{Stopped, Team};
use crate::prepared::{Made, Prepared};
use crate::problem::Problem;
use crate::store::Store;
use crate::tile::Tiled;
use crate::view::{Element, View, ViewMut, advance, longest_runs};

/// Real convolutions that a complex one is.
const THREE: usize = 3;

/// Bytes of planes for as many images as are computed together; of one at least.
const BYTES: usize = 16 << 20;

/// Numbers that are joined together: they stay in the first-level cache.
const CHUNK: usize = 2048;

/// Numbers of planes below which splitting and joining stay on one thread: some 20 us.
const SERIAL: usize = 1 << 16;

/// Weights as three real ones, which a plan keeps.
#[derive(Debug)]
pub struct Packed {
    planes: Workspace,
    /// Outputs of all three first.
    shape: Vec<usize>,
}

impl Packed {
    /// Of weights of this shape, outputs first: their real part and their imaginary one.
    pub fn new<T: Element>(
        weight: [&View<'_>; 2],
        shape: &[usize],
        team: &Team<'_>,
    ) -> Result<Self, Stopped> {
        let (outputs, each) = (shape[0], &shape[1..]);
        let taps: usize = each.iter().product();
        let len = outputs.saturating_mul(taps).saturating_mul(THREE);
        let mut planes = Workspace::new::<T>("the weights of three products", len)?;
        let all = &mut planes.elements_mut::<T>()[..len];
        split(all, taps, team, |output, [first, second, third]| {
            weight[0].entry(output).read_all(each, first);
            weight[1].entry(output).read_all(each, third);
            for ((&mut c, d_less_c), d) in first.iter_mut().zip(second).zip(third) {
                *d_less_c = d.sub(c);
                *d = c.add(*d);
            }
        })?;
        Ok(Packed { planes, shape: [&[THREE * outputs], each].concat() })
    }

    fn weights<T: Element>(&self, flip: bool) -> Result<Weights<'_, T>, Error> {
        let planes = &self.planes.elements::<T>()[..self.shape.iter().product()];
        Weights::new(&View::from_slice(planes, &self.shape), &self.shape, flip)
    }
}

impl Made for Packed {
    fn bytes(&self) -> usize {
        self.planes.bytes()
    }
}

/// Fills three arrays of as many planes, each of `plane` numbers, one plane of all three at a time.
fn split<T: Element>(
    arrays: &mut [T],
    plane: usize,
    team: &Team<'_>,
    fill: impl Fn(usize, [&mut [T]; THREE]) + Sync,
) -> Result<(), Stopped> {
    let serial = Team { threads: 1, stop: team.stop };
    let team = if arrays.len() < SERIAL { &serial } else { team };
    let (first, rest) = arrays.split_at_mut(arrays.len() / THREE);
    let (second, third) = rest.split_at_mut(first.len());
    let planes = |array| <[T]>::chunks_exact_mut(array, plane.max(1));
    let items: Vec<Mutex<[&mut [T]; THREE]>> = planes(first)
        .zip(planes(second).zip(planes(third)))
        .map(|(first, (second, third))| Mutex::new([first, second, third]))
        .collect();
    team.share(items.len(), |turn| {
        while let Some(item) = turn.next() {
            let mut planes = items[item].lock().expect("each plane is one thread's");
            fill(item, planes.each_mut().map(|plane| &mut **plane));
        }
        Ok(())
    })
}

/// Bytes that planes take, of the input and of what is summed.
pub fn bytes<T>(geometry: &Geometry) -> usize {
    let numbers = planes(geometry, together::<T>(geometry));
    numbers.iter().fold(0usize, |sum, &n| sum.saturating_add(n)).saturating_mul(size_of::<T>())
}

/// How many images are computed together.
fn together<T>(geometry: &Geometry) -> usize {
    let each = planes(geometry, 1).iter().fold(0usize, |sum, &n| sum.saturating_add(n));
    (BYTES / size_of::<T>() / each.max(1)).clamp(1, geometry.axes[0].output.max(1))
}

/// Numbers of all planes of some images: of the input, and of its sums.
fn planes(geometry: &Geometry, images: usize) -> [usize; 2] {
    let Geometry { groups, channels, outputs, axes, .. } = geometry;
    let all = |channels: usize, of: fn(&Axis) -> usize| {
        let sizes = axes[1..].iter().map(of).chain([THREE * groups, channels, images]);
        sizes.fold(1, usize::saturating_mul)
    };
    [all(*channels, |axis| axis.input), all(*outputs, |axis| axis.output)]
}

/// A convolution of complex numbers.
pub struct Complex<'a, T> {
    /// Sizes, checked.
    pub geometry: &'a Geometry,
    /// The real and the imaginary part of the input, canonical strides `[channel, batch, *spatial]`. Nothing,
    /// or zeros, lies outside.
    pub x: [&'a View<'a>; 2],
    /// Weights, and whether they are flipped.
    pub weights: (&'a Packed, bool),
    /// Places for what methods make of them.
    pub prepared: &'a Prepared,
    /// The result, canonical strides and last the two parts.
    pub out: &'a ViewMut<'a, T>,
    /// The parts of the bias, each one number an output channel or none at all.
    pub bias: [&'a [T]; 2],
}

impl<T: Tiled> Complex<'_, T> {
    /// Computes it, by `work` on real convolutions. Returns the images whose results are not finite: those
    /// are not as four products would have them.
    pub fn run(
        &self,
        team: &Team<'_>,
        work: impl Fn(&Problem<'_, T>) -> Result<(), Stopped>,
    ) -> Result<Vec<usize>, Stopped> {
        let images = self.geometry.axes[0].output;
        let together = together::<T>(self.geometry);
        let [mut x, mut sums] = self.space(together)?;
        let mut odd = Vec::new();
        for first in (0..images).step_by(together) {
            let images = first..(first + together).min(images);
            let planes = planes(self.geometry, images.len());
            let x = &mut x.elements_mut()[..planes[0]];
            let sums = &mut sums.elements_mut()[..planes[1]];
            self.stage(&images, x, team)?;
            self.with(images.len(), (x, sums), &work)?;
            odd.extend(self.join(&images, sums, team)?);
        }
        Ok(odd)
    }

    /// Shows `work` the real convolution of all images, whose numbers mean nothing.
    pub fn show<R: From<Error>>(
        &self,
        work: impl FnOnce(&Problem<'_, T>) -> Result<(), R>,
    ) -> Result<(), R> {
        let images = self.geometry.axes[0].output;
        let planes = planes(self.geometry, images);
        let [mut x, mut sums] = self.space(images)?;
        let (x, sums) = (x.elements_mut(), sums.elements_mut());
        self.with(images, (&x[..planes[0]], &mut sums[..planes[1]]), work)
    }

    /// Memory for planes of some images: apart, so that more of it is kept for the next call.
    fn space(&self, images: usize) -> Result<[Workspace; 2], Error> {
        let [x, sums] = planes(self.geometry, images);
        let space = |len| Workspace::new::<T>("the planes of three products", len);
        Ok([space(x)?, space(sums)?])
    }

    /// Does `work` with the real convolution of some images, from and to planes.
    fn with<R: From<Error>>(
        &self,
        images: usize,
        (x, sums): (&[T], &mut [T]),
        work: impl FnOnce(&Problem<'_, T>) -> Result<(), R>,
    ) -> Result<(), R> {
        let (packed, flip) = self.weights;
        let mut geometry = self.geometry.clone();
        geometry.groups *= THREE;
        geometry.axes[0] = Axis::plain(images);
        let shape = |channels: usize, of: fn(&Axis) -> usize| -> Vec<usize> {
            [geometry.groups * channels].into_iter().chain(geometry.axes.iter().map(of)).collect()
        };
        let inputs = shape(geometry.channels, |axis| axis.input);
        let outputs = shape(geometry.outputs, |axis| axis.output);
        work(&Problem {
            x: &View::from_slice(x, &inputs),
            weights: &packed.weights(flip)?,
            prepared: self.prepared,
            padding: T::default(),
            exact: false,
            store: &Store::plain(ViewMut::from_slice(sums, &outputs)),
            geometry: &geometry,
        })
    }

    /// Reads some images into planes.
    fn stage(
        &self,
        images: &Range<usize>,
        planes: &mut [T],
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        let axes: Vec<usize> = self.geometry.axes[1..].iter().map(|axis| axis.input).collect();
        let plane: usize = axes.iter().product();
        split(planes, plane, team, |item, [sums, reals, imaginaries]| {
            let (channel, image) = (item / images.len(), images.start + item % images.len());
            let parts = self.x.map(|part| part.entry(channel).entry(image));
            // So many at a time that they are in the first-level cache when they are added.
            let chunks = sums.chunks_mut(CHUNK).zip(reals.chunks_mut(CHUNK));
            for (at, ((sums, a), b)) in chunks.zip(imaginaries.chunks_mut(CHUNK)).enumerate() {
                parts[0].read_from(&axes, at * CHUNK, a);
                parts[1].read_from(&axes, at * CHUNK, b);
                for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum = a.add(*b);
                }
            }
        })
    }

    /// Writes the results of some images. Returns those of them which are not finite.
    fn join(
        &self,
        images: &Range<usize>,
        sums: &[T],
        team: &Team<'_>,
    ) -> Result<Vec<usize>, Stopped> {
        let axes: Vec<usize> = self.geometry.axes[1..].iter().map(|axis| axis.output).collect();
        let plane: usize = axes.iter().product();
        let (first, rest) = sums.split_at(sums.len() / THREE);
        let (second, third) = rest.split_at(first.len());
        let [channel_step, image_step, between @ .., part] = self.out.strides() else {
            unreachable!("results have a batch")
        };
        let odd = Mutex::new(vec![false; images.len()]);
        let serial = Team { threads: 1, stop: team.stop };
        let team = if sums.len() < SERIAL { &serial } else { team };
        team.share(first.len() / plane.max(1), |turn| {
            with_scratch(2 * CHUNK, |joined: &mut [T]| {
                while let Some(item) = turn.next() {
                    let (channel, image) = (item / images.len(), item % images.len());
                    let bias = self.bias.map(|b| b.get(channel).copied().unwrap_or_default());
                    let from = [first, second, third].map(|sums| &sums[item * plane..][..plane]);
                    let image_at = (images.start + image) as isize * image_step;
                    let to = channel as isize * channel_step + image_at;
                    let mut finite = true;
                    rows(&axes, between, |row, (at, step)| {
                        for start in row.clone().step_by(CHUNK) {
                            let len = CHUNK.min(row.end - start);
                            let sums = from.map(|sums| &sums[start..start + len]);
                            let joined = &mut joined[..2 * len];
                            let at = to + at + (start - row.start) as isize * step;
                            let together = step == 2 * part;
                            finite &= combine(sums, bias, (joined, together));
                            // SAFETY: each plane of the result is one item's, which one thread has.
                            unsafe {
                                if together {
                                    self.out.write(at, *part, joined);
                                } else {
                                    self.out.write(at, step, &joined[..len]);
                                    self.out.write(at + part, step, &joined[len..]);
                                }
                            }
                        }
                    });
                    if !finite {
                        odd.lock().expect("nothing fails with it")[image] = true;
                    }
                }
            })
        })?;
        let odd = odd.into_inner().expect("nothing failed with it");
        Ok(images.clone().zip(odd).filter(|&(_, odd)| odd).map(|(image, _)| image).collect())
    }
}

/// Joins the sums of three products to complex numbers: the parts of each together, or all real parts and
/// then all imaginary ones. Returns whether all are finite.
fn combine<T: Element>(
    [first, second, third]: [&[T]; THREE],
    bias: [T; 2],
    (to, together): (&mut [T], bool),
) -> bool {
    let len = to.len() / 2;
    // Slices of one length, and a flag that is no condition: so the loops compile to vectors.
    let [first, second, third] = [&first[..len], &second[..len], &third[..len]];
    let mut finite = true;
    let mut number = |i: usize| {
        let (real, imaginary) =
            (first[i].sub(third[i]).add(bias[0]), first[i].add(second[i]).add(bias[1]));
        // What is not finite is not 0 less itself.
        finite &= (real.sub(real) == T::default()) & (imaginary.sub(imaginary) == T::default());
        (real, imaginary)
    };
    if together {
        for i in 0..len {
            (to[2 * i], to[2 * i + 1]) = number(i);
        }
    } else {
        let (reals, imaginaries) = to.split_at_mut(len);
        for (i, (real, imaginary)) in reals.iter_mut().zip(imaginaries).enumerate() {
            (*real, *imaginary) = number(i);
        }
    }
    finite
}

/// Calls `work` with the longest runs of elements of an array of this shape that lie evenly apart: the
/// range of their numbers in C order, the byte offset of the first, and bytes from one to the next.
fn rows(shape: &[usize], strides: &[isize], mut work: impl FnMut(Range<usize>, (isize, isize))) {
    let Some((inner, run, step)) = longest_runs(shape, strides) else { return };
    let mut index = vec![0; inner];
    for row in 0..shape[..inner].iter().product() {
        let at = index.iter().zip(strides).map(|(&i, stride)| i as isize * stride).sum();
        work(row * run..(row + 1) * run, (at, step));
        advance(&mut index, &shape[..inner]);
    }
}
