"""Frames that are kept for labelling: which ones, how they are written, and how much may lie there."""
