"""All stages of a camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamfleet_core.protocol.status import StageStat
from streamfleet_core.protocol.values import Priority
from streamfleet_worker.camera.stages.crops import Crop, crops_of
from streamfleet_worker.camera.stages.nested_findings import NestedFindings
from streamfleet_worker.camera.stages.stage_runner import StageRunner
from streamfleet_worker.ipc.child_messages import CameraConfig
from streamfleet_worker.video.detection.findings import Findings
from streamfleet_worker.video.frame import Picture


class Cascade:
    """Runs the stages. Only one thread may use it; any thread may read `connected` and `stats`."""

    def __init__(self, config: CameraConfig) -> None:
        self._labels: Sequence[str] = config.manifest.labels
        self._stages = [
            StageRunner(stage, each, config.defaults)
            for stage, each in zip(config.spec.stages, config.stages, strict=True)
        ]

    def take_over(self, labels: Sequence[str], stages: Mapping[int, StageRunner]) -> None:
        """Use other models from now on. No frame is on its way, apart from crops that are late.

        `labels`: the classes of the first model; `stages`: with another model, by their place.
        """
        self._labels = labels
        former = self._stages
        for number, stage in stages.items():
            stage.follow(former[number])
        self._stages = [stages.get(number, stage) for number, stage in enumerate(former)]

    def __bool__(self) -> bool:
        """Whether there are stages."""
        return bool(self._stages)

    @property
    def connected(self) -> bool:
        """Whether the engines of all stages are connected."""
        return all(stage.engine.connected for stage in self._stages)

    @property
    def stats(self) -> tuple[StageStat, ...]:
        """The counters of each stage."""
        return tuple(stage.stat for stage in self._stages)

    def begin(
        self, findings: Findings, picture: Picture, source_id: int, now: float, *, is_live: bool
    ) -> NestedFindings:
        """Begin the stages for what was found in a frame. A live one does not wait for late results."""
        crops = [self._crops(stage, findings, picture) for stage in self._stages]
        delays = [stage.stage.max_delay for stage, own in zip(self._stages, crops, strict=True) if own]
        frame = NestedFindings(until=now + max(delays, default=0.0) if is_live else None)
        image = picture.bgr() if delays else None
        for stage, own in zip(self._stages, crops, strict=True):
            for crop in own:
                assert image is not None
                stage.add(frame, source_id, crop, image)
        return frame

    def _crops(self, stage: StageRunner, findings: Findings, picture: Picture) -> list[Crop]:
        return crops_of(
            findings, stage.stage, labels=self._labels, width=picture.width, height=picture.height
        )

    def step(self, now: float) -> None:
        """Do what can be done without waiting."""
        for stage in self._stages:
            stage.step(now)

    def set_priority(self, priority: Priority, now: float) -> None:
        """Set the priority at all engines."""
        for stage in self._stages:
            stage.set_priority(priority, now)

    def descriptors(self) -> list[int]:
        """The descriptors to poll for answers."""
        numbers = (stage.engine.fileno() for stage in self._stages)
        return [number for number in numbers if number is not None]

    def waits(self, now: float) -> list[float]:
        """Seconds until engines that are gone may be asked again."""
        return [stage.engine.wait(now) for stage in self._stages if not stage.engine.connected]

    def close(self) -> None:
        """Disconnect from all engines."""
        for stage in self._stages:
            stage.close()
