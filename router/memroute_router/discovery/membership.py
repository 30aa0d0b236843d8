"""Who says which models and replicas there are: the API server, a file, or a gateway's pools."""

from typing import Protocol


class Membership(Protocol):
    """Who says which models and replicas there are."""

    @property
    def is_synced(self) -> bool:
        """Whether the first list is complete: before that "unknown model" would be a lie."""
        ...

    async def follow(self) -> None:
        """Keep the pools true, for ever."""
        ...
