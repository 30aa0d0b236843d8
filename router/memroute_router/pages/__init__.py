"""What the router answers itself: its API, its description, metrics, health and debug pages."""
