"""How much HBM an administrator lets each namespace hold: one ConfigMap.

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-hbm-quotas, namespace: memroute-system}
data:
  team-a: 640Gi
  team-b: 160Gi
  _default: 80Gi      # each namespace that is not named; left out: no limit
```

It is in the operator's own namespace, beside the grants of names: whoever may write there can
replace the operator itself, and no tenant can raise its own quota.
"""

from types import MappingProxyType

from memroute.placement import DEFAULT_KEY, HBMQuotas
from memroute_kube import KubeObject
from memroute_kube.quantities import parse_count
from memroute_kube.shapes import mapping

QUOTAS_NAME = "memroute-hbm-quotas"


def read_quotas(obj: KubeObject) -> HBMQuotas:
    """The quotas. What is no quantity is told as such: nothing new is placed by it."""
    found: dict[str, int] = {}
    unreadable: dict[str, str] = {}
    for namespace, text in mapping(obj.get("data")).items():
        size = parse_count(text)
        if size is None:
            said = f"{str(text)[:40]!r} is no quantity such as 640Gi"
            unreadable[str(namespace)] = f"ConfigMap {QUOTAS_NAME} says {said}"
        else:
            found[str(namespace)] = size
    default = found.pop(DEFAULT_KEY, None)
    return HBMQuotas(
        by_namespace=MappingProxyType(found),
        default_bytes=default,
        unreadable=MappingProxyType(unreadable),
    )
