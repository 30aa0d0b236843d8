"""HTTP/1.1 at the protocol level: the bytes' own path, parsed by llhttp (httptools).

Callbacks, not coroutines: a task and its wake-ups cost as much as the rest of a request.

```text
client ─► server.py  ClientConnection ─► exchange.py  Exchange (a request, the means to answer)
engine ◄─ client.py  EngineConnection ◄─ EnginePool (idle connections per engine)
           fields.py     which header fields travel, which do not
           deadlines.py  one coarse clock for all connections
```

Back-pressure goes both ways: who cannot be written to stops the other side from being read.
"""
