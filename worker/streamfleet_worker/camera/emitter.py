"""Emits the output of a camera: datagrams to UDP sinks, predictions and previews to the publisher.

The fence is checked directly before each send. Order keys (gen, inc, seq) never decrease.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, pipeline_topic
from streamfleet_core.protocol.sampling import Sampling
from streamfleet_core.protocol.status import SampleStat
from streamfleet_core.protocol.values import Manifest, MaskFormat, UdpSink
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import CameraConfig
from streamfleet_worker.ipc.fence import Fence
from streamfleet_worker.ipc.handover.sender import Sender
from streamfleet_worker.sampling.sampler import Destination, Sampler
from streamfleet_worker.video.detection.findings import Findings, Nested
from streamfleet_worker.video.detection.letterbox import Geometry
from streamfleet_worker.video.frame import Picture, Stamp
from streamfleet_worker.video.outputs.encoding import Encoded, to_json, to_msgpack
from streamfleet_worker.video.outputs.prediction import Document, Names, Origin, describe, nest
from streamfleet_worker.video.outputs.udp import UdpSender

_PUBLISHER = "publisher"  # as the name of a sink
_PREVIEWS_WAITING = 4  # previews kept for a busy publisher
_PREVIEWS_ROOM = 2048  # bytes: previews are attached as memory, and only a few may be queued
_LOOKUP = 1.0  # seconds for the look-ups of new sinks
_WRITING = 0.5  # seconds to write the last samples at the end


class Emitter:
    """The sinks of one camera. Calls must not overlap; any thread may read `dropped` and `errors`."""

    def __init__(self, config: CameraConfig) -> None:
        """Open the fence and the sinks. Raises: OSError if there is no fence."""
        self._config = config
        self._names = Names(config.manifest.labels, config.manifest.keypoints)
        self._stage_names = self._names_of([each.manifest for each in config.stages])
        self._fence = Fence.open(config.fence_path) if config.fenced else None
        self._topic = pipeline_topic(Kind.PRED, config.pipeline_id)
        self._last_topic = pipeline_topic(Kind.LAST, config.pipeline_id)
        self._picture_topic = pipeline_topic(Kind.IMG, config.pipeline_id)
        self._udp = [UdpSender(sink, time.monotonic()) for sink in config.spec.sinks]
        self._publisher = Sender(config.intake_path)
        self._previews: Sender | None = None  # None before the first preview
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
        """Wait up to a few seconds until the addresses of the sinks are known."""
        for sender in self._udp:
            sender.await_address()

    def senders_to(self, sinks: Sequence[UdpSink]) -> list[UdpSender]:
        """Create senders to these sinks, for `use`. Existing ones are reused.

        The only method that may overlap with others. It waits a moment for the addresses of new sinks.
        """
        known = {sender.sink: sender for sender in self._udp}
        now = time.monotonic()
        senders = [known.get(sink) or UdpSender(sink, now) for sink in sinks]
        for sender in senders:
            if sender.sink not in known:
                sender.await_address(max(0.0, now + _LOOKUP - time.monotonic()))
        return senders

    def use(self, senders: list[UdpSender]) -> None:
        """Replace the senders."""
        former, self._udp = self._udp, senders
        for sender in former:
            if sender not in senders:
                sender.close()

    def use_models(self, manifest: Manifest, stages: Sequence[Manifest]) -> None:
        """Name what is found as these models do, from the next frame on."""
        self._names = Names(manifest.labels, manifest.keypoints)
        self._stage_names = self._names_of(stages)
        self._sampler.name_as(manifest.labels)

    def _names_of(self, manifests: Sequence[Manifest]) -> dict[str, Names]:
        """The names that each stage gives, by the name of the stage."""
        stages = zip(self._config.spec.stages, manifests, strict=True)
        return {stage.name: Names(manifest.labels, manifest.keypoints) for stage, manifest in stages}

    @property
    def is_sampling(self) -> bool:
        """Whether any frame may become a sample, now or later. Any thread may ask."""
        return self._sampler.is_on

    @property
    def wants_pictures(self) -> bool:
        """Whether `emit` needs the pictures of frames."""
        return self._sampler.wants(time.time())

    def emit(
        self,
        findings: Findings,
        stamp: Stamp,
        geometry: Geometry,
        *,
        source_id: int,
        generation: int,
        picture: Picture | None,
        nested: Nested,
        mask_format: MaskFormat,
    ) -> DataHeader | None:
        """Send the predictions of a frame to all sinks; None if the fence is closed: then nothing is sent."""
        if self._is_fenced_off():
            return None
        if generation != self._generation:
            self._generation, self._seq = generation, 0
        document = self._describe(findings, stamp, geometry, source_id, mask_format)
        nest(document, nested, self._stage_names, mask_format)
        if self._udp:
            self._send_datagrams(to_json(document).content)
        header = self._send_to_publisher(to_msgpack(document), stamp, source_id)
        self._seq += 1
        # Of a source whose sampling began a moment ago, the decoder is about to deliver whole pictures.
        if picture is not None and not picture.is_reduced:
            self._sampler.offer(picture, document, stamp, source_id=source_id, now=time.time())
        return header

    def keep_differing(
        self,
        findings: Findings,
        stamp: Stamp,
        geometry: Geometry,
        *,
        source_id: int,
        picture: Picture,
        mask_format: MaskFormat,
    ) -> bool:
        """Keep an emitted frame as a sample in which another model differs; return whether it was picked."""
        now = time.time()
        if picture.is_reduced or not self._sampler.wants_differing(now):
            return False
        document = self._describe(findings, stamp, geometry, source_id, mask_format)
        return self._sampler.keep_differing(picture, document, stamp, source_id=source_id, now=now)

    def repeat_last_predictions(self) -> None:
        """Repeat the last prediction of each source, for subscribers that do not follow all of them.

        Messages that the publisher did not accept are sent first: there may be no later frame.
        """
        # Even if the fence is closed: the publisher checks it, and later these would be outdated.
        self._publisher.flush()
        if self._previews is not None:
            self._previews.flush()
        if self._is_fenced_off():
            return
        for header, body in self._lasts.values():
            again = replace(header, kind=Kind.LAST)
            self._publisher.send(self._last_topic, again, body, fenced=self._config.fenced)

    def emit_preview(self, jpeg: bytes, header: DataHeader) -> None:
        """Send the preview of a frame whose predictions were sent with this header."""
        if self._closed or self._is_fenced_off():
            return
        if self._previews is None:
            path = self._config.picture_intake_path
            self._previews = Sender(path, waiting=_PREVIEWS_WAITING, room=_PREVIEWS_ROOM)
        preview_header = replace(header, kind=Kind.IMG, flags=Flag.NONE)
        self._previews.send(self._picture_topic, preview_header, jpeg, fenced=self._config.fenced)

    @property
    def dropped(self) -> dict[str, int]:
        """Dropped frames, by sink."""
        return {**{sender.name: sender.dropped for sender in self._udp}, _PUBLISHER: self._publisher.dropped}

    @property
    def errors(self) -> dict[str, str]:
        """The error of the last frame, by sink that failed."""
        return {sender.name: sender.error for sender in self._udp if sender.error}

    def sample(self, sampling: Sampling | None) -> None:
        """Set the sampling. Any thread may call this."""
        self._sampler.use(sampling)

    def sample_differing(self, dataset: str | None) -> None:
        """Set where frames go in which another model differs; None: nowhere. Any thread may call this."""
        self._sampler.use_differing(dataset)

    @property
    def samples(self) -> SampleStat | None:
        """The counters of sampling; None if it was never enabled."""
        return self._sampler.stat

    def close(self, timeout: float = 0.0) -> None:
        """Close all sockets, and write the picked samples if the disk is fast enough.

        `timeout`: seconds for the publisher to accept the remaining messages.
        """
        for sender in self._udp:
            sender.close()
        self._publisher.close(timeout)
        if self._previews is not None:
            self._previews.close()
        self._closed = True
        self._sampler.close(_WRITING)

    def _describe(
        self,
        findings: Findings,
        stamp: Stamp,
        geometry: Geometry,
        source_id: int,
        mask_format: MaskFormat,
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
            findings,
            names=self._names,
            width=geometry.frame_width,
            height=geometry.frame_height,
            origin=origin,
            mask_format=mask_format,
        )

    def _send_datagrams(self, datagram: bytes) -> None:
        for sender in self._udp:
            if self._is_fenced_off():
                return
            sender.send(datagram, time.monotonic())

    def _send_to_publisher(self, body: Encoded, stamp: Stamp, source_id: int) -> DataHeader:
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

    def _is_fenced_off(self) -> bool:
        return self._fence is not None and not self._fence.passes(boot_time())
