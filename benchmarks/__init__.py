"""Benchmarks of a fleet, each compared with a limit or with a baseline of the same run."""
