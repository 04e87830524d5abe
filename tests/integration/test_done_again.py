"""Done again, a step that was cut short while it waited for the standby writes nothing, and waits all the same."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest

from command.claim_move import MoveError, begin_without_claims, move_claims
from command.program import apply_program
from command.receipt_move import hand_over_receipts, keep_receipts_again
from command.register import STATEMENTS
from command.slot import give_all, give_slots, open_slots, take_refusals
from command.stock import give_up_stock
from shard_router.directory import Directory
from shard_router.pool import ShardPools
from shard_router.server import connection_to
from shard_router.topology import TopologyWatch
from tests.command_node import PROGRAM
from tests.engine import PostgresServer
from tests.sql import without_standby

GIVER, RECEIVER = "giver", "receiver"
CLAIM = (["S"], ["1"], [datetime.now(UTC).date()], ["r-1"], [1 << 57], [2], [UUID(int=1)])
ALL_WAITING = """
SELECT datname, pid, query_start, pg_cancel_backend(pid) FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND (pid, query_start) NOT IN (SELECT * FROM unnest($1::integer[], $2::timestamptz[]))
"""

Shards = dict[str, str]
Step = Callable[[Shards], Awaitable[Any]]


@pytest.fixture
async def shards(postgres_server: PostgresServer) -> AsyncGenerator[Shards]:
    made = {name: await postgres_server.create_database() for name in (GIVER, RECEIVER)}
    yield made
    for dsn in made.values():
        await postgres_server.drop_database(dsn)


async def waited(server: PostgresServer, work: Awaitable[Any]) -> set[str]:
    """Databases whose commits wait for a standby that never comes; each wait is ended as when a server goes down."""
    seen: dict[tuple[int, datetime], str] = {}
    async with without_standby(server), connection_to(server.url) as watcher:
        task = asyncio.ensure_future(work)
        while not task.done():
            ended = [list(column) for column in zip(*seen, strict=True)] or [[], []]
            for row in await watcher.fetch(ALL_WAITING, *ended):
                seen[row["pid"], row["query_start"]] = row["datname"]
        await task
    return set(seen.values())


async def claim_receipts(shards: Shards) -> None:
    """As a register does at the shard that keeps them."""
    async with connection_to(shards[RECEIVER]) as connection:
        await connection.execute(STATEMENTS["claim_receipts"], *CLAIM)


async def hand_over(shards: Shards) -> None:
    async with connection_to(shards[GIVER]) as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM receipt_fence)"):
            await connection.execute(STATEMENTS["claim_receipts"], *CLAIM)
    receivers = {RECEIVER: shards[RECEIVER]}
    assert await hand_over_receipts((GIVER, shards[GIVER]), receivers, lambda _: {RECEIVER: "eu"}) == 1


async def fence_claims(shards: Shards) -> None:
    def at(_: str) -> None:
        raise MoveError("cut short")

    with suppress(MoveError):
        await move_claims(shards, [GIVER], [RECEIVER], lambda _: None, at)


async def give_every_slot(shards: Shards) -> None:
    async with connection_to(shards[GIVER]) as connection:
        assert await give_all(connection, 1, {1, 2}, receiver=RECEIVER, lock_timeout_ms=30_000) == []


async def give_some_slots(shards: Shards) -> None:
    async with connection_to(shards[GIVER]) as connection:
        given = await give_slots(connection, 1, [1, 2], receiver=RECEIVER, lock_timeout_ms=30_000)
        assert given == [1, 2]


async def open_given(shards: Shards) -> None:
    async with connection_to(shards[GIVER]) as connection:
        await open_slots(connection, [1, 2])


async def hand_refusals_on(shards: Shards) -> None:
    async with connection_to(shards[GIVER]) as giver, connection_to(shards[RECEIVER]) as receiver:
        await take_refusals(giver, receiver, 1, [1, 2])


async def free_identifier(shards: Shards) -> None:
    """Nobody has it any more, as after the first time."""
    shard = {"region": "eu", "slots": [[0, 4095]], "servers": [shards[RECEIVER]], "valkey": "redis://none"}
    regions = {"eu": {"number": 1, "command": [], "query": []}}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "topology.json"
        file.write_text(json.dumps({"epoch": 1, "regions": regions, "shards": {"eu-1": shard}}))
        watch = TopologyWatch(file)
        pools = ShardPools(watch, size_max=1, statement_timeout_ms=60_000)
        try:
            await Directory(watch, pools).release([("phone", "+49301")], 1 << 57)
        finally:
            await pools.close()


def steps() -> Iterator[Any]:
    """Each with the shards that have to have it on a standby before anybody goes on from it."""
    rows: list[tuple[str, Step, set[str]]] = [
        ("receipts are claimed", claim_receipts, {RECEIVER}),
        ("receipts are handed over", hand_over, {GIVER, RECEIVER}),
        ("receipts are kept again", lambda shards: keep_receipts_again(shards[GIVER]), {GIVER}),
        ("claims are fenced", fence_claims, {GIVER}),
        ("a shard begins without claims", lambda shards: begin_without_claims(shards[GIVER], 4), {GIVER}),
        ("every slot is given", give_every_slot, {GIVER}),
        ("some slots are given", give_some_slots, {GIVER}),
        ("slots are opened", open_given, {GIVER}),
        ("refusals go with their slots", hand_refusals_on, {RECEIVER}),
        ("an identifier is freed", free_identifier, {RECEIVER}),
        ("stock is given up", lambda shards: give_up_stock(shards[GIVER], {}), {GIVER}),
        ("a program is applied", lambda shards: apply_program([*shards.values()], PROGRAM), {GIVER, RECEIVER}),
    ]
    for name, step, waiting in rows:
        yield pytest.param(step, waiting, id=name)


@pytest.mark.parametrize(("step", "waiting"), [*steps()])
async def test_what_is_done_again_waits_for_the_standby(
    postgres_server: PostgresServer, shards: Shards, step: Step, waiting: set[str]
) -> None:
    await step(shards)
    names = {dsn.rpartition("/")[2]: name for name, dsn in shards.items()}
    found = {names[database] for database in await waited(postgres_server, step(shards))}
    assert found == waiting
