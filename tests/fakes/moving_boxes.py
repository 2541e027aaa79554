"""Scenes of moving boxes with all that makes tracking hard. Each seed is another scene."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import supervision as sv

WIDTH, HEIGHT = 1920, 1080


@dataclass(slots=True)
class _Thing:
    x: float
    y: float
    width: float
    height: float
    across: float  # pixels per frame
    down: float
    hidden: int = 0  # frames


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame of a scene."""

    media_time: float
    detections: sv.Detections
    confidence: float  # the threshold from now on


def scene(seed: int, frames: int) -> Iterator[Moment]:
    """Births, deaths, occlusions, crossings, false boxes, empty frames, uneven times, changed thresholds.

    Every third scene has whole pixels and equal sizes, so that many overlaps are equal.
    """
    chance = random.Random(seed)
    even = seed % 3 == 0
    most, rate = chance.choice((1, 3, 8, 20, 60)), chance.choice((5, 10, 25, 30, 60))
    missed, doubled, invented = chance.choice(((0, 0, 0), (0.1, 0, 0.05), (0.3, 0.1, 0.2), (0.6, 0.3, 0.5)))
    things = [_thing(chance, even) for _ in range(chance.randrange(most + 1))]
    now, threshold = chance.uniform(0, 1000), chance.choice((0.0, 0.25, 0.4, 0.6))
    for _ in range(frames):
        now += _pause(chance, rate)
        if chance.random() < 0.05:
            threshold = chance.choice((0.0, 0.25, 0.4, 0.6))
        things = [thing for thing in things if chance.random() > 0.02]
        while len(things) < most and chance.random() < 0.1:
            things.append(_thing(chance, even))
        boxes = []
        for thing in things:
            _move(thing, chance, even)
            if not thing.hidden and chance.random() >= missed:
                boxes.append(_seen(thing, chance, even))
                if chance.random() < doubled:
                    boxes.append(_seen(thing, chance, even))
        while chance.random() < invented:
            boxes.append(_seen(_thing(chance, even), chance, even))
        if chance.random() < 0.03:
            boxes = []
        chance.shuffle(boxes)
        yield Moment(now, _detections(boxes[:60]), threshold)


def _thing(chance: random.Random, even: bool) -> _Thing:
    size = (40.0, 40.0) if even else (chance.uniform(8, 300), chance.uniform(8, 300))
    x, y = chance.uniform(0, WIDTH * 0.6), chance.uniform(0, HEIGHT * 0.6)
    speed = chance.choice((0, 2, 10, 40))
    across, down = chance.uniform(-speed, speed), chance.uniform(-speed, speed)
    if even:
        x, y, across, down = round(x / 20) * 20.0, round(y / 20) * 20.0, round(across), round(down)
    return _Thing(x, y, *size, across, down)


def _move(thing: _Thing, chance: random.Random, even: bool) -> None:
    thing.x += thing.across
    thing.y += thing.down
    thing.hidden = max(0, thing.hidden - 1)
    if chance.random() < 0.03:
        thing.hidden = chance.randrange(1, 40)
    if chance.random() < 0.05:
        thing.across, thing.down = -thing.across, thing.down * chance.choice((-1, 1))
    if not even:
        thing.width *= chance.uniform(0.98, 1.02)


def _seen(thing: _Thing, chance: random.Random, even: bool) -> tuple[float, ...]:
    noise = 0.0 if even else chance.choice((0.0, 0.5, 3.0))
    left, top = thing.x + chance.gauss(0, noise), thing.y + chance.gauss(0, noise)
    # Seldom below the threshold: one such box without a track leaves all others without their ids.
    sure = chance.random() if chance.random() < 0.1 else 0.9 if even else chance.uniform(0.6, 1)
    return left, top, left + thing.width, top + thing.height, sure


def _pause(chance: random.Random, rate: float) -> float:
    """Seconds to the next frame: mostly one frame's, sometimes another time, none, or one that is past."""
    kind = chance.random()
    if kind < 0.7:
        return 1 / rate
    if kind < 0.85:
        return chance.uniform(0.3, 3) / rate
    if kind < 0.95:
        return chance.choice((0.1, 0.4, 0.9, 1.1, 5.0))
    return chance.choice((0.0, 0.0, -0.02))


def _detections(boxes: list[tuple[float, ...]]) -> sv.Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return sv.Detections(xyxy=rows[:, :4], confidence=rows[:, 4], class_id=np.zeros(len(rows), np.int64))
