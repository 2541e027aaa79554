"""Rules for publishing, derived from the rows and replaced with each durable write. Pure.

Only the device that holds a pipeline may publish under its topics, with no generation above the pipeline's:
receivers would drop valid messages after a higher one. Only a device itself may publish under its own topic.
`now` is in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from streamfleet_broker.fleet.records import DeviceRecord, PipelineRecord, Record, Tenure, Write
from streamfleet_core.peers.replay import Holder as ReplayHolder
from streamfleet_core.protocol.data_plane import MAX_GEN

_RECENT = 64  # replacements of the rules of which it is known what they have changed
LINGER = 2.0  # seconds for which the former holder may still publish, so that no message in transit is lost


@dataclass(frozen=True, slots=True)
class Holder:
    """The device that may publish for a pipeline, and its highest generation."""

    device: str
    generation: int


@dataclass(frozen=True, slots=True)
class Admission:
    """The keys that may publish, and their topics."""

    keys: frozenset[str] = frozenset()  # all keys that may publish: not those of quarantined devices
    devices: Mapping[str, str] = field(default_factory=dict)  # by public key
    holders: Mapping[str, Holder] = field(default_factory=dict)  # by pipeline
    former: Mapping[str, tuple[Holder, float]] = field(default_factory=dict)  # former holder and its deadline
    past: Mapping[str, tuple[Tenure, ...]] = field(default_factory=dict)  # by pipeline: all former holders
    version: int = 0  # +1 with each replacement
    recent: tuple[frozenset[str], ...] = ()  # the pipelines that each of the last replacements concerned

    @classmethod
    def of(cls, records: Iterable[Record]) -> Admission:
        """Derive the rules from all rows of the store. No key may publish yet."""
        devices = {each.public_key: each.device for each in records if isinstance(each, DeviceRecord)}
        held = {each.pipeline_id: _holder(each) for each in records if isinstance(each, PipelineRecord)}
        holders = {pipeline_id: holder for pipeline_id, holder in held.items() if holder is not None}
        past = {each.pipeline_id: each.past for each in records if isinstance(each, PipelineRecord)}
        return cls(devices=devices, holders=holders, past=past)

    def allowing(self, keys: frozenset[str]) -> Admission:
        """The same rules, with exactly these keys."""
        return replace(self, keys=keys, version=self.version + 1, recent=())

    def changed_since(self, version: int) -> frozenset[str] | None:
        """The pipelines whose rules may have changed since a version; None: all, and those of devices."""
        first = len(self.recent) - (self.version - version)
        return None if first < 0 else frozenset().union(*self.recent[first:])

    def after(self, writes: Iterable[Write], now: float) -> Admission:
        """The rules after these writes; the same object if they concern none of them."""
        writes = [write for write in writes if _is_relevant(write)]
        if not writes:
            return self
        devices, holders, past = dict(self.devices), dict(self.holders), dict(self.past)
        former = {name: entry for name, entry in self.former.items() if now < entry[1]}
        for write in writes:
            if isinstance(write.before, DeviceRecord):
                del devices[write.before.public_key]
            if isinstance(write.after, DeviceRecord):
                devices[write.after.public_key] = write.after.device
            if write.kind == "pipeline":
                past.pop(write.key, None)
                if isinstance(write.after, PipelineRecord):
                    past[write.key] = write.after.past
                before = holders.pop(write.key, None)
                holder = _holder(write.after) if isinstance(write.after, PipelineRecord) else None
                if holder is not None:
                    holders[write.key] = holder
                if before is not None and (holder is None or holder.device != before.device):
                    former[write.key] = (before, now + LINGER)
        concerned = frozenset(write.key for write in writes if write.kind == "pipeline")
        recent = (*self.recent, concerned)[-_RECENT:] if len(concerned) == len(writes) else ()
        return replace(
            self,
            devices=devices,
            holders=holders,
            former=former,
            past=past,
            version=self.version + 1,
            recent=recent,
        )

    def highest(self, key: str, subject: str) -> int | None:
        """The highest generation a key may publish for a pipeline, or for `@DEVICE`; None if it may not."""
        device = self._device(key)
        if subject.startswith("@"):
            return MAX_GEN if subject[1:] == device else None
        holder = self.holders.get(subject)
        return holder.generation if holder is not None and holder.device == device else None

    def highest_until(self, key: str, subject: str, now: float) -> int | None:
        """The highest generation for the former holder of a pipeline; None if it may not publish."""
        holder, until = self.former.get(subject, (None, 0.0))
        held = holder is not None and holder.device == self._device(key) and now < until
        return holder.generation if holder is not None and held else None

    def replayers(self, pipeline_id: str) -> tuple[ReplayHolder, ...]:
        """The devices that may send predictions of a pipeline again, and of which generations."""
        found, first = [], 0
        for tenure in self.past.get(pipeline_id, ()):
            found.append(ReplayHolder(tenure.device, first, tenure.generation))
            first = tenure.generation + 1
        holder = self.holders.get(pipeline_id)
        if holder is not None:
            found.append(ReplayHolder(holder.device, first, holder.generation))
        return tuple(found)

    def may_replay(self, key: str, pipeline_id: str, generation: int) -> bool:
        """Whether a key may send predictions of a generation again: its device had the pipeline then."""
        device = self._device(key)
        return any(
            each.device == device and each.first <= generation <= each.last
            for each in self.replayers(pipeline_id)
        )

    def _device(self, key: str) -> str | None:
        return self.devices.get(key) if key in self.keys else None


def _is_relevant(write: Write) -> bool:
    """Whether a write concerns a pipeline, or the key of a device."""
    before, after = write.before, write.after
    if isinstance(before, DeviceRecord) and isinstance(after, DeviceRecord):
        return before.public_key != after.public_key
    return isinstance(before or after, DeviceRecord | PipelineRecord)


def _holder(record: PipelineRecord) -> Holder | None:
    """The holder of a pipeline."""
    if record.holder is None:
        return None
    return Holder(record.holder, record.held_generation)
