"""How the processes of a worker share the cores."""

from __future__ import annotations

import contextlib
import os


def let_others_finish() -> None:
    """Have what wakes up in this process wait for its turn, instead of interrupting who runs.

    Frames come to cameras many times while an inference runs. An inference that is interrupted goes on with
    cold caches: with all cores in use that cost 2 % of the frames. Where a core is free nothing changes.
    """
    # A container may forbid to choose; then it is as it was.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
