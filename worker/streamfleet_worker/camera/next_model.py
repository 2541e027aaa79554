"""The model that takes over from the present one of a camera, once its engine is connected."""

from __future__ import annotations

from streamfleet_worker.engine.client import EngineClient
from streamfleet_worker.ipc.child_messages import ModelConfig


class NextModel:
    """A model, and the client of its engine. Only the thread of the frame loop may use it."""

    def __init__(self, model: ModelConfig, *, slots: int) -> None:
        self.model = model
        self.engine = EngineClient(model.engine_socket, model.manifest, slots=slots)
        self.connected_at: float | None = None  # monotonic seconds

    def connect(self, now: float) -> bool:
        """Try to connect, if it is time, and return whether its engine is connected."""
        if self.engine.connect(now) and self.connected_at is None:
            self.connected_at = now
        return self.is_ready

    @property
    def is_ready(self) -> bool:
        """Whether the former model gets no more frames."""
        return self.connected_at is not None
