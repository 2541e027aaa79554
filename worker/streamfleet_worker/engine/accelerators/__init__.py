"""Which accelerator runs a model, and why one does not."""
