"""The endpoint picker: a gateway's Envoy asks where each request should go, and carries the bytes.

It decides as the router does, by the router's own modules: what is here is how it is asked.

```text
Envoy ── HTTP/2 ──► grpc/       frames, fields, calls: nothing of picking
                    protocol/   the messages of ext_proc, read and written
                    picking/    one stream: a request, its lease, its answer on the way back
                    pools/      the pods of an InferencePool
                    app.py      the router's wiring, with this in front of it
```
"""
