"""What a pipeline needs on a device: the rates of its sources times the measured costs. Pure.

a source with max_fps            its rate, or less if it is known to deliver less
a live source without            what it delivers
a file without                   a share of the device, and otherwise what is left
a model without measured costs   a share of the device: one of the `capacity` pipelines that it may run

A pipeline never needs more than a whole device.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_broker.fleet.capacity.amounts import Amounts
from streamfleet_broker.fleet.capacity.cost_table import CostTable
from streamfleet_core.protocol.costs import Cost
from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.values import PipelineSpec


@dataclass(frozen=True, slots=True)
class SourceRate:
    """The frames/s of one source."""

    wanted: float | None  # max_fps; None: all
    delivered: float | None  # as its device has observed; None: unknown
    finite: bool  # a file: it waits for its device instead of dropping frames


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pipeline asks of any device."""

    model: str  # digest
    stages: tuple[str, ...]  # digests of further models
    sources: tuple[SourceRate, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The digest of each model, once."""
        return tuple(dict.fromkeys((self.model, *self.stages)))


@dataclass(frozen=True, slots=True)
class Host:
    """What the demand depends on, of a device."""

    board: str
    capacity: int  # pipelines
    supply: Amounts
    models: frozenset[str] = frozenset()  # that it runs already


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pipeline needs on one device."""

    amounts: Amounts
    is_measured: bool  # otherwise it is a guess


def workload_of(spec: PipelineSpec, delivered: float | None) -> Workload:
    """The workload of a pipeline. `delivered`: frames/s of all its sources together, if known."""
    each = None if delivered is None else delivered / len(spec.sources)
    return Workload(
        spec.model.digest,
        tuple(stage.model.digest for stage in spec.stages),
        tuple(SourceRate(source.max_fps or spec.max_fps, each, is_finite(source)) for source in spec.sources),
    )


def demand_of(workload: Workload, host: Host, costs: CostTable) -> Demand:
    """What a workload needs on a device."""
    guess = _share(host)
    known = {digest: costs.of(digest, host.board) for digest in workload.models}
    if not all(known.values()):
        return Demand(guess, is_measured=False)
    amounts, frames, is_measured = Amounts(places=1), 0.0, True
    for source in workload.sources:
        rate = _rate(source, known[workload.model])
        if rate is None:
            part = Amounts(guess.engine / len(workload.sources), guess.cores / len(workload.sources))
            amounts += part
            is_measured = False
            continue
        amounts += _dearest([_of_source(cost, source, rate, host) for cost in known[workload.model]])
        frames += rate
    for digest in workload.stages:  # counted with one object of each frame
        amounts += _dearest([_of_inferences(cost, frames, host) for cost in known[digest]])
    missing = [known[digest] for digest in workload.models if digest not in host.models]
    memory = sum(max(cost.engine_memory for cost in each) for each in missing)
    return Demand(_at_most(amounts + Amounts(memory=memory), host.supply), is_measured)


def _share(host: Host) -> Amounts:
    """The guess: one of as many pipelines as the device may run."""
    part = 1 / host.capacity if host.capacity else 2.0  # more than it has
    cores = host.supply.cores * part if host.supply.cores < float("inf") else 0.0
    return Amounts(engine=host.supply.engine * part, cores=cores, places=1)


def _rate(source: SourceRate, costs: tuple[Cost, ...]) -> float | None:
    """Frames/s to infer; None: unknown, or whatever is left."""
    if source.finite:
        return source.wanted
    if source.wanted is not None:
        return source.wanted if source.delivered is None else min(source.wanted, source.delivered)
    if source.delivered is not None:
        return source.delivered
    return max(cost.source_fps for cost in costs) or None


def _of_source(cost: Cost, source: SourceRate, rate: float, host: Host) -> Amounts:
    received = rate if source.finite else max(rate, source.delivered or cost.source_fps)
    camera = rate * cost.frame + received * cost.reading
    return _of_inferences(cost, rate, host) + Amounts(cores=camera, memory=cost.camera_memory)


def _of_inferences(cost: Cost, rate: float, host: Host) -> Amounts:
    cores = rate * cost.inference
    if cost.accelerator:
        return Amounts(engine=rate * cost.accelerator, cores=cores)
    return Amounts(engine=cores / max(host.supply.cores, 1.0), cores=cores)


def _dearest(each: list[Amounts]) -> Amounts:
    """The largest amount of each resource: which decoder and size apply is known only when it runs."""
    most = Amounts()
    for amounts in each:
        most = most.largest(amounts)
    return most


def _at_most(amounts: Amounts, supply: Amounts) -> Amounts:
    """At most the whole device: there it runs, if nothing else does, and drops the frames that are too many.

    So no measurement, right or wrong, keeps a pipeline away from all devices of a kind.
    """
    return Amounts(
        min(amounts.engine, supply.engine),
        min(amounts.cores, supply.cores),
        min(amounts.memory, supply.memory),
        amounts.places,
    )
