"""The API server's objects, as far as they are read."""
