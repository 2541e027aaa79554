"""What the inferences of an engine cost, of its CPU and of an accelerator. Pure.

An inference that uses all threads is left out: it costs more CPU time than one that uses one thread, and
occurs only while cores would be idle.
"""

from __future__ import annotations

from streamfleet_worker.ipc.child_messages import EngineCostReport

_SMOOTHING = 0.1  # weight of the newest run


class EngineCost:
    """The costs of one engine. The caller guards it against use by several threads at once."""

    def __init__(self, *, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._cpu = 0.0  # seconds
        self._inferences = 0
        self._seconds: dict[int, float] = {}  # of a run on an accelerator, by the number of its frames

    def ran(self, frames: int, *, seconds: float, cpu: float) -> None:
        """Record a run: how long it took, and the CPU time of its thread since the run before."""
        self._cpu += cpu
        self._inferences += frames
        if not self._on_cpu:
            before = self._seconds.get(frames, seconds)
            self._seconds[frames] = before + _SMOOTHING * (seconds - before)

    def report(self) -> EngineCostReport:
        """The costs so far.

        A busy accelerator runs the batches that take least time for each frame.
        """
        each = (seconds / frames for frames, seconds in self._seconds.items())
        return EngineCostReport(self._cpu, self._inferences, min(each, default=0.0))
