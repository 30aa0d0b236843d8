"""The HTTP edge: OpenAI requests in, the replica under the least KV pressure, bytes back.

```text
http.server → lifecycle: intake (parse once) → pools.submit (decide, choose and reserve in one step)
            → attempt (http.client, bytes forwarded, events counted) → the lease ends, exactly once
discovery (API server) and scrape (engines' /metrics) keep the pools true meanwhile
```
"""
