"""Stages of a pipeline: further models, which run on the objects that the first one has found."""
