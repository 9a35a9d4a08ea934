//! The gradient of a bias.

use super::LANES;
use super::dot::halved;
use crate::contract::SERIAL_FLOPS;
use crate::error::room;
use crate::parallel::{Stopped, Team};
use crate::view::{Element, View, ViewMut, advance};

/// The gradient of a bias, with its arrays.
pub struct Bias<'a, T> {
    /// The gradient of the output, canonical strides `[output channel, batch, *positions]`.
    pub gradient: &'a View<'a>,
    /// Its shape, in the same order.
    pub lens: &'a [usize],
    /// Where the sums go, strides `[image, output channel]`, the first of them 0 where all images
    /// have one.
    pub out: &'a ViewMut<'a, T>,
    /// Whether they are added to what is there.
    pub accumulate: bool,
    /// Whether each image has sums of its own.
    pub per_sample: bool,
}

/// Sums the gradient of each output channel: a row along the innermost axis in interleaved sums, the
/// rows of an image in order, and images in order.
pub fn bias<T: Element>(problem: &Bias<'_, T>, team: &Team<'_>) -> Result<(), Stopped> {
    let Bias { gradient, lens, out, .. } = problem;
    let (strides, outputs, images) = (gradient.strides(), lens[0], lens[1]);
    let (&inner, outer) = lens[2..].split_last().expect("a gradient has spatial axes");
    let step = strides[strides.len() - 1];
    let rows = outer.iter().product::<usize>();
    let serial = (lens.iter().product::<usize>() as f64) < SERIAL_FLOPS;
    let team = Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    let put = |image: usize, output: usize, sum: T| {
        let at = image as isize * out.strides()[0] + output as isize * out.strides()[1];
        // SAFETY: each output channel is taken by one thread.
        unsafe {
            if problem.accumulate { out.add(at, 0, &[sum]) } else { out.write(at, 0, &[sum]) }
        }
    };
    team.share(outputs, |turn| {
        let mut row = room("a row of the gradient", inner)?;
        row.resize(inner, T::default());
        while let Some(output) = turn.next() {
            let mut total: Option<T> = None;
            for image in 0..images {
                let start = output as isize * strides[0] + image as isize * strides[1];
                let mut sum: Option<T> = None;
                let mut index = vec![0; outer.len()];
                for _ in 0..rows {
                    if !turn.goes_on(inner / LANES) {
                        return Ok(());
                    }
                    let at: isize =
                        index.iter().zip(&strides[2..]).map(|(&i, &s)| i as isize * s).sum();
                    advance(&mut index, outer);
                    gradient.read(start + at, step, &mut row);
                    let mut sums = [T::default(); LANES];
                    let chunks = row.chunks_exact(LANES);
                    let rest = chunks.remainder();
                    for chunk in chunks {
                        for i in 0..LANES {
                            sums[i] = sums[i].add(chunk[i]);
                        }
                    }
                    for (sum, &value) in sums.iter_mut().zip(rest) {
                        *sum = sum.add(value);
                    }
                    let row = halved(&sums);
                    sum = Some(sum.map_or(row, |sum| sum.add(row)));
                }
                let sum = sum.unwrap_or_default();
                if problem.per_sample {
                    put(image, output, sum);
                } else {
                    total = Some(total.map_or(sum, |total| total.add(sum)));
                }
            }
            if !problem.per_sample {
                put(0, output, total.unwrap_or_default());
            }
        }
        Ok(())
    })
}
