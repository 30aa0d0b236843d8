"""gRPC over HTTP/2 as a server needs it: calls come in, messages go both ways.

```text
reading.py ──► connection.py ──► call.py (one call: messages, windows) ──► sending.py
(frames that come;  │  waste.py (streams that come to nothing)            (frames that go;
 hpack.py,          │                                                       frames.py)
 huffman.py)   listening.py (sockets, certificates, draining), side.py (what connections share)
```

Our own, because the data path is: a call of ``grpc.aio`` costs 300 us of a core where one of these
costs 40 (docs/adr/0053-endpoint-picker.md).
"""
