"""The broker: which pipelines are wished for, where, under which generation. It never touches a frame."""

__version__ = "0.1.0"
