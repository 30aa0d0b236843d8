"""What the words of ``spec.routing``, and of the file of models, mean in the core."""

from memroute.traffic.admission import OverloadObjective
from memroute.traffic.dispatch import AdmissionMode
from memroute_kube.words import Words

ADMISSION_MODES = Words(
    meanings={
        "Enforce": AdmissionMode.ENFORCE,
        "Observe": AdmissionMode.OBSERVE,
        "Disabled": AdmissionMode.OFF,
    },
    renamed={"off": "Disabled"},
)
OVERLOAD_OBJECTIVES = Words(
    meanings={
        "Requests": OverloadObjective.REQUESTS,
        "Tokens": OverloadObjective.TOKENS,
        "Sizes": OverloadObjective.SIZES,
    }
)
