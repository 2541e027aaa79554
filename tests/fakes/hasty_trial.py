"""The trial of a model, in which it has three seconds of processor time instead of ten and twenty.

python -m tests.fakes.hasty_trial FILE < MANIFEST
"""

from __future__ import annotations

import sys

from streamfleet_worker.engine import onnx_session, trial

TIME = 3  # seconds

if __name__ == "__main__":
    for name in ("LOAD_TIME", "RUN_TIME"):
        setattr(onnx_session, name, TIME)
    trial.main(sys.argv[1])
