"""What the fields share that keep something on a replica's host: the link, and who else says so."""

from collections.abc import Collection, Mapping
from typing import Any

from memroute.catalog import accelerator_for_product
from memroute.hierarchy import HostLink, host_link_of, host_link_of_text
from memroute.placement import Placed
from memroute_kube.shapes import listed, mapping
from memroute_operator.engines.vllm_arguments import Flag, parse_arguments


def host_link_on(placed: Placed) -> HostLink | None:
    """The link of a replica's devices to their host; None where nobody knows it.

    As somebody has written on the node; else as the device's data sheet says.
    """
    said = None if placed.host_link is None else host_link_of_text(placed.host_link)
    if said is not None:
        return said
    accelerator = accelerator_for_product(placed.product) if placed.product else None
    return None if accelerator is None else host_link_of(accelerator)


def said_twice(
    spec: Mapping[str, Any], field: str, flags: Collection[str], what: str
) -> str | None:
    """Why a field cannot stand beside one of those flags in ``engine.args``; None without one.

    Read as vLLM reads them: abbreviations, underscores and the parts of a dotted flag are its own
    ways to write one, and the last one counts.
    """
    words = [str(word) for word in listed(mapping(spec.get("engine")).get("args"))]
    for one in parse_arguments(words):
        if isinstance(one, Flag) and one.name.partition(".")[0] in flags:
            return (
                f"spec.{field} and {one.written:.80} in engine.args both say {what}: leave one "
                f"of them out"
            )
    return None
