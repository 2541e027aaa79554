"""A camera process, one a pipeline: source, letterbox, engine, tracker, sinks."""
