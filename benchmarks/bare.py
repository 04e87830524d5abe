"""Bare aiohttp for the ratio table: one route that answers stored bytes, as far as an HTTP server can do nothing.

`python -m benchmarks.bare PORT` serves until its standard input closes, so it never outlives the benchmark.
"""

import asyncio
import sys
from collections.abc import Iterable

import uvloop
from aiohttp import web

BODY = b'{"member_id":"00000000000000","version":7,"balance":' + b" " * 400 + b"{}}"


async def _answer(_request: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="application/json")


async def serve(port: int, routes: Iterable[web.RouteDef]) -> None:
    """Serve routes on a port of 127.0.0.1; says `ready`, and ends with its standard input."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [web.get("/account", _answer)]))
