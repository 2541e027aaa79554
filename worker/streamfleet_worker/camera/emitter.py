"""Everything that leaves a camera: a datagram to each UDP sink, and the same object to the publisher.

The fence is tested directly before each send. Order keys (gen, inc, seq) never go down.
"""

from __future__ import annotations

import time

import supervision as sv
import zmq

from streamfleet_broker.protocol.data import DataHeader, Flag, Kind, pipeline_topic
from streamfleet_worker.camera import push
from streamfleet_worker.camera.document import Document, Encoded, Origin, describe, to_json, to_msgpack
from streamfleet_worker.camera.frame import Stamp
from streamfleet_worker.camera.letterbox import Geometry
from streamfleet_worker.camera.push import PushDoor
from streamfleet_worker.camera.udp import UdpDoor
from streamfleet_worker.control import CameraConfig
from streamfleet_worker.fence import Fence, boot_time


class Emitter:
    """The sinks of one camera. One thread uses it; `dropped` and `errors` may be read by any."""

    def __init__(self, config: CameraConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Raises: OSError when there is no fence."""
        self._config = config
        self._fence = Fence.open(config.fence_path) if config.fenced else None
        self._topic = pipeline_topic(Kind.PRED, config.pipeline_id)
        self._udp = [UdpDoor(sink, time.monotonic()) for sink in config.spec.sinks]
        self._push = PushDoor(context, config.publish_endpoint)
        self._gen = config.gen
        self._seq = 0

    def await_sinks(self) -> None:
        """Wait, a few seconds at most, until the sinks can be reached."""
        for door in self._udp:
            door.await_address()

    def emit(self, detections: sv.Detections, stamp: Stamp, geometry: Geometry, *, gen: int) -> bool:
        """Send one frame's predictions to all sinks. False: the fence is closed, nothing left."""
        if self._fenced_off():
            return False
        if gen != self._gen:
            self._gen, self._seq = gen, 0
        document = self._describe(detections, stamp, geometry)
        if self._udp:
            self._send_datagrams(to_json(document).content)
        self._send_on(to_msgpack(document), stamp)
        self._seq += 1
        return True

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that a sink did not take, by sink."""
        return {**{door.name: door.dropped for door in self._udp}, push.NAME: self._push.dropped}

    @property
    def errors(self) -> dict[str, str]:
        """Why the last frame did not leave, by sink; only the sinks that did not take it."""
        return {door.name: door.error for door in self._udp if door.error}

    def close(self) -> None:
        """Close all sockets."""
        for door in self._udp:
            door.close()
        self._push.close()

    def _describe(self, detections: sv.Detections, stamp: Stamp, geometry: Geometry) -> Document:
        origin = Origin(
            frame_id=stamp.frame_id,
            decoded_at=stamp.wall_ns / 1e9,
            emitted_at=time.time(),
            pipeline_id=self._config.pipeline_id,
            device=self._config.device,
            gen=self._gen,
            inc=self._config.inc,
            seq=self._seq,
        )
        return describe(
            detections,
            labels=self._config.manifest.labels,
            width=geometry.frame_width,
            height=geometry.frame_height,
            origin=origin,
        )

    def _send_datagrams(self, datagram: bytes) -> None:
        for door in self._udp:
            if self._fenced_off():
                return
            door.send(datagram, time.monotonic())

    def _send_on(self, body: Encoded, stamp: Stamp) -> None:
        header = DataHeader(
            kind=Kind.PRED,
            gen=self._gen,
            inc=self._config.inc,
            seq=self._seq,
            device=self._config.short_id,
            captured_wall_ns=stamp.wall_ns,
            captured_boot_ns=stamp.boot_ns,
            flags=Flag.TRUNCATED if body.truncated else Flag.NONE,
        )
        self._push.send(self._topic, header, body.content, fenced=self._config.fenced)

    def _fenced_off(self) -> bool:
        return self._fence is not None and not self._fence.passes(boot_time())
