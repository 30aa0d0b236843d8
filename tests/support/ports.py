"""Ports for servers that cannot be given one that is open already."""

import random
import socket

# The kernel hands out 32,768 and above to whoever asks for any: between the question and the
# server's own bind, another test would be given the same.
FIRST, LAST = 20_000, 29_999


def free_port():
    """A port on which nobody listens, and that nobody is given who asks for any."""
    for _ in range(100):
        port = random.randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - as whoever takes all addresses
            except OSError:
                continue
            return port
    msg = f"no port from {FIRST} to {LAST} is free"
    raise RuntimeError(msg)
