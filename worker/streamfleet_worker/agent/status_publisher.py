"""Publishes the status documents of the pipelines and of the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamfleet_core.protocol.data_plane import DataHeader, Kind, device_topic, pipeline_topic
from streamfleet_core.protocol.source_reference import cut_reason
from streamfleet_core.protocol.status import ActiveModel, ClockStat, DeviceStat, PipelineStat
from streamfleet_core.protocol.tasks.optimisation import OptimisationStat
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.pipeline_stat import encoded, pipeline_stat
from streamfleet_worker.decisions.pipeline_table import PipelineView
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.host.clock import read_clock
from streamfleet_worker.host.host_stats import read_host_stats
from streamfleet_worker.host.sensors import SensorThread
from streamfleet_worker.ipc.handover.sender import Sender

logger = logging.getLogger(__name__)

HOST_INTERVAL = 5.0  # seconds between two readings of the host's resources: a dozen files for each


class StatusPublisher:
    """Publishes every status in each interval, and that of a pipeline at once when its state changes.

    The interval is what the broker told `session`: a second, or up to two in a large fleet.
    `intake` is the path of the publisher's socket. `starts` counts the starts of this agent: sequence numbers
    rise across restarts, whatever the clock does.
    """

    def __init__(
        self,
        intake: str,
        *,
        device: str,
        capacity: int,
        starts: int,
        session: Session,
        reconcile: Reconcile,
        sensors: SensorThread,
        board: str = "",
        optimisation: Callable[[], OptimisationStat | None] = lambda: None,
    ) -> None:
        self._device = device
        self._capacity = capacity
        self._session = session
        self._reconcile = reconcile
        self._sensors = sensors
        self._board = board
        self._optimisation = optimisation
        # No queue: a status that cannot be sent now would be out of date when it is.
        self._sender = Sender(intake, waiting=0)
        self._seq = starts << 32
        self._published_at = float("-inf")  # the last time that everything was published
        self._states: dict[str, object] = {}  # by pipeline, as they were published last
        self._host = read_host_stats()
        self._host_read_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether every status is to be published again."""
        return now - self._published_at >= self._session.status_interval

    def publish(self, now: float, *, short_id: int, only: str | None = None) -> None:
        """Publish what is due and what has changed. `short_id` is the device's number from the broker.

        `only` names the one pipeline that can have changed. Each camera reports once a second: checking all
        pipelines each time would cost the square of their number.
        """
        due = only is None and self.is_due(now)
        at = time.time()
        views = self._reconcile.pipelines(now, only)
        if only is None:  # forget those that are gone
            present = {view.assignment.pipeline_id for view in views}
            self._states = {each: state for each, state in self._states.items() if each in present}
        for view in views:
            state = _state(view)
            if not due and state == self._states.get(view.assignment.pipeline_id):
                continue
            self._states[view.assignment.pipeline_id] = state
            stat = self._pipeline(view, at)
            topic = pipeline_topic(Kind.STAT, stat.pipeline_id)
            header = self._header(at, now, short_id, generation=stat.generation, incarnation=stat.incarnation)
            self._send(topic, stat, header)
        if due:
            self._published_at = now
            device = self._device_stat(len(views), at, now)
            self._send(device_topic(device.device), device, self._header(at, now, short_id))

    def close(self) -> None:
        """Close the connection to the publisher."""
        self._sender.close()

    def _pipeline(self, view: PipelineView, at: float) -> PipelineStat:
        return pipeline_stat(
            view.assignment,
            view.observed,
            view.report,
            device=self._device,
            alive=view.alive,
            report_age=view.report_age,
            at=at,
            last_crash=view.last_crash,
            shadow=view.shadow,
            active_model=ActiveModel(
                id=view.model.id, crashes=view.model_crashes, trouble=cut_reason(view.model_trouble)
            ),
        )

    def _device_stat(self, pipelines: int, at: float, now: float) -> DeviceStat:
        if now - self._host_read_at >= HOST_INTERVAL:
            self._host, self._host_read_at = read_host_stats(), now
        host, sensors = self._host, self._sensors.latest()
        return DeviceStat(
            device=self._device,
            session=self._session.state(now).value,
            capacity=self._capacity,
            pipelines=pipelines,
            engines=self._reconcile.engines(),
            missing_accelerator=self._reconcile.missing_accelerator(),
            at=at,
            cores=host.cores,
            load=host.load,
            memory=host.memory,
            memory_available=host.memory_available,
            temperature=sensors.temperature,
            throttled=sensors.throttled,
            throttle_reason=cut_reason(sensors.throttle_reason),
            gpu_load=sensors.gpu_load,
            gpu_power_watts=sensors.gpu_power_watts,
            disk=sensors.disk,
            disk_available=sensors.disk_available,
            board=self._board,
            optimisation=self._optimisation(),
            clock=_clock(),
            keeping=self._reconcile.keeping(),
        )

    def _header(
        self, at: float, now: float, short_id: int, *, generation: int = 0, incarnation: int = 0
    ) -> DataHeader:
        self._seq += 1
        return DataHeader(
            kind=Kind.STAT,
            gen=generation,
            inc=incarnation,
            seq=self._seq,
            device=short_id,
            captured_wall_ns=int(at * 1e9),
            captured_boot_ns=int(now * 1e9),
        )

    def _send(self, topic: bytes, document: PipelineStat | DeviceStat, header: DataHeader) -> None:
        """Send it, or drop it: the next one follows soon."""
        sent = self._sender.send(topic, header, encoded(document), fenced=False)
        if not sent and self._sender.dropped % 1000 == 0:
            logger.info("%d status messages dropped so far", self._sender.dropped)


def _state(view: PipelineView) -> object:
    """The part of a pipeline's status whose changes are published at once."""
    sources = () if view.report is None else view.report.sources
    return view.observed, tuple((source.state, source.cause) for source in sources)


def _clock() -> ClockStat | None:
    reading = read_clock()
    return None if reading is None else ClockStat(reading.synchronised, reading.max_error)
