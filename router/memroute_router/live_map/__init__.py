"""The live map: a page for people on the operations listener, and the two documents that it reads.

```text
/map/           index.html, and what it loads: files of this package, under a strict CSP
/map/live.json  replicas, queue, decisions: made while somebody looks, once a second at the most
/map/fleet.json nodes, devices and waiting models, as the operator keeps them (ConfigMap)
```

Nothing here is done for requests. Pages are made in steps between which requests go on, as all
pages of the operations listener are; the ConfigMap is read only while somebody looks.
"""
