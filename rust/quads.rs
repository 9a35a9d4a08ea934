//! Convolutions of 8-bit numbers by dot-product instructions, which multiply four of them by four others and
//! add the products to a sum of 32 bits.
//!
//! A [`Quad`] is an element like any other, of neighbouring channels, so that blocks, tiles and threads are
//! those of [`contract`](crate::contract): a quarter of the channels, and four products in each step. Instructions take the
//! numbers of one operand as unsigned and those of the other as signed. The weights are what they are; an input
//! of the same kind is moved by 128, to the other kind, and each sum by 128 times those of its weights, which
//! is as good as a bias. So sums are exact modulo 2 to the 32, as those of other integers.

use std::sync::Mutex;

use crate::error::Error;
use crate::geometry::Geometry;
use crate::memory::Workspace;
use crate::number::{Quad, Scalar};
use crate::operand::Weights;
use crate::parallel::{Stopped, Team};
use crate::prepared::Prepared;
use crate::problem::Problem;
use crate::store::Store;
use crate::tile::Tiled;
use crate::view::View;

/// Numbers of a quad.
const FOUR: usize = 4;

/// Channels of a group from which quads pay: with fewer, most of each is padding.
const FEWEST_CHANNELS: usize = 3;

/// Numbers that are read together, so that they are in the first-level cache when they are packed.
const CHUNK: usize = 4096;

/// Whether quads are the way to sum products of these numbers, if there are kernels for them.
pub fn suit(geometry: &Geometry, (x, weight): (Scalar, Scalar), padding: Option<i64>) -> bool {
    let byte = |scalar: Scalar| scalar.is_integer() && scalar.size() == 1;
    let holds = |number: i64| match x {
        Scalar::Bool => (0..=1).contains(&number),
        Scalar::I8 => i8::try_from(number).is_ok(),
        _ => u8::try_from(number).is_ok(),
    };
    byte(x) && byte(weight) && padding.is_some_and(holds) && geometry.channels >= FEWEST_CHANNELS
}

/// Whether 32 bits hold every sum: products are less than 2 to the 16.
pub fn are_whole(geometry: &Geometry) -> bool {
    geometry.channels.saturating_mul(geometry.kernel_taps()) < 1 << 15
}

/// Bytes that an input takes as quads.
pub fn bytes(geometry: &Geometry) -> usize {
    let axes = geometry.axes.iter().map(|axis| axis.input);
    let sizes = axes.chain([geometry.groups, geometry.channels.div_ceil(FOUR), FOUR]);
    sizes.fold(1, usize::saturating_mul)
}

/// Weights as quads, which a plan keeps.
#[derive(Debug)]
pub struct Packed {
    quads: Workspace,
    shape: Vec<usize>,
    /// The sum of each output's weights.
    sums: Vec<i32>,
}

impl Packed {
    /// Of weights of this shape, outputs first.
    pub fn new<const SIGNED: bool>(weight: &View<'_>, shape: &[usize]) -> Result<Self, Error> {
        let [outputs, channels, kernel @ ..] = shape else { unreachable!("weights have both") };
        let taps: usize = kernel.iter().product();
        let shape = [&[*outputs, channels.div_ceil(FOUR)], kernel].concat();
        let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
        let channels_of = [&[*channels], kernel].concat();
        let mut quads = Workspace::new::<Quad<SIGNED>>("the packed weights", len)?;
        // Whole quads of channels, the last of them 0 where there are fewer.
        let mut space = Workspace::new::<i32>("a row of weights", FOUR * shape[1] * taps)?;
        let row = &mut space.elements_mut()[..FOUR * shape[1] * taps];
        row.fill(0);
        let mut sums = Vec::with_capacity(*outputs);
        let kernels = quads.elements_mut::<Quad<SIGNED>>()[..len].chunks_exact_mut(shape[1] * taps);
        for (output, quads) in kernels.enumerate() {
            weight.entry(output).read_all(&channels_of, &mut row[..channels * taps]);
            sums.push(row.iter().fold(0, |sum: i32, &weight| sum.wrapping_add(weight)));
            for (quads, rows) in quads.chunks_exact_mut(taps).zip(row.chunks_exact(FOUR * taps)) {
                pack(split(rows), 0, quads);
            }
        }
        Ok(Packed { quads, shape, sums })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.quads.bytes()
    }

    /// As the engine reads them.
    fn weights<const SIGNED: bool>(&self, flip: bool) -> Result<Weights<'_, Quad<SIGNED>>, Error> {
        let len = self.shape.iter().product();
        let quads = &self.quads.elements::<Quad<SIGNED>>()[..len];
        Weights::new(&View::from_slice(quads, &self.shape), &self.shape, flip)
    }
}

/// Four rows of as many numbers.
fn split(rows: &[i32]) -> [&[i32]; FOUR] {
    let len = rows.len() / FOUR;
    std::array::from_fn(|i| &rows[i * len..(i + 1) * len])
}

/// Packs the numbers of four rows, with the bits of `turned` changed in each.
fn pack<const SIGNED: bool>(rows: [&[i32]; FOUR], turned: u8, quads: &mut [Quad<SIGNED>]) {
    let [a, b, c, d] = rows.map(|row| &row[..quads.len()]);
    let turned = u32::from_le_bytes([turned; FOUR]);
    for (i, quad) in quads.iter_mut().enumerate() {
        let byte = |number: i32| number as u32 & 0xff;
        let bytes = byte(a[i]) | byte(b[i]) << 8 | byte(c[i]) << 16 | byte(d[i]) << 24;
        quad.0 = (bytes ^ turned) as i32;
    }
}

/// A convolution of 8-bit numbers.
pub struct Bytes<'a, const SIGNED: bool> {
    /// Sizes, checked.
    pub geometry: &'a Geometry,
    /// Input, canonical strides `[channel, batch, *spatial]`.
    pub x: &'a View<'a>,
    /// Weights, and whether they are flipped.
    pub weights: (&'a Packed, bool),
    /// What lies outside the input in constant mode: a number that it may hold.
    pub padding: i64,
    /// The result and what is done to it.
    pub store: Store<'a, Quad<SIGNED>>,
}

impl<const SIGNED: bool> Bytes<'_, SIGNED>
where
    Quad<SIGNED>: Tiled,
{
    /// Does `work` with the same convolution of quads.
    pub fn with<R>(
        self,
        team: &Team<'_>,
        work: impl FnOnce(&Problem<'_, Quad<SIGNED>>) -> Result<R, Stopped>,
    ) -> Result<R, Stopped> {
        let Bytes { geometry, x, weights: (packed, flip), padding, store } = self;
        // An unsigned number becomes a signed one that is 128 less by its highest bit, and the other way.
        let (turned, moved): (u8, i32) = match (SIGNED, x.scalar()) {
            (true, Scalar::I8) => (0x80, -128),
            (false, Scalar::U8) => (0x80, 128),
            _ => (0, 0),
        };
        let corrected = |(output, sum): (usize, &i32)| {
            let bias = store.bias.get(output).map_or(0, |bias| bias.0);
            Quad(bias.wrapping_add(sum.wrapping_mul(moved)))
        };
        let bias: Vec<Quad<SIGNED>> = match (moved, store.bias) {
            (0, bias) => bias.to_vec(),
            _ => packed.sums.iter().enumerate().map(corrected).collect(),
        };
        let quads = geometry.channels.div_ceil(FOUR);
        let axes: Vec<usize> = geometry.axes.iter().map(|axis| axis.input).collect();
        let plane: usize = axes.iter().product();
        let planes = geometry.groups * quads;
        let mut space = Workspace::new::<Quad<SIGNED>>("the packed input", planes * plane)?;
        let items: Vec<Mutex<&mut [Quad<SIGNED>]>> = space.elements_mut()[..planes * plane]
            .chunks_exact_mut(plane.max(1))
            .map(Mutex::new)
            .collect();
        team.share(items.len(), |turn| {
            let mut rows = vec![0; FOUR * CHUNK];
            while let Some(item) = turn.next() {
                let mut to = items[item].lock().expect("each plane is one thread's");
                let (group, first) = (item / quads, item % quads * FOUR);
                let channels = FOUR.min(geometry.channels - first);
                let first = group * geometry.channels + first;
                for (at, to) in to.chunks_mut(CHUNK).enumerate() {
                    for (channel, row) in rows.chunks_exact_mut(CHUNK).enumerate().take(channels) {
                        let row = &mut row[..to.len()];
                        x.entry(first + channel).read_from(&axes, at * CHUNK, row);
                    }
                    pack(split(&rows), turned, to);
                }
            }
            Ok(())
        })?;
        drop(items);
        let shape = [&[planes], axes.as_slice()].concat();
        let packed_x = &space.elements::<Quad<SIGNED>>()[..planes * plane];
        work(&Problem {
            geometry: &Geometry { channels: quads, ..geometry.clone() },
            x: &View::from_slice(packed_x, &shape),
            weights: &packed.weights(flip)?,
            prepared: &Prepared::new(false),
            padding: Quad(i32::from_le_bytes([padding as u8 ^ turned; FOUR])),
            exact: true,
            store: &Store { bias: &bias, ..store },
        })
    }
}
