"""Two regions with a query node each, and in place of the home node one that does what a test tells it."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession

from query import views
from query.node import NODE
from service.peer import ranked
from shard_router.member_id import format_member_id, slot_of
from tests.conftest import eventually
from tests.http_node import Answer, connection, read_answer
from tests.query_world import World, entry, member
from tests.raw_server import listening

BOB = member(2, region="us")
ACCOUNT = f"/v1/members/{format_member_id(BOB)}/account"
VIEW = views.account_view(entry(BOB, 3))
"""Bob's account as all views have it."""
LIVEZ = b"GET /livez "

Step = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = VIEW, *lines: str, status: str = "200 OK", version: int = 3) -> bytes:
    """An answer of a node of `us`."""
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json; charset=utf-8", f'ETag: W/"{version}"']
    head += ["Loyalty-Region: us", "Loyalty-Source: cache", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


def says(*parts: bytes, hangs_up: bool = False) -> Step:
    """Answer with these bytes, each part in a turn of its own."""

    async def step(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if hangs_up:
            writer.close()

    return step


@dataclass
class Home:
    """Takes one step for each request, then answers; `heads` are those of the requests it got, by connection."""

    steps: list[Step] = field(default_factory=list[Step])
    heads: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    url: str = ""
    is_dead: bool = False
    probes: int = 0
    readers: list[asyncio.StreamReader] = field(default_factory=list[asyncio.StreamReader])
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.readers.append(reader)
        self.writers.append(writer)
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(LIVEZ):
                self.probes += 1
                await (asyncio.Event().wait() if self.is_dead else says(answer(b"{}"))(writer))
                continue
            self.heads.append((number, head))
            if b"\r\nContent-Length: " in head:
                await reader.readexactly(int(head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]))
            step = self.steps.pop(0) if self.steps else says(answer())
            await step(writer)

    def is_left(self) -> bool:
        """Whether the connection of its first request has been ended by whoever asked."""
        return self.readers[self.heads[0][0]].at_eof()

    @property
    def quick(self) -> list[bool]:
        """Whether each request came on a link: the usual client says who it is."""
        return [b"\r\nUser-Agent: " not in head for _, head in self.heads]


@asynccontextmanager
async def home(world: World, *steps: Step) -> AsyncGenerator[Home]:
    """The one query node of `us` as the node of `eu` sees it; a link to it stands."""
    async with listed(world, 1) as (made,):
        made.steps[:] = steps
        yield made


@asynccontextmanager
async def listed(world: World, count: int) -> AsyncGenerator[list[Home]]:
    """So many query nodes of `us`, the first that which is asked first about Bob; a link to it stands."""
    nodes = world.apps["eu"][NODE].topology.current.document.regions["us"].query
    async with homes(nodes, count, slot=slot_of(BOB)) as made:
        await until_linked(world, made[0])
        made[0].heads.clear()
        yield made


@asynccontextmanager
async def homes(nodes: list[str], count: int, *, slot: int) -> AsyncGenerator[list[Home]]:
    """So many nodes that do as they are told, listed as `nodes` from now on in the order in which they serve a slot."""
    made = [Home() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for one in made:
            one.url = await stack.enter_async_context(listening(one.serve))
        order = ranked(tuple(one.url for one in made), slot)
        made.sort(key=lambda one: order.index(one.url))
        nodes[:] = [one.url for one in made]
        yield made


async def until_linked(world: World, made: Home) -> None:
    """A link to the node stands."""

    async def linked() -> bool:
        assert (await ask(world)).status == 200
        return made.quick[-1]

    await eventually(linked)


async def linked(world: World, taken: list[bool]) -> None:
    """The next plain question to the node of `eu` finds a link to that of `us`, as `taken` tells."""

    async def is_linked() -> bool:
        taken.clear()
        assert (await ask(world)).status == 200
        return taken[0]

    await eventually(is_linked)
    taken.clear()


async def ask(world: World, *lines: str, path: str = ACCOUNT, credential: str | None = None) -> Answer:
    """Ask the node of `eu` a plain question about Bob."""
    async with connection(port_of(world)) as (reader, writer), asyncio.timeout(20):
        writer.write(asking(world, *lines, path=path, credential=credential))
        return await read_answer(reader, bodiless=False)


def asking(world: World, *lines: str, path: str = ACCOUNT, credential: str | None = None) -> bytes:
    """The bytes of a plain question."""
    head = [f"GET {path} HTTP/1.1", "Host: node", f"Authorization: Bearer {credential or world.keys['pos']}"]
    return "\r\n".join([*head, *lines, "", ""]).encode()


def port_of(world: World) -> int:
    """Where the node of `eu` listens."""
    return int(world.nodes["eu"].rpartition(":")[2])


@asynccontextmanager
async def node_process(kind: str, folder: Path, url: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A node of `us` in a process of its own, that may be stopped by signals."""
    settings = {"region": "us", "port": url.rpartition(":")[2], "overload_delay_ms": "60000"}
    paths = {name: str(folder / f"{name}.json") for name in ("topology", "credentials")}
    env = os.environ | {f"LOYALTY_{name.upper()}": text for name, text in (settings | paths).items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", kind, env=env)
    try:
        async with ClientSession() as session:

            async def ready() -> bool:
                with suppress(ClientError):
                    async with session.get(f"{url}/readyz") as reply:
                        return reply.ok
                return False

            await eventually(ready, deadline_s=90)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
