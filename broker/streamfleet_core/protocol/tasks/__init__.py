"""Tasks of devices beside their pipelines: variants of models, and trials of other models. Pure."""
