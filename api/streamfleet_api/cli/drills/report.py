"""The report of drills: a page for managers, and the same as JSON. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from streamfleet_api.cli.drills.outcome import DrillOutcome, PipelineOutcome, percentile
from streamfleet_core.protocol.messages import DrillFault

_DONE: dict[DrillFault, str] = {
    "isolate": "a device was cut off from the rest of the fleet while it worked, as if its network had"
    " failed. Other devices had to take over its cameras. A device that is cut off works on for some seconds,"
    " and then stops by itself, so that no two of them send results of one camera",
    "camera": "the program that reads one camera was killed while it worked. Its device had to start"
    " it again",
    "engine": "the program that runs the model was killed while it worked, and with it all cameras of the"
    " device stood still. The device had to start it again",
    "publisher": "the program that sends the results was killed while it worked. The device had to start"
    " it again",
}
_KNOWN: dict[DrillFault, str] = {
    "isolate": "until the fleet knew that the device was gone",
    "camera": "until the fleet told of it",
}
_BACK: dict[DrillFault, str] = {
    "isolate": "until another device sent the first prediction",
    "camera": "until predictions arrived again",
    "engine": "until predictions arrived again",
    "publisher": "until predictions arrived again",
}
_SHORTER = """ It is shorter than the time until another device sent predictions,
  because the device that is cut off works on at first."""
_WORDS = """\
## What the words mean

- A *prediction* is what the fleet says about one picture of a camera: which objects are in it, and where.
- A *pipeline* is the work on one camera or several: which model looks at them, and who is told.
- All times begin with the fault. *Median*: half were faster. *95 of 100*: so many were as fast.
- *Longest time without predictions*: so long no picture of a pipeline was looked at. What happened in front
  of its cameras meanwhile is not known.{shorter}
- *Target*: what the fleet promises, or what was chosen for these drills. Where there is none, the figure is
  only told.
- *Sent twice or too late*: the device that was replaced still sent predictions when its replacement did. A
  program that counts objects would count them twice. This must not happen at all.
- *Lost on the way*: predictions that were made, and did not arrive. Receivers see where they are missing."""


def as_json(drills: Sequence[DrillOutcome]) -> str:
    """All values."""
    documents = [{**asdict(drill), "problems": drill.problems} for drill in drills]
    return json.dumps({"drills": documents, "summary": summary(drills)}, indent=2, ensure_ascii=False) + "\n"


def summary(drills: Sequence[DrillOutcome]) -> dict[str, float | int | None]:
    """The figures of all drills together."""
    pipelines = _pipelines(drills)
    firsts = [each.first for each in pipelines if each.first is not None]
    detected = [drill.detected for drill in drills if drill.detected is not None]
    return {
        "drills": len(drills),
        "kept": sum(not drill.problems for drill in drills),
        **_figures("detected", detected),
        **_figures("first", firsts),
        **_figures("interruption", [each.interruption for each in pipelines]),
        "lost": sum(each.lost for each in pipelines),
        "doubled": sum(each.doubled for each in pipelines),
    }


def as_markdown(drills: Sequence[DrillOutcome], fleet: str) -> str:
    """A page: the verdict first, then the figures and their meaning, then each drill."""
    fault, count = drills[0].fault, len(drills)
    times = "Once" if count == 1 else f"{count} times"
    lines = [
        f"# Drill of {drills[0].at[:10]}",
        "",
        f"**{_verdict(drills)}**",
        "",
        f"{times}, {_DONE[fault]}.",
        f"It was done on purpose to the fleet at {fleet}, {_when(drills)},"
        f" and interrupted {_counted(drills)}.",
        "",
        *_table(drills, fault),
        "",
        *_missed(drills),
        _WORDS.format(shorter=_SHORTER if fault == "isolate" else ""),
        "",
        "## Each drill",
        "",
        *_each(drills, fault),
        "",
    ]
    return "\n".join(lines)


def _verdict(drills: Sequence[DrillOutcome]) -> str:
    count, kept = len(drills), sum(not drill.problems for drill in drills)
    doubled = sum(each.doubled for each in _pipelines(drills))
    once = "Nothing was sent twice." if not doubled else f"{doubled} predictions were sent twice or too late."
    worst = max(each.interruption for each in _pipelines(drills))
    once += f" At worst, one pipeline was without predictions for {worst:.1f} s."
    if kept == count:
        return f"{'The drill' if count == 1 else f'All {count} drills'} reached every target. {once}"
    return f"{count - kept} of {count} drills missed a target, as told below. {once}"


def _counted(drills: Sequence[DrillOutcome]) -> str:
    """What the figures are of."""
    count = len(_pipelines(drills))
    return "one pipeline" if count == 1 else f"{count} pipelines" + (" in all" if len(drills) > 1 else "")


def _table(drills: Sequence[DrillOutcome], fault: DrillFault) -> list[str]:
    total, targets = summary(drills), drills[0].targets
    lines = ["| | median | 95 of 100 | worst | target |", "|---|---|---|---|---|"]
    if fault in _KNOWN:
        lines.append(_line(_KNOWN[fault], total, "detected", targets.known))
    lines += [
        _line(_BACK[fault], total, "first", targets.first),
        _line("longest time without predictions", total, "interruption", None),
        f"| predictions sent twice or too late, in all | | | {total['doubled']} | 0 |",
        f"| predictions lost on the way, in all | | | {total['lost']} | |",
    ]
    return lines


def _line(what: str, total: dict[str, float | int | None], name: str, target: float | None) -> str:
    median, p95, worst = (_s(total[f"{name}_{figure}"]) for figure in ("median", "p95", "max"))
    return f"| {what} | {median} | {p95} | {worst} | {'' if target is None else f'{target:g} s'} |"


def _missed(drills: Sequence[DrillOutcome]) -> list[str]:
    missed = [
        f"- Drill {number}, {drill.device}: {problem}."
        for number, drill in enumerate(drills, start=1)
        for problem in drill.problems
    ]
    return ["## What was missed", "", *missed, ""] if missed else []


def _each(drills: Sequence[DrillOutcome], fault: DrillFault) -> list[str]:
    titles = ["drill", "at", "device", *(["known after"] if fault in _KNOWN else []), "pipeline"]
    titles += ["predicts again after", "without predictions", "on", "twice or too late", "lost"]
    lines = [_cells(titles), "|" + "---|" * len(titles)]
    for number, drill in enumerate(drills, start=1):
        known = [_s(drill.detected, "no event")] if fault in _KNOWN else []
        head = [str(number), _clock(drill), drill.device, *known]
        for pipeline in drill.pipelines:
            lines.append(_cells([*head, *_of_pipeline(pipeline)]))
            head = [""] * len(head)
    return lines


def _of_pipeline(each: PipelineOutcome) -> list[str]:
    where = "another device" if each.moved else "the same device"
    figures = [_s(each.first), _s(each.interruption), where, str(each.doubled), str(each.lost)]
    return [each.pipeline_id, *figures]


def _when(drills: Sequence[DrillOutcome]) -> str:
    first, last = _clock(drills[0]), _clock(drills[-1])
    return f"at {first}" if len(drills) == 1 else f"from {first} to {last}"


def _clock(drill: DrillOutcome) -> str:
    return drill.at[11:19]


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pipelines(drills: Sequence[DrillOutcome]) -> list[PipelineOutcome]:
    return [each for drill in drills for each in drill.pipelines]


def _figures(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_median": round(statistics.median(values), 2) if values else None,
        f"{name}_p95": percentile(values, 0.95) if values else None,
        f"{name}_max": max(values, default=None),
    }


def _s(value: float | None, otherwise: str = "never") -> str:
    return otherwise if value is None else f"{value:.1f} s"
