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

| folder | what |
| --- | --- |
| ``store`` | the API server's objects, as far as they are read |
| ``spec`` | ModelDeployments as planning reads them; ``engines``: what each engine takes |
| ``nodes``, ``replicas``, ``readings`` | machines, pods, and what both say of themselves |
| ``rules`` | what administrators say of the whole cluster |
| ``plan`` | the next step, decided from facts alone |
| ``actions`` | the step, brought to the API server |
| ``pod``, ``pod_template``, ``weights`` | the pod of one replica, and how it comes to its weights |
| ``ahead`` | pods that fetch before a rollout needs it |
| ``status``, ``failures``, ``explaining`` | what people are told |
| ``election`` | which operator writes |
"""
