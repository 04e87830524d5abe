"""Members with all kinds of views, and what their views should be."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import orjson
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cdc.project import Operations
from cdc.rebuild import Rebuild
from cdc.rows import read_members
from cdc.sink import Outcome, Session
from shard_router.member_id import compose_member_id
from shard_router.pool import ShardServers
from tests.conftest import eventually

MARK = "projector:eu-1"
LONG = orjson.dumps("".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(20_000))).decode()
"""A profile that does not compress: it lies out of line and does not travel with a change of other columns."""

DEADLINE_S = 60
MEMBERS = [compose_member_id(region_number=1, slot=n, unique=n * 31) for n in range(60)]
ADD_ENTRIES = """
INSERT INTO journal
    (member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
     account_after)
SELECT member_id, coalesce((SELECT max(version) FROM journal AS j WHERE j.member_id = asked.member_id), 0) + number,
       'purchase', 1, '2026-11-22 10:00:00.25+00', now(), 's', 1, '[]', '{}',
       json_build_object('balance', json_build_object('available', number), 'n', number)
FROM unnest($1::bigint[]) AS asked (member_id), generate_series(1, $2::integer) AS number
"""


async def fill(client: asyncpg.Connection, entries: int = 3) -> None:
    await client.executemany("INSERT INTO member VALUES ($1, 1, $2, now())", [(m, f'{{"n":{m}}}') for m in MEMBERS])
    await client.executemany("INSERT INTO identifier VALUES ('card', $1, $2, 1)", [(str(m), m) for m in MEMBERS])
    await client.executemany(
        "INSERT INTO purchase VALUES ($1, 1, 1, 's', 't', 'r', '2026-11-22', '2026-11-22 10:00:00+00', '{}')",
        [(m,) for m in MEMBERS],
    )
    await client.execute(ADD_ENTRIES, MEMBERS, entries)


async def settled(client: asyncpg.Connection, valkey: Redis) -> None:
    """The views are what the tables say, key for key and byte for byte."""

    async def same() -> bool:
        return await views_of(valkey) == await wanted_views(client)

    await eventually(same, deadline_s=DEADLINE_S)


async def wanted_views(client: asyncpg.Connection) -> dict[str, object]:
    members = [row["member_id"] for row in await client.fetch("SELECT member_id FROM member")]
    operations = await read_members(client, members, 0)  # pyright: ignore[reportArgumentType]
    wanted: dict[str, object] = operations.views | operations.accounts
    wanted |= {key: value[16:] for key, value in operations.identifiers.items()}
    for (key, version), item in operations.entries.items():
        listed = wanted.setdefault(key, {})
        assert isinstance(listed, dict)
        listed[version] = item
    return wanted


async def views_of(valkey: Redis) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in sorted([key async for key in valkey.scan_iter(count=1000)]):
        name = key.decode()
        if name.startswith("e:"):
            found[name] = {int(score): item for item, score in await valkey.zrange(key, 0, -1, withscores=True)}
        elif name.startswith("i:"):
            found[name] = (await valkey.get(key) or b"")[16:]  # it may go between the two calls
        elif name[:2] in {"a:", "m:", "p:"}:
            found[name] = await valkey.get(key)
    return found


@asynccontextmanager
async def rebuilding(
    rebuild: Rebuild, servers: ShardServers, open_session: Callable[[], Session]
) -> AsyncGenerator[None]:
    """A rebuild that was asked for is at work in this process."""
    rebuild.request("asked for")
    running = asyncio.create_task(rebuild.run(open_session))
    yield
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await servers.close()


def rebuilt(valkey: Redis) -> Callable[[], Awaitable[bool]]:
    async def complete() -> bool:
        return await valkey.hget(MARK, "complete") == b"1"

    return complete


class WatchedSession(Session):
    """Notes how much it is given at a time, and loses its connection once."""

    sizes: list[int]
    breaks_at: int

    def refill(self, operations: Operations) -> Outcome:
        self.sizes.append(operations.size)
        if len(self.sizes) == self.breaks_at:
            raise RedisConnectionError("lost")
        return super().refill(operations)
