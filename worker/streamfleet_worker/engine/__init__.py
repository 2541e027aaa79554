"""The engine: one process a model, which serves every camera of the device.

Nothing leaves a device that nobody asked for. ONNX Runtime's own wheels report to their makers since 1.29,
and leave an id of the device below the home directory, unless this is said before it is loaded. So it is said
at import: a program that uses our library loads no module of ours before.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
