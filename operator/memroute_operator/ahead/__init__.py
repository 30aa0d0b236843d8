"""Weights and images that are on a node before a replica leaves for its successor.

A rollout without room for a surge drains the old replica first. Without more, 140 GB are
downloaded while nobody serves. So a small pod goes ahead: the successor's own fetcher and its own
image, on the node where the successor will go, without a device.

```text
claim written ──► pod ahead ──► done ──► the old replica drains ──► successor starts: 0 bytes
                     │ fails for good ──► the revision has failed (``plan/verdict``), nobody left
                     │ cannot run (quota, policy, no room) ──► drained as without it, and told
```

| module | what |
| --- | --- |
| ``goal`` | what a successor needs on its node |
| ``pod`` | the manifest: the replica's pod, less all that serves |
| ``facts`` | how far such a pod is, from its status |

What is done about them is the plan's (``plan/look_ahead``).
"""
