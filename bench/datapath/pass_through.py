"""A pass-through of aiohttp on uvloop, round robin.

``python -m bench.datapath.pass_through PORT URL...``
"""

import itertools
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web


def application(urls: list[str]) -> web.Application:
    """Copies requests and answers, in pieces."""
    turns = itertools.cycle(urls)

    async def sessions(app: web.Application):  # type: ignore[no-untyped-def] # noqa: ANN202
        async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout()) as it:
            app["session"] = it
            yield

    async def handle(request: web.Request) -> web.StreamResponse:
        session: ClientSession = request.app["session"]
        headers = {"content-type": request.content_type}
        body = await request.read()
        url = next(turns) + request.path
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=64 * 1024**2)
    app.cleanup_ctx.append(sessions)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(application(sys.argv[2:]), host="127.0.0.1", port=int(sys.argv[1]), print=None)
