//! Waiting for what other threads of a call make.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::parallel::Turn;

/// How long a thread spins for what others transform before it lets other processes have its core.
const SPIN: Duration = Duration::from_micros(50);

/// How much of the values of a block are there.
#[derive(Debug, Default)]
pub struct Ready {
    parts: AtomicUsize,
    /// Whether one will never be.
    broken: AtomicBool,
}

/// A part of values on its way. Whoever waits for it must hear of it if its thread panics.
pub struct Pledge<'a>(&'a Ready, bool);

impl<'a> Pledge<'a> {
    /// One part more of these.
    pub fn of(ready: &'a Ready) -> Self {
        Pledge(ready, false)
    }

    /// The part is there.
    pub fn keep(mut self) {
        self.0.parts.fetch_add(1, Ordering::Release);
        self.1 = true;
    }
}

impl Drop for Pledge<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Ready {
    /// Waits for so many parts, all of which threads have taken. Whether they are there: or else the call was
    /// stopped.
    pub fn wait(&self, parts: usize, turn: &Turn<'_>) -> bool {
        let begin = Instant::now();
        while self.parts.load(Ordering::Acquire) < parts {
            if self.broken.load(Ordering::Relaxed) || !turn.goes_on(1) {
                return false;
            }
            if begin.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        true
    }
}
