"""The cluster edge: what ModelDeployments want, brought about one level-triggered step at a time.

```text
kopf events ──► store (newest object per key) ──► reconciler, the only writer
                                                    gather   store + device readings → facts
                                                    plan     facts → actions and outcomes (pure)
                                                    apply    actions → API calls, answers → store
                                                    status   outcomes → conditions and columns
```

The pod is the reservation: killed at any line and restarted, the operator lists the pods and
knows all it had promised.
"""
