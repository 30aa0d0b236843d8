"""``memroute``: what people run."""
