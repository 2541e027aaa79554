"""Model files: the same checks for an upload to the API and for the library on a device."""
