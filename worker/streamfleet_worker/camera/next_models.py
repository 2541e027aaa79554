"""The models that take over from present ones of a camera, once the engines of all of them are connected."""

from __future__ import annotations

from collections.abc import Sequence

from streamfleet_core.protocol.values import Stage
from streamfleet_worker.camera.stages.stage_runner import StageRunner
from streamfleet_worker.engine.client import EngineClient
from streamfleet_worker.ipc.child_messages import ModelConfig, PostProcessing


class NextModels:
    """The models of a pipeline, and the clients of those that change. Only the frame loop may use it."""

    def __init__(
        self,
        present: Sequence[ModelConfig],
        models: tuple[ModelConfig, ...],
        stages: Sequence[Stage],
        defaults: PostProcessing,
        *,
        slots: int,
    ) -> None:
        """`present`, `models`: of the pipeline, then of each stage; `slots`: of the first engine."""
        self.models = models
        first, *others = models
        self.engine: EngineClient | None = None  # None: the first model stays
        if first != present[0]:
            self.engine = EngineClient(first.engine_socket, first.manifest, slots=slots)
        self.stages = {
            number: StageRunner(stage, model, defaults)
            for number, (stage, model, before) in enumerate(zip(stages, others, present[1:], strict=True))
            if model != before
        }
        self.connected_at: float | None = None  # monotonic seconds

    def connect(self, now: float) -> bool:
        """Try to connect, as far as it is time, and return whether all engines are connected."""
        connected = [engine.connect(now) for engine in self._engines()]
        if all(connected) and self.connected_at is None:
            self.connected_at = now
        return self.is_ready

    def wait(self, now: float) -> float:
        """Seconds until `connect` may be tried."""
        return min((engine.wait(now) for engine in self._engines() if not engine.connected), default=0.0)

    @property
    def is_ready(self) -> bool:
        """Whether the former models get no more frames."""
        return self.connected_at is not None

    def close(self) -> None:
        """Disconnect from all engines: the former models stay."""
        for engine in self._engines():
            engine.close()

    def _engines(self) -> list[EngineClient]:
        first = [] if self.engine is None else [self.engine]
        return [*first, *(stage.engine for stage in self.stages.values())]
