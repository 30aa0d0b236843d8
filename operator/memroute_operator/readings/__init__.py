"""Readings of exporters, routers and engines: pages over HTTP, each failing alone."""
