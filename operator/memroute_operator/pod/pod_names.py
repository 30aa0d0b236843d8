"""The names of replicas' pods: ``NAME-REVISION-CODE``, like those of a ReplicaSet.

```text
chat-3f9a1-k7wd       NAME of the ModelDeployment, 5 digits of the revision, 4 of the slot's code
```

A *slot* is a number that only homes, claims and back-off know (the label ``memroute.dev/replica``);
it says nothing of an order, and the pods that are there may have any of them. The code is worked
out from it, not drawn by chance: two operators that fill the same slot at once write the same name,
and the API server refuses the second pod. Pods of earlier releases (``NAME-0``, ``NAME-0-r1``) keep
their names; nothing is read from a name.
"""

import hashlib
from functools import lru_cache

from memroute.placement import ReplicaKey
from memroute_operator.spec.deployment import Deployment

# Letters and digits that make no words and are not taken for one another: those of Kubernetes'
# own names, without the r of "-r1", which earlier releases read as the number of an attempt.
ALPHABET = "bcdfghjklmnpqstvwxz2456789"
# With 5 digits of the revision, a name of 52 characters makes a pod's of 63, a whole host name.
CODE_LENGTH = 4
REVISION_LENGTH = 5
NUM_CODES = len(ALPHABET) ** CODE_LENGTH
# Odd and no multiple of 13, so that each slot has a code of its own; large, so that the codes of
# neighbours look nothing like each other.
STRIDE = 175_757


def replica_key(deployment: Deployment, slot: int) -> ReplicaKey:
    """The replica of a deployment in a slot; its pod's name has the revision."""
    return ReplicaKey(
        namespace=deployment.namespace,
        name=deployment.name,
        index=slot,
        suffix=f"{deployment.revision[:REVISION_LENGTH]}-{code_of(deployment.uid, slot)}",
    )


def code_of(uid: str, slot: int) -> str:
    """The code of a slot: another one for each of the first 456,976 slots of an object."""
    number = (slot * STRIDE + _offset(uid)) % NUM_CODES
    digits = []
    for _ in range(CODE_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


@lru_cache(maxsize=10_000)
def _offset(uid: str) -> int:
    """Where an object's codes begin: those of a namesake that was deleted are others."""
    return int(hashlib.sha256(uid.encode()).hexdigest()[:8], 16)
