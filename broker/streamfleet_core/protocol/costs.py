"""What pipelines cost their device, as it measures them, and what the device has for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from streamfleet_core.protocol.limits import (
    MAX_BOARD,
    MAX_CORES,
    MAX_COST_SECONDS,
    MAX_COSTS,
    MAX_DECODER_NAME,
    MAX_FPS,
    MAX_MEMORY,
    MAX_OBSERVED,
    MAX_SIDE,
    PRECISION_PATTERN,
    whole,
)
from streamfleet_core.protocol.values import Board, Id, Natural, Sha256

Seconds = Annotated[float, Meta(ge=0, le=MAX_COST_SECONDS)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_MEMORY)]
PerSecond = Annotated[float, Meta(ge=0, le=MAX_FPS)]
Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one source of a pipeline costs, of one model, decoder and size of pictures."""

    digest: Sha256  # of the manifest of the model
    variant: Annotated[str, Meta(pattern=whole(f"({PRECISION_PATTERN})?"))] = ""  # "": the model itself
    decoder: Annotated[str, Meta(max_length=MAX_DECODER_NAME)] = ""
    width: Side = 0  # pixels of the source's pictures
    height: Side = 0
    accelerator: Seconds = 0.0  # of an accelerator, for an inference; 0 if the CPU runs the model
    inference: Seconds = 0.0  # CPU time of the engine, for an inference
    reading: Seconds = 0.0  # CPU time of the camera for a received frame, inferred or not
    frame: Seconds = 0.0  # CPU time of the camera and the publisher for an inferred frame
    engine_memory: Bytes = 0  # of the engine, which all cameras of the model share
    camera_memory: Bytes = 0  # of the camera process, for one source
    source_fps: PerSecond = 0.0  # frames/s that such sources deliver
    frames: Natural = 0  # inferences that were measured


@dataclass(frozen=True, slots=True)
class BoardCost:
    """A cost on one kind of device."""

    board: Board
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a device has measured: costs, and the frames/s that the sources of each pipeline deliver."""

    costs: Annotated[tuple[Cost, ...], Meta(max_length=MAX_COSTS)] = ()
    rates: Annotated[dict[Id, PerSecond], Meta(max_length=MAX_OBSERVED)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLoad:
    """What the pipelines of a device need, and what it has. None: unknown."""

    engine: float = 0.0  # needed, as a part of its engine
    cores: float = 0.0  # needed
    all_cores: float | None = None  # that its pipelines share, a tenth less than it has
    memory: Natural = 0  # bytes, needed
    all_memory: Natural | None = None
    measured: Natural = 0  # pipelines whose needs follow from measured costs
    guessed: Natural = 0  # the others, each of which counts as one of the device's capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a pipeline needs on a device."""

    engine: float = 0.0  # a part of its engine
    cores: float = 0.0
    memory: Natural = 0  # bytes
    is_measured: bool = False  # otherwise it is a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a device has for pipelines."""

    board: Annotated[str, Meta(max_length=MAX_BOARD)] = ""  # its kind; "": unknown
    cores: Annotated[float, Meta(ge=0, le=MAX_CORES)] = 0.0
    memory: Bytes = 0  # that was available to programs when the agent started
    # Whether `capacity` was set by the operator: it is a limit then, whatever pipelines cost.
    is_limited: bool = True
