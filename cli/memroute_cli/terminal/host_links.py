"""``--host-link``: how a device reaches its host, as a person names it."""

from pathlib import Path
from typing import Annotated

import typer

from memroute.closeness import did_you_mean
from memroute.hierarchy import HOST_LINKS, HostLink, host_link_of_text, measured_host_link

HostLinkOption = Annotated[
    str | None,
    typer.Option(
        "--host-link",
        metavar="NAME",
        help="How a device reaches its host's memory: pcie3, pcie4, pcie5, c2c, or a measurement "
        "(55.1-56.4GBps to and from the device, or the JSON of python -m bench.device). Default: "
        "the accelerator's.",
    ),
]


def read_host_link(option: str, text: str) -> HostLink:
    """The link. Raises ``ValueError`` with a sentence that begins with the option."""
    link = host_link_of_text(text)
    if link is None and text.endswith(".json"):
        try:
            return measured_host_link(Path(text).read_text(errors="replace"))
        except OSError as error:
            msg = f"{option} {text}: {error.strerror or error}"
            raise ValueError(msg) from None
        except ValueError as error:
            msg = f"{option} {text}: {error}"
            raise ValueError(msg) from None
    if link is None:
        names = [one.name for one in HOST_LINKS]
        msg = (
            f"{option} {text}: one of {', '.join(names)}, or a measurement (55.1-56.4GBps)"
            f"{did_you_mean(text, names)}"
        )
        raise ValueError(msg)
    return link
