"""Small charts for pages, from result files: python -m benchmarks.charts FOLDER FILE...

    live-age.json       live-age.svg: the age of predictions, beside the bare loop that is the baseline
    throughput.json     throughput.svg: frames/s, beside the best bare loop

Files of one benchmark make one chart, if machine and versions are the same. It has no background, and colours
that are read on light and on dark. It measures nothing: all figures are those of the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

FLEET, BARE = "Streamfleet", "bare loop"

_WIDTH, _LEFT, _RIGHT = 720, 110, 140  # pixels
_TOP, _BAR, _SPACE, _GROUP_SPACE, _BOTTOM = 64, 14, 3, 12, 40  # pixels
_COLOURS = {FLEET: "#2f81c7", BARE: "#9a7b1f"}  # distinguishable with colour blindness
_TEXT = "#7a828c"  # contrast of 4 with white and with black


@dataclass(frozen=True, slots=True)
class Figure:
    """The length of a bar. `worst`: a line goes on to it."""

    value: float
    worst: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Bars below each other."""

    name: str
    figures: dict[str, Figure]  # by side


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of horizontal bars."""

    title: str
    unit: str
    groups: tuple[Group, ...]
    caption: str


class DifferentResults(ValueError):
    """Files that do not belong into one chart."""

    def __init__(self, what: str, values: Sequence[str]) -> None:
        super().__init__(f"expected results of one {what}, got {', '.join(values)}")


def main(arguments: Sequence[str]) -> int:
    """Write the charts."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, files = Path(arguments[0]), [Path(each) for each in arguments[1:]]
    results = [json.loads(file.read_text("utf-8")) for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    for name, groups_of in CHARTS.items():
        given = [result for result in results if result["benchmark"] == name]
        if given:
            path = folder / f"{name}.svg"
            path.write_text(svg(chart(given, groups_of)), "utf-8")
            print(path)
    return 0


def chart(results: Sequence[dict[str, Any]], groups_of: Callable[[dict[str, Any]], list[Group]]) -> Chart:
    """Join the results of one benchmark. Pure. Raises: DifferentResults."""
    for what in ("machine", "model"):
        values = sorted({_same(result, what) for result in results})
        if len(values) > 1:
            raise DifferentResults(what, values)
    title, unit = _TITLES[results[0]["benchmark"]]
    groups = tuple(group for result in results for group in groups_of(result))
    return Chart(f"{title}: {_same(results[0], 'model')}", unit, groups, caption(results))


def caption(results: Sequence[dict[str, Any]]) -> str:
    """Machine, versions and dates. Pure."""
    days = sorted({result["date"][:10] for result in results})
    commits = sorted({result["versions"]["commit"][:7] for result in results})
    runtime = results[0]["versions"]["onnxruntime"]
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{_same(results[0], 'machine')} · ONNX Runtime {runtime} · {dates} · {', '.join(commits)}"


def _same(result: dict[str, Any], what: str) -> str:
    """What all results of a chart have in common."""
    if what == "machine":
        return f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    return str(result["sizes"]["model"])


# what a result says ---------------------------------------------------------------------------------------


def ages(result: dict[str, Any]) -> list[Group]:
    """The median and the 99th percentile of each scene. The baseline is marked with *. Pure."""
    found = []
    rows = result["tables"][0]["rows"]
    for scene in result["sizes"]["scenes"]:
        figures = {}
        for row in rows:
            if row["name"].startswith(f"{scene}, "):
                side = FLEET if row["name"].endswith(", fleet") else BARE if row["name"].endswith("*") else ""
                figures[side] = Figure(row["cells"][0], row["cells"][2])
        found.append(Group(f"{scene}", {side: figures[side] for side in (FLEET, BARE)}))
    return found


def rates(result: dict[str, Any]) -> list[Group]:
    """The frames/s of each number of cameras, with the arrangement that is named as the best one. Pure."""
    table = result["tables"][0]
    found = []
    for row in table["rows"]:
        cells = dict(zip(table["columns"], row["cells"], strict=True))
        best = cells[cells["best bare loop"]]
        found.append(Group(row["name"], {FLEET: Figure(cells["fleet"]), BARE: Figure(best)}))
    return found


CHARTS: dict[str, Callable[[dict[str, Any]], list[Group]]] = {"live-age": ages, "throughput": rates}
_TITLES = {
    "live-age": ("Age of predictions, from capture to receipt", "ms: median, line to the 99th percentile"),
    "throughput": ("Frames per second of all cameras", "frames/s"),
}


# the picture ----------------------------------------------------------------------------------------------


def svg(drawn: Chart) -> str:
    """Draw it. Pure."""
    longest = max(figure.worst or figure.value for group in drawn.groups for figure in group.figures.values())
    scale = (_WIDTH - _LEFT - _RIGHT) / (longest or 1.0)
    parts, top = [], _TOP
    for group in drawn.groups:
        middle = top + len(group.figures) * (_BAR + _SPACE) / 2
        parts.append(_text(_LEFT - 8, middle + 3, group.name, anchor="end"))
        for side, figure in group.figures.items():
            parts.append(_bar(side, figure, top=top, scale=scale))
            top += _BAR + _SPACE
        top += _GROUP_SPACE
    height = top + _BOTTOM - _GROUP_SPACE
    legend = [_legend(side, number) for number, side in enumerate(drawn.groups[0].figures)]
    head = [_text(0, 16, drawn.title, size=14, weight="bold"), *legend]
    head.append(_text(_WIDTH, 40, drawn.unit, anchor="end"))
    foot = _text(0, height - 8, drawn.caption, size=10)
    style = 'font-family="system-ui, sans-serif"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" {style}>'
    name = f"<title>{escape(drawn.title)}</title>"
    return "\n".join([opening, name, *head, *parts, foot, "</svg>"]) + "\n"


def _bar(side: str, figure: Figure, *, top: float, scale: float) -> str:
    length, middle, colour = figure.value * scale, top + _BAR / 2, _COLOURS[side]
    parts = [f'<rect x="{_LEFT}" y="{top:g}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>']
    end, label = _LEFT + length, f"{figure.value:,.{_digits(figure.value)}f}"
    if figure.worst is not None:
        far = _LEFT + figure.worst * scale
        line = f'd="M{end:.1f} {middle:g}H{far:.1f}m0-4v8" stroke="{colour}" stroke-width="1.5"'
        parts.append(f'<path {line} fill="none"/>')
        end, label = max(end, far), f"{label}, {figure.worst:,.0f}"
    parts.append(_text(end + 6, middle + 4, label))
    return "".join(parts)


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1


def _legend(side: str, number: int) -> str:
    left = _LEFT * number
    square = f'<rect x="{left}" y="30" width="12" height="12" fill="{_COLOURS[side]}"/>'
    return square + _text(left + 17, 40, side)


def _text(
    x: float, y: float, content: str, *, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    where = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" font-weight="{weight}" fill="{_TEXT}">{escape(content)}</text>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
