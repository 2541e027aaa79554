"""What a pipeline costs, as a device has measured it."""

from __future__ import annotations

from streamfleet_core.protocol.costs import Cost

COST = Cost(
    digest="ab" * 32,
    decoder="software",
    width=1280,
    height=720,
    inference=0.05,
    reading=0.001,
    frame=0.01,
    engine_memory=200 << 20,
    camera_memory=100 << 20,
    source_fps=25.0,
    frames=100,
)
