"""Traces by OpenTelemetry: off unless ``--tracing-endpoint`` says where they go.

```text
the router's process                               a process of its own
Trace: ids, times ── Tracer: batches ── a pipe ──► export: OpenTelemetry's SDK ── OTLP/HTTP ──► …
```

The official SDK takes about 0.1 ms of CPU for each span, most of it for encoding. In the router's
process that time would be taken from requests, in whichever thread it runs: they share one lock.
So the router notes ids and times, and another process makes spans of them. A collector that is down
or slow fills a bounded pipe, and then traces are dropped and counted; requests never wait.
"""
