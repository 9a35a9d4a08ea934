//! Transforms along one axis, of many columns at once, as a tree of polynomial remainders.
//!
//! A column of n numbers is a polynomial of degree below n. Its transform is its values at the n
//! roots of x^n = r, for some r on the unit circle: r = 1 is the discrete Fourier transform, and other
//! r make products modulo x^n - r instead of cyclic ones. With n = R m and y = x^m, the roots fall
//! into R sets with y = s, s^R = r, and the remainder modulo x^m - s is again m numbers:
//!
//! ```text
//! a0(x) + a1(x) s + ... + a(R-1)(x) s^(R-1)
//! ```
//!
//! which is a butterfly with *one* set of twiddles for all m numbers. Children follow one another in
//! memory, so values come out in the order of the leaves; nobody needs them sorted, and the inverse
//! takes the same steps backwards. No permutation is ever made, and each subtree is contiguous:
//! subtrees that fit the first-level cache are finished before the next is begun.
//!
//! D. J. Bernstein, "Multidigit multiplication for mathematicians", 2001, tells the tree.

use std::ops::Range;

use crate::error::{Error, room};
use crate::view::Element;

use super::vector::Wave;

/// Bytes of a subtree that is gone through level by level: most of a first-level cache (32 or 48 KiB).
const NEAR: usize = 32 << 10;

/// One level of a tree.
#[derive(Clone, Debug)]
struct Level {
    /// Children of a node.
    radix: usize,
    /// Nodes of the level.
    nodes: usize,
    /// Numbers of one child.
    child: usize,
    /// Where its twiddles start.
    twiddles: usize,
}

/// A transform of some length and root, or of one root for each lane.
#[derive(Clone, Debug)]
pub struct Tree<T> {
    /// Its length.
    pub len: usize,
    /// The turns that the roots of its leaves have, in order, lane by lane.
    pub leaves: Vec<f64>,
    levels: Vec<Level>,
    twiddles: Vec<T>,
}

/// The powers of a node's root that its butterfly uses.
const fn powers(radix: usize) -> usize {
    radix - 1
}

/// exp(2 pi i turns), with the angle reduced to an eighth of a turn first.
fn unit(turns: f64) -> (f64, f64) {
    let eighths = (turns * 8.0).round();
    let (sin, cos) = ((turns - eighths / 8.0) * std::f64::consts::TAU).sin_cos();
    let half = std::f64::consts::FRAC_1_SQRT_2;
    match (eighths as i64).rem_euclid(8) {
        0 => (cos, sin),
        1 => ((cos - sin) * half, (cos + sin) * half),
        2 => (-sin, cos),
        3 => (-(cos + sin) * half, (cos - sin) * half),
        4 => (-cos, -sin),
        5 => ((sin - cos) * half, -(cos + sin) * half),
        6 => (sin, -cos),
        _ => ((cos + sin) * half, (sin - cos) * half),
    }
}

impl<T: Element> Tree<T> {
    /// For the roots exp(2 pi i r): one for all lanes, or one a lane. `len` has no factors but 2
    /// and 3.
    pub fn new(len: usize, roots: &[f64]) -> Result<Self, Error> {
        let width = roots.len();
        let mut levels = Vec::new();
        let (mut nodes, mut left, mut size) = (1, len, 0);
        while left > 1 {
            // The odd ones first, so that most of the work near the leaves is that of radix 4.
            let radix = match left {
                n if n % 3 == 0 => 3,
                n if n % 4 != 0 || n.trailing_zeros() % 2 == 1 => 2,
                _ => 4,
            };
            assert!(left.is_multiple_of(radix), "a length of 2s and 3s");
            left /= radix;
            levels.push(Level { radix, nodes, child: left, twiddles: size });
            size += nodes * powers(radix) * 2 * width;
            nodes *= radix;
        }
        let mut twiddles = room("tables of a transform", size)?;
        let mut leaves = roots.to_vec();
        for level in &levels {
            let radix = level.radix as f64;
            let mut next = room("tables of a transform", leaves.len() * level.radix)?;
            for node in leaves.chunks_exact(width) {
                for power in 1..level.radix {
                    let of = |turns: &f64| unit(power as f64 * turns / radix);
                    twiddles.extend(node.iter().map(|turns| T::from_f64(of(turns).0)));
                    twiddles.extend(node.iter().map(|turns| T::from_f64(of(turns).1)));
                }
                for child in 0..level.radix {
                    next.extend(node.iter().map(|turns| (turns + child as f64) / radix));
                }
            }
            leaves = next;
        }
        Ok(Tree { len, leaves, levels, twiddles })
    }

    /// Bytes of its tables.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.twiddles[..]) + size_of_val(&self.leaves[..])
    }
}

/// Numbers to transform: row r of them at `re + r * pitch` and `im + r * pitch`, `vectors` vectors
/// each. Where that is more than one, rows follow one another without a gap.
pub struct Columns<T> {
    /// Real parts.
    pub re: *mut T,
    /// Imaginary parts.
    pub im: *mut T,
    /// Elements between rows.
    pub pitch: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

/// Transforms columns. `LANED` where the tree has a root for each lane.
///
/// # Safety
/// The CPU must have the instructions of `V`, and all rows must be readable and writable.
#[inline(always)]
pub unsafe fn forward<V: Wave, const LANED: bool>(
    tree: &Tree<V::Element>,
    columns: &Columns<V::Element>,
) {
    // SAFETY: the caller's vouching is the same.
    unsafe { walk::<V, LANED, false>(tree, columns) }
}

/// Undoes [`forward`], but for a factor of the length.
///
/// # Safety
/// As for `forward`.
#[inline(always)]
pub unsafe fn inverse<V: Wave, const LANED: bool>(
    tree: &Tree<V::Element>,
    columns: &Columns<V::Element>,
) {
    // SAFETY: the caller's vouching is the same.
    unsafe { walk::<V, LANED, true>(tree, columns) }
}

/// Goes through the tree: levels above those that are near one node at a time, each as soon as (as late
/// as, on the way back) the subtrees below it need it.
#[inline(always)]
unsafe fn walk<V: Wave, const LANED: bool, const BACK: bool>(
    tree: &Tree<V::Element>,
    columns: &Columns<V::Element>,
) {
    let row = columns.vectors * 2 * V::LANES * size_of::<V::Element>();
    let levels = tree.levels.len();
    let is_near = |level: &Level| level.radix * level.child * row <= NEAR;
    let near = tree.levels.iter().position(is_near).unwrap_or(levels);
    let subtrees = tree.levels.get(near).map_or(tree.len, |level| level.nodes);
    for i in 0..subtrees {
        let far = |l: &usize| (i + BACK as usize).is_multiple_of(subtrees / tree.levels[*l].nodes);
        let above = |l: usize| i / (subtrees / tree.levels[l].nodes);
        let below = |l: usize| tree.levels[l].nodes / subtrees;
        // SAFETY: the caller vouches for the columns and the instructions.
        unsafe {
            if BACK {
                for l in (near..levels).rev() {
                    let nodes = i * below(l)..(i + 1) * below(l);
                    passes::<V, LANED, BACK>(tree, columns, l, nodes);
                }
                for l in (0..near).rev().filter(far) {
                    passes::<V, LANED, BACK>(tree, columns, l, above(l)..above(l) + 1);
                }
            } else {
                for l in (0..near).filter(far) {
                    passes::<V, LANED, BACK>(tree, columns, l, above(l)..above(l) + 1);
                }
                for l in near..levels {
                    let nodes = i * below(l)..(i + 1) * below(l);
                    passes::<V, LANED, BACK>(tree, columns, l, nodes);
                }
            }
        }
    }
}

/// The butterflies of some nodes of a level.
#[inline(always)]
unsafe fn passes<V: Wave, const LANED: bool, const BACK: bool>(
    tree: &Tree<V::Element>,
    columns: &Columns<V::Element>,
    level: usize,
    nodes: Range<usize>,
) {
    let level = &tree.levels[level];
    let width = if LANED { V::LANES } else { 1 };
    let part = level.child * columns.pitch;
    let pass = Pass {
        part,
        step: if columns.vectors == 1 { columns.pitch } else { V::LANES },
        count: level.child * columns.vectors,
    };
    let table = powers(level.radix) * 2 * width;
    let twiddles = &tree.twiddles[level.twiddles..][..level.nodes * table];
    for node in nodes {
        let start = node * level.radix * part;
        let at = (columns.re.wrapping_add(start), columns.im.wrapping_add(start));
        let twiddles = twiddles[node * table..].as_ptr();
        // SAFETY: the caller vouches for all rows and for the instructions; the table has as many
        // twiddles for each node as its radix asks for.
        unsafe {
            let s = power::<V, LANED>(twiddles, 0);
            match level.radix {
                4 => {
                    let s2 = power::<V, LANED>(twiddles, 1);
                    let s3 = power::<V, LANED>(twiddles, 2);
                    pass.run::<V, 4, BACK>(at, Radix4 { s, s2, s3 });
                }
                3 => pass.run::<V, 3, BACK>(at, Radix3 { s, s2: power::<V, LANED>(twiddles, 1) }),
                _ => pass.run::<V, 2, BACK>(at, Radix2 { s }),
            }
        }
    }
}

/// A power of a node's root, or of one a lane.
#[inline(always)]
unsafe fn power<V: Wave, const LANED: bool>(
    twiddles: *const V::Element,
    index: usize,
) -> Complex<V> {
    // SAFETY: the caller vouches for the table and the instructions.
    unsafe {
        if LANED {
            let at = twiddles.add(index * 2 * V::LANES);
            (V::load(at), V::load(at.add(V::LANES)))
        } else {
            let at = twiddles.add(index * 2);
            (V::splat(at), V::splat(at.add(1)))
        }
    }
}

/// A pass of butterflies: vector i of part j of a node lies at `i * step + j * part`.
struct Pass {
    part: usize,
    step: usize,
    count: usize,
}

impl Pass {
    #[inline(always)]
    unsafe fn run<V: Wave, const R: usize, const BACK: bool>(
        &self,
        (mut re, mut im): (*mut V::Element, *mut V::Element),
        butterfly: impl Butterfly<V, R>,
    ) {
        for _ in 0..self.count {
            // SAFETY: the caller vouches for every vector of the node, and for the instructions.
            unsafe {
                let mut a = [(V::zero(), V::zero()); R];
                for (j, a) in a.iter_mut().enumerate() {
                    *a = (V::load(re.add(j * self.part)), V::load(im.add(j * self.part)));
                }
                let b = if BACK { butterfly.back(a) } else { butterfly.forth(a) };
                for (j, b) in b.iter().enumerate() {
                    b.0.store(re.add(j * self.part));
                    b.1.store(im.add(j * self.part));
                }
            }
            re = re.wrapping_add(self.step);
            im = im.wrapping_add(self.step);
        }
    }
}

/// A complex vector.
type Complex<V> = (V, V);

/// What is done to R vectors of a node, with s its children's first root. A trait and no closure: those
/// are compiled without the instruction set of the function that they are in, unless they are small
/// enough to disappear.
trait Butterfly<V: Wave, const R: usize> {
    /// # Safety
    /// The CPU must have the instructions of `V`.
    unsafe fn forth(&self, a: [Complex<V>; R]) -> [Complex<V>; R];
    /// R times the inverse.
    ///
    /// # Safety
    /// As for `forth`.
    unsafe fn back(&self, a: [Complex<V>; R]) -> [Complex<V>; R];
}

/// Children s and -s.
struct Radix2<V> {
    s: Complex<V>,
}

impl<V: Wave> Butterfly<V, 2> for Radix2<V> {
    #[inline(always)]
    unsafe fn forth(&self, a: [Complex<V>; 2]) -> [Complex<V>; 2] {
        // SAFETY: the caller vouches for the instructions; so in all that follow.
        unsafe { plus_minus(a[0], self.s, a[1]) }
    }

    #[inline(always)]
    unsafe fn back(&self, a: [Complex<V>; 2]) -> [Complex<V>; 2] {
        // SAFETY: as above.
        unsafe { [add(a[0], a[1]), conjugate(self.s, sub(a[0], a[1]))] }
    }
}

/// Children s times 1 and the complex third roots of 1.
struct Radix3<V> {
    s: Complex<V>,
    s2: Complex<V>,
}

impl<V: Wave> Butterfly<V, 3> for Radix3<V> {
    #[inline(always)]
    unsafe fn forth(&self, a: [Complex<V>; 3]) -> [Complex<V>; 3] {
        // SAFETY: as above.
        unsafe {
            let (b1, b2) = (product(self.s, a[1]), product(self.s2, a[2]));
            thirds(a[0], add(b1, b2), sub(b1, b2))
        }
    }

    #[inline(always)]
    unsafe fn back(&self, a: [Complex<V>; 3]) -> [Complex<V>; 3] {
        // SAFETY: as above.
        unsafe {
            let [b0, b2, b1] = thirds(a[0], add(a[1], a[2]), sub(a[1], a[2]));
            [b0, conjugate(self.s, b1), conjugate(self.s2, b2)]
        }
    }
}

/// Children s, i s, -s and -i s.
struct Radix4<V> {
    s: Complex<V>,
    s2: Complex<V>,
    s3: Complex<V>,
}

impl<V: Wave> Butterfly<V, 4> for Radix4<V> {
    #[inline(always)]
    unsafe fn forth(&self, a: [Complex<V>; 4]) -> [Complex<V>; 4] {
        // SAFETY: as above.
        unsafe {
            // One rounded twiddle an element: as two levels of radix 2, with s^2 and s one after the
            // other, results are off by a tenth more.
            let b2 = product(self.s2, a[2]);
            let (b1, b3) = (product(self.s, a[1]), product(self.s3, a[3]));
            let (even, odd) = (add(a[0], b2), sub(a[0], b2));
            let (even_i, odd_i) = (add(b1, b3), sub(b1, b3));
            let c1 = (odd.0.sub(odd_i.1), odd.1.add(odd_i.0));
            let c3 = (odd.0.add(odd_i.1), odd.1.sub(odd_i.0));
            [add(even, even_i), c1, sub(even, even_i), c3]
        }
    }

    #[inline(always)]
    unsafe fn back(&self, a: [Complex<V>; 4]) -> [Complex<V>; 4] {
        // SAFETY: as above.
        unsafe {
            let (even, odd) = (add(a[0], a[2]), sub(a[0], a[2]));
            let (even_i, odd_i) = (add(a[1], a[3]), sub(a[1], a[3]));
            let b1 = (odd.0.add(odd_i.1), odd.1.sub(odd_i.0));
            let b3 = (odd.0.sub(odd_i.1), odd.1.add(odd_i.0));
            let b2 = conjugate(self.s2, sub(even, even_i));
            [add(even, even_i), conjugate(self.s, b1), b2, conjugate(self.s3, b3)]
        }
    }
}

/// a + w b and a - w b, in six operations.
#[inline(always)]
unsafe fn plus_minus<V: Wave>(a: Complex<V>, w: Complex<V>, b: Complex<V>) -> [Complex<V>; 2] {
    // SAFETY: as above.
    unsafe {
        let re = w.1.neg_mul_add(b.1, w.0.mul_add(b.0, a.0));
        let im = w.1.mul_add(b.0, w.0.mul_add(b.1, a.1));
        let re2 = w.1.mul_add(b.1, w.0.neg_mul_add(b.0, a.0));
        let im2 = w.1.neg_mul_add(b.0, w.0.neg_mul_add(b.1, a.1));
        [(re, im), (re2, im2)]
    }
}

/// w a
#[inline(always)]
unsafe fn product<V: Wave>(w: Complex<V>, a: Complex<V>) -> Complex<V> {
    // SAFETY: as above.
    unsafe { (w.1.neg_mul_add(a.1, w.0.mul(a.0)), w.1.mul_add(a.0, w.0.mul(a.1))) }
}

/// conj(w) a
#[inline(always)]
unsafe fn conjugate<V: Wave>(w: Complex<V>, a: Complex<V>) -> Complex<V> {
    // SAFETY: as above.
    unsafe { (w.1.mul_add(a.1, w.0.mul(a.0)), w.1.neg_mul_add(a.0, w.0.mul(a.1))) }
}

#[inline(always)]
unsafe fn add<V: Wave>(a: Complex<V>, b: Complex<V>) -> Complex<V> {
    // SAFETY: as above.
    unsafe { (a.0.add(b.0), a.1.add(b.1)) }
}

#[inline(always)]
unsafe fn sub<V: Wave>(a: Complex<V>, b: Complex<V>) -> Complex<V> {
    // SAFETY: as above.
    unsafe { (a.0.sub(b.0), a.1.sub(b.1)) }
}

/// a + sum, and a - sum / 2 + and - i sqrt(3/4) difference.
#[inline(always)]
unsafe fn thirds<V: Wave>(
    a: Complex<V>,
    sum: Complex<V>,
    difference: Complex<V>,
) -> [Complex<V>; 3] {
    // SAFETY: as above.
    unsafe {
        let half = V::set(V::Element::from_f64(0.5));
        let root = V::set(V::Element::from_f64(0.75f64.sqrt()));
        let (re, im) = (half.neg_mul_add(sum.0, a.0), half.neg_mul_add(sum.1, a.1));
        let plus = (root.neg_mul_add(difference.1, re), root.mul_add(difference.0, im));
        let minus = (root.mul_add(difference.1, re), root.neg_mul_add(difference.0, im));
        [add(a, sum), plus, minus]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Array;

    /// The polynomial with some coefficients at exp(2 pi i turns).
    fn value(coefficients: &[(f64, f64)], turns: f64) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for (power, (re, im)) in coefficients.iter().enumerate() {
            let (cos, sin) = unit(turns * power as f64);
            sum = (sum.0 + re * cos - im * sin, sum.1 + re * sin + im * cos);
        }
        sum
    }

    fn check<const LANED: bool>(len: usize, roots: &[f64]) {
        type Vector = Array<f64, 2>;
        let tree = Tree::<f64>::new(len, roots).unwrap();
        // Two vectors a row where that is allowed: columns of one lane each.
        let vectors = if LANED { 1 } else { 2 };
        let width = 2 * vectors;
        let mut re: Vec<f64> = (0..len * width).map(|i| (i * 37 % 11) as f64 - 5.0).collect();
        let mut im: Vec<f64> = (0..len * width).map(|i| (i * 53 % 13) as f64 - 6.0).collect();
        let (was_re, was_im) = (re.clone(), im.clone());
        let columns = Columns { re: re.as_mut_ptr(), im: im.as_mut_ptr(), pitch: width, vectors };
        // SAFETY: arrays need no instructions; both planes hold all rows.
        unsafe { forward::<Vector, LANED>(&tree, &columns) };
        for column in 0..width {
            let at = |i: usize| (was_re[i * width + column], was_im[i * width + column]);
            let coefficients: Vec<_> = (0..len).map(at).collect();
            for row in 0..len {
                let lane = if LANED { column } else { 0 };
                let turns = tree.leaves[row * roots.len() + lane];
                // A leaf is a root of x^n = r.
                let off = (turns * len as f64 - roots[lane]).rem_euclid(1.0);
                assert!(off.min(1.0 - off) < 1e-12);
                let expected = value(&coefficients, turns);
                let found = (re[row * width + column], im[row * width + column]);
                let error = (found.0 - expected.0).abs() + (found.1 - expected.1).abs();
                assert!(error < 1e-12 * (len * 10) as f64, "{len} {roots:?} {row} {column}");
            }
        }
        // SAFETY: as above.
        unsafe { inverse::<Vector, LANED>(&tree, &columns) };
        for (found, was) in re.iter().zip(&was_re).chain(im.iter().zip(&was_im)) {
            assert!((found / len as f64 - was).abs() < 1e-12);
        }
    }

    #[test]
    fn values_are_those_of_the_polynomial_and_come_back() {
        // The last ones are beyond what is gone through level by level.
        for len in [1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 27, 36, 48, 64, 96, 128, 1024, 1536, 2304] {
            check::<false>(len, &[0.0]);
            check::<false>(len, &[0.25]);
            check::<true>(len, &[0.25, 0.625]);
        }
    }

    #[test]
    fn units_are_exact_where_they_can_be() {
        assert_eq!(
            [0.0, 0.25, 0.5, 0.75].map(unit),
            [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
        );
        for i in 0..48 {
            let (cos, sin) = unit(i as f64 / 48.0);
            let angle = i as f64 / 48.0 * std::f64::consts::TAU;
            assert!((cos - angle.cos()).abs() < 1e-15 && (sin - angle.sin()).abs() < 1e-15);
        }
    }
}
