"""CPU scheduling of the processes of a worker."""

from __future__ import annotations

import contextlib
import os


def use_batch_scheduling() -> None:
    """Use the scheduling policy SCHED_BATCH: threads that wake up here do not interrupt running ones.

    Frames arrive at cameras many times during one inference. An interrupted inference continues with cold
    caches: with all cores in use this cost 2 % of the frames. With a free core it makes no difference.
    """
    # A container may forbid this; then the default policy stays.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
