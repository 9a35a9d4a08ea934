//! The sums that the elements of a tile are: steps through both operands, cut into chains.

use std::ops::Range;

/// Taps that are summed in one chain of fused multiply-adds at most, before the chain is added to the
/// total.
///
/// It is part of what results are, so it is the same for every machine, dtype and tile. A shorter
/// chain rounds less (the error of a chain of n random terms grows as the square root of n), a
/// longer one adds to the totals less often: with 128 the additions cost about 2 % of a tile's time,
/// and the operands of a chain fit the first-level cache together. With 256 they fit it if rows are
/// output channels, but not if rows are positions: such layers were 3 to 6 % slower (Sapphire Rapids),
/// others as fast.
pub const CHAIN: usize = 128;

/// What one tap adds to the addresses of both operands, in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// To the row operand A.
    pub a: isize,
    /// To the column operand B.
    pub b: isize,
}

/// Steps that the same rows of a tile take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which steps of the sum.
    pub steps: Range<usize>,
    /// Which rows: all ([`ALL_ROWS`]), but in sums whose rows begin and end one after the other.
    pub rows: Range<usize>,
}

/// Every row that a tile has.
pub const ALL_ROWS: Range<usize> = 0..usize::MAX;

/// One chain of a sum.
#[derive(Clone, Debug)]
struct Chain {
    segments: Range<usize>,
    reach: Reach,
}

/// The least and the greatest offsets that steps add to the operands.
#[derive(Clone, Copy, Debug)]
struct Reach {
    a: (isize, isize),
    b: (isize, isize),
}

/// The sum that every element of a tile is: the chains of a period, that of the next period, and so on,
/// and at last one more where the last period is a shorter one.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Elements between rows of A.
    pub a_row: isize,
    /// Rows of a tile, where its rows begin one after the other; else any number.
    pub rows: Option<usize>,
    /// The steps of all segments.
    pub steps: Vec<Step>,
    /// The segments of all chains.
    pub segments: Vec<Segment>,
    /// Whole periods.
    pub periods: usize,
    /// What a period adds to the addresses.
    pub period: Step,
    chains: Vec<Chain>,
    rest: Option<Chain>,
}

/// A chain in its place: where its steps start, and what they reach.
pub(super) struct Placed<'a> {
    pub at: Step,
    pub segments: &'a [Segment],
    pub a: (isize, isize),
    pub b: (isize, isize),
}

impl Sum {
    /// A sum without chains as yet: of rows `a_row` elements apart in A, in so many whole periods each
    /// of which adds `period` to the addresses.
    pub fn new(a_row: isize, rows: Option<usize>, (periods, period): (usize, Step)) -> Self {
        Sum { a_row, rows, periods, period, ..Sum::default() }
    }

    /// Adds a chain of the segments from `first` on to the period.
    pub fn push(&mut self, first: usize) {
        let chain = self.chain_of(first);
        self.chains.push(chain);
    }

    /// The same for the chain of the shorter period at the end.
    pub fn push_rest(&mut self, first: usize) {
        self.rest = Some(self.chain_of(first));
    }

    fn chain_of(&self, first: usize) -> Chain {
        let segments = first..self.segments.len();
        let mut reach = Reach { a: (isize::MAX, isize::MIN), b: (isize::MAX, isize::MIN) };
        let cover = |(low, high): &mut (isize, isize), at: isize| {
            (*low, *high) = ((*low).min(at), (*high).max(at));
        };
        for Segment { steps, rows } in &self.segments[segments.clone()] {
            // Rows that a tile has in all its steps are counted in where their number is known.
            let (first, last) = if *rows == ALL_ROWS { (0, 0) } else { (rows.start, rows.end - 1) };
            for step in &self.steps[steps.clone()] {
                for row in [first, last] {
                    cover(&mut reach.a, step.a + row as isize * self.a_row);
                }
                cover(&mut reach.b, step.b);
            }
        }
        assert!(reach.b.0 <= reach.b.1, "a chain without steps");
        Chain { segments, reach }
    }

    /// How many chains there are. A sum without taps has one without steps.
    pub fn chains(&self) -> usize {
        (self.periods * self.chains.len() + usize::from(self.rest.is_some())).max(1)
    }

    /// Chain `i` in its place, or `None` in a sum without taps.
    pub(super) fn chain(&self, i: usize, rows: usize) -> Option<Placed<'_>> {
        let whole = self.periods * self.chains.len();
        let (period, chain) = if i < whole {
            (i / self.chains.len(), &self.chains[i % self.chains.len()])
        } else {
            (self.periods, self.rest.as_ref()?)
        };
        let at = Step { a: period as isize * self.period.a, b: period as isize * self.period.b };
        let Reach { a: (low, high), b } = chain.reach;
        let last_row = if self.rows.is_some() { 0 } else { self.a_row * (rows as isize - 1) };
        let a = (low + last_row.min(0), high + last_row.max(0));
        Some(Placed { at, segments: &self.segments[chain.segments.clone()], a, b })
    }

    /// Multiply-adds of a chain, of a vector of each of `rows` rows: an upper bound.
    pub fn work(&self, rows: usize) -> usize {
        CHAIN.min(self.steps.len()) * rows
    }
}
