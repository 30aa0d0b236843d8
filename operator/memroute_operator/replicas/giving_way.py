"""What is written on a replica that gives way: to whom, and the room that is kept for that one.

```text
waits, priority 1000 ──► written on each victim ──► seen ──► they drain, and end
                              │ it fits elsewhere, or is wanted no more: taken back    │
                              └─► they serve on                  created on its claim ◄┘
```

The claim is on each of the victims, so that it lasts until the last of them has gone, whatever
becomes of operators. It is counted once.
"""

import json
from dataclasses import dataclass, replace

from memroute.placement import Placed, Reservation
from memroute_kube.resources import GROUP
from memroute_operator.replicas.promises import Claim, encode_claim, read_claim
from memroute_operator.spec.deployment import Deployment

ANNOTATION_GIVES_WAY = f"{GROUP}/gives-way"
"""On a replica that a replica of higher priority takes the place of."""
# What the API server takes for a priority is 32 bits wide; a bound on what is read.
MAX_PRIORITY = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class GivesWay:
    """To whom a replica gives way."""

    namespace: str
    name: str
    uid: str
    """Of the ModelDeployment that waits."""
    index: int
    priority: int
    claim: Claim

    @property
    def deployment(self) -> str:
        """``namespace/name`` of the ModelDeployment that waits."""
        return f"{self.namespace}/{self.name}"

    @property
    def slot(self) -> str:
        """``namespace/name#index`` of the replica that waits."""
        return f"{self.deployment}#{self.index}"

    def reservation(self, victim: str) -> Reservation:
        """What the ledger counts while the victim is there."""
        claim = self.claim.reservation(victim, self.deployment)
        return replace(claim, owner=self.slot, is_preemptor=True)


def encode_gives_way(deployment: Deployment, placed: Placed, priority: int) -> str:
    """The annotation of a victim. ``deployment``: whose replica waits, and will be placed so."""
    document = {
        "for": {
            "namespace": deployment.namespace,
            "name": deployment.name,
            "uid": deployment.uid,
            "index": placed.key.index,
        },
        "priority": priority,
        "claim": json.loads(encode_claim(placed, revision=deployment.revision)),
    }
    return json.dumps(document, separators=(",", ":"))


def read_gives_way(text: object) -> GivesWay | None:
    """To whom a replica gives way; None when nobody wrote that, or not we."""
    if not isinstance(text, str):
        return None
    try:
        document = json.loads(text)
        said, priority = document["for"], document["priority"]
        claim = read_claim(json.dumps(document["claim"]))
        names = [said[name] for name in ("namespace", "name", "uid")]
        index = said["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    numbers = (index, priority)
    if claim is None or not all(isinstance(one, str) for one in names):
        return None
    if any(not isinstance(one, int) or abs(one) > MAX_PRIORITY for one in numbers) or index < 0:
        return None
    namespace, name, uid = names
    return GivesWay(
        namespace=namespace, name=name, uid=uid, index=index, priority=priority, claim=claim
    )
