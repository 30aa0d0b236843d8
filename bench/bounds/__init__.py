"""What a running router holds under ``--max-memory`` while clients and engines do their worst.

The real program serves an honest client meanwhile. See ``docs/how-to/measure-the-bounds.md``.
"""
