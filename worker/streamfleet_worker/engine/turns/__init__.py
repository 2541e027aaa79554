"""Which frames a model infers next, together with which, and on how many threads. Pure."""
