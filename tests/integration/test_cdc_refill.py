"""A refill reads ahead: what fails, and what changes, while rows are on their way."""

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cdc.project import Operations, project
from cdc.rebuild import Rebuild, RebuildSettings
from cdc.rows import read_members
from cdc.sink import Fenced, Outcome, Position, Progress, Session
from cdc.source import Change
from command.migrate import create_slot
from query.views import header
from shard_router.pool import Connection, ShardServers
from tests.cdc_node import SLOT_OF_TESTS
from tests.cdc_world import MARK, MEMBERS, fill, rebuilding, rebuilt, settled, views_of
from tests.conftest import eventually

AT_ONCE = 10
CHUNKS = [MEMBERS[first : first + AT_ONCE] for first in range(0, len(MEMBERS), AT_ONCE)]
AHEAD = 2  # one that is written, and one that is read
RESTS = 0.000_01
WAIT_S = 60


class CountingServers(ShardServers):
    """Counts how often somebody came to read."""

    reads = 0

    @asynccontextmanager
    async def primary(self) -> AsyncGenerator[Connection]:
        self.reads += 1
        async with super().primary() as connection:
            yield connection


@dataclass
class Writes:
    """What the sessions of a rebuild were given to write; the one of this number fails, that one waits."""

    fails: int = -1
    waits: int = -1
    because: Exception = field(default_factory=lambda: RedisConnectionError("lost"))
    given: list[Operations] = field(default_factory=list[Operations])
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    done: int = 0

    def members(self) -> list[list[int]]:
        """Whose accounts they were, by call."""
        return [sorted(int(key[2:]) for key in one.accounts) for one in self.given]


class Watched(Session):
    """Notes what it is given to write, and what of it is done."""

    writes: Writes

    def refill(self, operations: Operations) -> Outcome:
        number = len(self.writes.given)
        self.writes.given.append(operations)
        if number == self.writes.fails:
            raise self.writes.because
        if number == self.writes.waits:
            self.writes.reached.set()
            assert self.writes.go_on.wait(WAIT_S)
        outcome = super().refill(operations)
        self.writes.done += 1
        return outcome


@dataclass
class World:
    """A filled shard whose rebuild is watched, and the session of its stream."""

    servers: CountingServers
    stream: Session
    valkey_url: str
    writes: Writes = field(default_factory=Writes)

    def __post_init__(self) -> None:
        self.rebuild = Rebuild(self.servers, RebuildSettings(SLOT_OF_TESTS, AT_ONCE, duty=1))

    def open_session(self) -> Session:
        session = Watched(self.valkey_url, MARK, epoch=self.stream.epoch)
        session.writes = self.writes
        return session

    def brings(self, *changes: Change) -> None:
        """The stream brings these."""
        assert not self.stream.apply(project(changes), Progress(100, 1))


@pytest.fixture
async def world(
    database: str, client: asyncpg.Connection, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[World]:
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client)
    servers = CountingServers("eu-1", [database], size_max=3, statement_timeout_ms=10_000)
    with closing(Session(valkey_url, MARK).open(Position("one", 1))) as stream:
        yield World(servers, stream, valkey_url)


def happened(event: threading.Event) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return event.is_set()

    return has


async def test_while_a_chunk_is_written_the_next_one_is_read_and_no_other(
    world: World, client: asyncpg.Connection, valkey: Redis
) -> None:
    world.writes.waits = 1
    async with rebuilding(world.rebuild, world.servers, world.open_session):
        await eventually(happened(world.writes.reached))
        for_themselves = 2  # the bound, and how many members there are

        async def reads_ahead() -> bool:
            return world.servers.reads >= for_themselves + world.writes.done + AHEAD

        await eventually(reads_ahead)
        assert world.servers.reads == for_themselves + world.writes.done + AHEAD
        world.writes.go_on.set()
        await eventually(rebuilt(valkey))
        await settled(client, valkey)
    assert world.writes.members() == CHUNKS


@pytest.mark.parametrize("because", [RedisConnectionError("lost"), Fenced("by epoch 7")], ids=["lost", "fenced"])
async def test_a_chunk_that_could_not_be_written_ends_it_before_any_other_is_written_or_counted(
    world: World, client: asyncpg.Connection, valkey: Redis, because: Exception
) -> None:
    world.writes.fails, world.writes.because = 2, because
    counted: list[int] = []

    def open_session() -> Session:
        counted.append(world.rebuild.state.members_done)
        if world.writes.given:
            counted.append(len(world.writes.given))
        return world.open_session()

    async with rebuilding(world.rebuild, world.servers, open_session):
        await eventually(rebuilt(valkey))
        await settled(client, valkey)
    assert world.writes.members() == CHUNKS[:3] + CHUNKS
    assert counted == [0, 0, 3]  # begun anew: nothing of the first attempt counts
    assert world.rebuild.state.members_done == len(MEMBERS)


async def test_a_valkey_emptied_between_two_chunks_is_told_by_the_next_write_and_counts_as_nothing(
    world: World, valkey: Redis
) -> None:
    world.writes.waits = 2
    async with rebuilding(world.rebuild, world.servers, world.open_session):
        await eventually(happened(world.writes.reached))
        await valkey.flushdb()
        world.writes.go_on.set()

        async def told() -> bool:
            return world.rebuild.state.trouble.startswith("Emptied")

        await eventually(told)
        assert await valkey.dbsize() == 0


async def test_what_the_stream_brings_while_rows_are_on_their_way_is_not_undone_by_them(
    world: World, client: asyncpg.Connection, valkey: Redis
) -> None:
    """Of a member whose rows are about to be written, and of one whose rows were read."""
    world.writes.waits = 0
    concerned = [chunk[0] for chunk in CHUNKS[:AHEAD]]
    async with rebuilding(world.rebuild, world.servers, world.open_session):
        await eventually(happened(world.writes.reached))

        async def all_read() -> bool:
            return world.servers.reads >= 2 + AHEAD

        await eventually(all_read)
        for member in concerned:
            await change(client, member)
        now = await read_members(client, concerned, 10**9)  # pyright: ignore[reportArgumentType]
        removals = [Change("identifier", "delete", {"kind": "card", "value": str(one)}, 1, 10**9) for one in concerned]
        world.brings(*removals)
        world.stream.apply(now, Progress(100, 1))
        world.writes.fails = AHEAD  # before a sweep could hide what went wrong
        world.writes.go_on.set()

        async def ended() -> bool:
            return len(world.writes.given) > AHEAD

        await eventually(ended)
        views = await views_of(valkey)
        for member in concerned:
            assert views[f"m:{member}"] == header(9) + b'{"erased":true}'
            assert f"i:card:{member}" not in views
        world.writes.fails = -1
        await settled(client, valkey)


async def change(client: asyncpg.Connection, member: int) -> None:
    """A member leaves, who has a card no more."""
    await client.execute("UPDATE member SET version = 9, profile = '{\"erased\":true}' WHERE member_id = $1", member)
    await client.execute("UPDATE purchase SET changed_version = 9 WHERE member_id = $1", member)
    await client.execute("DELETE FROM identifier WHERE member_id = $1", member)


async def test_rows_that_waited_until_they_were_old_are_read_again(
    world: World, client: asyncpg.Connection, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tombstone is kept for an hour, and a rebuild at a tiny duty may rest for longer between two chunks."""
    world.rebuild.keep(RESTS)
    member = CHUNKS[1][0]
    async with rebuilding(world.rebuild, world.servers, world.open_session):

        async def rests() -> bool:
            return world.rebuild.state.members_done > 0

        await eventually(rests)
        await change(client, member)
        reads = world.servers.reads
        monkeypatch.setattr("cdc.rebuild.ROWS_KEPT_S", 0.0)
        world.rebuild.keep(1)

        async def read_again() -> bool:
            return world.servers.reads > reads

        await eventually(read_again)
        monkeypatch.setattr("cdc.rebuild.ROWS_KEPT_S", 900.0)
        await eventually(rebuilt(valkey))
        await settled(client, valkey)
    assert world.writes.members() == CHUNKS
    assert not [key for one in world.writes.given for key in one.identifiers if key == f"i:card:{member}"]
    assert world.rebuild.state.members_done == len(MEMBERS)
