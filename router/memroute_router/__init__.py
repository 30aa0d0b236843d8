"""The HTTP edge: OpenAI requests in, the replica under the least KV pressure, bytes back.

```text
http.server → requests (parse once) → pools.admit (decide, choose and reserve in one step)
            → proxy (http.upstream, bytes forwarded) → release, exactly once
discovery (API server) and scrape (engines' /metrics) keep the pools true meanwhile
```
"""
