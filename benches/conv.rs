//! Times of the parts and of the whole: tiles, staging, and the convolutions of `cases.json`.
//!
//! `cargo bench -- tiles` runs one group, `cargo bench -- conv/vgg` some of one. What Criterion
//! calls elements in the groups "tiles" and "conv" are floating-point operations: Gelem/s are
//! GFLOP/s.

use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use faltung::geometry::{Padding, PaddingMode, PerAxis, Spec};
use faltung::parallel::Team;
use faltung::plan::Asked;
use faltung::slab::{Block, Layout};
use faltung::tile::{
    ALL_ROWS, Bias, Column, Contraction, Ending, Finish, Next, Rows, Segment, Step, Strip, Sum,
    Tiled, available, kernels, kernels_of,
};
use faltung::view::Memory;
use serde_json::Value;

#[path = "../tests/common.rs"]
mod common;
use common::{Convolution, Random};

/// The largest tiles of each instruction set, on operands that stay in the first-level cache.
fn tiles(criterion: &mut Criterion) {
    tiles_of::<f32>(criterion);
    tiles_of::<f64>(criterion);
}

fn tiles_of<T: Tiled>(criterion: &mut Criterion) {
    // 3x3 kernels over 28 channels, a chain's length. The planes of a few rows serve in turn.
    let (channels, planes, pitch) = (28, 32 / size_of::<T>() as isize, 160);
    let steps: Vec<Step> = (0..channels * 9)
        .map(|t| {
            let (channel, tap) = (t / 9, t % 9);
            Step { a: t, b: (channel % planes * 3 + tap / 3) * pitch + tap % 3 }
        })
        .collect();
    let row = steps.len() as isize;
    let (mut random, most_rows) = (Random(1), 14);
    let a: Vec<T> = random.floats(most_rows * steps.len());
    let b: Vec<T> = random.floats((planes * 3 * pitch) as usize);
    let mut sum = Sum::new(row, None, (1, Step::default()));
    sum.segments.push(Segment { steps: 0..steps.len(), rows: ALL_ROWS });
    sum.steps = steps;
    sum.push(0);
    let contraction = Contraction { a: Memory::of(&a), b: Memory::of(&b), sum: &sum };
    let mut group = criterion.benchmark_group("tiles");
    for isa in available() {
        let kernels = kernels_of::<T>(isa).expect("an available instruction set");
        for (rows, width) in kernels.tiles() {
            let mut totals = vec![T::default(); kernels.most_totals()];
            let mut sums = vec![T::default(); rows * width];
            let columns: Vec<Column> = (0..width)
                .step_by(kernels.lanes)
                .map(|at| Column { from: at as isize, to: (at * size_of::<T>()) as isize })
                .collect();
            let strip = Strip {
                a: 0,
                rows,
                b: 0,
                columns: &columns,
                from: (0, (width - kernels.lanes) as isize),
                vectors: columns.len(),
                next: Next::Nothing,
                totals: totals.as_mut_ptr(),
            };
            let row = (width * size_of::<T>()) as isize;
            let out = Some(Rows { first: sums.as_mut_ptr(), row });
            let ending = Ending { finish: Finish { bias: Bias::None, clip: None }, out };
            group.throughput(Throughput::Elements(2 * (rows * width * sum.steps.len()) as u64));
            let id = BenchmarkId::new(isa.name(), format!("{} {rows}x{width}", T::NAME));
            group.bench_function(id, |bencher| {
                // SAFETY: each column writes its vector of each row of `sums`, which holds `rows`
                // rows of `width` and which nothing else touches, as with `totals`; there is no bias.
                bencher.iter(|| unsafe { contraction.chain(kernels, 0, &strip, &ending) });
            });
        }
    }
}

/// A convolution of two spatial axes.
fn planar(stride: i64, pad: i64) -> Spec {
    Spec {
        rank: None,
        stride: PerAxis::All(stride),
        padding: Padding::Sides(PerAxis::All((pad, pad))),
        dilation: PerAxis::All(1),
        groups: 1,
        mode: PerAxis::All(PaddingMode::Constant),
        channels_last: false,
    }
}

/// Staging of a block of rows that the second-level cache holds, by bytes of the slab.
fn slab(criterion: &mut Criterion) {
    let last = |spec| Spec { channels_last: true, ..spec };
    let cases = [
        ("3x3 padded", planar(1, 1), [1, 64, 56, 56], [64, 64, 3, 3]),
        ("3x3 padded, channels last", last(planar(1, 1)), [1, 56, 56, 64], [64, 64, 3, 3]),
        ("3x3 stride 2", planar(2, 1), [1, 64, 56, 56], [64, 64, 3, 3]),
        ("1x1 stride 2", planar(2, 0), [1, 256, 56, 56], [64, 256, 1, 1]),
    ];
    let mut group = criterion.benchmark_group("slab");
    for (name, spec, x, weight) in cases {
        let convolution = Convolution::<f32>::random(&spec, &x, &weight);
        let geometry = &convolution.geometry;
        let (height, width) = (geometry.axes[1].output.min(14), geometry.axes[2].output);
        let layout = Layout::new(geometry, &[1, height, width], size_of::<f32>());
        let layout = layout.expect("a slab of some kilobytes");
        let mut slab = vec![0.0f32; layout.size(geometry.channels, 0)];
        let block = Block(vec![0..1, 0..height, 0..width]);
        let view = convolution.view();
        group.throughput(Throughput::Bytes(size_of_val(&slab[..]) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let runs = layout.runs(&block, &view.strides()[1..]);
                layout.stage((&runs, 0..geometry.channels), &view, 0.0, &mut slab);
            });
        });
    }
}

/// Whole convolutions, on one thread and on all.
fn conv(criterion: &mut Criterion) {
    let kernels = kernels::<f32>().expect("FALTUNG_ISA names what this machine has");
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = criterion.benchmark_group("conv");
    // Few samples of long calls, rather than more and more of them.
    group.sampling_mode(SamplingMode::Flat);
    for (name, convolution) in cases() {
        let mut out = vec![0.0; convolution.out_len()];
        group.throughput(Throughput::Elements(convolution.geometry.flops() as u64));
        let mut counts = vec![1, all];
        counts.dedup();
        for threads in counts {
            let team = Team { threads, stop: &|| false };
            let id = BenchmarkId::new(&name, format!("threads {threads}"));
            group.bench_function(id, |bencher| {
                bencher
                    .iter(|| convolution.run(kernels, &team, &mut out).expect("no one stops it"));
            });
        }
    }
}

/// The convolutions of `cases.json` by their names.
fn cases() -> impl Iterator<Item = (String, Convolution<f32>)> {
    let text = include_str!("cases.json");
    let rows: Vec<Value> = serde_json::from_str(text).expect("cases.json is a list");
    rows.into_iter().map(|row| {
        let shape = |key: &str| -> Vec<usize> {
            let sizes = row[key].as_array().expect("a shape").iter();
            sizes.map(|n| n.as_u64().expect("a size") as usize).collect()
        };
        let number = |key: &str, default| row[key].as_i64().unwrap_or(default);
        let spec = Spec {
            dilation: PerAxis::All(number("dilation", 1)),
            groups: number("groups", 1),
            ..planar(number("stride", 1), number("pad", 0))
        };
        let name = row["name"].as_str().expect("a name").to_string();
        let mut convolution = Convolution::random(&spec, &shape("x"), &shape("w"));
        convolution.asked = Asked::default();
        (name, convolution)
    })
}

/// The whole takes a minute or two; longer measurements tell little more on a machine that does
/// other things too.
fn quick() -> Criterion {
    let (warm_up, measurement) = (Duration::from_millis(100), Duration::from_millis(300));
    Criterion::default().sample_size(10).warm_up_time(warm_up).measurement_time(measurement)
}

criterion_group!(name = benches; config = quick(); targets = tiles, slab, conv);
criterion_main!(benches);
