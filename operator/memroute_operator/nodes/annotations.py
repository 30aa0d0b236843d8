"""What a person writes on a node: what nobody publishes, and which devices to leave alone.

```text
memroute.dev/device-memory: 80Gi                  of one device, as nvidia-smi reports it
memroute.dev/device-product: NVIDIA-H100-80GB-HBM3
memroute.dev/device-count: "8"                    where the device plugin hands out slices
memroute.dev/device-cordon: GPU-6f1c…,3           UUIDs (or their beginning) and indexes
memroute.dev/ignored-xids: "63,94"                driver errors that are no reason to avoid a device
memroute.dev/device-link: 17.4us-15GBps           what joins the devices (a label too)
memroute.dev/host-link: 3.7us-55.1-56.4GBps       how each reaches the node's memory (a label too)
```
"""

from collections.abc import Mapping

from memroute.bandwidth import is_link
from memroute.catalog.accelerators import accelerator_for_product
from memroute.hierarchy import host_link_of_text
from memroute_kube.quantities import parse_count, parse_quantity
from memroute_kube.resources import DEVICE_LINK, GROUP, HOST_LINK
from memroute_operator.nodes.facts import Fact, NodeFacts, Source

DEVICE_MEMORY = f"{GROUP}/device-memory"
DEVICE_PRODUCT = f"{GROUP}/device-product"
DEVICE_COUNT = f"{GROUP}/device-count"
DEVICE_CORDON = f"{GROUP}/device-cordon"
IGNORED_XIDS = f"{GROUP}/ignored-xids"
MAX_DEVICES = 256
# The beginning of a UUID names a device when it is at least this long: "GPU-" and four digits.
MIN_UUID_CHARACTERS = 8


def read_annotations(annotations: Mapping[str, str]) -> NodeFacts:
    """What the annotations say of all devices; of a known product the memory may be left out."""
    product = annotations.get(DEVICE_PRODUCT) or None
    memory = parse_quantity(annotations.get(DEVICE_MEMORY))
    if memory is None or memory <= 0:
        accelerator = accelerator_for_product(product or "")
        memory = None if accelerator is None else accelerator.reported_bytes
    count = parse_count(annotations.get(DEVICE_COUNT))
    return NodeFacts(
        count=Fact(count, Source.ANNOTATION) if count and count <= MAX_DEVICES else None,
        product=Fact(product, Source.ANNOTATION) if product else None,
        memory_bytes=None if memory is None else Fact(memory, Source.ANNOTATION),
    )


def is_cordoned(annotations: Mapping[str, str], *, index: int, uuid: str | None) -> bool:
    """Whether the device is one that a person has taken out of use."""
    for name in _listed(annotations, DEVICE_CORDON):
        if name == str(index):
            return True
        if uuid is not None and len(name) >= MIN_UUID_CHARACTERS and uuid.startswith(name):
            return True
    return False


def read_link(annotations: Mapping[str, str], labels: Mapping[str, str]) -> str | None:
    """What joins the node's devices, by its annotation, else its label; None where nobody says.

    What is neither a name nor a measurement is nobody's word.
    """
    for text in (annotations.get(DEVICE_LINK), labels.get(DEVICE_LINK)):
        if text and is_link(text):
            return text
    return None


def bad_link(annotations: Mapping[str, str], labels: Mapping[str, str]) -> str | None:
    """Why a link that somebody has written is not believed; None where there is none such."""
    for text in (annotations.get(DEVICE_LINK), labels.get(DEVICE_LINK)):
        if text and not is_link(text):
            return f"{DEVICE_LINK}={text[:64]!r} is neither a name nor a measurement of a link"
    for text in (annotations.get(HOST_LINK), labels.get(HOST_LINK)):
        if text and host_link_of_text(text) is None:
            return f"{HOST_LINK}={text[:64]!r} is neither a name nor a measurement of a link"
    return None


def read_host_link(annotations: Mapping[str, str], labels: Mapping[str, str]) -> str | None:
    """How the node's devices reach its memory, likewise."""
    for text in (annotations.get(HOST_LINK), labels.get(HOST_LINK)):
        if text and host_link_of_text(text) is not None:
            return text
    return None


def ignored_xids(annotations: Mapping[str, str]) -> frozenset[int]:
    """XIDs that are no reason to avoid a device of this node."""
    numbers = (parse_count(text) for text in _listed(annotations, IGNORED_XIDS))
    return frozenset(number for number in numbers if number is not None)


def _listed(annotations: Mapping[str, str], name: str) -> list[str]:
    return [part.strip() for part in (annotations.get(name) or "").split(",") if part.strip()]
