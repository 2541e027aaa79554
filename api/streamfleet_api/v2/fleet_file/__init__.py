"""A fleet as a file: what it may say, what it changes, and the file for what is there."""
