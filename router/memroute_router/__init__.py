"""The HTTP edge: requests in, the replica on which each costs least in seconds, bytes back.

```text
http/connection → lifecycle: intake (parse and size once)
            → Pool.submit (decide, choose and reserve in one step)
            → attempt (http/client: bytes forwarded, events counted) → the lease ends, exactly once

discovery (API server, or a file)   which replicas there are, by which settings
replicas (engines' /metrics)        what each replica holds
peers (UDP)                         what other routers send
```

``lifecycle/lifecycle.py`` is the page to read first; ``app.py`` wires everything. The decisions are
in ``memroute.traffic``.
"""
