"""`streamfleet rollout` and `streamfleet rollouts`: models that take the place of others, in waves."""

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
from streamfleet_api.cli.tables import Table, document, say, show, show_table
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet.results import Rollout
    from streamfleet_api.client.http_client import Client

EVERY = 1.0  # seconds
OUT_OF_REACH = 60.0  # seconds without an answer, after which it no longer follows
RETURNED = 3  # exit code
DATASET = "differing"  # of frames in which both models differ


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
    "--shadow",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long the new model infers frames beside the old one, before it is used. 0s: not at all.",
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
    help="Until a pipeline must run with the new model.",
)
@click.option(
    "--min-objects",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Objects a frame that it must find, of those that the old model found. 0: any number.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the old model's objects that it must find in the same frames, as a shadow.",
)
@click.option(
    "--max-latency",
    type=click.FloatRange(1, 1000),
    default=2.0,
    show_default=True,
    help="Latency that it may have, times that of the old model (and 50 ms).",
)
@click.option(
    "--samples",
    default=DATASET,
    show_default=True,
    metavar="DATASET",
    help="Dataset of frames in which both models differ. none: none are kept.",
)
@click.option("--no-follow", is_flag=True, help="Only start it.")
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
    shadow: str,
    observe: str,
    start_timeout: str,
    min_objects: float,
    min_agreement: float,
    max_latency: float,
    samples: str,
    no_follow: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move all pipelines to another model, a few of them first.

    First the new model infers some frames of a few pipelines beside the old one. Then these pipelines use it.
    If all of them are good, the others follow, and never more than --max-unavailable are down. If one of them
    crashes, finds too little, or is too slow, all go back, and the exit status is 3.

    The broker carries it out: Ctrl-C ends only the following. 'streamfleet rollouts' shows it.

    \b
      streamfleet rollout parts/1 --to parts/2
      streamfleet rollout parts/1 --to parts/2 -l site=hall-1 --canary 10% --shadow 1m
    """
    settings: Settings = ctx.obj
    seconds, labels = parameters.seconds, _labels(selector)
    client = settings.client()
    _check_models(client, old, new)
    chosen = [entry.pipeline_id for entry in client.list_pipelines(selector) if entry.spec.model.id == old]
    if not chosen:
        raise CommandFailed(f"no pipeline uses {old}", "'streamfleet pipelines' lists them")
    names = listed(chosen)
    confirm(f"Move {len(chosen)} pipelines from {old} to {new}: {names}?", yes=yes)
    started = client.start_rollout(
        old,
        new,
        selector=labels,
        canary=canary,
        max_unavailable=max_unavailable,
        shadow=seconds(shadow, "--shadow"),
        observe=seconds(observe, "--observe"),
        start=seconds(start_timeout, "--start-timeout"),
        min_objects=min_objects,
        min_agreement=min_agreement,
        max_latency=max_latency,
        dataset=None if samples == "none" else samples,
    )
    if no_follow:
        show(started, as_json, f"{started.id} began: 'streamfleet rollouts follow {started.id}' tells of it")
        return
    ctx.exit(_follow(client, started, as_json=as_json))


@click.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def rollouts(ctx: click.Context, as_json: bool) -> None:
    """List the last roll-outs, or show, follow and cancel one.

    \b
      streamfleet rollouts
      streamfleet rollouts cancel rollout-1f2e3d4c
    """
    if ctx.invoked_subcommand is not None:
        return
    settings: Settings = ctx.obj
    found = settings.client().list_rollouts()
    rows = [(each.id, each.model.id, each.to.id, each.phase, _counts(each)) for each in reversed(found)]
    table = Table(
        ("roll-out", "from", "to", "phase", "pipelines"),
        rows,
        notes=[each.reason for each in reversed(found)],
    )
    show_table(
        found, as_json, table, empty="no roll-outs yet: 'streamfleet rollout MODEL --to MODEL' starts one"
    )


@rollouts.command("show")
@click.argument("rollout_id", metavar="ID")
@as_json_option
@click.pass_obj
def show_rollout(settings: Settings, rollout_id: str, as_json: bool) -> None:
    """Show how far each pipeline of a roll-out is."""
    found = settings.client().get_rollout(rollout_id)
    lines = [_headline(found)]
    for each in found.pipelines:
        lines += [f"  {each.pipeline_id}: {each.stage}{f', {each.verdict}' if each.verdict else ''}"]
        lines += [f"    {each.shadow}"] if each.shadow and each.shadow != each.verdict else []
    show(found, as_json, "\n".join(lines))


@rollouts.command("follow")
@click.argument("rollout_id", metavar="ID")
@as_json_option
@click.pass_context
def follow_rollout(ctx: click.Context, rollout_id: str, as_json: bool) -> None:
    """Tell of a roll-out until it is over. The exit status is 3 unless the new model is in use."""
    client = ctx.obj.client()
    ctx.exit(_follow(client, client.get_rollout(rollout_id), as_json=as_json))


@rollouts.command("cancel")
@click.argument("rollout_id", metavar="ID")
@click.option("--keep", is_flag=True, help="Each pipeline keeps the model that it has.")
@as_json_option
@click.pass_obj
def cancel_rollout(settings: Settings, rollout_id: str, keep: bool, as_json: bool) -> None:
    """End a roll-out: all of its pipelines go back to the old model."""
    found = settings.client().cancel_rollout(rollout_id, keep=keep)
    show(found, as_json, _headline(found))


def _labels(selector: str | None) -> dict[str, str]:
    """The labels that a selector asks for. Raises: click.UsageError."""
    pairs = [part.partition("=") for part in (selector or "").split(",") if part]
    if any(not sign or not value for _, sign, value in pairs):
        raise click.UsageError(f"expected --selector as KEY=VALUE,KEY=VALUE, got {selector!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


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


def _follow(client: Client, found: Rollout, *, as_json: bool) -> int:
    """Tell what happens until it is over; return the exit status. Raises: CommandFailed without answers."""
    told: set[str] = set()
    answered_at = time.monotonic()
    while True:
        if not as_json:
            _tell(found, told)
        if found.is_over:
            break
        time.sleep(EVERY)
        try:
            found = client.get_rollout(found.id)
            answered_at = time.monotonic()
        except CommandFailed as exc:
            if time.monotonic() - answered_at > OUT_OF_REACH:
                raise
            warn(f"{exc}, trying again")
    if as_json:
        click.echo(document(found))
    return 0 if found.phase == "done" else RETURNED


def _tell(found: Rollout, told: set[str]) -> None:
    """Say what was not told before."""
    lines = [
        f"{each.pipeline_id}: {text}"
        for each in found.pipelines
        for text in dict.fromkeys((each.shadow, each.verdict))
        if text
    ]
    for line in (*lines, _headline(found)):
        key = line if line in lines else found.phase
        if key not in told:
            told.add(key)
            say(line)


_PHASES = {
    "measuring": "measures the pipelines with {old}",
    "shadow": "{new} infers some frames beside {old}",
    "canary": "the first {canaries} use {new}",
    "waves": "all of them are good: the others follow",
    "returning": "goes back to {old}",
    "done": "done: {new} is in use",
    "returned": "returned to {old}",
    "stopped": "stopped: each pipeline keeps the model that it has",
}


def _headline(found: Rollout) -> str:
    text = _PHASES.get(found.phase, found.phase).format(
        old=found.model.id, new=found.to.id, canaries=found.canaries
    )
    return f"{found.id}: {text}{f': {found.reason}' if found.reason else ''} ({_counts(found)})"


def _counts(found: Rollout) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(found.stages.items()))
