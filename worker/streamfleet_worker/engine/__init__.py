"""An engine process, one a model: it serves every camera of the device."""
