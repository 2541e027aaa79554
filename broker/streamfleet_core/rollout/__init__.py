"""Moves pipelines to another model step by step, and back if it is worse. Pure."""
