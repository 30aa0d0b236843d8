"""Published curves, made again: each a seeded study."""
