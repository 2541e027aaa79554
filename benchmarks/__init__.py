"""What the fleet does in figures, each beside its limit of the same run."""

import streamfleet_worker.engine  # noqa: F401 - tells ONNX Runtime, before it is loaded, to report to nobody
