//! Strided arrays: the only place that turns indices into addresses of a caller's memory.
//!
//! A view's strides are in bytes and in one canonical order, whatever the caller's layout was:
//! `[channel, batch, *spatial]` for inputs and results, `[output, channel, *kernel]` for weights.
//! Every access is checked against the span of addresses that the view may touch, once a run.

use std::marker::PhantomData;
use std::ops::Range;

pub use crate::convert::Run;
use crate::convert::{self, copy};
use crate::memory::LINE;
use crate::number::{Bf16, Bool, F16};
pub use crate::number::{Element, Scalar};

/// How an array's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The number.
    pub scalar: Scalar,
    /// Whether its bytes are in the order that this machine does not use.
    pub swapped: bool,
    /// Whether numbers are read with the other sign, as the imaginary parts of a conjugate are.
    pub negated: bool,
}

impl Format {
    /// Plain numbers of this machine.
    pub fn native(scalar: Scalar) -> Self {
        Format { scalar, swapped: false, negated: false }
    }

    /// The format of `T` itself.
    pub fn of<T: Element>() -> Self {
        Format::native(T::SCALAR)
    }

    /// Whether memory holds elements as they are.
    pub fn is<T: Element>(self) -> bool {
        self.scalar.same_bits(T::SCALAR) && !self.swapped && !self.negated
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.scalar.size()
    }
}

/// Calls a function that is generic over [`Stored`](crate::number::Stored) for a scalar.
macro_rules! with_stored {
    ($scalar:expr, $stored:ident => $call:expr) => {
        with_stored!(@each $scalar, $stored => $call, Bool Bool, I8 i8, I16 i16, I32 i32, I64 i64,
            U8 u8, U16 u16, U32 u32, U64 u64, F16 F16, Bf16 Bf16, F32 f32, F64 f64)
    };
    (@each $scalar:expr, $stored:ident => $call:expr, $($variant:ident $type:ident),*) => {
        match $scalar {
            $(Scalar::$variant => {
                type $stored = $type;
                $call
            })*
        }
    };
}

/// The byte offsets that elements of a shape with these strides cover, ends included, as a range
/// that ends behind the last byte. Empty where the shape holds nothing.
pub fn span(shape: &[usize], strides: &[isize], size: usize) -> Range<isize> {
    if shape.contains(&0) {
        return 0..0;
    }
    let (mut low, mut high) = (0isize, size as isize);
    for (&n, &stride) in shape.iter().zip(strides) {
        let reach = stride * (n as isize - 1);
        if reach < 0 { low += reach } else { high += reach }
    }
    low..high
}

/// A read-only strided array in canonical order.
#[derive(Clone, Debug)]
pub struct View<'a> {
    ptr: *const u8,
    format: Format,
    strides: Vec<isize>,
    span: Range<isize>,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: a `View` only reads, and its constructor demands that the memory stays readable for 'a.
unsafe impl Send for View<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A view of elements at `ptr` + sum of index * stride.
    ///
    /// # Safety
    /// Every element of `shape` must be readable, as `format` says, for the lifetime `'a`.
    pub unsafe fn new(
        ptr: *const u8,
        format: Format,
        shape: &[usize],
        strides: Vec<isize>,
    ) -> Self {
        let span = span(shape, &strides, format.size());
        View { ptr, format, strides, span, memory: PhantomData }
    }

    /// A view of a slice in C order.
    pub fn from_slice<T: Element>(slice: &'a [T], shape: &[usize]) -> Self {
        assert_eq!(slice.len(), shape.iter().product::<usize>());
        let strides = contiguous(shape, size_of::<T>());
        // SAFETY: the assertion above ties the shape to the slice, which is borrowed for 'a.
        unsafe { View::new(slice.as_ptr().cast(), Format::of::<T>(), shape, strides) }
    }

    /// A view of elements of a slice, `strides` bytes apart.
    pub fn strided<T: Element>(slice: &'a [T], shape: &[usize], strides: Vec<isize>) -> Self {
        let reach = span(shape, &strides, size_of::<T>());
        assert!(reach.start >= 0 && reach.end as usize <= size_of_val(slice));
        // SAFETY: the assertion above ties the shape to the slice, which is borrowed for 'a.
        unsafe { View::new(slice.as_ptr().cast(), Format::of::<T>(), shape, strides) }
    }

    /// Byte strides in canonical order.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// The address of a byte, to be asked for and no more: it may lie outside of the view.
    pub fn hint(&self, offset: isize) -> *const u8 {
        self.ptr.wrapping_offset(offset)
    }

    /// The view whose element 0 is the byte `first` of this one. It can reach no further than this one.
    pub fn part(&self, first: isize) -> View<'a> {
        View {
            ptr: self.ptr.wrapping_offset(first),
            span: self.span.start - first..self.span.end - first,
            ..self.clone()
        }
    }

    /// What it holds.
    pub fn scalar(&self) -> Scalar {
        self.format.scalar
    }

    /// The view of one entry of the first axis.
    pub fn entry(&self, index: usize) -> View<'a> {
        let entry = self.part(index as isize * self.strides[0]);
        View { strides: self.strides[1..].to_vec(), ..entry }
    }

    /// Swaps two axes.
    pub fn swap_axes(&mut self, a: usize, b: usize) {
        self.strides.swap(a, b);
    }

    /// Reads a run of elements, `step` bytes apart from byte `offset` on, into `to`.
    pub fn read<T: Element>(&self, offset: isize, step: isize, to: &mut [T]) {
        let Some(steps) = to.len().checked_sub(1) else { return };
        let last = step * steps as isize;
        let run = Run { to: 0, len: to.len(), from: Some((0, step)) };
        self.read_reaching(offset, (last.min(0), last.max(0)), &[run], (T::default(), to));
    }

    /// Reads all elements of an array of this shape, in C order, into `to`.
    pub fn read_all<T: Element>(&self, shape: &[usize], to: &mut [T]) {
        self.read_from(shape, 0, to);
    }

    /// Reads elements of an array of this shape, from number `first` in C order on, into `to`.
    pub fn read_from<T: Element>(&self, shape: &[usize], first: usize, to: &mut [T]) {
        self.read_part(0, (shape, &self.strides), first, to);
    }

    /// The same of an array that starts `offset` bytes from this view's, with strides of its own.
    pub fn read_part<T: Element>(
        &self,
        offset: isize,
        (shape, strides): (&[usize], &[isize]),
        mut first: usize,
        mut to: &mut [T],
    ) {
        let Some((inner, run, step)) = longest_runs(shape, strides) else { return };
        while !to.is_empty() {
            let (mut row, skipped) = (first / run, first % run);
            let mut at = offset + skipped as isize * step;
            for (&n, &stride) in shape[..inner].iter().zip(strides).rev() {
                at += (row % n) as isize * stride;
                row /= n;
            }
            let (part, rest) = to.split_at_mut((run - skipped).min(to.len()));
            self.read(at, step, part);
            first += part.len();
            to = rest;
        }
    }

    /// Reads `runs`, byte offsets of which count from `start`, into `to`; what comes from nowhere is
    /// `padding`.
    pub fn read_runs<T: Element>(&self, start: isize, runs: &Runs, padding: T, to: &mut [T]) {
        self.read_reaching(start, (runs.first, runs.last), &runs.runs, (padding, to));
    }

    /// The same with `cell` neighbouring elements, `step` bytes apart, in place of each of the runs'.
    pub fn read_cells<T: Element>(
        &self,
        start: isize,
        (runs, cell, step): (&Runs, usize, isize),
        padding: T,
        to: &mut [T],
    ) {
        let size = size_of::<T>() as isize;
        let reach = step * (cell as isize - 1);
        let (low, high) = (start + runs.first + reach.min(0), start + runs.last + reach.max(0));
        assert!(
            runs.first > runs.last
                || (low >= self.span.start && high + self.format.size() as isize <= self.span.end),
            "run outside of view"
        );
        let copied = step == size && self.format == Format::of::<T>();
        for run in &runs.runs {
            let cells = to[run.to * cell..(run.to + run.len) * cell].chunks_exact_mut(cell);
            match run.from {
                Some((at, pace)) => {
                    for (i, to) in cells.enumerate() {
                        let at = start + at + i as isize * pace;
                        if copied {
                            // SAFETY: all cells lie within the span that `new` vouches for, as just
                            // asserted, and `to` is a borrow of other memory.
                            unsafe {
                                copy(self.ptr.wrapping_offset(at).cast(), to.as_mut_ptr(), cell)
                            }
                        } else {
                            self.read(at, step, to);
                        }
                    }
                }
                None => cells.for_each(|to| to.fill(padding)),
            }
        }
    }

    /// Reads runs, the elements of which lie `first` to `last` bytes from `start`, both ends included.
    fn read_reaching<T: Element>(
        &self,
        start: isize,
        (first, last): (isize, isize),
        runs: &[Run],
        (padding, to): (T, &mut [T]),
    ) {
        let (low, high) = (start + first, start + last + self.format.size() as isize);
        assert!(
            first > last || (low >= self.span.start && high <= self.span.end),
            "run outside of view"
        );
        let from = self.ptr.wrapping_offset(start);
        // SAFETY: all that the runs read lies within the span that `new` vouches for, as just asserted.
        with_stored!(self.format.scalar, S => unsafe {
            convert::read_runs::<S, T>(from, self.format.swapped, runs, padding, to)
        });
        if self.format.negated {
            for run in runs.iter().filter(|run| run.from.is_some()) {
                to[run.to..run.to + run.len].iter_mut().for_each(|value| *value = value.neg());
            }
        }
    }

    /// Its elements in place, index 0 the view's first, if they can be read so: native, aligned, every
    /// stride a whole number of elements.
    ///
    /// What no index of the view reaches must not be read: a view may skip memory that is not its
    /// own. [`Memory`] keeps to the span, and leaves the rest to its user.
    pub fn memory<T: Element>(&self) -> Option<Memory<'a, T>> {
        let size = size_of::<T>() as isize;
        let native = self.format.is::<T>();
        let whole = self.strides.iter().all(|s| s % size == 0) && self.ptr.cast::<T>().is_aligned();
        (native && whole && !self.span.is_empty()).then(|| Memory {
            ptr: self.ptr.cast(),
            span: self.span.start / size..self.span.end / size,
            memory: PhantomData,
        })
    }
}

/// Runs, and how far they reach.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    runs: Vec<Run>,
    /// Byte offsets of the first and the last element that is read; none where first > last.
    first: isize,
    last: isize,
}

impl Runs {
    /// Of runs in the order in which they are to be read. Those that go on where the one before ends, both
    /// here and there, become one.
    pub fn new(mut runs: Vec<Run>) -> Self {
        runs.dedup_by(|next, run| {
            let follows = run.goes_on(next);
            if follows {
                run.len += next.len;
            }
            follows
        });
        let (mut first, mut last) = (isize::MAX, isize::MIN);
        for run in &runs {
            if let (Some((at, step)), Some(steps)) = (run.from, run.len.checked_sub(1)) {
                let end = at + step * steps as isize;
                (first, last) = (first.min(at.min(end)), last.max(at.max(end)));
            }
        }
        if first > last {
            // Nothing is read: bounds that no sum with a start overflows.
            (first, last) = (1, 0);
        }
        Runs { runs, first, last }
    }

    /// Drops what comes from nowhere: it is in its place.
    pub fn drop_padding(&mut self) {
        self.runs.retain(|run| run.from.is_some());
    }
}

/// Elements in place: a base address and the element indices that may be touched from it.
#[derive(Debug)]
pub struct Memory<'a, T> {
    ptr: *const T,
    span: Range<isize>,
    memory: PhantomData<&'a [T]>,
}

// SAFETY: it only reads memory that stays readable for 'a.
unsafe impl<T: Element> Send for Memory<'_, T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Element> Sync for Memory<'_, T> {}

impl<T> Clone for Memory<'_, T> {
    fn clone(&self) -> Self {
        Memory { ptr: self.ptr, span: self.span.clone(), memory: PhantomData }
    }
}

impl<'a, T> Memory<'a, T> {
    /// A slice as memory: index 0 is its first element.
    pub fn of(slice: &'a [T]) -> Self {
        Memory { ptr: slice.as_ptr(), span: 0..slice.len() as isize, memory: PhantomData }
    }

    /// Whether element 0 is at the start of a cache line.
    pub fn aligned(&self) -> bool {
        self.ptr.addr().is_multiple_of(LINE)
    }

    /// The address of element `index`, from which elements `index + first` to `index + last` will be
    /// read. Panics if that would leave the span.
    #[inline]
    pub fn at(&self, index: isize, first: isize, last: isize) -> *const T {
        assert!(
            index + first >= self.span.start && index + last < self.span.end,
            "operand outside of its memory"
        );
        self.ptr.wrapping_offset(index)
    }

    /// Reads a run of elements, `step` elements apart from element `index` on, into `to`.
    pub fn read(&self, index: isize, step: isize, to: &mut [T])
    where
        T: Copy,
    {
        let Some(steps) = to.len().checked_sub(1) else { return };
        let reach = step * steps as isize;
        let mut from = self.at(index, reach.min(0), reach.max(0));
        for value in to {
            // SAFETY: `at` checked both ends of the run, and all of it lies between.
            *value = unsafe { *from };
            from = from.wrapping_offset(step);
        }
    }
}

/// Elements that are read together, wherever the first of them lies.
#[derive(Debug)]
pub struct Gather {
    /// Where each lies.
    offsets: Vec<isize>,
    /// The lowest and the highest of those.
    reach: (isize, isize),
}

impl Gather {
    /// Of elements at such offsets from the first.
    pub fn new(offsets: Vec<isize>) -> Self {
        let lowest = offsets.iter().copied().min().unwrap_or(0);
        let highest = offsets.iter().copied().max().unwrap_or(0);
        Gather { offsets, reach: (lowest, highest) }
    }

    /// Those from element `index` of `memory` on, in order.
    pub fn read<T: Copy>(&self, memory: &Memory<'_, T>, index: isize) -> impl Iterator<Item = T> {
        let first = memory.at(index, self.reach.0, self.reach.1);
        // SAFETY: `at` checked the lowest and the highest of them, and all of them lie between.
        self.offsets.iter().map(move |&offset| unsafe { *first.wrapping_offset(offset) })
    }
}

/// A writable strided array in canonical order, shared by threads that write disjoint elements: of
/// numbers that elements `T` are stored as.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    ptr: *mut u8,
    scalar: Scalar,
    strides: Vec<isize>,
    span: Range<isize>,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: writing takes `&self`, but `write` is unsafe and its contract keeps elements of different
// threads apart.
unsafe impl<T: Element> Send for ViewMut<'_, T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Element> Sync for ViewMut<'_, T> {}

impl<'a, T: Element> ViewMut<'a, T> {
    /// A view of elements at `ptr` + sum of index * stride, of any alignment.
    ///
    /// # Safety
    /// Every element of `shape` must be writable for `'a` by this view alone, and no two of them may
    /// overlap.
    pub unsafe fn new(ptr: *mut u8, scalar: Scalar, shape: &[usize], strides: Vec<isize>) -> Self {
        let span = span(shape, &strides, scalar.size());
        ViewMut { ptr, scalar, strides, span, memory: PhantomData }
    }

    /// Whether memory holds elements as they are, so that vectors of them may be written there.
    #[inline]
    pub fn is_native(&self) -> bool {
        self.scalar.same_bits(T::SCALAR)
    }

    /// Bytes of a number.
    #[inline]
    pub fn size(&self) -> isize {
        self.scalar.size() as isize
    }

    /// A view of a slice in C order.
    pub fn from_slice(slice: &'a mut [T], shape: &[usize]) -> Self {
        assert_eq!(slice.len(), shape.iter().product::<usize>());
        let strides = contiguous(shape, size_of::<T>());
        // SAFETY: the assertion above ties the shape to the slice, which is borrowed for 'a alone; C
        // order has no overlaps.
        unsafe { ViewMut::new(slice.as_mut_ptr().cast(), T::SCALAR, shape, strides) }
    }

    /// Byte strides in canonical order.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// Swaps two axes.
    pub fn swap_axes(&mut self, a: usize, b: usize) {
        self.strides.swap(a, b);
    }

    /// The address of byte `offset`, from which bytes `first..last` will be written. Panics if that
    /// would leave the view, or if elements are stored as other numbers.
    #[inline(always)]
    pub fn at(&self, offset: isize, first: isize, last: isize) -> *mut T {
        assert!(self.is_native(), "elements are stored as they are");
        self.address(offset, first, last).cast()
    }

    /// The same of any numbers.
    #[inline(always)]
    fn address(&self, offset: isize, first: isize, last: isize) -> *mut u8 {
        assert!(
            offset + first >= self.span.start && offset + last <= self.span.end,
            "run outside of view"
        );
        self.ptr.wrapping_offset(offset)
    }

    /// The view whose element 0 is the byte `first` of this one, with other strides. It can reach no
    /// further than this one.
    pub fn part(&self, first: isize, strides: Vec<isize>) -> ViewMut<'_, T> {
        ViewMut {
            ptr: self.ptr.wrapping_offset(first),
            scalar: self.scalar,
            strides,
            span: self.span.start - first..self.span.end - first,
            memory: PhantomData,
        }
    }

    /// Adds to a run of elements, `step` bytes apart from byte `offset` on.
    ///
    /// # Safety
    /// No other thread may access these elements meanwhile.
    #[inline]
    pub unsafe fn add(&self, offset: isize, step: isize, values: &[T]) {
        let Some(steps) = values.len().checked_sub(1) else { return };
        let reach = step * steps as isize;
        let to = self.address(offset, reach.min(0), reach.max(0) + self.size());
        // SAFETY: `address` keeps the run within the span that `new` vouches for.
        with_stored!(self.scalar, S => unsafe { convert::add_run::<S, T>(to, step, values) });
    }

    /// Writes a run of elements, `step` bytes apart from byte `offset` on.
    ///
    /// # Safety
    /// No other thread may access these elements meanwhile.
    #[inline(always)]
    pub unsafe fn write(&self, offset: isize, step: isize, from: &[T]) {
        let Some(steps) = from.len().checked_sub(1) else { return };
        let reach = step * steps as isize;
        let mut to = self.address(offset, reach.min(0), reach.max(0) + self.size());
        // SAFETY: `address` keeps the run within the span that `new` vouches for, and `from` is a
        // borrow of other memory.
        unsafe {
            if self.is_native() && step == size_of::<T>() as isize {
                copy(from.as_ptr(), to.cast(), from.len());
            } else if self.is_native() {
                for &value in from {
                    to.cast::<T>().write_unaligned(value);
                    to = to.wrapping_offset(step);
                }
            } else {
                with_stored!(self.scalar, S => convert::write_run::<S, T>(to, step, from));
            }
        }
    }
}

/// How an array is read or written in the longest runs: the number of axes without those that make up a
/// run, its elements, and bytes from one to the next. `None` if there are none.
pub fn longest_runs(shape: &[usize], strides: &[isize]) -> Option<(usize, usize, isize)> {
    let (&last, &step) = shape.last().zip(strides.last())?;
    let (mut inner, mut run) = (shape.len() - 1, last);
    // Axes of which one goes on where the next one ends are as one.
    while inner > 0 && strides[inner - 1] == step * run as isize {
        inner -= 1;
        run *= shape[inner];
    }
    (!shape.contains(&0)).then_some((inner, run, step))
}

/// Byte strides of an array in C order.
pub fn contiguous(shape: &[usize], size: usize) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut stride = size as isize;
    for (s, &n) in strides.iter_mut().zip(shape).rev() {
        *s = stride;
        stride *= n.max(1) as isize;
    }
    strides
}

/// The next index of a shape in C order; after the last, the first again.
pub fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, &n) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < n {
            return;
        }
        *i = 0;
    }
}
