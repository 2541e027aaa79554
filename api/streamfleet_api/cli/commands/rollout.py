"""`streamfleet rollout`: moves pipelines to another model in waves, and back if it is worse."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_model,
    did_you_mean,
    selector_option,
    warn,
)
from streamfleet_api.cli.tables import document, say
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet.results import Pipeline
    from streamfleet_api.client.http_client import Client
    from streamfleet_core.rollout.figures import Seen
    from streamfleet_core.rollout.rollout import Rollout

EVERY = 1.0  # seconds
OUT_OF_REACH = 60.0  # seconds without an answer, after which it gives up
RETURNED = 3  # exit code


class _Share(click.ParamType[float]):
    """A share, as 5% or 0.05."""

    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            self.fail(f"expected a share above 0%, up to 100%, got {text!r}", param, ctx)
        return share


@click.command()
@click.argument("old", metavar="MODEL", shell_complete=complete_model)
@click.option(
    "--to", "new", required=True, metavar="MODEL", shell_complete=complete_model, help="The model to use."
)
@selector_option
@click.option(
    "--canary", type=_Share(), default="5%", show_default=True, help="Share of the pipelines that go first."
)
@click.option(
    "--max-unavailable",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Pipelines that may be down, or not proven yet, at the same time.",
)
@click.option(
    "--observe",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long each pipeline is measured, before and after.",
)
@click.option(
    "--start-timeout",
    default="2m",
    show_default=True,
    metavar="TIME",
    help="Until a pipeline must run again.",
)
@click.option(
    "--min-objects",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Objects a frame that it must find, of those that the old model found. 0: any number.",
)
@click.option(
    "--max-latency",
    type=click.FloatRange(1),
    default=2.0,
    show_default=True,
    help="Latency that it may have, times that of the old model (and 50 ms).",
)
@yes_option
@as_json_option
@click.pass_context
def rollout(
    ctx: click.Context,
    /,
    old: str,
    new: str,
    selector: str | None,
    canary: float,
    max_unavailable: int,
    observe: str,
    start_timeout: str,
    min_objects: float,
    max_latency: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Move pipelines from a model to another one, in waves.

    It measures them with the old model, moves a few, and compares: objects, latency, frames/s and crashes.
    If all are good, the others follow. If one is bad, all go back. It ends with 0 when all have the new
    model, and with 3 when all have the old one again. Ctrl-C leaves everything as it is; the same command
    continues, and with both models exchanged it goes back.

    \b
      streamfleet rollout parts/1 --to parts/2 --canary 5% --max-unavailable 5
    """
    from streamfleet_core.rollout.judgement import Limits
    from streamfleet_core.rollout.rollout import Rollout

    settings: Settings = ctx.obj
    limits = Limits(
        observe=parameters.seconds(observe, "--observe"),
        start=parameters.seconds(start_timeout, "--start-timeout"),
        min_objects=min_objects,
        max_latency=max_latency,
    )
    client = settings.client()
    _check_models(client, old, new)
    chosen = [entry for entry in client.list_pipelines(selector) if entry.spec.model.id == old]
    chosen = [entry for entry in chosen if entry.status not in ("ended", "stopping")]
    if not chosen:
        raise CommandFailed(f"no pipeline uses {old}", "'streamfleet pipelines' lists them")
    names = listed([entry.pipeline_id for entry in chosen])
    confirm(f"Move {len(chosen)} pipelines from {old} to {new}: {names}?", yes=yes)
    moves = Rollout(
        {entry.pipeline_id: _seen(entry) for entry in chosen},
        old=old,
        new=new,
        canary=canary,
        max_unavailable=max_unavailable,
        limits=limits,
    )
    if not as_json:
        say(f"measuring {len(chosen)} pipelines with {old} for {limits.observe:g} s")
    _run(client, moves, selector, quiet=as_json)
    if as_json:
        report = {"phase": moves.phase, "reason": moves.reason, "pipelines": moves.verdicts()}
        click.echo(document(report))
    elif moves.phase == "done":
        say(f"done: {new} runs in {len(chosen)} pipelines")
    else:
        say(f"returned to {old}: {moves.reason}")
    ctx.exit(0 if moves.phase == "done" else RETURNED)


def _check_models(client: Client, old: str, new: str) -> None:
    """Check that both exist and find the same. Raises: CommandFailed."""
    if old == new:
        raise click.UsageError("expected another model with --to")
    known = {model.id: model for model in client.list_models()}
    for name in (old, new):
        if name not in known:
            raise CommandFailed(
                f"no model {name}{did_you_mean(name, list(known), '; ') or ''}",
                "'streamfleet models' lists them",
            )
    lost = [name for name in known[old].labels or () if name not in (known[new].labels or ())]
    if lost:
        warn(f"{new} does not know {', '.join(lost[:5])}, which {old} finds")


def _run(client: Client, moves: Rollout, selector: str | None, *, quiet: bool) -> None:
    """Step once a second until it is over. Raises: CommandFailed if the api is away for too long."""
    from streamfleet_core.rollout.rollout import Note

    answered_at = time.monotonic()
    while True:
        try:
            seen = {entry.pipeline_id: _seen(entry) for entry in client.list_pipelines(selector)}
            answered_at = time.monotonic()
        except CommandFailed as exc:
            if time.monotonic() - answered_at > OUT_OF_REACH:
                raise
            warn(f"{exc}, trying again")
            time.sleep(EVERY)
            continue
        phase = moves.phase
        for action in moves.step(seen, time.monotonic()):
            if isinstance(action, Note):
                if not quiet:
                    say(f"{action.pipeline_id}: {action.text}" if action.pipeline_id else action.text)
            else:
                _switch(client, action.pipeline_id, action.model)
        if moves.phase != phase and moves.phase == "waves" and not quiet:
            say("all of them are good: the others follow")
        if moves.is_over:
            return
        time.sleep(EVERY)


def _switch(client: Client, pipeline_id: str, model: str) -> None:
    """A change that fails is asked for again by the roll-out."""
    try:
        client.patch_pipeline(pipeline_id, model=model)
    except CommandFailed as exc:
        warn(f"{pipeline_id}: {exc}")


def _seen(entry: Pipeline) -> Seen:
    from streamfleet_core.rollout.figures import Seen

    return Seen(
        model=entry.spec.model.id,
        status=entry.status,
        reason=entry.reason,
        device=entry.device,
        restarts=entry.restarts,
        frames=sum(source.emitted for source in entry.sources),
        objects=sum(source.objects for source in entry.sources),
        latency=entry.latency,
    )
