"""What the router writes down: a line for each request, its own events, the last decisions."""
