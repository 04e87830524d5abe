"""A member's event stream, read one event after another."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from shard_router.member_id import format_member_id
from tests.query_world import World


class Stream:
    """The events of a response, read one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        lines = (await asyncio.wait_for(self.response.content.readuntil(b"\n\n"), 10)).decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if line)

    async def event(self) -> dict[str, str]:
        while "event" not in (block := await self.block()):
            pass
        return block


@asynccontextmanager
async def streaming(
    world: World, member_id: int, *, last: str | None = None, credential: str | None = None
) -> AsyncGenerator[Stream]:
    headers = {"Authorization": f"Bearer {credential or world.member_token(member_id)}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    url = f"{world.nodes['eu']}/v1/members/{format_member_id(member_id)}/events"
    async with world.session.get(url, headers=headers) as response:
        yield Stream(response)
