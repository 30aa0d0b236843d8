"""Which replica? The page to read first is ``choose``."""

from memroute.routing.choose import Choice, choose

__all__ = ["Choice", "choose"]
