"""Samples: frames kept for labelling. Selection, writing and limits."""
