"""The report of drills: a page for managers, and the same as JSON. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from streamfleet_api.cli.drills.outcome import DETECTED, FIRST, RESTARTED, DrillOutcome, percentile

_DONE = {
    "isolate": "was cut off from the broker",
    "camera": "lost a camera process (kill -9)",
    "engine": "lost the process of its model (kill -9)",
    "publisher": "lost the process that publishes (kill -9)",
}


def as_json(drills: Sequence[DrillOutcome]) -> str:
    """All values."""
    documents = [{**asdict(drill), "problems": drill.problems} for drill in drills]
    return json.dumps({"drills": documents, "summary": summary(drills)}, indent=2, ensure_ascii=False) + "\n"


def summary(drills: Sequence[DrillOutcome]) -> dict[str, float | int | None]:
    """The figures of all drills together."""
    firsts = [each.first for drill in drills for each in drill.pipelines if each.first is not None]
    detected = [drill.detected for drill in drills if drill.detected is not None]
    pipelines = [each for drill in drills for each in drill.pipelines]
    return {
        "drills": len(drills),
        "kept": sum(not drill.problems for drill in drills),
        "detected_median": round(statistics.median(detected), 2) if detected else None,
        "detected_max": max(detected, default=None),
        "first_median": round(statistics.median(firsts), 2) if firsts else None,
        "first_p95": percentile(firsts, 0.95) if firsts else None,
        "first_max": max(firsts, default=None),
        "lost": sum(each.lost for each in pipelines),
        "doubled": sum(each.doubled for each in pipelines),
    }


def as_markdown(drills: Sequence[DrillOutcome], fleet: str) -> str:
    """A page: the verdict first, then the figures, then each drill."""
    total = summary(drills)
    good = total["kept"] == total["drills"]
    lines = [
        f"# Drill of {drills[0].at[:10]}",
        "",
        f"Fleet: {fleet}. Drills: {total['drills']}, of which {total['kept']} kept every target.",
        "",
        f"**{'All targets were kept.' if good else 'Not all targets were kept: see below.'}**",
        "",
        "| | median | 95 of 100 | worst | target |",
        "|---|---|---|---|---|",
        f"| the fleet knew of it | {_s(total['detected_median'])} | | {_s(total['detected_max'])}"
        f" | {DETECTED:g} s if a device is cut off |",
        f"| first prediction of the replacement | {_s(total['first_median'])} | {_s(total['first_p95'])}"
        f" | {_s(total['first_max'])} | {FIRST:g} s on another device, {RESTARTED:g} s on the same one |",
        f"| predictions sent twice or too late | | | {total['doubled']} | 0 |",
        f"| predictions lost on the way | | | {total['lost']} | |",
        "",
    ]
    for number, drill in enumerate(drills, start=1):
        lines += _section(number, drill)
    return "\n".join(lines)


def _section(number: int, drill: DrillOutcome) -> list[str]:
    return [
        f"## {number}. {drill.device} {_DONE[drill.fault]}",
        "",
        f"At {drill.at}. {_known(drill.detected)}",
        "",
        "| pipeline | first prediction | without predictions for | lost | doubled | where |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each.pipeline_id} | {_s(each.first)} | {_s(each.interruption)} | {each.lost}"
            f" | {each.doubled} | {'another device' if each.moved else 'the same device'} |"
            for each in drill.pipelines
        ),
        "",
        *(f"- Not kept: {problem}." for problem in drill.problems),
        *([""] if drill.problems else []),
    ]


def _known(after: float | None) -> str:
    return "No event told of it." if after is None else f"The fleet knew of it after {after:.1f} s."


def _s(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
