"""LoRA adapters that are loaded while engines run: ``docs/adr/0040-adapters-while-engines-run.md``.

```text
spec.adapters ──► reading, slots ──► footprint, flags, pod (what has to be there at its start)
                     │
                     └──► keeper: files by the container memroute-adapters, then engines' own calls
                               │
                               └──► status.adapters, status.routing (what each replica has loaded)
```
"""
