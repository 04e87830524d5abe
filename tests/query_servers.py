"""Servers that a test may break: a Valkey of its own, and a proxy that freezes like a host that fell silent."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from cluster.process import ProcessSpec, spawn, terminate, wait_ready
from tests.engine import server_folder, valkey_process


@dataclass
class OwnValkey:
    """A Valkey that a test may kill and start again at the same address."""

    spec: ProcessSpec
    url: str
    child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.child = await spawn(self.spec)
        await wait_ready(self.spec, self.child)

    async def stop(self) -> None:
        if self.child and self.child.returncode is None:
            await terminate(self.spec, self.child)

    def send(self, number: signal.Signals) -> None:
        assert self.child
        os.kill(self.child.pid, number)


@asynccontextmanager
async def own_valkey() -> AsyncGenerator[OwnValkey]:
    with server_folder() as folder:
        spec, url = valkey_process(folder)
        server = OwnValkey(spec, f"{url}/0")
        await server.start()
        try:
            yield server
        finally:
            if server.child and server.child.returncode is None:
                server.send(signal.SIGCONT)
            await server.stop()


class Proxy:
    """Stands before one server; `flowing` is set as long as anything gets through."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        self.flowing.clear()

    def thaw(self) -> None:
        self.flowing.set()

    async def cut(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self.flowing.wait()
                there_reader, there_writer = await asyncio.open_connection(*self._target)
                try:
                    await self._both(self._pump(reader, there_writer), self._pump(there_reader, writer))
                finally:
                    there_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _both(self, *pumps: object) -> None:
        tasks = [asyncio.ensure_future(pump) for pump in pumps]  # pyright: ignore[reportArgumentType]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxy_of(url: str) -> AsyncGenerator[tuple[Proxy, str]]:
    """A proxy before the server of a URL, and the URL through it."""
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    proxy = Proxy(place.hostname, place.port)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, place._replace(netloc=place.netloc.replace(f":{place.port}", f":{proxy.port}")).geturl()
    finally:
        server.close()
        await proxy.cut()
