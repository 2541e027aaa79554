"""What is wrong with this machine, and the step that mends it."""
