"""What a ModelDeployment's owner adds to the pods of its replicas: ``spec.template``.

```text
spec.template ──refusal()──► what memroute owns, and what Pod Security calls privileged: a sentence
      │
      ├──scheduling()──► tolerations, node selector, required affinity      (placement reads them)
      │
      └──overlay()────► the pod that the operator makes, with the template merged over it
```

Everything here is pure: an object in, an object or a sentence out.
"""

from memroute_operator.pod_template.overlaying import overlay
from memroute_operator.pod_template.owned import TemplateError, refusal
from memroute_operator.pod_template.reading import NO_TEMPLATE, PodTemplate, read_template

__all__ = [
    "NO_TEMPLATE",
    "PodTemplate",
    "TemplateError",
    "overlay",
    "read_template",
    "refusal",
]
