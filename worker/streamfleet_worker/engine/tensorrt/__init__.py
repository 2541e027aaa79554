"""Models in TensorRT, with the system's Python module: JetPack has it, and PyPI has none for a Jetson."""
