"""How long tests wait."""

from __future__ import annotations

# Seconds that a test waits for what must come. Only a failing test waits so long: a machine that has other
# things to do may stand still for seconds, and that is no fault of what is tested.
PATIENCE = 40
