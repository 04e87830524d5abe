"""A node on uvloop to which many connect at once: a process of its own, as libuv leaves its mark on later forks.

Prints a JSON object: `turns` of a busy event loop until all were connected, `no_delay` (TCP_NODELAY of one), what one
was `told`, and what who came as it stopped has read (`last`: empty when the connection was closed in order).
"""

import asyncio
import json
import socket
import sys
from typing import Any

import uvloop
from aiohttp import web

from service.listener import Listener
from tests.engine import free_port


async def _answer(_request: web.Request) -> web.Response:
    return web.Response(text="here")


async def take_in(count: int) -> dict[str, Any]:
    """What `count` clients find."""
    app = web.Application()
    app.add_routes([web.get("/", _answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    address = ("127.0.0.1", free_port())
    await Listener(runner, *address, backlog=count).start()
    clients = [socket.create_connection(address) for _ in range(count)]  # the kernel takes them
    turns = 0
    while len(runner.server.connections) < count:
        turns += 1
        await asyncio.sleep(0)
    transport = runner.server.connections[0].transport
    assert transport is not None
    no_delay = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    reader, writer = await asyncio.open_connection(sock=clients[0])
    writer.write(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
    told = (await reader.read()).decode()
    last = socket.create_connection(address)
    last.setblocking(False)  # noqa: FBT003
    await runner.cleanup()
    read = await asyncio.get_running_loop().sock_recv(last, 1)
    writer.close()
    for client in (*clients, last):
        client.close()
    return {"turns": turns, "no_delay": bool(no_delay), "told": told, "last": read.decode()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(take_in(int(sys.argv[1])))))
