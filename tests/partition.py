"""A way to a server that can be made slow, or cut at a chosen moment: what is sent then waits, as in a lost network."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Moment = Literal["before", "after"]
"""Cut before what is watched for is passed on, or after it and before its answer."""


@dataclass
class Link:
    """Passes bytes on to one server. Cut, it takes connections and passes nothing; healed, all that waited arrives."""

    host: str
    port: int
    delay_s: float = 0.0
    """one way"""
    address: str = ""
    was_cut: bool = False
    _mark: bytes | None = None
    _moment: Moment = "before"
    _open: dict[bool, asyncio.Event] = field(default_factory=lambda: {True: asyncio.Event(), False: asyncio.Event()})

    def cut(self) -> None:
        """Cut it both ways, now."""
        self.was_cut = True
        for way in self._open.values():
            way.clear()

    def cut_at(self, mark: bytes, moment: Moment) -> None:
        """Cut it when a client sends these bytes."""
        self._mark, self._moment = mark, moment

    def heal(self) -> None:
        """Pass everything on again."""
        self._mark = None
        for way in self._open.values():
            way.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asking: bool) -> None:
        """Pass one direction on until it ends."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)

        async def send() -> None:
            while True:
                due, data = await queue.get()
                if self.delay_s:
                    there = loop.create_future()
                    loop.call_at(due, there.set_result, None)
                    await there
                if asking and self._mark and self._mark in data:
                    self._notice()
                await self._open[asking].wait()
                writer.write(data)
                await writer.drain()
                if not data:
                    return

        sending = asyncio.create_task(send())
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    await queue.put((loop.time() + self.delay_s, data))
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending
            writer.close()

    def _notice(self) -> None:
        self._mark = None
        self.was_cut = True
        self._open[False].clear()
        if self._moment == "before":
            self._open[True].clear()


@asynccontextmanager
async def linked(url: str, delay_s: float = 0.0) -> AsyncGenerator[tuple[Link, str]]:
    """A link to the server of an address, and the address that leads through it."""
    parts = urlsplit(url)
    link = Link(parts.hostname or "127.0.0.1", parts.port or 80, delay_s)
    link.heal()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(link.host, link.port)
        both = (link.pump(reader, there_writer, asking=True), link.pump(there_reader, writer, asking=False))
        await asyncio.gather(*both)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(accept(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    host = f"127.0.0.1:{port}"
    netloc = f"{parts.netloc.rpartition('@')[0]}@{host}" if "@" in parts.netloc else host
    try:
        yield link, urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
