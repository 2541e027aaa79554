"""The commands of `streamfleet` that tell what happens as it happens: `tail`, `events` and `logs`."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_device,
    complete_pipeline,
    did_you_mean,
    selector_option,
    warn,
)
from streamfleet_api.cli.pipeline_text import find, silence
from streamfleet_api.cli.tables import in_colour, on_terminal, plain
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet_api.cli.logs import LogLine
    from streamfleet_api.client.http_client import Client

_EVERY = 0.2  # seconds between two looks at the logs
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


@click.command()
@click.argument("pipeline_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_pipeline)
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class. Repeatable.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), help="Minimum confidence of an object.")
@selector_option
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_device,
    help="Only on this device. Repeatable.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.IntRange(0),
    help="Only this source index, from 0. Repeatable.",
)
@click.option("-n", "count", type=click.IntRange(1), help="Stop after this number.")
@as_json_option
@click.pass_obj
def tail(
    settings: Settings,
    /,
    pipeline_ids: tuple[str, ...],
    classes: tuple[str, ...],
    min_confidence: float | None,
    selector: str | None,
    devices: tuple[str, ...],
    sources: tuple[int, ...],
    count: int | None,
    as_json: bool,
) -> None:
    """Print live predictions.

    Of some pipelines or of all. With --json a document a line.

    \b
      streamfleet tail door --class person --min-confidence 0.6
    """
    from urllib.parse import urlencode

    from streamfleet_api.cli.tail import follow, prediction_line

    client = settings.client()
    entries = client.list_pipelines() if pipeline_ids else ()
    chosen = [find(given, entries) for given in pipeline_ids]
    query: list[tuple[str, Any]] = [
        *(("pipeline", entry.pipeline_id) for entry in chosen),
        *(("class", name) for name in classes),
        *(("device", name) for name in devices),
        *(("source", number) for number in sources),
        *([("selector", selector)] if selector else []),
        *([("min_confidence", min_confidence)] if min_confidence is not None else []),
    ]
    for entry in chosen:
        if silent := silence(entry):
            warn(silent)
    name = _names(client)
    path = f"/v2/predictions{'?' if query else ''}{urlencode(query)}"
    with contextlib.closing(follow(client, path, warn)) as predictions:
        for data in itertools.islice(predictions, count):
            click.echo(data if as_json else plain(prediction_line(json.loads(data), name)))


def _names(client: Client) -> Callable[[str], str]:
    """Ids are shortened on a terminal."""
    from streamfleet_api.cli.tail import ShortIds

    return ShortIds(client) if on_terminal() else str


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Print new events too, until Ctrl-C.")
@click.option(
    "-n", "count", type=click.IntRange(0, 2000), default=50, show_default=True, help="Number of past events."
)
@as_json_option
@click.pass_obj
def events(settings: Settings, following: bool, count: int, as_json: bool) -> None:
    """Print events of pipelines and devices.

    With --json a document a line.

    \b
      streamfleet events -f -n 10
    """
    from streamfleet_api.cli.tail import event_line, follow

    client = settings.client()
    name = _names(client)

    def tell(event: dict[str, Any]) -> None:
        click.echo(json.dumps(event) if as_json else plain(event_line(event, name, time.time())))

    past = client.past_events(max(count, 1))
    for event in past.events if count else []:
        tell(event)
    if not past.events and not following:
        click.echo("nothing has happened since the broker began", err=True)
    if following:
        stream = follow(client, "/v2/events", warn, what="events", silent="", after=past.last)
        with contextlib.closing(stream) as news:
            for data in news:
                tell(json.loads(data))


# logs -----------------------------------------------------------------------------------------------------


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-f", "--follow", "following", is_flag=True, help="Print new lines too.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    help="Number of past lines.",
)
@as_json_option
@click.pass_obj
def logs(settings: Settings, names: tuple[str, ...], following: bool, count: int, as_json: bool) -> None:
    """Print the logs of this machine's fleet.

    What broker, api and workers wrote, in the order of time, as 'streamfleet up' keeps it in its data
    directory. Logs of other devices are not fetched: look there, with journalctl where the worker is a
    service.

    \b
      streamfleet logs broker local-1 -f
    """
    from streamfleet_api.cli.logs import Reader, last_lines

    folder = settings.data_dir / "logs"
    parts = _parts(folder, names, settings.data_dir)
    show = _teller(parts, as_json)
    with contextlib.closing(Reader(folder, names)) as reader:
        show(last_lines(reader.read(), count))
        while following:
            time.sleep(_EVERY)
            show(reader.read())


def _parts(folder: Path, names: tuple[str, ...], data_dir: Path) -> list[str]:
    """Every part that has a log. Raises: CommandFailed."""
    try:
        known = sorted(path.stem for path in folder.glob("*.log"))
    except OSError as exc:
        raise CommandFailed(f"{folder}: {exc.strerror}") from exc
    if not data_dir.is_dir():
        hint = "'streamfleet up' makes it; --data-dir or STREAMFLEET_DATA_DIR names another"
        raise CommandFailed(f"no fleet has its data in {data_dir}", hint)
    if not known:
        hint = "'streamfleet up' keeps them when it runs in a terminal; as a service: journalctl"
        raise CommandFailed(f"there are no logs in {folder}", hint)
    for name in names:
        if name not in known:
            guess = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise CommandFailed(f"no part {name!r} has a log here", guess)
    return known


def _teller(parts: list[str], as_json: bool) -> Callable[[Iterable[LogLine]], None]:
    """Prints lines with the part's name in front."""
    width = max(map(len, parts))
    colours = dict(zip(parts, itertools.cycle(_COLOURS))) if in_colour() else {}

    def tell(lines: Iterable[LogLine]) -> None:
        for line in lines:
            if as_json:
                document = {"part": line.part, "at": line.at or None, "line": line.text}
                click.echo(json.dumps(document))
            else:
                name = click.style(line.part.ljust(width), fg=colours.get(line.part))
                click.echo(f"{name}  {plain(line.text)}")

    return tell


STREAM_COMMANDS = (tail, events, logs)
