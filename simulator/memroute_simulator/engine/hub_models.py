"""The model that a simulated engine loads, as vLLM finds it: on this disk, or on the hub."""

import os

from memroute.errors import UnknownModelError
from memroute.footprint import ModelArchitecture
from memroute_hub import HubError, checked_name
from memroute_simulator.engine.arguments import EngineArguments


class ModelNotFoundError(Exception):
    """The hub does not give it; the message is like the one that ends vLLM."""


async def architecture_of(arguments: EngineArguments) -> ModelArchitecture:
    """By a folder's ``config.json``, by the catalogue, else by the hub of ``HF_ENDPOINT``.

    A revision is the hub's alone. Raises ``MemrouteError``, and ``ModelNotFoundError``.
    """
    if arguments.revision is None or arguments.has_folder:
        try:
            return arguments.architecture()
        except UnknownModelError as error:
            if "HF_ENDPOINT" not in os.environ:
                raise
            unknown = error
    else:
        unknown = None
    # A quarter of a second that most simulated engines need not pay.
    from memroute_hub.client import open_hub  # noqa: PLC0415
    from memroute_hub.settings import HubSettings, Token, checked_endpoint  # noqa: PLC0415

    settings = HubSettings(
        endpoint=checked_endpoint(None), token=Token(value=os.environ.get("HF_TOKEN"))
    )
    try:
        name = checked_name(arguments.model, arguments.revision)
        async with open_hub(settings) as hub:
            return (await hub.resolve(name)).architecture()
    except HubError as error:
        msg = f"OSError: {error.message}"
        raise ModelNotFoundError(msg) from (unknown or error)
