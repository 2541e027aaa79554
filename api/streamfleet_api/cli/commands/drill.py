"""`streamfleet drill`: causes a fault in a running fleet on purpose, and reports what happened."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import Settings, as_json_option, complete_device, warn
from streamfleet_api.cli.drills.hours import Hours
from streamfleet_api.cli.drills.outcome import (
    ELSEWHERE,
    NOTICED,
    DrillOutcome,
    PipelineOutcome,
    Targets,
    pipeline_outcome,
)
from streamfleet_api.cli.drills.report import as_json as report_as_json
from streamfleet_api.cli.drills.report import as_markdown
from streamfleet_api.cli.trials.known_devices import known_device
from streamfleet_api.client.errors import CommandFailed
from streamfleet_core.protocol.messages import DrillFault

if TYPE_CHECKING:
    from streamfleet.results import Device, Pipeline
    from streamfleet_api.cli.drills.observer import Observer
    from streamfleet_api.client.http_client import Client

FAULTS: tuple[DrillFault, ...] = get_args(DrillFault)
_LEAD = 2.0  # seconds of predictions before the fault
_SETTLE = 3.0  # seconds of predictions after all are back
_BACK_TIMEOUT = 3 * ELSEWHERE  # seconds for predictions to come again
_READY_TIMEOUT = 90.0  # seconds for the fleet to be whole again before the next drill
_WATCH = 7.5  # seconds in which a process that was killed must have been missed, if it is missed at all
_PAUSE = 0.25  # seconds between two looks
# The states in which an event tells of a fault. No event tells of the others.
_TOLD: dict[DrillFault, tuple[str, ...]] = {"isolate": ("lost",), "camera": ("starting", "backoff")}

T = TypeVar("T")


@click.command()
@click.option(
    "--device",
    callback=parameters.name,
    shell_complete=complete_device,
    metavar="NAME",
    help="The device that has the fault.  [default: the one with most pipelines that may move]",
)
@click.option(
    "--fault",
    type=click.Choice(FAULTS),
    default="isolate",
    show_default=True,
    help="What happens to it: cut off from the broker, or one of its processes is killed.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Drills in a row.")
@click.option(
    "--seconds",
    type=click.FloatRange(12, 120),
    default=20.0,
    show_default=True,
    help="How long a device is cut off.",
)
@click.option(
    "--known-within",
    type=click.FloatRange(0.1, 600),
    metavar="SECONDS",
    help="The target until the fleet knows that a device is lost, with --fault isolate.  [default: 10.5]",
)
@click.option(
    "--back-within",
    type=click.FloatRange(0.1, 600),
    metavar="SECONDS",
    help="The target until the first prediction of the replacement.  [default: 15, on the same device 10]",
)
@click.option(
    "--allow", metavar="HOURS", help="Start drills only in these hours of the local time: 22:00-05:00."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder of the reports (Markdown and JSON).  [default: this one]",
)
@yes_option
@as_json_option
@click.pass_obj
def drill(
    settings: Settings,
    /,
    device: str | None,
    fault: DrillFault,
    rounds: int,
    seconds: float,
    known_within: float | None,
    back_within: float | None,
    allow: str | None,
    output: Path,
    yes: bool,
    as_json: bool,
) -> None:
    """Cause a fault on purpose, and report how the fleet copes.

    Only devices whose worker runs with --allow-drills true take part. Exits with 1 if a target was missed.

    \b
      streamfleet drill --allow 22:00-05:00
      streamfleet drill --fault engine --device edge-1 --rounds 5
    """
    if known_within is not None and fault != "isolate":
        raise click.UsageError("--known-within is for --fault isolate: the fleet loses no device otherwise")
    hours = _hours(allow)
    targets = Targets.of(fault, known_within, back_within)
    client = settings.client()
    _check_hours(hours)
    chosen = _choose(client, device, fault)
    names = [each.pipeline_id for each in _concerned(client, chosen.device, fault)]
    what = "is cut off from the broker" if fault == "isolate" else f"loses its {fault} process"
    confirm(f"{chosen.device} {what}, which interrupts {listed(names)}. Go on?", yes=yes)
    stem = output / f"drill-{datetime.now():%Y%m%d-%H%M%S}"
    outcomes: list[DrillOutcome] = []
    with _observer(settings, client) as observer:
        for number in range(1, rounds + 1):
            if number > 1 and hours is not None and datetime.now().time() not in hours:
                warn(f"the allowed hours are over: {number - 1} of {rounds} drills were done")
                break
            outcomes.append(Round(client, observer, fault, seconds, targets).run(device))
            _write(outcomes, stem, settings.url)  # after each: the next one may not come to its end
            if not as_json:
                click.echo(_line(number, outcomes[-1]))
    click.echo(report_as_json(outcomes).rstrip() if as_json else f"report: {stem}.md")
    if any(outcome.problems for outcome in outcomes):
        raise CommandFailed("a target was missed", f"{stem}.md tells which")


@dataclass(frozen=True, slots=True)
class Round:
    """One drill."""

    client: Client
    observer: Observer
    fault: DrillFault
    seconds: float
    targets: Targets

    def run(self, device: str | None) -> DrillOutcome:
        """Wait until the fleet is whole, cause the fault, and observe. Raises: CommandFailed."""
        chosen = _until(lambda: _whole(self.client, device, self.fault), _READY_TIMEOUT)
        if chosen is None:
            raise CommandFailed("no device is ready for a drill", "'streamfleet devices' tells their states")
        pipelines = _concerned(self.client, chosen.device, self.fault)
        began = time.monotonic()
        _until(lambda: all(self.observer.arrivals(each.pipeline_id, began) for each in pipelines), ELSEWHERE)
        time.sleep(_LEAD)
        cursor = (self.client.recent_events(1) or (None,))[-1]
        after = None if cursor is None else (cursor.epoch, cursor.n)
        fault_at, wall = time.monotonic(), datetime.now().astimezone()
        self._cause(chosen.device, pipelines)
        _until(lambda: all(self._is_back(each, began, fault_at) for each in pipelines), _BACK_TIMEOUT)
        rest = self.seconds - (time.monotonic() - fault_at) if self.fault == "isolate" else 0.0
        time.sleep(max(0.0, rest) + _SETTLE)
        subject = chosen.device if self.fault == "isolate" else pipelines[0].pipeline_id
        outcome = DrillOutcome(
            fault=self.fault,
            device=chosen.device,
            at=wall.isoformat(timespec="seconds"),
            detected=self._detected(subject, after, wall.timestamp()),
            targets=self.targets,
            pipelines=tuple(self._outcome(each, began, fault_at) for each in pipelines),
        )
        self.observer.forget()
        return outcome

    def _cause(self, device: str, pipelines: list[Pipeline]) -> None:
        self.client.drill_device(
            device,
            self.fault,
            pipeline=pipelines[0].pipeline_id if self.fault == "camera" else None,
            seconds=self.seconds if self.fault == "isolate" else 0.0,
        )

    def _outcome(self, pipeline: Pipeline, began: float, fault_at: float) -> PipelineOutcome:
        arrivals, until = self.observer.arrivals(pipeline.pipeline_id, began), time.monotonic()
        elsewhere = self.fault == "isolate"
        return pipeline_outcome(pipeline.pipeline_id, arrivals, fault_at, until, elsewhere=elsewhere)

    def _is_back(self, pipeline: Pipeline, began: float, fault_at: float) -> bool:
        outcome = self._outcome(pipeline, began, fault_at)
        if self.fault == "isolate" or time.monotonic() > fault_at + _WATCH:
            return outcome.first is not None
        return outcome.first is not None and outcome.interruption > NOTICED

    def _detected(self, subject: str, after: tuple[int, int] | None, fault_at: float) -> float | None:
        """Seconds from the fault to the first event that tells of it. `subject`: the device or pipeline."""
        kind = "device" if self.fault == "isolate" else "pipeline"
        for event in self.client.recent_events(1000):
            is_new = after is None or (event.epoch, event.n) > after
            is_about = (event.subject, event.id) == (kind, subject)
            if is_new and is_about and event.state in _TOLD.get(self.fault, ()):
                return round(event.at - fault_at, 2)
        return None


def _hours(text: str | None) -> Hours | None:
    try:
        return None if text is None else Hours.parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--allow") from exc


def _check_hours(hours: Hours | None) -> None:
    now = datetime.now().time()
    if hours is not None and now not in hours:
        raise CommandFailed(f"it is {now:%H:%M}, and drills are allowed {hours}")


def _playing(client: Client, device: str) -> list[Pipeline]:
    """The running pipelines of a device."""
    return [each for each in client.list_pipelines(device=device) if each.status == "running"]


def _interruptible(client: Client, device: str, fault: DrillFault) -> list[Pipeline]:
    """The pipelines that a fault may interrupt: a pinned one goes on where its device is cut off."""
    return [each for each in _playing(client, device) if fault != "isolate" or not each.pinned]


def _concerned(client: Client, device: str, fault: DrillFault) -> list[Pipeline]:
    """The pipelines that a fault interrupts: of cameras only one. Raises: CommandFailed if there is none."""
    found = _interruptible(client, device, fault)
    if not found:
        raise CommandFailed(f"no pipeline runs on {device} any more", "begin the drill again")
    return found[:1] if fault == "camera" else found


def _choose(client: Client, name: str | None, fault: DrillFault) -> Device:
    """The device for a drill. Raises: CommandFailed."""
    devices = client.list_devices()
    chosen = devices if name is None else [known_device(devices, name)]
    willing = [each for each in chosen if each.drills]
    if not willing:
        who = f"device {name} does not take" if name is not None else "no device takes"
        raise CommandFailed(f"{who} part in drills", "start its worker with --allow-drills true")
    ready = [each for each in willing if each.state == "ready"]
    concerned = {each.device: _interruptible(client, each.device, fault) for each in ready}
    found = max(ready, key=lambda each: len(concerned[each.device]), default=None)
    if found is None or not concerned[found.device]:
        raise CommandFailed(
            "no pipeline that " + ("may move " if fault == "isolate" else "") + "runs on a device of drills",
            "'streamfleet pipelines' tells what runs where",
        )
    if fault == "isolate" and sum(each.state == "ready" for each in devices) < 2:
        raise CommandFailed("there is no other ready device that could take its pipelines over")
    return found


def _whole(client: Client, device: str | None, fault: DrillFault) -> Device | None:
    """The device for the next drill, once nothing is on its way."""
    if any(each.status not in ("running", "paused", "ended") for each in client.list_pipelines()):
        return None
    if any(each.state in ("suspect", "syncing", "lost") for each in client.list_devices()):
        return None
    try:
        return _choose(client, device, fault)
    except CommandFailed:
        return None


def _until(look: Callable[[], T], timeout: float) -> T:
    """Look until something is there, or the time is over. Returns what was seen last."""
    deadline = time.monotonic() + timeout
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return found


@contextlib.contextmanager
def _observer(settings: Settings, client: Client) -> Iterator[Observer]:
    """Subscribe on this machine, or with keys that are valid during the drills."""
    from streamfleet_api.cli.drills.observer import Observer

    if (settings.data_dir / "broker/predictions.ipc").exists():
        with Observer(None, settings.data_dir) as observer:
            yield observer
        return
    name = f"drill-{secrets.token_hex(4)}"
    keys = client.add_subscriber(name)
    try:
        with Observer(keys, settings.data_dir) as observer:
            yield observer
    finally:
        client.remove_subscriber(name)


def _line(number: int, outcome: DrillOutcome) -> str:
    firsts = [each.first for each in outcome.pipelines if each.first is not None]
    worst = f"{max(firsts):.1f} s" if len(firsts) == len(outcome.pipelines) and firsts else "never"
    detected = "" if outcome.detected is None else f"known after {outcome.detected:.1f} s, "
    doubled = sum(each.doubled for each in outcome.pipelines)
    verdict = "kept" if not outcome.problems else "; ".join(outcome.problems)
    again = f"all predict again after {worst}, doubled {doubled}"
    return f"{number}. {outcome.device}: {detected}{again}: {verdict}"


def _write(outcomes: list[DrillOutcome], stem: Path, fleet: str) -> None:
    """Write both reports. Raises: CommandFailed."""
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".md").write_text(as_markdown(outcomes, fleet))
        stem.with_suffix(".json").write_text(report_as_json(outcomes))
    except OSError as exc:
        raise CommandFailed(f"{exc.filename}: {exc.strerror}") from exc
