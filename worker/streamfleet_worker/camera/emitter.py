"""What leaves a camera: datagrams to the UDP sinks, the same objects and pictures to the publisher.

The fence is tested directly before each send. Order keys (gen, inc, seq) never go down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import supervision as sv

from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, pipeline_topic
from streamfleet_core.protocol.sampling import Sampling
from streamfleet_core.protocol.status import SampleStat
from streamfleet_core.protocol.values import UdpSink
from streamfleet_worker.ipc.child_messages import CameraConfig
from streamfleet_worker.ipc.fence import Fence, boot_time
from streamfleet_worker.ipc.handover.sender import Sender
from streamfleet_worker.sampling.sampler import Destination, Sampler
from streamfleet_worker.video.detection.letterbox import Geometry
from streamfleet_worker.video.frame import Image, Stamp
from streamfleet_worker.video.outputs.prediction import (
    Document,
    Encoded,
    Origin,
    describe,
    to_json,
    to_msgpack,
)
from streamfleet_worker.video.outputs.udp import UdpSender

_PUBLISHER = "publisher"  # as a sink's name
_PICTURES_WAITING = 4  # for a publisher that does not take them
_PICTURES_ROOM = 2048  # bytes: pictures go in memory of their own, and only a few should lie there
_LOOKUP = 1.0  # seconds that the look-ups of new sinks may take
_WRITING = 0.5  # seconds that the last samples may take at the end


class Emitter:
    """The sinks of one camera. Calls come one after another; `dropped` and `errors` may be read any time."""

    def __init__(self, config: CameraConfig) -> None:
        """Raises: OSError when there is no fence."""
        self._config = config
        self._fence = Fence.open(config.fence_path) if config.fenced else None
        self._topic = pipeline_topic(Kind.PRED, config.pipeline_id)
        self._last_topic = pipeline_topic(Kind.LAST, config.pipeline_id)
        self._picture_topic = pipeline_topic(Kind.IMG, config.pipeline_id)
        self._udp = [UdpSender(sink, time.monotonic()) for sink in config.spec.sinks]
        self._publisher = Sender(config.intake_path)
        self._pictures: Sender | None = None  # there is none until the first picture
        self._closed = False
        self._generation = config.generation
        self._seq = 0
        self._lasts: dict[int, tuple[DataHeader, bytes]] = {}  # by source
        self._sampler = Sampler(
            Destination(
                pipeline_id=config.pipeline_id,
                device=config.device,
                labels=config.manifest.labels,
                folder=Path(config.samples_path),
                size=config.samples_size,
            )
        )
        self._sampler.use(config.spec.sampling)

    def await_sinks(self) -> None:
        """Wait, a few seconds at most, until the sinks can be reached."""
        for sender in self._udp:
            sender.await_address()

    def senders_to(self, sinks: Sequence[UdpSink]) -> list[UdpSender]:
        """Senders to these sinks, for `use`; those that there are already stay as they are.

        The only method that may be called beside another. It waits a moment for the addresses of new ones.
        """
        known = {sender.sink: sender for sender in self._udp}
        now = time.monotonic()
        senders = [known.get(sink) or UdpSender(sink, now) for sink in sinks]
        for sender in senders:
            if sender.sink not in known:
                sender.await_address(max(0.0, now + _LOOKUP - time.monotonic()))
        return senders

    def use(self, senders: list[UdpSender]) -> None:
        """Send to these from now on, and to no other."""
        former, self._udp = self._udp, senders
        for sender in former:
            if sender not in senders:
                sender.close()

    @property
    def wants_images(self) -> bool:
        """Whether frames come to `emit` with their pictures."""
        return self._sampler.wants(time.time())

    def emit(
        self,
        detections: sv.Detections,
        stamp: Stamp,
        geometry: Geometry,
        *,
        source_id: int,
        generation: int,
        image: Image | None,
    ) -> DataHeader | None:
        """Send one frame's predictions to all sinks. None: the fence is closed, nothing left.

        The image is valid during the call only: the next frame is decoded into the same memory.
        """
        if self._fenced_off():
            return None
        if generation != self._generation:
            self._generation, self._seq = generation, 0
        document = self._describe(detections, stamp, geometry, source_id)
        if self._udp:
            self._send_datagrams(to_json(document).content)
        header = self._send_on(to_msgpack(document), stamp, source_id)
        self._seq += 1
        if image is not None:
            self._sampler.look(image, document, stamp, source_id=source_id, now=time.time())
        return header

    def repeat_lasts(self) -> None:
        """Send the last prediction of each source once more, for those who do not follow all of them.

        What the publisher did not take before goes first: it may be that no frame comes after it.
        """
        # Also when the fence is closed: the publisher tests it, and later this would be the past.
        self._publisher.flush()
        if self._pictures is not None:
            self._pictures.flush()
        if self._fenced_off():
            return
        for header, body in self._lasts.values():
            again = replace(header, kind=Kind.LAST)
            self._publisher.send(self._last_topic, again, body, fenced=self._config.fenced)

    def emit_picture(self, jpeg: bytes, header: DataHeader) -> None:
        """Send the picture of a frame whose predictions have left under this header."""
        if self._closed or self._fenced_off():
            return
        if self._pictures is None:
            path = self._config.picture_intake_path
            self._pictures = Sender(path, waiting=_PICTURES_WAITING, room=_PICTURES_ROOM)
        of_picture = replace(header, kind=Kind.IMG, flags=Flag.NONE)
        self._pictures.send(self._picture_topic, of_picture, jpeg, fenced=self._config.fenced)

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that a sink did not take, by sink."""
        return {**{sender.name: sender.dropped for sender in self._udp}, _PUBLISHER: self._publisher.dropped}

    @property
    def errors(self) -> dict[str, str]:
        """Why the last frame did not leave, by sink; only the sinks that did not take it."""
        return {sender.name: sender.error for sender in self._udp if sender.error}

    def sample(self, sampling: Sampling | None) -> None:
        """Keep frames by this from now on. Any thread may call this."""
        self._sampler.use(sampling)

    @property
    def samples(self) -> SampleStat | None:
        """What was kept of the frames. None: that was never asked for."""
        return self._sampler.stat

    def close(self, patience: float = 0.0) -> None:
        """Close all sockets; what was picked is written, if the disk takes it soon.

        The publisher gets so many seconds for what it has not taken yet.
        """
        for sender in self._udp:
            sender.close()
        self._publisher.close(patience)
        if self._pictures is not None:
            self._pictures.close()
        self._closed = True
        self._sampler.close(_WRITING)

    def _describe(
        self, detections: sv.Detections, stamp: Stamp, geometry: Geometry, source_id: int
    ) -> Document:
        origin = Origin(
            source_id=source_id,
            frame_id=stamp.frame_id,
            decoded_at=stamp.wall_ns / 1e9,
            emitted_at=time.time(),
            pipeline_id=self._config.pipeline_id,
            device=self._config.device,
            generation=self._generation,
            incarnation=self._config.incarnation,
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
        for sender in self._udp:
            if self._fenced_off():
                return
            sender.send(datagram, time.monotonic())

    def _send_on(self, body: Encoded, stamp: Stamp, source_id: int) -> DataHeader:
        header = DataHeader(
            kind=Kind.PRED,
            gen=self._generation,
            inc=self._config.incarnation,
            seq=self._seq,
            device=self._config.short_id,
            captured_wall_ns=stamp.wall_ns,
            captured_boot_ns=stamp.boot_ns,
            source=source_id,
            flags=Flag.TRUNCATED if body.truncated else Flag.NONE,
        )
        self._publisher.send(self._topic, header, body.content, fenced=self._config.fenced)
        self._lasts[source_id] = (header, body.content)
        return header

    def _fenced_off(self) -> bool:
        return self._fence is not None and not self._fence.passes(boot_time())
