"""The engine: one process per model, which serves all cameras of the device."""
