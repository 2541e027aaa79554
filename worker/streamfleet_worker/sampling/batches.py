"""Names of batches of samples: the prefix, and the UTC day on which the batch began."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from streamfleet_core.protocol.sampling import Batching


def batch_name(batching: Batching, now: float) -> str:
    """The batch of a sample taken at `now`, Unix seconds."""
    if batching.recreation_interval == "never":
        return batching.batches_name_prefix
    day = datetime.fromtimestamp(now, timezone.utc).date()
    if batching.recreation_interval == "weekly":
        day -= timedelta(days=day.weekday())
    elif batching.recreation_interval == "monthly":
        day = day.replace(day=1)
    return f"{batching.batches_name_prefix}_{day:%Y_%m_%d}"
