//! How rows and vectors of columns are cut into tiles, by an estimate of cycles.

use super::MAX_COLUMNS;

/// How rows and vectors of columns are cut into tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileShape {
    /// Rows of a tile at most; groups of rows are made as even as can be.
    pub rows: usize,
    /// Vectors of columns; the last tile has what is left.
    pub columns: usize,
}

/// What tiles the registers of an instruction set hold.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// The most rows of tiles of one vector, of two, and so on; 0 where there are none.
    pub rows: [usize; MAX_COLUMNS],
    /// Lines of the cache that a vector at an odd address has beside one.
    pub across: f64,
}

/// Those of the nominal machine of [`offer`](crate::offer): AVX-512.
pub const NOMINAL: Registers = Registers { rows: [14, 14, 9, 6, 5, 4, 3, 2], across: 1.0 };

impl Registers {
    /// Most rows of a tile of so many vectors.
    pub fn most_rows(&self, columns: usize) -> usize {
        self.rows.get(columns - 1).copied().unwrap_or(0)
    }

    /// The tile shape that takes the fewest cycles for `rows` rows and vectors of columns in several
    /// runs, with at most `most_rows` rows in a tile; and how many a tap takes. Vectors that are
    /// `aligned` lie in one cache line each.
    pub fn choose(&self, rows: usize, runs: &[usize], limits: (usize, bool)) -> (TileShape, f64) {
        self.choose_among(rows, std::iter::once(runs), limits).1
    }

    /// The same where there is a choice of runs: the first of the best ones, which must be one at least.
    pub fn choose_among<R: AsRef<[usize]>>(
        &self,
        rows: usize,
        choices: impl Iterator<Item = R>,
        (most_rows, aligned): (usize, bool),
    ) -> (usize, (TileShape, f64)) {
        let shapes: [(TileShape, Prices); MAX_COLUMNS] = std::array::from_fn(|i| {
            let shape = TileShape { rows: self.rows[i].min(most_rows), columns: i + 1 };
            (shape, self.prices(rows, (shape, aligned)))
        });
        let mut best = (0, (TileShape { rows: 1, columns: 1 }, f64::INFINITY));
        for (i, runs) in choices.enumerate() {
            for (shape, prices) in shapes.iter().filter(|(shape, _)| shape.rows > 0) {
                let cycles = in_tiles(runs.as_ref(), shape.columns, prices);
                if cycles < best.1.1 {
                    best = (i, (*shape, cycles));
                }
            }
        }
        best
    }

    /// Cycles that a tap takes in tiles of a shape.
    pub fn in_tiles(
        &self,
        rows: usize,
        runs: &[usize],
        (shape, aligned): (TileShape, bool),
    ) -> f64 {
        in_tiles(runs, shape.columns, &self.prices(rows, (shape, aligned)))
    }

    /// Cycles that a tap of all rows takes in tiles of so many columns, up to those of a shape.
    fn prices(&self, rows: usize, (shape, aligned): (TileShape, bool)) -> Prices {
        let mut prices = [0.0; MAX_COLUMNS + 1];
        if shape.rows == 0 {
            return prices;
        }
        let groups = rows.div_ceil(shape.rows);
        // As `even_parts` makes them: so many of the larger size, the others one smaller.
        let larger = rows.div_ceil(groups.max(1));
        let many = rows - groups * larger.saturating_sub(1);
        for (columns, price) in prices.iter_mut().enumerate().take(shape.columns + 1).skip(1) {
            for (count, rows) in [(many, larger), (groups - many, larger.saturating_sub(1))] {
                if count > 0 {
                    *price += count as f64 * self.cycles(rows, columns, aligned);
                }
            }
        }
        prices
    }

    /// Cycles that a tap of a tile takes on a core with two FMA pipes and two load ports, which
    /// today's have: the longest of its multiply-adds, its loads (a vector of 64 bytes at an odd
    /// address is two) and the latency of one chain, and a little for the loop.
    pub fn cycles(&self, rows: usize, columns: usize, aligned: bool) -> f64 {
        let load = 1.0 + if aligned { 0.0 } else { self.across };
        let multiply = (rows * columns) as f64 / 2.0;
        let load = (rows as f64 + columns as f64 * load) / 2.0;
        multiply.max(load).max(4.0) + 0.5
    }
}

/// Cycles of a strip of tiles, by their columns.
type Prices = [f64; MAX_COLUMNS + 1];

/// Cycles that runs of vectors take in tiles of `columns`, and what is left of each in a smaller one.
fn in_tiles(runs: &[usize], columns: usize, prices: &Prices) -> f64 {
    let strip = |&n: &usize| (n / columns) as f64 * prices[columns] + prices[n % columns];
    runs.iter().map(strip).sum()
}
