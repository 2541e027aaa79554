"""Complete predictions: each one once and in order, or a statement of which are gone and why."""
