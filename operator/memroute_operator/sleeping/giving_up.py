"""When a replica whose engine does not wake is given up, and replaced as one that failed. Pure.

```text
a wake fails ──► again after 5, 10, 20, 40 s (at most 60) ──► the fifth failure in a row, or
                                                              ten minutes of WAKING: given up
```

Routers send nothing to a replica that wakes, so that its end costs no request; another one starts
awake in its place. One that is not Ready is left to whoever looks after such replicas: its node
may be cut off, with a hundred others, or kubelet is about to start its container anew.
"""

from memroute_kube.sleeping import SleepState
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.sight import EngineSight

# Wakes that fail in a row before the replica is given up: chosen by hand. With the waits between
# them that is 75 s at least, longer than a network that is down for a moment.
MAX_FAILED_WAKES = 5
# Or for how long it wakes, in seconds, where a wake has failed: chosen by hand, as long as an
# engine has to start (``DEADLINE_SECONDS``). A call that hangs takes 240 s of it.
MAX_WAKING_SECONDS = 600.0


def why_given_up(replica: Replica, sight: EngineSight | None) -> str | None:
    """Why its engine is taken not to wake any more; None where it may.

    ``sight``: what its engine has answered last.
    """
    if sight is None or sight.mark != replica.sleep_mark or not sight.num_failed:
        return None
    if replica.sleep_state is not SleepState.WAKING or not replica.is_ready:
        return None
    seconds = replica.seen.sleep_seconds or 0.0
    if sight.num_failed < MAX_FAILED_WAKES and seconds < MAX_WAKING_SECONDS:
        return None
    return f"its engine did not wake in {sight.num_failed} tries: {sight.why}"
