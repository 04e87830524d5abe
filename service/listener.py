"""Takes new connections in, many in a turn of the event loop.

uvloop's own server takes one in a turn (libuv does since 1.45). A busy node has long turns: some hundred clients that
came at once then waited for as many of them, while the others were answered, and so did whoever asked it whether it
lives.
"""

import asyncio
import socket
from functools import partial
from typing import Final

import structlog
from aiohttp import web

AT_ONCE: Final = 64
"""In a turn: some 5 ms."""
_PAUSE_S: Final = 0.5
"""Where the system has no room for one more; those that wait are kept by the kernel, as many as the backlog says."""


class Listener(web.BaseSite):
    """Listens at every address of a host, beside other processes that do."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int, *, backlog: int) -> None:
        super().__init__(runner, backlog=backlog)
        self._host, self._port = host, port
        self._sockets: list[socket.socket] = []
        self._begun = set[asyncio.Task[None]]()

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; OSError where that is not possible."""
        await super().start()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            listening = socket.create_server(address, family=family, backlog=self._backlog, reuse_port=True)
            listening.setblocking(False)  # noqa: FBT003
            self._sockets.append(listening)
            self._look_at(listening)

    async def stop(self) -> None:
        """Listen no more; who has come is taken in."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            for _ in range(self._backlog // AT_ONCE + 1):  # whoever comes meanwhile must not keep it from stopping
                if not self._take_some(listening):
                    break
            listening.close()
        self._sockets.clear()
        if self._begun:
            await asyncio.wait(self._begun)
        await super().stop()

    def _look_at(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._take_some, listening)

    def _take_some(self, listening: socket.socket) -> bool:
        """Take those in that wait; whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                connection, _address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionError:
                continue  # it has left already
            except OSError as error:  # no file, no memory
                self._rest(listening, error)
                return False
            begun = asyncio.get_running_loop().create_task(self._begin(connection))
            self._begun.add(begun)
            begun.add_done_callback(self._begun.discard)
        return True

    def _rest(self, listening: socket.socket, error: OSError) -> None:
        structlog.get_logger().error("connection_not_taken", reason=str(error))
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_PAUSE_S, partial(self._look_at, listening))

    async def _begin(self, connection: socket.socket) -> None:
        server = self._runner.server
        assert server is not None
        try:
            connection.setblocking(False)  # noqa: FBT003
            await asyncio.get_running_loop().connect_accepted_socket(server, connection)
        except OSError:  # it has left already
            connection.close()
