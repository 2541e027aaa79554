"""The camera process, one per pipeline: sources, letterbox, engine, tracker, sinks."""
