"""`streamfleet-worker` as a person starts it: an agent that dies or hangs is started again.

    start ──▶ loading ──turns──▶ alive ──ends, or does not turn any more──▶ pause ──▶ start
                 └──ends by itself──▶ we end with its code: it said why, to whoever started us

We fork, and load nothing of what an agent needs. The kernel ends the agent with us, and its children with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.process import name_process, tie_to_parent
from streamfleet_core.runtime.program import log_as

logger = logging.getLogger(__name__)

LOADING = 90.0  # seconds from a start to the first turn, with the time that joining may take
HUNG = 15.0  # seconds without a turn; the agent's own alarm, which a stopped process cannot hear, comes first
STOPPING = 10.0  # seconds that an agent gets to end in order
HEALTHY = 30.0  # seconds after which a death counts as the first one
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between a death and the next start

_ALONE = ("--check", "--unsupervised", "-h", "--help")  # with these nothing is kept running


@dataclass(frozen=True, slots=True)
class _Agent:
    pid: int
    pidfd: int
    turns: int  # a pipe, in which there is a byte for each turn


def is_wanted(arguments: Sequence[str]) -> bool:
    """Is an agent to be kept running?"""
    return arguments[:1] != ["samples"] and not any(argument in _ALONE for argument in arguments)


def keep() -> int | Callable[[], None]:
    """Keep an agent running until SIGTERM or SIGINT.

    Returns the exit code; in each agent, which goes on from here, what it is to call at each turn.
    """
    name_process("sf-worker")
    log_as("worker")
    stop = _stop_signal()
    backoff, was_alive = Backoff(first=FIRST_PAUSE, limit=LONGEST_PAUSE, jitter=0.0), False
    while True:
        began = time.monotonic()
        agent = _start(stop)
        if not isinstance(agent, _Agent):
            return agent
        code, alive = _watch(agent, stop)
        was_alive |= alive
        if _is_set(stop, 0):
            return max(0, code)
        if not was_alive and code >= 0:
            return code
        if time.monotonic() - began > HEALTHY:
            backoff.succeeded()
        pause = backoff.failed()
        logger.warning("the agent %s, starts again in %.1f s", _told(code), pause)
        if _is_set(stop, pause):
            return 0


def _start(stop: int) -> _Agent | Callable[[], None]:
    """The new agent; in it, what it is to call at each turn."""
    supervisor = os.getpid()
    turns, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # Our SIGTERM waits until the agent has no handler of ours any more, which would drop it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(ours)
        return _Agent(pid, os.pidfd_open(pid), turns)
    tie_to_parent()
    if os.getppid() != supervisor:  # it died before the line above
        os._exit(1)
    os.setsid()  # Ctrl-C is for the supervisor, which then stops us in order
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    logging.getLogger().handlers.clear()
    for descriptor in (turns, stop):
        os.close(descriptor)

    def turned() -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(ours, b".")

    return turned


def _watch(agent: _Agent, stop: int) -> tuple[int, bool]:
    """Until an agent has ended: its exit code, below 0 for a signal, and whether it ever turned."""
    alive, deadline = False, time.monotonic() + LOADING
    while not _is_set(agent.pidfd, 0):
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([agent.pidfd, agent.turns, stop], [], [], left)
        if stop in ready:
            _end(agent)
        elif agent.turns in ready and os.read(agent.turns, 4096):
            alive, deadline = True, time.monotonic() + HUNG
        elif not ready:
            logger.warning("the agent has not turned for %.0f s and is killed", HUNG if alive else LOADING)
            _kill(agent)
    alive = alive or _has_turned(agent)  # it may have turned and ended since we looked
    _, status = os.waitpid(agent.pid, 0)
    os.close(agent.pidfd)
    os.close(agent.turns)
    return os.waitstatus_to_exitcode(status), alive


def _has_turned(agent: _Agent) -> bool:
    """Of one that has ended: is there a turn that nobody has read?"""
    return _is_set(agent.turns, 0) and bool(os.read(agent.turns, 1))


def _end(agent: _Agent) -> None:
    """In order, or by force when that takes too long."""
    signal.pidfd_send_signal(agent.pidfd, signal.SIGTERM)
    if not _is_set(agent.pidfd, STOPPING):
        _kill(agent)


def _kill(agent: _Agent) -> None:
    signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)
    select.select([agent.pidfd], [], [])


def _stop_signal() -> int:
    """A descriptor that is ready once somebody has asked us to stop."""
    stop, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return stop


def _is_set(descriptor: int, timeout: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def _told(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    known = -code in set(signal.Signals)
    return f"was killed ({signal.Signals(-code).name if known else f'signal {-code}'})"
