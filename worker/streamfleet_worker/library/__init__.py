"""The pipeline of the worker as a library: inside the user's program, with neither broker nor agent."""
