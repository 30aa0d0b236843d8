"""Where replicas are put, beside the exact optimum and beside what others would do.

```text
cases ──► Instance (inventory, wanted replicas, oldest first)
             │
             ├─► optimum   the most replicas that any placement holds (HiGHS)
             └─► policies  one choice after the other, counted in Books of the bench's own
```
"""
