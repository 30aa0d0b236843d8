"""Asks a router which models it serves, and says so; ends with 1 unless it answers."""

import json
import os
import ssl
import time
import urllib.error
import urllib.request

URL = os.environ["ROUTER_URL"].rstrip("/")
# How long the router may take to come up, in seconds: chosen by hand, its image may have to be
# pulled.
PATIENCE_SECONDS = 120.0
# Whether it answers is asked here, and not whose certificate it has.
CONTEXT = ssl._create_unverified_context() if URL.startswith("https:") else None


def ask(path):
    """The answer as JSON; None where the router wants a key first."""
    try:
        with urllib.request.urlopen(URL + path, timeout=10, context=CONTEXT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return None
        raise


def main():
    """Ask until it answers, or patience ends."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            models = ask("/v1/models")
            break
        except OSError as error:
            if time.monotonic() > ends:
                raise SystemExit(f"{URL}: {error}") from error
            time.sleep(1)
    if models is None:
        print(f"{URL} answers, and asks for a key")
    else:
        names = [model["id"] for model in models["data"]]
        print(f"{URL} serves {', '.join(names) or 'no model yet'}")


main()
