"""Roboflow's Stream Manager as a TCP server: its frames, commands and replies."""
