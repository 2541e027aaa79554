"""The control plane with many simulated devices."""
