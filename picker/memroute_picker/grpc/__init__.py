"""gRPC over HTTP/2 as a server needs it: calls come in, messages go both ways.

```text
frames.py ◄── connection.py ──► call.py (one call: messages, windows)
                   │ hpack.py, huffman.py (header fields)
                   │ waste.py (streams that come to nothing)
              listening.py (sockets, certificates, draining)
```

Our own, because the data path is: a call of ``grpc.aio`` costs 300 us of a core where one of these
costs 40 (docs/adr/0053-endpoint-picker.md).
"""
