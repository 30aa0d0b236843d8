"""What a successor needs on its node before it starts: its weights in a cache, and its image."""

import hashlib
import json
from dataclasses import dataclass

from memroute_operator.spec.deployment import Deployment
from memroute_operator.weights.choosing import Fetched

CODE_LENGTH = 5
REVISION_LENGTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be on a node. Equal for all replicas of a revision."""

    revision: str
    image: str | None
    """The engine's, as it is asked for; None where nobody says."""
    place: str | None
    """Cache and folder of the weights, as a hash; None where nothing is kept beyond a pod."""

    @property
    def key(self) -> str:
        """Equal for the same image and the same weights in the same place."""
        return _hash([self.image, self.place])


def goal_of(deployment: Deployment, default_image: str | None) -> Goal:
    """What replicas of a deployment need. ``default_image``: where the spec names none."""
    return Goal(
        revision=deployment.revision,
        image=deployment.engine_image or default_image,
        place=place_of(deployment),
    )


def place_of(deployment: Deployment) -> str | None:
    """Cache and folder of its weights; None where a start keeps nothing for the next one."""
    weights = deployment.weights
    if not isinstance(weights, Fetched):
        return None
    cache = weights.cache
    if cache.host_path is None and cache.claim is None:
        return None  # an emptyDir goes with its pod
    return _hash([cache.host_path, cache.claim, weights.directory])


def ahead_name(deployment: Deployment, goal: Goal, node: str) -> str:
    """The name of the pod that goes ahead: the same for the same need, so there are never two."""
    code = _hash([deployment.uid, node, goal.key])[:CODE_LENGTH]
    return f"{deployment.name}-{deployment.revision[:REVISION_LENGTH]}-ahead-{code}"


def _hash(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
