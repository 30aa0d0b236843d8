"""What the router exports: ``exported.py`` is the whole of it."""
