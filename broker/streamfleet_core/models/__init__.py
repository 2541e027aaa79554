"""What a model is, wherever it comes from: read alike by the api's door and by the library on a device."""
