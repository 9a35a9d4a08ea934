//! Every tile kernel and every instruction set of this machine gives the bits that the definition
//! of a result says: chains of fused multiply-adds in the order of the taps.

use faltung::geometry::{Activation, Axis, Padding, PaddingMode, PerAxis, Spec};
use faltung::number::Quad;
use faltung::parallel::{Stopped, Team};
use faltung::plan::Planned;
use faltung::tile::{
    ALL_ROWS, CHAIN, Contraction, Isa, MOST_RAMP_ROWS, Results, Segment, Step, Sum, Tiled,
    available, kernels_of,
};
use faltung::view::Memory;

mod common;
use common::{Convolution, Random};

/// Bit for bit, signs of zeros included; which NaN it is, is nobody's promise.
fn same<T: Tiled>(a: T, b: T) -> bool {
    if T::SCALAR.is_integer() {
        return a == b;
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// What a result is: a chain of fused multiply-adds from zero for each run of products, and the
/// chains added in order.
fn sum<T: Tiled>(chains: impl IntoIterator<Item = Vec<(T, T)>>) -> T {
    let chain = |products: Vec<(T, T)>| {
        products.into_iter().fold(T::default(), |sum, (a, b)| a.mul_add(b, sum))
    };
    chains.into_iter().map(chain).reduce(|total, chain| total.add(chain)).unwrap_or_default()
}

/// Operands and a sum over them, with random steps of either sign.
struct Case<T> {
    a: Vec<T>,
    b: Vec<T>,
    /// The first row in `a`.
    a_start: isize,
    sum: Sum,
    /// Segments of each chain of a period, and of the last one.
    chains: Vec<Vec<Segment>>,
    rest: Vec<Segment>,
    /// Where vectors of columns may start in `b`.
    columns: [isize; MOST_COLUMNS],
}

/// The most rows, columns and lanes that a tile of any instruction set has.
const MOST_ROWS: usize = 14;
const MOST_COLUMNS: usize = 8;
const MOST_LANES: isize = 16;

impl<T: Tiled> Case<T> {
    /// `periods` periods of `period` taps, cut into chains, and a chain of `rest` taps at the end. Some
    /// rows take only some of the steps, if there is a number of `rows`.
    fn random(
        random: &mut Random,
        (period, periods, rest): (usize, usize, usize),
        rows: Option<usize>,
    ) -> Self {
        let a_row = random.integer(-50, 50);
        let period_step = Step { a: random.integer(-5, 5), b: random.integer(-20, 20) };
        let mut sum = Sum::new(a_row, rows, (periods, period_step));
        let mut push = |sum: &mut Sum, mut taps: usize| {
            let first = sum.segments.len();
            while taps > 0 {
                let len =
                    if rows.is_some() { taps.min(random.integer(1, 3) as usize) } else { taps };
                let start = sum.steps.len();
                let mut step = || Step { a: random.integer(-40, 40), b: random.integer(-200, 200) };
                sum.steps.extend((0..len).map(|_| step()));
                let taken = rows.map_or(ALL_ROWS, |rows| {
                    let first = random.integer(0, rows as isize - 1) as usize;
                    first..random.integer(first as isize + 1, rows as isize) as usize
                });
                sum.segments.push(Segment { steps: start..start + len, rows: taken });
                taps -= len;
            }
            (first, sum.segments[first..].to_vec())
        };
        let (mut chains, mut left) = (Vec::new(), period);
        while left > 0 && periods > 0 {
            let (first, segments) = push(&mut sum, left.min(CHAIN));
            sum.push(first);
            chains.push(segments);
            left -= left.min(CHAIN);
        }
        let mut last = Vec::new();
        if rest > 0 {
            let (first, segments) = push(&mut sum, rest);
            sum.push_rest(first);
            last = segments;
        }
        // Room on both sides, so that every address is inside.
        let a_start = 40 + 5 * periods as isize + 50 * MOST_ROWS as isize;
        let b_start = 200 + 20 * periods as isize;
        let columns = std::array::from_fn(|_| b_start + random.integer(0, 40));
        Case {
            a: random.floats((2 * a_start + MOST_LANES) as usize),
            b: random.floats((2 * b_start + 41 + MOST_LANES) as usize),
            a_start,
            sum,
            chains,
            rest: last,
            columns,
        }
    }

    /// One element of a tile, straight from the definition.
    fn element(&self, row: usize, column: isize) -> T {
        self.element_from(self.a_start, row, column)
    }

    /// The same from another element of A on.
    fn element_from(&self, a_start: isize, row: usize, column: isize) -> T {
        let periods = (0..self.sum.periods).flat_map(|p| self.chains.iter().map(move |c| (p, c)));
        let rest = (!self.rest.is_empty()).then_some((self.sum.periods, &self.rest));
        sum(periods.chain(rest).map(|(period, segments)| {
            let taken = segments.iter().filter(|segment| segment.rows.contains(&row));
            let steps = taken.flat_map(|segment| &self.sum.steps[segment.steps.clone()]);
            let period = period as isize;
            let a = a_start + self.sum.a_row * row as isize + period * self.sum.period.a;
            let b = column + period * self.sum.period.b;
            steps.map(|s| (self.a[(a + s.a) as usize], self.b[(b + s.b) as usize])).collect()
        }))
    }

    /// Compares every tile of every instruction set with the definition. The portable kernels are
    /// among them, so all agree with those too. Returns what the elements are.
    fn check(&self) -> Vec<T> {
        let positions = *self.columns.iter().max().unwrap() + MOST_LANES;
        let expected: Vec<Vec<T>> = (0..MOST_ROWS)
            .map(|row| (0..positions).map(|p| self.element_if_used(row, p)).collect())
            .collect();
        let (a, b) = (Memory::of(&self.a), Memory::of(&self.b));
        let contraction = Contraction { a, b, sum: &self.sum };
        let mut elements = Vec::new();
        for isa in available() {
            // Quads need instructions that a set need not have; the portable kernels have all elements.
            assert!(isa != Isa::Scalar || kernels_of::<T>(isa).is_some());
            let Some(kernels) = kernels_of::<T>(isa) else { continue };
            for (vectors, (most_rows, _)) in kernels.tiles().enumerate() {
                for rows in (1..=most_rows).filter(|&n| self.sum.rows.is_none_or(|rows| rows == n))
                {
                    let columns = &self.columns[..vectors + 1];
                    let len = rows * columns.len() * kernels.lanes;
                    let untouched = T::from_f64(-77.0);
                    let mut sums = vec![untouched; len + 1];
                    contraction.tile(kernels, (self.a_start, rows), columns, &mut sums);
                    assert!(same(sums.pop().unwrap(), untouched), "a store beyond the tile");
                    for (i, &found) in sums.iter().enumerate() {
                        let (vector, lane) = (i / kernels.lanes, i % kernels.lanes);
                        let (row, vector) = (vector / columns.len(), vector % columns.len());
                        let expected = expected[row][columns[vector] as usize + lane];
                        assert!(
                            same(found, expected),
                            "{} {} {rows}x{}: row {row}, vector {vector}, lane {lane} of {} \
                             chains: {} instead of {}",
                            isa.name(),
                            T::NAME,
                            columns.len(),
                            self.sum.chains(),
                            found.to_f64(),
                            expected.to_f64(),
                        );
                        elements.push(found);
                    }
                }
            }
        }
        elements
    }

    fn element_if_used(&self, row: usize, position: isize) -> T {
        let used = self.columns.iter().any(|c| (*c..c + MOST_LANES).contains(&position));
        if used { self.element(row, position) } else { T::default() }
    }
}

/// Tiles whose products are of vectors, lane by lane: of every size and instruction set, chain by chain,
/// to results further apart than they must be.
fn every_dot<T: Tiled>() {
    let random = &mut Random(5);
    for (period, periods, rest) in [(1, 1, 0), (CHAIN, 1, 0), (9, 2, 4), (2 * CHAIN + 1, 1, 0)] {
        let case = Case::<T>::random(random, (period, periods, rest), None);
        let (a, b) = (Memory::of(&case.a), Memory::of(&case.b));
        let contraction = Contraction { a, b, sum: &case.sum };
        let expected: Vec<Vec<Vec<T>>> = (0..MOST_ROWS)
            .map(|row| {
                let lanes = |&column: &isize| {
                    let lane = |i| case.element_from(case.a_start + i, row, column + i);
                    (0..MOST_LANES).map(lane).collect()
                };
                case.columns.iter().map(lanes).collect()
            })
            .collect();
        for isa in available() {
            let kernels = kernels_of::<T>(isa).expect("an available instruction set");
            for (vectors, (most_rows, _)) in kernels.tiles().enumerate() {
                let columns = &case.columns[..vectors + 1];
                for rows in 1..=most_rows {
                    let column = kernels.lanes + 3;
                    let row = column * columns.len() + 2;
                    let untouched = T::from_f64(-77.0);
                    let mut sums = vec![untouched; rows * row];
                    let mut totals = vec![untouched; kernels.most_totals()];
                    for chain in 0..case.sum.chains() {
                        let last = chain + 1 == case.sum.chains();
                        let size = (rows, columns.len());
                        let results = last
                            .then(|| Results::of(&mut sums, (row, column), size, kernels.lanes));
                        contraction.total(
                            (kernels, chain),
                            (case.a_start, rows),
                            columns,
                            (&mut totals, results),
                            (chain == 0, true),
                        );
                    }
                    for (i, &found) in sums.iter().enumerate() {
                        let (m, v, lane) = (i / row, i % row / column, i % row % column);
                        let in_tile = v < columns.len() && lane < kernels.lanes;
                        let expected = if in_tile { expected[m][v][lane] } else { untouched };
                        assert!(
                            same(found, expected),
                            "{} {} {rows}x{}: row {m}, vector {v}, lane {lane}",
                            isa.name(),
                            T::NAME,
                            columns.len(),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_vectors_are_summed_lane_by_lane() {
    every_dot::<f32>();
    every_dot::<f64>();
    every_dot::<i32>();
    every_dot::<i64>();
}

fn every_tile<T: Tiled>() {
    let random = &mut Random(1);
    for period in [1, 2, 9, CHAIN - 1, CHAIN, CHAIN + 1, 2 * CHAIN + 1] {
        for (periods, rest) in [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (2, period.min(CHAIN))] {
            Case::<T>::random(random, (period, periods, rest), None).check();
        }
    }
    for rows in 1..=MOST_RAMP_ROWS {
        for (period, periods, rest) in [(7, 1, 0), (25, 1, 0), (30, 2, 11), (2 * CHAIN, 1, 0)] {
            Case::<T>::random(random, (period, periods, rest), Some(rows)).check();
        }
    }
}

#[test]
fn every_tile_of_every_isa_is_the_sum_by_definition_float32() {
    every_tile::<f32>();
}

#[test]
fn every_tile_of_every_isa_is_the_sum_by_definition_float64() {
    every_tile::<f64>();
}

#[test]
fn every_tile_of_every_isa_is_the_sum_by_definition_integers() {
    every_tile::<i32>();
    every_tile::<i64>();
}

#[test]
fn every_tile_of_every_isa_is_the_sum_by_definition_quads() {
    every_tile::<Quad<true>>();
    every_tile::<Quad<false>>();
}

/// The operands above tell one order of summation from another: otherwise those tests would prove
/// nothing about chains.
#[test]
fn the_operands_tell_chains_apart() {
    let case = Case::<f32>::random(&mut Random(2), (2 * CHAIN, 1, 0), None);
    let products = |column: isize| -> Vec<(f32, f32)> {
        let at = |start: isize, step: isize| (start + step) as usize;
        let product = |s: &Step| (case.a[at(case.a_start, s.a)], case.b[at(column, s.b)]);
        case.sum.steps.iter().map(product).collect()
    };
    // Whether some element is another if its chain is cut elsewhere.
    let differs = |cut: usize| {
        case.columns.iter().any(|&column| {
            let mut first = products(column);
            let second = first.split_off(cut);
            !same(sum([first, second]), case.element(0, column))
        })
    };
    assert!(!differs(CHAIN));
    assert!(differs(CHAIN - 1));
    assert!(differs(0));
    let unfused = |chain: &[(f32, f32)]| chain.iter().fold(0.0, |sum, (a, b)| sum + a * b);
    assert!(case.columns.iter().any(|&column| {
        let total = products(column).chunks(CHAIN).map(unfused).sum();
        !same(total, case.element(0, column))
    }));
}

fn not_finite<T: Tiled>() {
    let random = &mut Random(3);
    let mut seen = [false; 3];
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for in_a in [false, true] {
            let mut case = Case::<T>::random(random, (5, 2, 3), None);
            // Where some columns and some rows meet it and others do not.
            let start = if in_a { case.a_start + 2 * case.sum.a_row } else { case.columns[0] + 3 };
            let step = if in_a { case.sum.steps[1].a } else { case.sum.steps[1].b };
            let operand = if in_a { &mut case.a } else { &mut case.b };
            operand[(start + step) as usize] = T::from_f64(value);
            for element in case.check() {
                let element = element.to_f64();
                seen[0] |= element.is_finite();
                seen[1] |= element.is_nan();
                seen[2] |= element.is_infinite();
            }
        }
    }
    assert_eq!(seen, [true; 3], "finite, NaN and infinite elements were all compared");
}

#[test]
fn what_is_not_finite_stays_where_it_is() {
    not_finite::<f32>();
    not_finite::<f64>();
}

/// Operands that hold exactly what a tile reads: moved by one element to any side, it must panic.
#[test]
fn a_tile_that_would_leave_an_operand_panics() {
    for isa in available() {
        let kernels = kernels_of::<f32>(isa).expect("an available instruction set");
        // Three periods, the last of a single tap: offsets from -2 to 5 in A, from -3 to 3 in B.
        for a_row in [10, -10] {
            let mut sum = Sum::new(a_row, None, (2, Step { a: 1, b: -2 }));
            sum.steps = vec![Step { a: -2, b: 3 }, Step { a: 4, b: -1 }];
            sum.segments = vec![Segment { steps: 0..2, rows: ALL_ROWS }];
            sum.push(0);
            sum.segments.push(Segment { steps: 0..1, rows: ALL_ROWS });
            sum.push_rest(1);
            let a_start = if a_row > 0 { 2 } else { 12 };
            let (a, b) = (vec![1.0; 18], vec![1.0; 23 + kernels.lanes]);
            let contraction = Contraction { a: Memory::of(&a), b: Memory::of(&b), sum: &sum };
            let reads = |a: isize, first: isize, last: isize| {
                let mut sums = vec![0.0; 4 * kernels.lanes];
                let tile =
                    || contraction.tile(kernels, (a_start + a, 2), &[first, last], &mut sums);
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(tile)).is_ok()
            };
            assert!(reads(0, 3, 20));
            for (a, first, last) in [(-1, 3, 20), (1, 3, 20), (0, 2, 20), (0, 3, 21)] {
                assert!(!reads(a, first, last), "{} {a_row} {a} {first} {last}", isa.name());
            }
        }
    }
}

/// A convolution by the definition: loops over outputs and taps, positions by [`Axis::source`].
fn by_definition<T: Planned>(convolution: &Convolution<T>) -> Vec<T> {
    let g = &convolution.geometry;
    let lens = |of: fn(&Axis) -> usize| g.axes.iter().map(of).collect::<Vec<_>>();
    let taps = g.kernel_taps();
    // As many whole channels as a chain holds, else slices of one along its first axis, else...
    let lengths = lens(|axis| axis.kernel);
    let whole = (0..lengths.len()).map(|axis| lengths[axis..].iter().product::<usize>());
    let slice = whole.chain([1]).find(|&slice| slice <= CHAIN).expect("one tap does fit");
    let period = (CHAIN / taps).max(1);
    // Slices that are together in a chain end with the slices of the axis before, too.
    let around = (0..=lengths.len())
        .map(|axis| lengths[axis..].iter().product::<usize>())
        .filter(|&around| around > CHAIN)
        .min()
        .unwrap_or(taps);
    let begins = |channel: usize, tap: usize| {
        if taps <= CHAIN {
            tap == 0 && channel.is_multiple_of(period)
        } else {
            (tap % around).is_multiple_of(CHAIN / slice * slice)
        }
    };
    let x_strides = convolution.strides(&convolution.x_shape);
    let out_strides = convolution.strides(&g.output_shape());
    let x = |channel: usize, position: &[usize], tap: &[usize]| {
        let mut at = channel * x_strides[0];
        for (i, axis) in g.axes.iter().enumerate() {
            let padded = position[i] * axis.stride + tap[i] * axis.dilation;
            match axis.source(padded as isize) {
                Some(source) => at += source * x_strides[i + 1],
                None => return convolution.padding,
            }
        }
        convolution.x[at]
    };
    let kernel = indices(&lens(|axis| axis.kernel));
    let mut out = vec![T::default(); convolution.out_len()];
    for output in 0..g.groups * g.outputs {
        for position in indices(&lens(|axis| axis.output)) {
            let mut chains = Vec::new();
            for channel in 0..g.channels {
                for (t, tap) in kernel.iter().enumerate() {
                    if begins(channel, t) {
                        chains.push(Vec::new());
                    }
                    let in_kernel = if convolution.flip { taps - 1 - t } else { t };
                    let weight = (output * g.channels + channel) * taps + in_kernel;
                    let x = x(output / g.outputs * g.channels + channel, &position, tap);
                    chains.last_mut().unwrap().push((convolution.weight[weight], x));
                }
            }
            let y = sum(chains);
            let y = convolution.bias.get(output).map_or(y, |&bias| y.add(bias));
            let at = position.iter().zip(&out_strides[1..]).map(|(p, stride)| p * stride);
            out[output * out_strides[0] + at.sum::<usize>()] = match convolution.activation {
                Activation::Clip { low, .. } if y.to_f64() < low => T::from_f64(low),
                Activation::Clip { high, .. } if y.to_f64() > high => T::from_f64(high),
                _ => y,
            };
        }
    }
    out
}

/// Every index of an array of some shape, in C order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![vec![]], |all, &n| {
        all.iter().flat_map(|i| (0..n).map(move |j| [&i[..], &[j]].concat())).collect()
    })
}

/// A plain convolution of some rank: no padding, no stride.
fn plain() -> Spec {
    Spec {
        rank: None,
        stride: PerAxis::All(1),
        padding: Padding::Valid,
        dilation: PerAxis::All(1),
        groups: 1,
        mode: PerAxis::All(PaddingMode::Constant),
        channels_last: false,
    }
}

/// Runs a convolution on every instruction set, on one thread and on three, and compares with the
/// definition.
fn check<T: Planned>(name: &str, convolution: &Convolution<T>) {
    assert!(convolution.geometry.flops() > 5e6, "{name} is too small for threads");
    let expected = by_definition(convolution);
    for isa in available() {
        let kernels = kernels_of::<T>(isa).expect("an available instruction set");
        for threads in [1, 3] {
            let mut out = vec![T::from_f64(f64::NAN); expected.len()];
            let done = convolution.run(kernels, &Team { threads, stop: &|| false }, &mut out);
            assert_eq!(done, Ok(()));
            for (i, (&found, &expected)) in out.iter().zip(&expected).enumerate() {
                assert!(
                    same(found, expected),
                    "{name}, {} {} on {threads} threads: element {i} is {} instead of {}",
                    isa.name(),
                    T::NAME,
                    found.to_f64(),
                    expected.to_f64(),
                );
            }
        }
    }
}

/// Convolutions of each kind that the loop nest treats in its own way.
fn whole_convolutions<T: Planned>() {
    let run = |name: &str, spec: &Spec, x: &[usize], weight: &[usize]| {
        check(name, &Convolution::<T>::random(spec, x, weight));
    };
    let padded = Spec { padding: Padding::Same, ..plain() };
    run("3x3", &padded, &[1, 17, 21, 27], &[29, 17, 3, 3]);
    run("1x1 in place", &plain(), &[2, 70, 33, 29], &[19, 70, 1, 1]);
    run("few positions, many outputs", &padded, &[1, 40, 7, 7], &[150, 40, 3, 3]);
    run("long chains", &padded, &[1, 3, 300], &[5, 3, 601]);
    run("large kernels", &padded, &[1, 3, 40, 41], &[9, 3, 23, 21]);
    run("neighbouring rows", &padded, &[1, 5, 67, 69], &[5, 5, 5, 7]);
    let strided = Spec { stride: PerAxis::All(2), groups: 6, ..padded.clone() };
    run("neighbouring rows, strided", &strided, &[2, 6, 60, 61], &[12, 1, 17, 16]);
    run("neighbouring rows in place", &plain(), &[1, 2, 60, 65], &[2, 2, 17, 20]);
    run("neighbouring rows of slices", &padded, &[1, 1, 9, 40, 43], &[1, 1, 3, 7, 23]);
    run("depthwise", &Spec { groups: 24, ..padded.clone() }, &[1, 24, 55, 57], &[24, 1, 6, 6]);
    let depthwise = |stride, dilation| Spec {
        stride: PerAxis::All(stride),
        dilation: PerAxis::All(dilation),
        groups: 37,
        ..padded.clone()
    };
    run("windows of 3", &depthwise(1, 1), &[2, 37, 87, 49], &[37, 1, 3, 3]);
    run("windows of 5, strided", &depthwise(2, 1), &[2, 37, 67, 69], &[74, 1, 5, 5]);
    run("windows of 7, dilated", &depthwise(1, 2), &[1, 37, 37, 39], &[37, 1, 7, 7]);
    run("windows, strided and dilated", &depthwise(2, 3), &[3, 37, 67, 69], &[37, 1, 7, 6]);
    for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 3)] {
        let spec = Spec { channels_last: true, ..depthwise(stride, dilation) };
        let side = 46 * stride as usize;
        let mut convolution = Convolution::random(&spec, &[1, side, side, 37], &[37, 1, 5, 7]);
        convolution.bias = Random(8).floats(37);
        check::<T>("windows of channels", &convolution);
    }
    run("phases of a signal", &plain(), &[1, 1, 40_007], &[1, 1, 73]);
    run("phases of signals", &Spec { groups: 5, ..padded.clone() }, &[2, 5, 8_003], &[5, 1, 61]);
    let strided = Spec { stride: PerAxis::All(2), ..padded.clone() };
    run("phases, strided", &strided, &[1, 3, 39_001], &[1, 3, 50]);
    run("three axes", &padded, &[1, 4, 8, 11, 13], &[23, 4, 3, 3, 3]);
    let odd = Spec {
        stride: PerAxis::Each(vec![2, 3]),
        padding: Padding::Sides(PerAxis::Each(vec![(3, -1), (0, 4)])),
        dilation: PerAxis::Each(vec![3, 2]),
        groups: 2,
        mode: PerAxis::Each(vec![PaddingMode::Reflect, PaddingMode::Constant]),
        ..plain()
    };
    let mut convolution = Convolution::<T>::random(&odd, &[3, 26, 41, 46], &[34, 13, 3, 5]);
    convolution.flip = true;
    convolution.padding = T::from_f64(0.75);
    convolution.bias = Random(7).floats(34);
    convolution.activation = Activation::Clip { low: -20.0, high: 30.0 };
    check("every option", &convolution);
    let last = Spec { channels_last: true, ..padded };
    let mut convolution = Convolution::<T>::random(&last, &[1, 19, 23, 33], &[21, 33, 3, 3]);
    // Nothing but the windows that touch them may notice.
    convolution.x[33 * 200 + 5] = T::from_f64(f64::NAN);
    convolution.x[33 * 300 + 6] = T::from_f64(f64::INFINITY);
    check("channels last, not finite", &convolution);
}

#[test]
fn whole_convolutions_are_the_sum_by_definition_float32() {
    whole_convolutions::<f32>();
}

#[test]
fn whole_convolutions_are_the_sum_by_definition_float64() {
    whole_convolutions::<f64>();
}

#[test]
fn whole_convolutions_are_the_sum_by_definition_integers() {
    whole_convolutions::<i32>();
    whole_convolutions::<i64>();
}

/// `stop` is asked every 50 ms or so, hence work that the slowest kernels do not end before.
#[test]
fn a_call_that_is_told_to_stop_ends_before_its_work() {
    let spec = Spec { padding: Padding::Same, ..plain() };
    let convolution = Convolution::<f32>::random(&spec, &[1, 64, 160, 160], &[512, 64, 3, 3]);
    let kernels = kernels_of::<f32>(Isa::Scalar).expect("every machine has it");
    for threads in [1, 3] {
        let mut out = vec![f32::NAN; convolution.out_len()];
        let done = convolution.run(kernels, &Team { threads, stop: &|| true }, &mut out);
        assert_eq!(done, Err(Stopped::Interrupted));
        assert!(out.iter().any(|y| y.is_nan()), "all was computed before it stopped");
    }
}

/// Every size of a matrix up to more than two blocks, in rows that are longer than it on both sides.
fn every_transpose<T: Tiled>() {
    let (most_rows, most_columns) = (37, 21);
    let (pitch, row) = (most_columns + 2, most_rows + 3);
    let from: Vec<T> = (0..most_rows * pitch).map(|i| T::from_f64(i as f64)).collect();
    let untouched = T::from_f64(-77.0);
    for isa in available() {
        let kernels = kernels_of::<T>(isa).expect("an available instruction set");
        for (rows, columns) in (0..=most_rows).flat_map(|m| (0..=most_columns).map(move |n| (m, n)))
        {
            let mut to = vec![untouched; most_columns * row];
            let matrix = (&Memory::of(&from), 1, pitch as isize);
            kernels.transposed(matrix, (rows, columns), (&mut to, row));
            for (i, &found) in to.iter().enumerate() {
                let (j, i) = (i / row, i % row);
                let inside = i < rows && j < columns;
                let expected = if inside { from[i * pitch + j + 1] } else { untouched };
                assert!(same(found, expected), "{} {rows}x{columns}: ({i}, {j})", isa.name());
            }
        }
    }
}

#[test]
fn matrices_are_transposed_and_nothing_beside_them_is_written() {
    every_transpose::<f32>();
    every_transpose::<f64>();
}
