"""Models that sleep while nobody asks for them: ``docs/adr/0055-models-that-sleep.md``.

```text
routers' pages ──► readings.demand: since when nobody has asked
                        │
pods (memroute.dev/sleep) ─┴─► deciding, in the plan's step: MarkSleep on pods, room with it
                        │
                        └──► keeper: the engines' own calls; what it sees goes into the next step
```
"""
