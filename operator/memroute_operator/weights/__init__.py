"""How a replica comes to its weights, when its engine does not fetch them by itself.

```text
spec.model.source + .cache + the operator's defaults
        │ choosing
        ▼
None ──────────────► the engine asks the hub, as ever
Mounted ───────────► a volume that has them (claim, host path, OCI image)
Fetched ───────────► a cache, and an init container that fills it (memroute-fetch)
        │ pod
        ▼
volumes, mounts, the init container; the engine is told a folder

the init container's page (:8081/progress) ──► reports ──► "Downloading 41 of 142 GiB"
how it has ended, on which node            ──► book    ──► nodes that have the weights
```

All of it is pure but ``reports`` (reads pages) and ``book`` (keeps a ConfigMap).
"""
