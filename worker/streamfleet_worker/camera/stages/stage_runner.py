"""One stage of a camera: crops wait for slots of its engine, and results go to the frames of the objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamfleet_core.protocol.status import StageStat
from streamfleet_core.protocol.values import Priority, Stage
from streamfleet_worker.camera.stages.crop_queue import CropQueue
from streamfleet_worker.camera.stages.crops import Crop
from streamfleet_worker.camera.stages.nested_findings import NestedFindings
from streamfleet_worker.engine.client import EngineClient
from streamfleet_worker.engine.messages import Failed, Turn
from streamfleet_worker.ipc.child_messages import ModelConfig, PostProcessing
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.findings import moved
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.detection.postprocess import findings_of
from streamfleet_worker.video.frame import Image

# Crops at the engine. It runs them in their order, so more of them would make each one late.
_SLOTS = 4


@dataclass(slots=True, kw_only=True)
class _Job:
    """One crop on its way."""

    frame: NestedFindings
    source_id: int
    crop: Crop
    image: Image | None  # of the crop, BGR; None once it is in a slot
    geometry: Geometry | None = None  # once it is in a slot


class StageRunner:
    """Owns the client of the stage's engine. Only one thread may use it; any thread may call `stat`."""

    def __init__(self, stage: Stage, config: ModelConfig, defaults: PostProcessing) -> None:
        self.stage = stage
        self._manifest = config.manifest
        self._rules = replace(defaults, max_detections=min(stage.max_detections, defaults.max_detections))
        if stage.confidence is not None:
            self._rules = replace(self._rules, confidence=stage.confidence)
        self.engine = EngineClient(config.engine_socket, config.manifest, slots=_SLOTS)
        self._letterbox = Letterbox(config.manifest)
        self._waiting: CropQueue[_Job] = CropQueue()
        self._running: dict[int, _Job] = {}  # by slot
        self._inferred = self._late = self._failed = 0

    @property
    def stat(self) -> StageStat:
        """The counters."""
        return StageStat(name=self.stage.name, inferred=self._inferred, late=self._late, failed=self._failed)

    def follow(self, former: StageRunner) -> None:
        """Take the place of a stage with another model, and go on with its counters."""
        self._inferred, self._failed = former._inferred, former._failed
        self._late = former._late + len(former._running) + former._waiting.clear()
        former.close()

    def add(self, frame: NestedFindings, source_id: int, crop: Crop, image: Image) -> None:
        """Infer on a crop as soon as there is a slot. `image`: the whole frame, BGR."""
        frame.expect(1)
        part = image[crop.top : crop.bottom, crop.left : crop.right]
        self._waiting.add(frame, _Job(frame=frame, source_id=source_id, crop=crop, image=part))

    def set_priority(self, priority: Priority, now: float) -> None:
        """Set the priority of all crops."""
        self.engine.set_priority(priority, now)

    def step(self, now: float) -> None:
        """Connect, take results, and submit crops, as far as is possible without waiting."""
        self.engine.connect(now)
        while (answer := self.engine.answer(now)) is not None:
            if not isinstance(answer, Turn):  # it asks for none
                self._handle(answer.slot, failed=isinstance(answer, Failed))
        self._late += self._waiting.drop_closed()
        while self._waiting and (slot := self.engine.borrow()) is not None:
            job = self._waiting.take()
            assert job is not None
            self._submit(job, slot, now)

    def _submit(self, job: _Job, slot: int, now: float) -> None:
        assert job.image is not None
        job.geometry = self._letterbox.write(ArrayPicture(job.image), self.engine.slot(slot).input)
        job.image = None  # it would keep the whole frame in memory
        self._running[slot] = job
        self.engine.submit(slot, job.source_id, now)

    def _handle(self, slot: int, *, failed: bool) -> None:
        job = self._running.pop(slot)
        if job.frame.closed:
            self._late += 1
        elif failed:
            self._failed += 1
            job.frame.fail()
        else:
            self._inferred += 1
            self._record(job, slot)
        self.engine.give_back(slot)

    def _record(self, job: _Job, slot: int) -> None:
        assert job.geometry is not None
        outputs = self.engine.slot(slot).outputs
        found = findings_of(outputs, job.geometry, manifest=self._manifest, rules=self._rules)
        job.frame.add(job.crop.index, self.stage.name, moved(found, job.crop.left, job.crop.top))

    def close(self) -> None:
        """Disconnect from the engine."""
        self.engine.close()
