"""The broker: stores the desired pipelines and assigns them to devices. It never touches a frame."""

__version__ = "0.1.0"
