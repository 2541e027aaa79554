"""Hardware decoding: GStreamer decodes in a child program, and its pictures come back over a pipe."""
