"""The report of a benchmark as a table, a chart and a file. This module measures nothing."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

Cell = float | int | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    unit: str = ""
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table. None is shown as a dash."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of medians, unless a column says otherwise."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A value and its limit."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False  # otherwise: at most

    @property
    def kept(self) -> bool:
        """Whether the value is within its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Series:
    """The bars of one colour, one per group. None leaves a gap."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart with groups of bars, side by side or stacked."""

    title: str
    axis: str  # the quantity and its unit
    groups: tuple[str, ...]
    series: tuple[Series, ...]
    limit: float | None = None
    limit_name: str = "limit"
    stacked: bool = False
    logarithmic: bool = False
    digits: int = 1  # of the value above each bar


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one benchmark."""

    name: str
    title: str
    sizes: dict[str, Any]  # parameters: rounds, seconds, cameras, …
    tables: tuple[Table, ...]
    charts: tuple[Bars, ...]
    checks: tuple[Check, ...] = ()
    rounds: dict[str, list[float]] = field(default_factory=dict)  # all values, by name
    notes: tuple[str, ...] = ()  # text below the tables


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 50th, 95th and 99th percentile."""
    p50, p95, p99 = np.percentile(np.asarray(values), [50, 95, 99])
    return float(p50), float(p95), float(p99)


def medians(rounds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(values) for name, values in rounds.items() if values}


# as text --------------------------------------------------------------------------------------------------


def text(report: Report, *, judged: bool) -> str:
    """Return the tables, followed by the checks. `judged`: say whether limits are kept."""
    lines = [report.title]
    for table in report.tables:
        lines += ["", *_table_lines(table)]
    if report.checks:
        lines.append("")
        lines += [_check_line(check, judged) for check in report.checks]
    for note in report.notes:
        lines += ["", note]
    return "\n".join(lines)


def _table_lines(table: Table) -> list[str]:
    titles = [f"{column.title} {column.unit}".strip() for column in table.columns]
    cells = [
        [_shown(cell, column.digits) for cell, column in zip(row.cells, table.columns, strict=True)]
        for row in table.rows
    ]
    widths = [max(len(title), *(len(row[at]) for row in cells)) for at, title in enumerate(titles)]
    first = max(len(table.title), *(len(row.name) for row in table.rows))
    lines = [table.title.ljust(first) + _joined(titles, widths)]
    lines.append("-" * len(lines[0]))
    lines += [
        row.name.ljust(first) + _joined(shown, widths) for row, shown in zip(table.rows, cells, strict=True)
    ]
    return lines


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    return f"{cell:,.{digits}f}" if isinstance(cell, (int, float)) else cell


def _check_line(check: Check, judged: bool) -> str:
    relation = "at least" if check.at_least else "at most"
    verdict = "" if not judged else ", kept" if check.kept else ", NOT KEPT"
    return f"{check.what}: {check.value:.3g} {check.unit} (limit: {relation} {check.limit:g}{verdict})"


# as a file ------------------------------------------------------------------------------------------------


def as_json(report: Report, about: dict[str, Any]) -> str:
    """Return the whole report with `about`: machine, versions and date."""
    document = {
        "benchmark": report.name,
        "title": report.title,
        **about,
        "sizes": report.sizes,
        "tables": [_plain_table(table) for table in report.tables],
        "notes": report.notes,
        "checks": [{**asdict(check), "kept": check.kept} for check in report.checks],
        "medians": medians(report.rounds),
        "rounds": report.rounds,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain_table(table: Table) -> dict[str, Any]:
    columns = [f"{column.title} {column.unit}".strip() for column in table.columns]
    rows = [{"name": row.name, "cells": row.cells} for row in table.rows]
    return {"title": table.title, "columns": columns, "rows": rows}


# as a picture ---------------------------------------------------------------------------------------------

_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#777777",
)  # distinguishable with colour blindness
_LIMIT_COLOUR = "#bb2222"
_PANEL = (6.8, 4.4)  # inches
_BAR = 0.42  # inches per bar with its value
_GROUP_WIDTH = 0.8  # fraction of the width of a group
_LEGEND = 72  # characters per row of a legend
_TITLE = 8.5  # characters of the title per inch


def draw(report: Report, path: Path, *, caption: str) -> None:
    """Draw the charts side by side into a PNG file."""
    widths = [max(_PANEL[0], _BAR * _bars_in(chart)) for chart in report.charts]
    figure = Figure(figsize=(sum(widths), _PANEL[1] + 0.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(report.charts), squeeze=False, gridspec_kw={"width_ratios": widths})
    for axes, chart in zip(grid[0], report.charts, strict=True):
        (_draw_stacked if chart.stacked else _draw_beside)(axes, chart)
        _finish(axes, chart)
    title = textwrap.fill(report.title, round(_TITLE * sum(widths)))
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.supxlabel(caption, fontsize=7, color="#555555")
    canvas.print_figure(str(path))


def _bars_in(chart: Bars) -> int:
    return len(chart.groups) * (1 if chart.stacked else len(chart.series))


def _draw_beside(axes: Axes, chart: Bars) -> None:
    width = _GROUP_WIDTH / len(chart.series)
    for index, series in enumerate(chart.series):
        known = [at for at, value in enumerate(series.values) if value is not None]
        heights = [float(value) for value in series.values if value is not None]
        places = [at - _GROUP_WIDTH / 2 + (index + 0.5) * width for at in known]
        bars = axes.bar(places, heights, width * 0.94, label=series.name, color=_colour(index))
        labels = [f"{height:,.{chart.digits}f}" for height in heights]
        crowded = _bars_in(chart) > 12
        axes.bar_label(bars, labels, fontsize=7, padding=2, rotation=90 if crowded else 0)


def _draw_stacked(axes: Axes, chart: Bars) -> None:
    ground = [0.0] * len(chart.groups)
    for index, series in enumerate(chart.series):
        heights = [value or 0.0 for value in series.values]
        axes.bar(
            range(len(chart.groups)), heights, 0.6, bottom=ground, label=series.name, color=_colour(index)
        )
        ground = [below + height for below, height in zip(ground, heights, strict=True)]
    for at, top in enumerate(ground):
        axes.annotate(f"{top:,.{chart.digits}f}", (at, top), (0, 3), textcoords="offset points", ha="center")


def _finish(axes: Axes, chart: Bars) -> None:
    if chart.logarithmic:
        axes.set_yscale("log")
    if chart.limit is not None:
        axes.axhline(
            chart.limit, color=_LIMIT_COLOUR, linestyle="--", linewidth=1.4, label=chart.limit_name, zorder=0
        )
    axes.set_title(chart.title, fontsize=10)
    axes.set_ylabel(chart.axis)
    axes.set_xticks(range(len(chart.groups)), chart.groups, fontsize=8)
    axes.margins(y=0.16)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.legend(
        fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=_columns(chart)
    )


def _columns(chart: Bars) -> int:
    """Return the number of legend columns that fit below the panel."""
    names = [series.name for series in chart.series] + ([] if chart.limit is None else [chart.limit_name])
    return max(1, min(len(names), _LEGEND // (max(map(len, names)) + 6)))


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]
