"""The engine: one process a model, which serves every camera of the device."""
