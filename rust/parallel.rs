//! Threads: how many, the pool, how work is shared, and each thread's scratch memory.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::view::Element;

/// Most threads that a call may ask for.
pub const MAX_THREADS: usize = 1024;

/// How often the calling thread asks whether it should stop.
const POLL: Duration = Duration::from_millis(50);

/// Scratch of a thread that is kept between calls, in bytes: a slab and what goes with it. Larger
/// ones go back at once.
const KEPT_SCRATCH: usize = 4 << 20;

/// What `set_num_threads` said; 0 is nothing.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// Threads that a call uses unless it says otherwise.
pub fn num_threads() -> Result<usize, Error> {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => default_threads(),
        n => Ok(n),
    }
}

/// Sets [`num_threads`]; `None` goes back to the default.
pub fn set_num_threads(threads: Option<i64>) -> Result<(), Error> {
    let n = threads.map_or(Ok(0), check_threads)?;
    CHOSEN.store(n, Ordering::Relaxed);
    Ok(())
}

/// A number of threads, if it can be one.
pub fn check_threads(value: i64) -> Result<usize, Error> {
    match usize::try_from(value) {
        Ok(n @ 1..=MAX_THREADS) => Ok(n),
        _ => Err(Error::Threads { value }),
    }
}

/// `FALTUNG_NUM_THREADS`, else `RAYON_NUM_THREADS`, else the cores that this process may run on by
/// its affinity and its cgroup's quota.
fn default_threads() -> Result<usize, Error> {
    static DEFAULT: OnceLock<Result<usize, Error>> = OnceLock::new();
    DEFAULT
        .get_or_init(|| {
            for name in ["FALTUNG_NUM_THREADS", "RAYON_NUM_THREADS"] {
                let value = std::env::var(name).unwrap_or_default();
                let number = value.trim().parse::<i64>();
                match number {
                    // Rayon's own word for its default.
                    Ok(0) if name == "RAYON_NUM_THREADS" => {}
                    Ok(n) if check_threads(n).is_ok() => return Ok(n as usize),
                    _ if value.is_empty() => {}
                    _ => return Err(Error::ThreadVariable { name, value }),
                }
            }
            Ok(std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)))
        })
        .clone()
}

/// A pool, and the process it lives in.
struct Pool {
    process: u32,
    helpers: usize,
    pool: rayon::ThreadPool,
}

/// The pool in use. Pools are never freed: a call on another thread may be in one, and in a forked
/// child the parent's cannot be. They only grow, so few are ever made.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

/// A pool with at least `helpers` threads in this process, or `None` where the system gives none.
///
/// No lock is taken: a thread that forks while another holds one would leave it locked for good.
fn pool(helpers: usize) -> Option<&'static rayon::ThreadPool> {
    let process = std::process::id();
    // SAFETY: the pointer is null or comes from `Box::leak` below, and is never freed.
    if let Some(current) = unsafe { POOL.load(Ordering::Acquire).as_ref() }
        && current.process == process
        && current.helpers >= helpers
    {
        return Some(&current.pool);
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(helpers)
        .thread_name(|i| format!("faltung-{i}"))
        .build()
        .ok()?;
    let made = Box::leak(Box::new(Pool { process, helpers, pool }));
    POOL.store(made, Ordering::Release);
    Some(&made.pool)
}

/// The call was told to stop; some of its result is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// The threads of one call.
pub struct Team<'a> {
    /// How many, the caller counted in.
    pub threads: usize,
    /// Asked on the calling thread every now and then: whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// One thread's part in a call.
pub struct Turn<'a> {
    items: usize,
    next: &'a AtomicUsize,
    stopped: &'a AtomicBool,
    /// On the calling thread: what to ask, and when it last did.
    poll: Option<(&'a dyn Fn() -> bool, Cell<Instant>)>,
}

impl Turn<'_> {
    /// The next item to do, or `None` when all are taken or the call was told to stop.
    pub fn next(&self) -> Option<usize> {
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        (item < self.items && self.goes_on()).then_some(item)
    }

    /// Whether to go on. Cheap; to be asked every million operations or so.
    pub fn goes_on(&self) -> bool {
        if let Some((stop, last)) = &self.poll
            && last.get().elapsed() > POLL
        {
            if stop() {
                self.stopped.store(true, Ordering::Relaxed);
            }
            last.set(Instant::now());
        }
        !self.stopped.load(Ordering::Relaxed)
    }
}

impl Team<'_> {
    /// Runs `part` on every thread of the team; together they take the items from 0 to `items` in
    /// order, one at a time. The caller starts at once, and when this returns all have ended.
    pub fn share(&self, items: usize, part: impl Fn(&Turn<'_>) + Sync) -> Result<(), Interrupted> {
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let turn = |poll| Turn { items, next: &next, stopped: &stopped, poll };
        let caller = || part(&turn(Some((self.stop, Cell::new(Instant::now())))));
        let helpers = self.threads.min(items).saturating_sub(1);
        match if helpers > 0 { pool(helpers) } else { None } {
            None => caller(),
            Some(pool) => pool.in_place_scope(|scope| {
                // `turn` holds what only the caller may ask, so helpers make their own.
                let (next, stopped, part) = (&next, &stopped, &part);
                for _ in 0..helpers {
                    scope.spawn(move |_| part(&Turn { items, next, stopped, poll: None }));
                }
                caller();
            }),
        }
        if stopped.into_inner() { Err(Interrupted) } else { Ok(()) }
    }
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Calls `work` with `len` elements of this thread's scratch memory, aligned to a cache line. What
/// they hold is left over from earlier calls.
pub fn with_scratch<T: Element, R>(len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) });
    // Taken out rather than borrowed: should `work` come back here, it finds an empty one.
    let mut lines = SCRATCH.take();
    let need = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if lines.len() < need {
        // Replaced rather than grown: what it holds is not worth a copy.
        lines = vec![Line([0; 64]); need];
    }
    // SAFETY: `need` lines hold `len` elements, are initialised and aligned for any element, and
    // every bit pattern is a float.
    let elements = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<T>(), len) };
    let result = work(elements);
    if lines.len() * size_of::<Line>() <= KEPT_SCRATCH {
        SCRATCH.set(lines);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_item_is_taken_once() {
        for threads in [1, 2, 5] {
            let seen = Mutex::new(vec![0; 1000]);
            let team = Team { threads, stop: &|| false };
            team.share(1000, |turn| {
                while let Some(item) = turn.next() {
                    seen.lock().unwrap()[item] += 1;
                }
            })
            .unwrap();
            assert!(seen.into_inner().unwrap().iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn a_stopped_call_says_so_and_ends_on_every_thread() {
        let team = Team { threads: 3, stop: &|| true };
        let done = team.share(usize::MAX / 2, |turn| {
            while turn.next().is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(done, Err(Interrupted));
    }

    #[test]
    fn scratch_is_aligned_and_may_nest() {
        with_scratch::<f32, _>(100, |outer| {
            assert_eq!(outer.as_ptr() as usize % 64, 0);
            outer.fill(1.0);
            with_scratch::<f64, _>(50, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|&v| v == 1.0));
        });
    }
}
