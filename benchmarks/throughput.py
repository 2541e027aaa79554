"""Frames per second of a whole fleet, compared with a bare loop of the same run.

Measured from the first result of the last video until one video ends or the time is over. The fleet processes
files at full speed with one worker and one engine; frames are counted as datagrams arrive. The bare loop
(bare.py) processes the same files; frames are counted when their detections are known. Rounds of the two
alternate, so that both see the same machine, and the ratio is computed within each round. The baseline is the
arrangement with the best median.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks import bare
from benchmarks.bare import ARRANGEMENTS, Played, Task
from benchmarks.fleets import delete_all, names, put, running
from benchmarks.receiver import Arrival, Receiver, boot_ns, content_of
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fakes.patience import PATIENCE
from tests.fleet.harness import Fleet, wait_for

LIMITS = {1: 0.90, 4: 0.95}  # by cameras: ratio to the best arrangement
HEAVY_LIMITS = {1: 0.97, 4: 0.97, 8: 0.97, 16: 0.97}  # the same with the stand-in of YOLOv8n's size
COUNTS_AGREE = 0.01  # maximum relative difference of detections in the same frames
_FLEET = "fleet"
_SILENCE_NS = 10**9  # after which all files have ended
_HEAVY_SILENCE_NS = 10 * _SILENCE_NS


def run(setting: Setting) -> Report:
    """Measure with 1, 2, 4 and 8 cameras, or 1, 4, 8 and 16 with the heavy model."""
    limits = limits_of(setting)
    sizes = setting.cameras or setting.pick(tuple(limits) if setting.is_heavy else (1, 2, 4, 8), (1,))
    # A heavy model leaves so few frames per second that a few seconds would not show a hundredth.
    seconds = setting.pick(20.0, 3.0) if setting.is_heavy else setting.pick(4.0, 0.7)
    usual = 3 if setting.is_heavy else 7
    rounds: dict[str, list[float]] = {}
    differences: list[float] = []
    with running(setting, capacity=max(sizes)) as fleet:
        measure(fleet, setting, sizes[0], 1.0)  # warm-up
        for cameras in sizes:
            for _ in range(setting.rounds_of(usual if cameras in limits else 3)):
                difference = one_round(fleet, setting, cameras, seconds, rounds)
                differences.append(difference)
    return report(setting, sizes, rounds, differences, seconds=seconds)


def limits_of(setting: Setting) -> dict[int, float]:
    """Return the limits by cameras for the model of this run."""
    return HEAVY_LIMITS if setting.is_heavy else LIMITS


def one_round(
    fleet: Fleet, setting: Setting, cameras: int, seconds: float, rounds: dict[str, list[float]]
) -> float:
    """Measure each arrangement and the fleet once. Return the relative difference of their detections."""
    task = Task(setting.model, setting.manifest, (setting.video,) * cameras, seconds)
    counted: dict[str, list[Played]] = {}
    for arrangement in ARRANGEMENTS:
        counted[arrangement] = bare.play(arrangement, task)
    counted[_FLEET] = measure(fleet, setting, cameras, seconds)
    for name, played in counted.items():
        rate = bare.rate([each.times for each in played], seconds)
        rounds.setdefault(key(name, cameras), []).append(rate)
    return max(difference_of(counted[_FLEET], counted[name]) for name in ARRANGEMENTS)


def measure(fleet: Fleet, setting: Setting, cameras: int, seconds: float) -> list[Played]:
    """Measure the fleet, by video."""
    pipeline_ids = names(cameras)
    silence_ns = _HEAVY_SILENCE_NS if setting.is_heavy else _SILENCE_NS
    with Receiver() as receiver, ThreadPoolExecutor(cameras) as pool:
        list(pool.map(lambda name: put(fleet, name, str(setting.video), port=receiver.port), pipeline_ids))
        wait_for(lambda: len(receiver.first_ns) == cameras, "a datagram of each camera")
        until = max(receiver.first_ns.values()) + round(seconds * 1e9)
        wait_for(
            lambda: (
                receiver.arrivals[-1].at_ns > until or boot_ns() - receiver.arrivals[-1].at_ns > silence_ns
            ),
            "the end of the measurement",
            timeout=seconds + PATIENCE,
            every=0.1,
        )
        delete_all(fleet)
        return played_by(receiver.arrivals, pipeline_ids)


def played_by(arrivals: Sequence[Arrival], pipeline_ids: Sequence[str]) -> list[Played]:
    """Group datagrams by video. They arrive in the order of the frames."""
    played = {name: Played([], []) for name in pipeline_ids}
    for arrival in arrivals:
        content = content_of(arrival)
        played[content.pipeline_id].times.append(arrival.at_ns / 1e9)
        played[content.pipeline_id].detections.append(content.detections)
    return [played[name] for name in pipeline_ids]


def difference_of(ours: Sequence[Played], theirs: Sequence[Played]) -> float:
    """Return the relative difference of the number of detections in the frames that both processed."""
    pairs = [
        pair
        for one, other in zip(ours, theirs, strict=True)
        for pair in zip(one.detections, other.detections, strict=False)
    ]
    expected = sum(count for _, count in pairs)
    return abs(sum(count for count, _ in pairs) - expected) / max(expected, 1)


def report(
    setting: Setting,
    sizes: Sequence[int],
    rounds: dict[str, list[float]],
    differences: list[float],
    *,
    seconds: float,
) -> Report:
    """Report medians. The ratio of each round is to the arrangement with the best median."""
    limits = limits_of(setting)
    best = {cameras: best_arrangement(rounds, cameras) for cameras in sizes}
    ratios = {cameras: ratio(rounds, cameras, best[cameras]) for cameras in sizes}
    rows = tuple(
        Row(
            f"{cameras} camera{'s' if cameras > 1 else ''}",
            (
                *(statistics.median(rounds[key(name, cameras)]) for name in (*ARRANGEMENTS, _FLEET)),
                ratios[cameras],
                limits.get(cameras),
                best[cameras],
            ),
        )
        for cameras in sizes
    )
    columns = (*(Column(name) for name in (*ARRANGEMENTS, _FLEET)), Column("ratio", digits=3))
    checks = [
        Check(
            f"{cameras} cameras, ratio to the best bare loop",
            ratios[cameras],
            limits[cameras],
            "",
            at_least=True,
        )
        for cameras in sizes
        if cameras in limits
    ]
    checks.append(Check("difference of detection counts", 100 * max(differences), 100 * COUNTS_AGREE, "%"))
    return Report(
        name="throughput",
        title=f"Throughput: {setting.model_name} on {setting.video_name}",
        sizes={
            "cameras": list(sizes),
            "seconds": seconds,
            "rounds": {str(n): len(rounds[key(_FLEET, n)]) for n in sizes},
            "model": setting.model_name,
            "video": setting.video_name,
        },
        tables=(Table("frames/s", (*columns, Column("limit", digits=2), Column("best bare loop")), rows),),
        charts=charts(sizes, rounds, ratios, limits),
        checks=tuple(checks),
        rounds={**rounds, "differences of counts": differences},
    )


def charts(
    sizes: Sequence[int],
    rounds: dict[str, list[float]],
    ratios: dict[int, float],
    limits: dict[int, float],
) -> tuple[Bars, Bars]:
    """Return the charts of frames per second and of the ratio."""
    groups = tuple(f"{cameras} camera{'s' if cameras > 1 else ''}" for cameras in sizes)
    rates = tuple(
        Series(name, tuple(statistics.median(rounds[key(name, cameras)]) for cameras in sizes))
        for name in (*ARRANGEMENTS, _FLEET)
    )
    return (
        Bars("All cameras together (higher is better)", "frames/s", groups, rates, digits=0),
        Bars(
            "Ratio of the fleet to the best bare loop",
            "ratio",
            groups,
            (
                Series("ratio, median of rounds", tuple(ratios[cameras] for cameras in sizes)),
                Series("limit", tuple(limits.get(cameras) for cameras in sizes)),
            ),
            limit=1.0,
            limit_name="the bare loop",
            digits=2,
        ),
    )


def best_arrangement(rounds: dict[str, list[float]], cameras: int) -> str:
    """Return the arrangement with the best median."""
    return max(ARRANGEMENTS, key=lambda name: statistics.median(rounds[key(name, cameras)]))


def ratio(rounds: dict[str, list[float]], cameras: int, arrangement: str) -> float:
    """Return the median of the ratios of fleet to bare loop."""
    pairs = zip(rounds[key(_FLEET, cameras)], rounds[key(arrangement, cameras)], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def key(name: str, cameras: int) -> str:
    """Return the key of these rounds."""
    return f"{name}, {cameras} cameras, frames/s"
