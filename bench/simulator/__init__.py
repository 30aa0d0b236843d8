"""The simulator against the world: recorded runs, published curves, and its own speed."""
