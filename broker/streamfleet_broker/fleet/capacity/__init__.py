"""Capacity: what pipelines cost, what devices have, and what is left. Pure."""
