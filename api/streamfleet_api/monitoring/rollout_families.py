"""The metrics of roll-outs: how many there are, how far they are, and when one returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from streamfleet_api.monitoring.exposition import Family, labelled
from streamfleet_core.protocol.tasks.rollouts import RolloutView


def rollout_families(rollouts: Sequence[RolloutView]) -> Iterator[Family]:
    """The families about the last roll-outs. Pipelines are counted of those that are not over."""
    known = Family("streamfleet_rollouts", "The last roll-outs of models, by phase.", labels=("phase",))
    for phase, count in sorted(Counter(each.phase for each in rollouts).items()):
        known.add(labelled(phase=phase), count)
    pipelines = Family(
        "streamfleet_rollout_pipelines",
        "Pipelines of a roll-out that is not over: `waiting` for their wave, `switched` to the new model and "
        "not proven yet, `good`, `bad`, told to go `back`, or `gone`.",
        labels=("rollout", "old", "new", "stage"),
    )
    returned = Family(
        "streamfleet_rollout_last_return_timestamp_seconds",
        "When the last roll-out ended that took the old model back, in Unix seconds.",
    )
    for each in rollouts:
        if each.ended_at is None:
            for stage, count in each.stages.items():
                labels = labelled(rollout=each.id, old=each.plan.old.id, new=each.plan.new.id, stage=stage)
                pipelines.add(labels, count)
    ends = [each.ended_at for each in rollouts if each.phase == "returned" and each.ended_at is not None]
    if ends:
        returned.add("", max(ends))
    yield from (known, pipelines, returned)
