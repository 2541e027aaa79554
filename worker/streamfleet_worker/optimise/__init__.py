"""Builds variants of a model for the board that it runs on, and measures them against the float model."""
