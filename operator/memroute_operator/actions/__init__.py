"""What a step decided, brought to the API server."""
