"""A certificate authority in a file, for clients of stubs that speak plain HTTP.

A TLS context without one loads all that the machine trusts: 25 ms of CPU for each, and a client of
the API server makes two.
"""

import atexit
import functools
import os
import tempfile
from pathlib import Path

from memroute_simulator.controlplane.certificates import CertificateAuthority


@functools.cache
def authority_file():
    """The path of a PEM file with one authority, there until the process ends."""
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    with os.fdopen(descriptor, "wb") as file:
        file.write(CertificateAuthority().certificate)
    atexit.register(Path(name).unlink, missing_ok=True)
    return name
