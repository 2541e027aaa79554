"""Documents that people write: YAML and JSON with the place of each value, and templates in them."""
