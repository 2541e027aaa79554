"""Models in TensorRT, without a GPU."""
