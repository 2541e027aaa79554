"""What a pipeline does with its model, for the broker, which compares models. Pure."""

from __future__ import annotations

import statistics

from streamfleet_core.protocol.source_reference import cut_reason
from streamfleet_core.protocol.tasks.trials import PipelineFigures
from streamfleet_worker.decisions.pipeline_table import PipelineView


def figures_of(view: PipelineView, now: float) -> PipelineFigures | None:
    """The figures of a pipeline; None before its process has reported. `now`: of the device's clock."""
    if view.report is None or view.report_age is None:
        return None
    sources = view.report.sources
    latencies = [source.latency for source in sources if source.latency is not None]
    return PipelineFigures(
        pipeline_id=view.assignment.pipeline_id,
        at=now - view.report_age,
        model=view.model.digest,
        crashes=view.model_crashes,
        trouble=cut_reason(view.model_trouble),
        frames=sum(source.emitted for source in sources),
        objects=sum(source.objects for source in sources),
        latency=statistics.fmean(latencies) if latencies else None,
        shadow=view.shadow,
    )
