"""What the API server has written down of calls of memroute's programs."""

import json


def events(audit_log, *, since=0):
    """Every event after so many bytes of the log; one that is being written is left for later."""
    with audit_log.open("rb") as log:
        log.seek(since)
        for line in log:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)
