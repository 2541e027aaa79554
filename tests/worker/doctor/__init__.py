"""What is wrong with a machine, and the step that mends it."""
