"""The supervisor of `streamfleet-worker`: restarts an agent that dies or hangs.

    start ──▶ loading ──turns──▶ alive ──ends, or stops turning──▶ pause ──▶ start
                 └──ends by itself──▶ we exit with its code: it has printed the reason

A *turn* is one iteration of the agent's loop. The supervisor forks, and loads nothing that the agent needs.
The kernel ends the agent together with the supervisor, and the children together with the agent.
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
from streamfleet_core.runtime.startup import log_as

logger = logging.getLogger(__name__)

START_TIMEOUT = 90.0  # seconds from a start to the first turn, which includes joining
# Seconds without a turn; longer than the agent's own alarm, which a stopped process does not get.
HANG_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0  # seconds for an agent to end in order
HEALTHY = 30.0  # seconds after which a failure counts as the first one
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between a failure and the next start

_UNSUPERVISED = ("--check", "--unsupervised", "-h", "--help")  # with these options nothing is supervised


@dataclass(frozen=True, slots=True)
class _Agent:
    pid: int
    pidfd: int
    turns: int  # a pipe with a byte for each turn


def should_supervise(arguments: Sequence[str]) -> bool:
    """Whether these arguments start an agent that is to be supervised."""
    return arguments[:1] != ["samples"] and not any(argument in _UNSUPERVISED for argument in arguments)


def supervise() -> int | Callable[[], None]:
    """Keep an agent running until SIGTERM or SIGINT.

    Returns the exit code. In the agent, which is a fork of this process, returns the function to call at each
    turn.
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
        logger.warning("the agent %s, restarts in %.1f s", _describe_exit(code), pause)
        if _is_set(stop, pause):
            return 0


def _start(stop: int) -> _Agent | Callable[[], None]:
    """Start an agent. In the agent itself, returns the function to call at each turn."""
    supervisor = os.getpid()
    turns, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # Block SIGTERM until the agent has removed our handler, which would drop the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(ours)
        return _Agent(pid, os.pidfd_open(pid), turns)
    tie_to_parent()
    if os.getppid() != supervisor:  # the supervisor died before the line above
        os._exit(1)
    os.setsid()  # Ctrl-C goes to the supervisor, which then stops the agent in order
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
    """Wait until the agent has ended.

    Returns its exit code, below 0 for a signal, and whether it ever turned.
    """
    alive, deadline = False, time.monotonic() + START_TIMEOUT
    while not _is_set(agent.pidfd, 0):
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([agent.pidfd, agent.turns, stop], [], [], left)
        if stop in ready:
            _stop(agent)
        elif agent.turns in ready and os.read(agent.turns, 4096):
            alive, deadline = True, time.monotonic() + HANG_TIMEOUT
        elif not ready:
            logger.warning(
                "the agent has not responded for %.0f s and is killed",
                HANG_TIMEOUT if alive else START_TIMEOUT,
            )
            _kill(agent)
    alive = alive or _has_turned(agent)  # it may have turned and ended since the last check
    _, status = os.waitpid(agent.pid, 0)
    os.close(agent.pidfd)
    os.close(agent.turns)
    return os.waitstatus_to_exitcode(status), alive


def _has_turned(agent: _Agent) -> bool:
    """Whether an ended agent has left an unread turn."""
    return _is_set(agent.turns, 0) and bool(os.read(agent.turns, 1))


def _stop(agent: _Agent) -> None:
    """Stop the agent in order, and kill it after a timeout."""
    signal.pidfd_send_signal(agent.pidfd, signal.SIGTERM)
    if not _is_set(agent.pidfd, STOP_TIMEOUT):
        _kill(agent)


def _kill(agent: _Agent) -> None:
    signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)
    select.select([agent.pidfd], [], [])


def _stop_signal() -> int:
    """Install signal handlers, and return a descriptor that is ready after SIGTERM or SIGINT."""
    stop, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return stop


def _is_set(descriptor: int, timeout: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    known = -code in set(signal.Signals)
    return f"was killed ({signal.Signals(-code).name if known else f'signal {-code}'})"
