"""Shared memory between a camera and an engine: a few slots.

A slot holds the pixels of a frame, in the size of the model, and the raw outputs of the model.

A camera creates it with `memfd_create` and passes the descriptor, so that a killed process leaves nothing
behind and the size of /dev/shm does not matter. It is sealed: neither process can shrink it while the other
uses it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 4096  # bytes; every blob starts on a page
_FLOAT = 4  # bytes of a float32

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]


class BadSlots(Exception):
    """Shared memory that does not match its layout."""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """The layout of the blobs of all slots."""

    input_shape: tuple[int, int, int, int]  # (1, 3, height, width) uint8
    output_shapes: tuple[tuple[int, ...], ...]  # each (1, …) float32: the raw outputs that are read
    count: int

    @property
    def input_room(self) -> int:
        """Bytes from the start of a slot's input to the start of its first output."""
        return _padded(int(np.prod(self.input_shape)))

    @property
    def slot_room(self) -> int:
        """Bytes from one slot to the next."""
        return self.input_room + sum(_output_room(shape) for shape in self.output_shapes)

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self.slot_room * self.count


@dataclass(frozen=True, slots=True)
class Slot:
    """A mapped slot. The arrays keep the mapping alive."""

    input: PixelArray  # (1, 3, height, width), in the channel order of the model's family
    outputs: tuple[FloatArray, ...]  # each (1, …), in the order of the model's family


def create_memory(layout: SlotLayout) -> int:
    """Create memory for this layout, and return its descriptor. The caller closes it."""
    descriptor = os.memfd_create("streamfleet-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, layout.size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


def map_slots(descriptor: int, layout: SlotLayout) -> list[Slot]:
    """Map the slots in this memory. Raises: BadSlots if it has another size or is not sealed."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        size = os.fstat(descriptor).st_size
    except OSError as exc:
        raise BadSlots(
            f"expected sealed memory, got a descriptor of something else ({exc.strerror})"
        ) from exc
    if not seals & fcntl.F_SEAL_SHRINK:
        raise BadSlots("expected memory that cannot shrink, got memory that is not sealed")
    if size != layout.size:
        raise BadSlots(f"expected {layout.size} bytes for {layout.count} slots, got {size}")
    memory = mmap.mmap(descriptor, size)
    return [_slot(memory, layout, index) for index in range(layout.count)]


def _slot(memory: mmap.mmap, layout: SlotLayout, index: int) -> Slot:
    start = index * layout.slot_room
    pixels = np.frombuffer(memory, np.uint8, int(np.prod(layout.input_shape)), start)
    outputs, at = [], start + layout.input_room
    for shape in layout.output_shapes:
        outputs.append(np.frombuffer(memory, np.float32, int(np.prod(shape)), at).reshape(shape))
        at += _output_room(shape)
    return Slot(input=pixels.reshape(layout.input_shape), outputs=tuple(outputs))


def new_slot(layout: SlotLayout) -> Slot:
    """A slot in memory of this process alone."""
    outputs = tuple(np.zeros(shape, np.float32) for shape in layout.output_shapes)
    return Slot(np.zeros(layout.input_shape, np.uint8), outputs)


def _output_room(shape: tuple[int, ...]) -> int:
    return _padded(int(np.prod(shape)) * _FLOAT)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
