"""Benchmarks of a fleet, each compared with a limit or with a baseline of the same run."""

import streamfleet_worker.engine  # noqa: F401 - disables telemetry of ONNX Runtime before it is loaded
