"""Threads, processes and signals: how many work, who may call at once, and what stops a call.

Nothing here looks at a clock, except to tell a call that was stopped from one that ran to its end.
What could upset the test run itself (environment, fork, signals) is a script in a process of its
own.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faltung
import numpy as np
import pytest
from cases import KINDS, case, same_bits

# Work for more than one thread, and enough of it to watch.
MEDIUM = case((4, 16, 64, 65), (32, 16, 3, 3), padding=1)
LONG = case((1, 1024, 32, 32), (8, 1024, 5, 5), padding=2)


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    """Leave the number of threads as it was."""
    yield
    faltung.set_num_threads(None)


def run(script: str, **environment: str) -> str:
    """What a script prints; it must end well, and has the modules of the tests."""
    names = ("FALTUNG_NUM_THREADS", "RAYON_NUM_THREADS")
    inherited = {key: value for key, value in os.environ.items() if key not in names}
    paths = [str(Path(__file__).parent), inherited.get("PYTHONPATH", "")]
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # Python warns of forks in processes that have threads, which is what is tested here.
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_set_num_threads():
    default = faltung.get_num_threads()
    assert default == faltung.config()["threads"] >= 1
    for number in (1, 5, np.int64(3)):
        assert faltung.set_num_threads(number) is None
        assert faltung.get_num_threads() == faltung.config()["threads"] == number
    faltung.set_num_threads(None)
    assert faltung.get_num_threads() == default


HELPERS = """
import faltung, os
from cases import KINDS
from test_threads import MEDIUM

def helpers():
    return len(os.listdir("/proc/self/task")) - others

operands = MEDIUM.floats()
others = 0
others = helpers()
"""


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"FALTUNG_NUM_THREADS": "3"}, 3),
        ({"RAYON_NUM_THREADS": "4"}, 4),
        ({"FALTUNG_NUM_THREADS": "1", "RAYON_NUM_THREADS": "4"}, 1),
        ({"FALTUNG_NUM_THREADS": " 2 "}, 2),
        ({"FALTUNG_NUM_THREADS": ""}, None),
        ({"RAYON_NUM_THREADS": "0"}, None),
    ],
    ids=str,
)
def test_environment(environment, threads):
    """Read when faltung is imported, and as many threads really work."""
    default = len(os.sched_getaffinity(0)) if threads is None else threads
    script = HELPERS + "MEDIUM.run(operands); print(faltung.get_num_threads(), helpers())"
    number, helpers = map(int, run(script, **environment).split())
    if threads is None:
        assert number <= default  # a cgroup may allow less than the affinity does
    else:
        assert number == threads
    assert helpers == number - 1, "the caller is one of the threads"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FALTUNG_NUM_THREADS", "0"),
        ("FALTUNG_NUM_THREADS", "-1"),
        ("FALTUNG_NUM_THREADS", "two"),
        ("RAYON_NUM_THREADS", "1.5"),
        ("FALTUNG_ISA", "avx1024"),
    ],
)
def test_wrong_environment(name, value):
    """Said at once, with the variable, its value and the way out."""
    script = "try: import faltung\nexcept ImportError as error: print(error)"
    message = run(script, **{name: value})
    assert message.startswith(f'{name} is "{value}"'), message
    assert "unset it" in message


def test_affinity():
    """The default is the cores that this process may run on."""
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert run(script + "import faltung; print(faltung.get_num_threads())") == "1"


def test_threads_of_a_call():
    """`threads=` rules over everything else; one thread needs no helper, and none is started."""
    script = (
        HELPERS
        + """
faltung.set_num_threads(4)
MEDIUM.run(operands, threads=1); print(helpers())
MEDIUM.run(operands, threads=2); print(helpers())
MEDIUM.run(operands); print(helpers())
"""
    )
    counts = [int(line) for line in run(script, FALTUNG_NUM_THREADS="2").split()]
    # A pool that grows may leave the smaller one behind.
    assert counts[:2] == [0, 1] and counts[2] in (3, 4)


def test_no_threads_for_little_work():
    script = HELPERS + "k = KINDS['2d']; k.run(k.floats()); print(helpers())"
    assert run(script, FALTUNG_NUM_THREADS="4") == "0"


FORK = """
import os, signal, sys
import numpy as np
from cases import same_bits
from test_threads import MEDIUM

operands = MEDIUM.floats()
wanted = MEDIUM.run(operands, threads=2)

def child():
    # A deadlock would wait for ever. The alarm turns it into a failure.
    signal.alarm(120)
    for threads in (2, 1, 4):
        assert same_bits(MEDIUM.run(operands, threads=threads), wanted)
"""


def test_fork_after_use():
    """Helpers do not live on in a forked child. It makes its own, and so does its own child."""
    script = (
        FORK
        + """
def fork(depth):
    pid = os.fork()
    if pid == 0:
        try:
            child()
            if depth:
                fork(depth - 1)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

fork(1)
child()
print("done")
"""
    )
    assert run(script) == "done"


def test_fork_during_calls():
    """While other threads are in the middle of one."""
    script = (
        FORK
        + """
import threading
stop = threading.Event()

def keep_calling():
    while not stop.is_set():
        MEDIUM.run(operands, threads=2)

busy = [threading.Thread(target=keep_calling) for _ in range(2)]
for thread in busy:
    thread.start()
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
for thread in busy:
    thread.join()
print("done")
"""
    )
    assert run(script) == "done"


def medium(seed: int) -> np.ndarray:
    """The result of one call, as a process pool calls it."""
    return MEDIUM.run(MEDIUM.floats(seed=seed), threads=2)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_multiprocessing(start):
    script = f"""
import multiprocessing
from cases import same_bits
from test_threads import medium

if __name__ == "__main__":
    wanted = [medium(seed) for seed in range(4)]
    with multiprocessing.get_context("{start}").Pool(2) as pool:
        found = pool.map(medium, range(4))
    print(all(map(same_bits, found, wanted)))
"""
    assert run(script) == "True"


def test_concurrent_calls_are_right():
    """Many Python threads at once, each with problems of its own and its own number of threads."""
    problems = [*KINDS.values(), MEDIUM] * 3
    operands = [problem.floats(seed=seed) for seed, problem in enumerate(problems)]
    wanted = [p.run(o, threads=1) for p, o in zip(problems, operands, strict=True)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for round_ in range(3):
            calls = [
                pool.submit(p.run, o, threads=1 + (number + round_) % 4)
                for number, (p, o) in enumerate(zip(problems, operands, strict=True))
            ]
            for call, result in zip(calls, wanted, strict=True):
                assert same_bits(call.result(), result)


class Watched:
    """A call of seconds on a thread of its own, whose progress shows in its `out`."""

    def __init__(self, images: int, threads: int) -> None:
        one, weight, bias = LONG.integers()
        self.wanted = LONG.run(LONG.integers(), threads=1)[0]
        # One image seen many times: many channels for few outputs, so work and no memory.
        x = np.broadcast_to(one, (images, *one.shape[1:]))
        self.out = np.full((images, *self.wanted.shape), np.nan, np.float32)
        options = {**vars(LONG.options), "out": self.out, "threads": threads}
        self.thread = threading.Thread(target=faltung.conv, args=(x, weight, bias), kwargs=options)

    def progress(self) -> float:
        """The share of the images of which at least a part is written."""
        return float(np.mean(~np.isnan(self.out).all(axis=(1, 2, 3))))

    def begun(self) -> bool:
        return not np.isnan(self.out[0]).all()

    def under_way(self) -> bool:
        return 0 < self.progress() < 0.9

    def __enter__(self) -> Watched:
        self.thread.start()
        while self.thread.is_alive() and not self.begun():
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        assert (self.out == self.wanted).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_interpreter_is_released(threads):
    """Python goes on while a call is under way: it sees a result of which a part is missing."""
    with Watched(200, threads) as call:
        assert call.under_way()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("problem", ["KINDS['2d']", "MEDIUM"])
def test_calls_do_not_wait_for_each_other(problem, threads):
    """A short call is done while a long one, begun before it, has all the helpers."""
    script = f"""
from cases import KINDS, same_bits
from test_threads import MEDIUM, Watched

operands = {problem}.floats()
wanted = {problem}.run(operands, threads=1)
with Watched(500, 2) as call:
    found = {problem}.run(operands, threads={threads})
    print(call.under_way())
assert same_bits(found, wanted)
"""
    assert run(script) == "True"


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
from cases import same_bits
from test_threads import LONG, MEDIUM, Watched

threads = {threads}
short = Watched(40, threads)
begin = time.monotonic()
short.thread.run()
duration = (time.monotonic() - begin) / 40 * 3000  # what the whole call below would take

call = Watched(3000, threads)
sent = []

def interrupt():
    while not call.begun():
        time.sleep(0.001)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

class Stopped(Exception):
    pass

def handler(*_):
    raise Stopped

# Python's own is not there where tests run in the background of a shell, which ignores the signal.
signal.signal(signal.SIGINT, handler if {own_handler} else signal.default_int_handler)
sender = threading.Thread(target=interrupt, daemon=True)
sender.start()
try:
    call.thread.run()  # on this thread, the main one
except (KeyboardInterrupt, Stopped) as error:
    caught = time.monotonic()
    print(type(error).__name__)
else:
    print("ran to its end")
sender.join()
print(caught - sent[0], duration)

# Nothing is left running: no more is written, and the next call is right.
before = np.isnan(call.out)
operands = MEDIUM.floats()
results = [MEDIUM.run(operands, threads=n) for n in (threads, 1, threads, threads)]
used = time.process_time()
time.sleep(0.5)
print(time.process_time() - used)
assert call.under_way() and (np.isnan(call.out) == before).all()
assert all(same_bits(result, results[1]) for result in results)
"""


@pytest.mark.parametrize("own_handler", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt(record_property, threads, own_handler):
    """Ctrl-C stops a call of many seconds at once, and whatever its handler raises comes out."""
    name, times, busy = run(INTERRUPT.format(threads=threads, own_handler=own_handler)).split("\n")
    latency, duration = map(float, times.split())
    record_property("seconds from signal to exception", latency)
    assert name == ("Stopped" if own_handler else "KeyboardInterrupt")
    assert latency < duration / 2, "the call should end long before its end"
    assert float(busy) < 0.25, "a thread that still computes would use half a second"


def test_signals_that_do_not_raise():
    """Their handlers run during the call, which goes on to its right end."""
    script = """
import signal
from test_threads import Watched

seen = []
call = Watched(200, 2)
signal.signal(signal.SIGALRM, lambda *_: seen.append(call.under_way()))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
call.thread.run()
signal.setitimer(signal.ITIMER_REAL, 0)
assert (call.out == call.wanted).all()
print(any(seen))
"""
    assert run(script) == "True"
