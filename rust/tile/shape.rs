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
    pub fn choose(
        &self,
        rows: usize,
        runs: &[usize],
        (most_rows, aligned): (usize, bool),
    ) -> (TileShape, f64) {
        let mut best = (TileShape { rows: 1, columns: 1 }, f64::INFINITY);
        for (i, &most) in self.rows.iter().enumerate().filter(|&(_, &most)| most > 0) {
            let shape = TileShape { rows: most.min(most_rows), columns: i + 1 };
            let cycles = self.in_tiles(rows, runs, (shape, aligned));
            if cycles < best.1 {
                best = (shape, cycles);
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
        let groups = rows.div_ceil(shape.rows);
        // As `even_parts` makes them: so many of the larger size, the others one smaller.
        let larger = rows.div_ceil(groups.max(1));
        let many = rows - groups * (larger - 1).min(rows);
        let mut cycles = 0.0;
        for (count, rows) in [(many, larger), (groups - many.min(groups), larger - 1)] {
            if count > 0 && rows > 0 {
                let strip = |&n: &usize| self.strip_cycles(rows, n, (shape.columns, aligned));
                cycles += count as f64 * runs.iter().map(strip).sum::<f64>();
            }
        }
        cycles
    }

    /// Cycles that a tap of a strip of `vectors` vectors takes in tiles of `columns`.
    fn strip_cycles(&self, rows: usize, vectors: usize, (columns, aligned): (usize, bool)) -> f64 {
        let (whole, rest) = (vectors / columns, vectors % columns);
        let whole = whole as f64 * self.cycles(rows, columns, aligned);
        whole + if rest > 0 { self.cycles(rows, rest, aligned) } else { 0.0 }
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
