"""A small TCP proxy between tills and one node, whose weather a campaign makes: slow, silent, refusing, forgetful.

What it does to a connection it does to bytes, so a request may have been done whose answer never comes: the case for
which tills have keys.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

CHUNK_BYTES: Final = 65_536
CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Weather:
    """What becomes of bytes on their way."""

    delay_s: float = 0.0
    bytes_at_once: int = CHUNK_BYTES
    is_silent: bool = False
    """Bytes are taken and go nowhere, as of a peer whose machine is gone."""
    loses_answers: bool = False
    """Requests arrive; the connection is cut where the answer would come."""


CLEAR: Final = Weather()


class Proxy:
    """Listens on a port of its own and leads to one node."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.weather = CLEAR
        self.port = 0

    async def open(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no connections any more, and cut those there are."""
        if self._server:
            self._server.close()
        for one in self._under_way:
            one.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def change(self, **weather: object) -> None:
        """Make the weather; without anything it is clear again."""
        self.weather = replace(CLEAR, **weather)  # pyright: ignore[reportArgumentType]

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(node_writer)
            there = asyncio.create_task(self._pump(reader, node_writer, is_answer=False))
            back = asyncio.create_task(self._pump(node_reader, writer, is_answer=True))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (there, back):
                    pump.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, TimeoutError):
            pass
        finally:
            for end in ends:
                with suppress(Exception):  # whatever state it was left in
                    end.transport.abort() if self.weather.loses_answers else end.close()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_answer: bool) -> None:
        while data := await source.read(self.weather.bytes_at_once):
            weather = self.weather
            if is_answer and weather.loses_answers:
                return
            if weather.delay_s:
                await asyncio.sleep(weather.delay_s)
            if not weather.is_silent:
                target.write(data)
                await target.drain()
