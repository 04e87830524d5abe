"""Event streams of members, as phones keep them open: versions only grow, or it is counted."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from benchmarks.deployment import Deployment
from benchmarks.order import BenchMember
from benchmarks.witness import Witness

CONNECT_TIMEOUT_S: Final = 10.0
_EVENT_ID: Final = b"id: "


@dataclass(slots=True)
class Streams:
    """Streams of some members, open for the length of the block."""

    deployment: Deployment
    members: Sequence[BenchMember]
    witness: Witness
    events: int = 0
    ended: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        """Open them all."""
        opened = asyncio.Queue[None]()
        self._tasks = [asyncio.create_task(self._follow(member, opened)) for member in self.members]
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for _ in self._tasks:
                await opened.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, member: BenchMember, opened: "asyncio.Queue[None]") -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # whatever ends it, it has ended
            await self._listen(member, opened)
        self.ended += 1

    async def _listen(self, member: BenchMember, opened: "asyncio.Queue[None]") -> None:
        client = self.deployment.regions[member.region].query
        tls = ssl.create_default_context() if client.is_tls else None
        reader, writer = await asyncio.open_connection(client.host, client.port, ssl=tls)
        try:
            writer.write(client.request("GET", f"/v1/members/{member.member_id}/events", {}))
            await reader.readuntil(b"\r\n\r\n")
            opened.put_nowait(None)
            seen = 0
            while line := await reader.readline():
                if line.startswith(_EVENT_ID):
                    version = int(line.removeprefix(_EVENT_ID))
                    self.witness.read(member.member_id, version, source="stream", before={"stream": seen})
                    seen, self.events = version, self.events + 1
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
