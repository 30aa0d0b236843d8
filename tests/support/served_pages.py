"""Pages of exporters, engines and fetchers, served on loopback."""

import contextlib

from aiohttp import web


@contextlib.asynccontextmanager
async def serving(answer, host="127.0.0.1", path="/metrics"):
    """A server whose ``path`` is what ``answer`` makes; its port."""
    application = web.Application()
    application.router.add_get(path, answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def says(text):
    """What answers with that text."""

    async def answer(_request):
        return web.Response(text=text)

    return answer


def counter():
    """A clock that goes on by a second at each look."""
    now = iter(range(10**6))
    return lambda: float(next(now))
