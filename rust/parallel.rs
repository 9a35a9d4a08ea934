//! Threads: how many, the pool, and how work is shared.

use std::cell::Cell;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Most threads that a call may ask for.
pub const MAX_THREADS: usize = 1024;

/// How often the calling thread asks whether it should stop.
const POLL: Duration = Duration::from_millis(50);

/// How long a call waits for its helpers before it falls asleep, and a helper that has done its part for another.
/// Who sleeps is awake some 60 us after what it waits for, and an item can take longer than that. (3x3 on two
/// threads, weights packed, with this and without: 64 channels of 56 x 56 0.61 and 0.79 ms, 512 of 7 x 7 0.90 and 0.98;
/// Sapphire Rapids, a virtual machine.)
const SPIN: Duration = Duration::from_micros(300);

/// Work between readings of the clock, in vector operations: some 50 us.
const CLOCK_WORK: usize = 1 << 18;

/// What the rest of an item counts for besides its tiles: staging, mostly.
const ITEM_WORK: usize = 1 << 14;

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
        _ => Err(Error::Threads { value, most: MAX_THREADS }),
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
                    _ => return Err(Error::ThreadVariable { name, value, most: MAX_THREADS }),
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

/// How often helpers were called.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Keeps a helper awake for the call that comes after the one of that number.
fn linger(call: usize) {
    let begin = Instant::now();
    while CALLS.load(Ordering::Relaxed) == call && begin.elapsed() < SPIN {
        std::hint::spin_loop();
    }
}

/// Why a call ended before its work did; some of its result is not written.
#[derive(Clone, Debug, PartialEq)]
pub enum Stopped {
    /// It was told to.
    Interrupted,
    /// Something was not to be had.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

/// Asked on the calling thread: whether to stop.
type Ask<'a> = &'a dyn Fn() -> bool;

/// The threads of one call.
pub struct Team<'a> {
    /// How many, the caller counted in.
    pub threads: usize,
    /// Asked on the calling thread every now and then: whether to stop.
    pub stop: Ask<'a>,
}

/// What the threads of a call share.
struct Shared<'a> {
    /// Items of each stage.
    stages: &'a [usize],
    seats: usize,
    /// Of each stage, how many items of each seat's part were taken.
    taken: Vec<AtomicUsize>,
    stopped: AtomicBool,
    reason: Mutex<Option<Stopped>>,
}

impl<'a> Shared<'a> {
    fn new(stages: &'a [usize], seats: usize) -> Self {
        Shared {
            stages,
            seats,
            taken: (0..stages.len() * seats).map(|_| AtomicUsize::new(0)).collect(),
            stopped: AtomicBool::new(false),
            reason: Mutex::new(None),
        }
    }

    /// An item of a stage: of a seat's own part, or then of another's.
    fn take(&self, stage: usize, seat: usize) -> Option<usize> {
        (seat..self.seats).chain(0..seat).find_map(|of| {
            let part = even_part(&(0..self.stages[stage]), self.seats, of);
            let taken = self.taken[stage * self.seats + of].fetch_add(1, Ordering::Relaxed);
            (taken < part.len()).then_some(part.start + taken)
        })
    }

    fn stop(&self, reason: Stopped) {
        self.stopped.store(true, Ordering::Relaxed);
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }
}

/// One thread's part in a call.
pub struct Turn<'a> {
    shared: &'a Shared<'a>,
    seat: usize,
    /// The stage that it is in, and the first item of that.
    stage: Cell<(usize, usize)>,
    /// Work since the clock was last read.
    work: Cell<usize>,
    /// On the calling thread: what to ask, and when it last did.
    poll: Option<(Ask<'a>, Cell<Option<Instant>>)>,
}

impl Turn<'_> {
    /// The next item to do, or `None` when all are taken or the call was stopped.
    pub fn next(&self) -> Option<usize> {
        loop {
            let (stage, first) = self.stage.get();
            let items = self.shared.stages.get(stage)?;
            if let Some(item) = self.shared.take(stage, self.seat) {
                return self.goes_on(ITEM_WORK).then_some(first + item);
            }
            self.stage.set((stage + 1, first + items));
        }
    }

    /// Whether to go on with so much more work, in vector operations. Cheap enough for every tile.
    pub fn goes_on(&self, work: usize) -> bool {
        self.work.set(self.work.get().saturating_add(work));
        if self.work.get() >= CLOCK_WORK
            && let Some((stop, last)) = &self.poll
        {
            self.work.set(0);
            let due = last.get().is_some_and(|last| last.elapsed() > POLL);
            if due && stop() {
                self.shared.stop(Stopped::Interrupted);
            }
            if due || last.get().is_none() {
                last.set(Some(Instant::now()));
            }
        }
        !self.shared.stopped.load(Ordering::Relaxed)
    }
}

impl Team<'_> {
    /// Runs `part` on every thread of the team; together they take the items from 0 to `items`, one at a
    /// time. The caller starts at once, and when this returns all have ended.
    ///
    /// Each has a part of the items of its own, one behind the other, and then helps with those of others. So a call
    /// like the one before finds in its core's caches what that left there: lines that another core has written
    /// come slowly. (Depthwise 3x3 on 144 channels of 56 x 56, two threads: 0.073 ms, and 0.088 with one counter for
    /// all; Sapphire Rapids.)
    pub fn share(
        &self,
        items: usize,
        part: impl Fn(&Turn<'_>) -> Result<(), Error> + Sync,
    ) -> Result<(), Stopped> {
        self.share_stages(&[items], part)
    }

    /// The same with items in stages of so many each, numbered on: all of a stage are taken before one of the
    /// next is.
    pub fn share_stages(
        &self,
        stages: &[usize],
        part: impl Fn(&Turn<'_>) -> Result<(), Error> + Sync,
    ) -> Result<(), Stopped> {
        let most = stages.iter().copied().max().unwrap_or(0);
        let seats = self.threads.min(most).max(1);
        let shared = Shared::new(stages, seats);
        let take = |seat, poll| {
            let (stage, work) = (Cell::new((0, 0)), Cell::new(0));
            let turn = Turn { shared: &shared, seat, stage, work, poll };
            part(&turn).unwrap_or_else(|error| shared.stop(error.into()));
        };
        let caller = || take(0, Some((self.stop, Cell::new(None))));
        let seated = AtomicUsize::new(1);
        let helper = || take(seated.fetch_add(1, Ordering::Relaxed), None);
        let helpers = seats - 1;
        match if helpers > 0 { pool(helpers) } else { None } {
            None => caller(),
            Some(pool) => help((pool, helpers), &helper, caller, || {
                if (self.stop)() {
                    shared.stop(Stopped::Interrupted);
                }
            }),
        }
        let reason = shared.reason.into_inner().unwrap_or_else(PoisonError::into_inner);
        reason.map_or(Ok(()), Err)
    }
}

/// Runs `caller` here while up to `helpers` threads of a pool run `task`. It returns when all that
/// began have ended, and asks `wait` now and then until they have; those that did not begin by the
/// end of `caller` never do.
///
/// That is what a scope of Rayon's cannot do: it waits for every task it has spawned, so that a short
/// call would wait for a long one of another thread which keeps the pool busy.
fn help(
    (pool, helpers): (&rayon::ThreadPool, usize),
    task: &(dyn Fn() + Sync),
    caller: impl FnOnce(),
    wait: impl Fn(),
) {
    // SAFETY: only the lifetime changes. The task is called by threads that have entered the door,
    // and this function does not return or unwind before the door is closed and they have left.
    let task: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(task) };
    let door = Arc::new(Door {
        state: AtomicUsize::new(0),
        panicked: AtomicBool::new(false),
        owner: std::thread::current(),
    });
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    for _ in 0..helpers {
        let door = door.clone();
        pool.spawn(move || {
            if door.enter() {
                if std::panic::catch_unwind(AssertUnwindSafe(task)).is_err() {
                    door.panicked.store(true, Ordering::Relaxed);
                }
                door.leave();
            }
            linger(call);
        });
    }
    // Waits even if `caller` panics.
    struct Close<'a>(&'a Door);
    impl Drop for Close<'_> {
        fn drop(&mut self) {
            self.0.close(|| {});
        }
    }
    let close = Close(&door);
    caller();
    close.0.close(wait);
    assert!(!door.panicked.load(Ordering::Relaxed), "a helper thread panicked");
}

/// Who is at work for a call besides its owner.
struct Door {
    /// How many are inside, and [`CLOSED`](Self::CLOSED).
    state: AtomicUsize,
    panicked: AtomicBool,
    owner: Thread,
}

impl Door {
    const CLOSED: usize = 1 << (usize::BITS - 1);

    /// Goes in, unless it is closed.
    fn enter(&self) -> bool {
        let more = |state| (state & Self::CLOSED == 0).then_some(state + 1);
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok()
    }

    fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::Release) == Self::CLOSED + 1 {
            self.owner.unpark();
        }
    }

    /// Lets no one in any more, and waits until all have left, asking `wait` now and then.
    fn close(&self, wait: impl Fn()) {
        self.state.fetch_or(Self::CLOSED, Ordering::Acquire);
        let empty = || self.state.load(Ordering::Acquire) == Self::CLOSED;
        // Helpers end within an item of the owner: mostly sooner than a thread falls asleep and wakes.
        let begin = Instant::now();
        while !empty() {
            if begin.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::park_timeout(POLL);
                wait();
            }
        }
    }
}

/// Part `i` of a range cut into `parts` as even as can be.
pub fn even_part(all: &Range<usize>, parts: usize, i: usize) -> Range<usize> {
    let at = |i: usize| all.start + i * all.len() / parts;
    at(i)..at(i + 1)
}

/// A range in the fewest parts of at most `most`, as even as can be.
pub fn even_parts(all: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let n = all.len().div_ceil(most.max(1));
    (0..n).map(move |i| even_part(&all, n, i))
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
                Ok(())
            })
            .unwrap();
            assert!(seen.into_inner().unwrap().iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn a_stopped_call_says_so_and_ends_on_every_thread() {
        let team = Team { threads: 3, stop: &|| true };
        let done = team.share(1 << 40, |turn| {
            while turn.next().is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        assert_eq!(done, Err(Stopped::Interrupted));
    }

    #[test]
    fn an_error_on_one_thread_ends_the_call() {
        let error = Error::NoMemory { what: "a test", bytes: 1 };
        let done = Team { threads: 3, stop: &|| false }.share(1 << 40, |turn| {
            while let Some(item) = turn.next() {
                if item == 1000 {
                    return Err(error.clone());
                }
            }
            Ok(())
        });
        assert_eq!(done, Err(Stopped::Failed(error)));
    }

    #[test]
    fn a_short_call_does_not_wait_for_a_long_one() {
        // The long call keeps every helper of the pool until the short one has ended.
        let (short_done, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
        let team = team_of_two();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let long = team_of_two().share(2, |turn| {
                    while turn.next().is_some() {
                        begun.fetch_add(1, Ordering::Relaxed);
                        while !short_done.load(Ordering::Relaxed) {
                            std::thread::yield_now();
                        }
                    }
                    Ok(())
                });
                assert_eq!(long, Ok(()));
            });
            while begun.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            let short = team.share(100, |turn| {
                while turn.next().is_some() {}
                Ok(())
            });
            assert_eq!(short, Ok(()));
            short_done.store(true, Ordering::Relaxed);
        });
    }

    fn team_of_two() -> Team<'static> {
        Team { threads: 2, stop: &|| false }
    }

    #[test]
    #[should_panic(expected = "a helper thread panicked")]
    fn a_panic_of_a_helper_reaches_the_caller() {
        let caller = std::thread::current().id();
        let entered = AtomicBool::new(false);
        let _ = team_of_two().share(2, |_| {
            if std::thread::current().id() != caller {
                entered.store(true, Ordering::Relaxed);
                panic!("on purpose");
            }
            while !entered.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok(())
        });
    }
}
