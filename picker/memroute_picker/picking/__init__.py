"""One stream of the gateway: a request, the lease it gets, and its answer on the way back.

```text
            Process ── begins ──► PickedRequest (a Lifecycle)
 messages ─►  │  ▲                    │ admitted
              │  └─ GatewayExchange ◄─┤            what the request's life says: to the gateway
              └──── PickedAttempt  ◄──┘            what the gateway says of the answer: to its life
```

| what | where |
| --- | --- |
| which message may come when, and what becomes of it | ``process.py`` |
| the request as far as it has come | ``asking.py`` |
| what the gateway is told, in each body mode | ``telling.py`` |
| heads of requests and answers | ``heads.py`` |
| a request's life, and what is other than the router's | ``request.py`` |
| one lease, and what the gateway has made of it | ``attempt.py`` |
| the means to answer | ``exchange.py`` |
| where else a request may go | ``fallbacks.py`` |
| where one goes that is none of the API | ``passing.py`` |
| the names of fields as others send them | ``claims.py`` |
| what all streams share | ``side.py`` |
"""
