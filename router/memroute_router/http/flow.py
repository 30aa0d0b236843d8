"""Back-pressure as one idea: a writer waits while the transport's buffer is full."""

import asyncio


class FlowControl:
    """Whether the peer takes more bytes; fed by ``pause_writing`` and ``resume_writing``."""

    def __init__(self) -> None:
        self._writable = asyncio.Event()
        self._writable.set()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._writable.clear()

    def resume(self) -> None:
        """The transport's buffer has drained, or the connection is gone: wait no more."""
        self._writable.set()

    async def drain(self) -> None:
        """Return once the peer takes more bytes."""
        await self._writable.wait()
