"""The original's Stream Manager as a TCP server: its frames, its commands, its replies."""
