"""Claim slots move between two shards, whoever asks meanwhile, dies in between, or knows an old topology."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from cluster.claims import refuse_stray_claims
from cluster.document import Documents, write_claim_slots
from cluster.errors import ClusterError
from command import claim_move
from command.claim_move import MoveError, begin_without_claims, move_claims, moving_alone, put_slots_right, stray_claims
from shard_router import directory as directories
from shard_router.directory import Directory, Identifier
from shard_router.errors import ProblemError
from shard_router.member_id import new_member_id
from shard_router.pool import ShardPools
from shard_router.statement import load_statements
from shard_router.topology import TopologyWatch, read_topology
from tests.engine import PostgresServer
from verify.across import Across
from verify.identifier import check_identifiers

STEPS = ("fenced", "copied", "switched", "left")
PHONES: list[Identifier] = [("phone", f"+4930{number:06}") for number in range(40)]


class KilledError(Exception):
    """The mover is no more."""


@dataclass
class World:
    """Two shards, a node that looks at the topology when it is refused, and what both hold."""

    folder: Path
    dsns: dict[str, str]
    node: Directory
    pools: ShardPools
    watch: TopologyWatch

    def table(self) -> list[str]:
        return read_topology(self.watch.path).claim_shards

    def slots_of(self, identifiers: Sequence[Identifier]) -> set[int]:
        return {self.node.slot_of(one) for one in identifiers}

    async def move(self, to: str, slots: set[int] | None = None, *, die_after: str | None = None) -> int:
        """Move some slots, or all; the mover may die once a step is done."""

        def at(step: str) -> None:
            if step == die_after:
                raise KilledError

        wanted = [to if slots is None or slot in slots else keeper for slot, keeper in enumerate(self.table())]
        return await move_claims(self.dsns, self.table(), wanted, self.say, at)

    def say(self, table: Sequence[str]) -> None:
        write_claim_slots(Documents(self.folder), table)

    async def rows(self, shard: str, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.dsns[shard])
        try:
            return [tuple(row) for row in await connection.fetch(sql, *arguments)]
        finally:
            await connection.close()

    async def enrol(self, identifier: Identifier, member: int) -> bool:
        """As a command does: lease, create, hold. Whether the member has it."""
        if await self.node.lease([identifier], member):
            return False
        home = self.watch.current.shard_of(member)
        await self.rows(home, "INSERT INTO identifier VALUES ($1, $2, $3, 1) RETURNING 1", *identifier, member)
        await self.node.hold([identifier], member)
        return True

    async def leave(self, identifier: Identifier, member: int) -> None:
        """As the errand of a member does who has it no more."""
        home = self.watch.current.shard_of(member)
        await self.rows(home, "DELETE FROM identifier WHERE kind = $1 AND value = $2 RETURNING 1", *identifier)
        await self.node.release([identifier], member)

    async def faults(self) -> list[str]:
        """What `loyalty verify` says of identifiers and claims."""
        async with AsyncExitStack() as stack:
            connections: dict[str, Any] = {}
            for name, dsn in self.dsns.items():
                connections[name] = await asyncpg.connect(dsn)
                stack.push_async_callback(connections[name].close)
                await stack.enter_async_context(connections[name].transaction(isolation="repeatable_read"))
            watch = TopologyWatch(self.watch.path)
            pools = ShardPools(watch, size_max=1, statement_timeout_ms=60_000)
            findings = await check_identifiers(Across(connections, watch.current), Directory(watch, pools))
            return [fault for finding in findings for fault in finding.examples]


@pytest.fixture
async def world(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[World]:
    dsns = {f"{name}-1": await postgres_server.create_database() for name in ("eu", "us")}
    document = {
        "epoch": 1,
        "regions": {name: {"number": number, "command": [], "query": []} for name, number in (("eu", 1), ("us", 2))},
        "shards": {
            name: {"region": name[:2], "slots": [[0, 4095]], "servers": [dsn], "valkey": "redis://none"}
            for name, dsn in dsns.items()
        },
    }
    file = Documents(tmp_path).topology
    file.write_text(json.dumps(document))
    watch = TopologyWatch(file)
    pools = ShardPools(watch, size_max=8, statement_timeout_ms=60_000)
    yield World(tmp_path, dsns, Directory(watch, pools), pools, watch)
    await pools.close()
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


def member_at(number: int) -> int:
    return new_member_id(1 + number % 2, number)


async def fill(world: World) -> dict[Identifier, int]:
    """Give each phone to a member."""
    holders = {phone: member_at(number) for number, phone in enumerate(PHONES)}
    assert all([await world.enrol(phone, member) for phone, member in holders.items()])
    return holders


async def test_moved_claims_are_found_where_the_topology_says_and_nowhere_else(world: World) -> None:
    holders = await fill(world)
    hashes = [uuid4().hex for _ in PHONES]
    await world.node.remember(hashes, datetime.now(UTC) + timedelta(days=1))
    assert await world.move("us-1") == 4096
    assert set(world.table()) == {"us-1"}
    assert await world.rows("eu-1", "SELECT FROM claim UNION ALL SELECT FROM former_identifier") == []
    assert await world.rows("us-1", "SELECT count(*) FROM claim") == [(len(PHONES),)]
    assert {phone: await world.node.find(phone) for phone in PHONES} == holders
    assert all([await world.node.remembers([one]) for one in hashes])
    assert not await world.enrol(PHONES[0], new_member_id(1, 1))
    assert await world.faults() == []
    assert await world.move("us-1") == 0


@pytest.mark.parametrize("step", STEPS)
async def test_whoever_dies_between_two_steps_the_next_one_goes_on(world: World, step: str) -> None:
    holders = await fill(world)
    slots = world.slots_of(PHONES[:20])
    with pytest.raises(KilledError):
        await world.move("us-1", slots, die_after=step)
    assert await stray_claims(world.dsns, read_topology(world.watch.path)) is None  # a start goes on
    assert any("on its way" in words for words in await world.faults()) == (step != "left")
    for number, phone in enumerate(PHONES[20:]):  # what does not move goes on
        assert world.slots_of([phone]) <= slots or not await world.enrol(phone, member_at(number))
    await move_claims(world.dsns, world.table(), None, world.say)
    assert {world.table()[slot] for slot in slots} == {"us-1"}
    assert {phone: await world.node.find(phone) for phone in PHONES} == holders
    for number, phone in enumerate(PHONES):
        assert not await world.enrol(phone, member_at(number))
    assert await world.faults() == []


async def test_a_topology_that_was_made_anew_and_has_claims_elsewhere_is_told_from_the_last_one(world: World) -> None:
    """It was lost, and the regions were named otherwise: a start by it would have half of the claims deleted."""
    await fill(world)
    document = json.loads(world.watch.path.read_text()) | {"epoch": 2, "claims": ["us", "eu"]}
    assert await stray_claims(world.dsns, read_topology(world.watch.path)) is None
    world.watch.path.write_text(json.dumps(document))
    assert await stray_claims(world.dsns, read_topology(world.watch.path)) == "eu-1"
    with pytest.raises(ClusterError, match="not the one that was in force last"):
        await refuse_stray_claims(Documents(world.folder), world.dsns)
    for shard in world.dsns:  # restored: what it has is of another time, until it is reconciled
        await world.rows(shard, "INSERT INTO incarnation (number, why) VALUES (99, 'restored') RETURNING 1")
    assert await stray_claims(world.dsns, read_topology(world.watch.path)) is None


@pytest.mark.parametrize("step", STEPS)
async def test_a_node_that_knows_the_old_topology_is_refused_and_looks_again(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "LOOKS_MAX", 2)
    phone = next(one for one in PHONES if world.node.place_of(one) == "eu-1")
    first, second = new_member_id(1, 1), new_member_id(2, 2)
    assert await world.enrol(phone, first)
    with pytest.raises(KilledError):
        await world.move("us-1", world.slots_of([phone]), die_after=step)
    assert world.watch.current.epoch == 1
    if step in {"fenced", "copied"}:  # nobody may know now: the same request again will tell
        with pytest.raises(ProblemError) as refused:
            await world.node.lease([phone], second)
        assert refused.value.code == "shard_unavailable"
        with pytest.raises(ProblemError):  # what were freed here only would stay claimed there for ever
            await world.node.release([phone], first)
    else:
        assert await world.node.lease([phone], second) == [phone]
        assert await world.node.find(phone) == first
    await move_claims(world.dsns, world.table(), None, world.say)
    assert await world.node.lease([phone], second) == [phone]
    await world.leave(phone, first)
    assert await world.node.lease([phone], second) == []
    assert await world.rows("eu-1", "SELECT FROM claim") == []


async def test_a_lease_in_flight_moves_and_ends_where_it_has_come(world: World) -> None:
    phones = [one for one in PHONES if world.node.place_of(one) == "eu-1"][:3]
    created, given_up, dead = (new_member_id(1, number) for number in range(3))
    for phone, member in zip(phones, (created, given_up, dead), strict=True):
        assert await world.node.lease([phone], member, attempt=1) == []
    await world.move("us-1")
    late = new_member_id(2, 9)
    with pytest.raises(ProblemError, match="enrolling with this phone"):
        await world.node.lease([phones[0]], late)
    sql = "INSERT INTO identifier VALUES ($1, $2, $3, 1) RETURNING 1"
    await world.rows("eu-1", sql, *phones[0], created)
    await world.rows("eu-1", sql, *phones[2], dead)
    await world.node.hold([phones[0]], created)
    await world.node.give_up([phones[1]], given_up, attempt=1)
    ended = "UPDATE claim SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL RETURNING 1"
    await world.rows("us-1", ended)
    assert await world.node.lease(phones, late) == [phones[0], phones[2]]
    assert await world.node.find(phones[2]) == dead


async def test_who_has_seen_a_slot_here_has_written_before_it_is_copied(world: World) -> None:
    """One enrolment has its row, but not its commit; another waits in the queue behind the fence."""
    phone = next(one for one in PHONES if world.node.place_of(one) == "eu-1")
    slot, first, second = world.node.slot_of(phone), new_member_id(1, 1), new_member_id(2, 2)
    other = next(one for one in map(_more_phones, range(100_000)) if world.node.slot_of(one) == slot)
    lease = load_statements(Path(directories.__file__).with_suffix(".sql"))["lease_claim"]
    writer = await asyncpg.connect(world.dsns["eu-1"])
    queued = await asyncpg.connect(world.dsns["eu-1"])
    watcher = await asyncpg.connect(world.dsns["eu-1"])
    transaction = writer.transaction()
    await transaction.start()
    assert (await writer.fetchrow(lease, slot, *phone, first, 15.0, None))["here"]
    moving = asyncio.create_task(world.move("us-1", {slot}))
    sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'claim'::regclass"
    while not await watcher.fetchval(sql):
        assert not moving.done()
    waiting = asyncio.create_task(queued.fetchrow(lease, slot, *other, second, 15.0, None))
    while await watcher.fetchval(sql) < 2:
        assert not waiting.done()
    await transaction.commit()
    row = await waiting
    assert await moving == 1
    there = {tuple(row) for row in await world.rows("us-1", "SELECT value, member_id FROM claim")}
    # Who waited may have come before a fence that tried again, or after it.
    assert there == {(phone[1], first)} | ({(other[1], second)} if row["here"] else set())
    assert await world.rows("eu-1", "SELECT FROM claim") == []
    for connection in (writer, queued, watcher):
        await connection.close()


def _more_phones(number: int) -> Identifier:
    return "phone", f"+4940{number:07}"


async def test_nobody_gets_what_another_has_while_claims_move_to_and_fro(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members enrol with few phones, change them and leave, by nodes that look late; slots move all the time."""
    monkeypatch.setattr(directories, "LOOKS_MAX", 100_000)
    monkeypatch.setattr(directories, "_LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(claim_move, "SLOTS_AT_ONCE", 3)
    phones, done = PHONES[:8], asyncio.Event()
    holders: dict[Identifier, int] = {}
    stale = World(world.folder, world.dsns, world.node, world.pools, world.watch)
    stale.watch = TopologyWatch(world.watch.path)
    stale.pools = ShardPools(stale.watch, size_max=8, statement_timeout_ms=60_000)
    stale.node = Directory(stale.watch, stale.pools)

    async def live(number: int) -> None:
        node = (world, stale)[number % 2].node
        for turn in range(12):
            phone, member = phones[(number + turn) % len(phones)], member_at(100 * number + turn)
            try:
                if await node.lease([phone], member):
                    continue
            except ProblemError as error:
                if error.code != "in_progress":
                    raise
                continue
            assert phone not in holders
            holders[phone] = member
            await node.hold([phone], member)
            assert await node.find(phone) == member
            if turn % 3:
                del holders[phone]  # from here on somebody else may get it
                await node.release([phone], member)

    async def move_for_ever() -> None:
        while not done.is_set():
            for shard in world.dsns:
                await world.move(shard, world.slots_of(phones))

    moving = asyncio.create_task(move_for_ever())
    await asyncio.gather(*(live(number) for number in range(8)))
    done.set()
    await moving
    found = {phone: await world.node.find(phone) for phone in phones}
    assert {phone: member for phone, member in found.items() if member} == holders
    claims = [row for shard in world.dsns for row in await world.rows(shard, "SELECT value FROM claim")]
    assert len(claims) == len(set(claims)) == len(holders)
    await stale.pools.close()


async def test_rows_of_a_version_before_get_their_slot_and_move(world: World) -> None:
    holders = await fill(world)
    kept = uuid4().hex
    await world.node.remember([kept], datetime.now(UTC) + timedelta(days=1))
    for shard in world.dsns:
        await world.rows(shard, "UPDATE claim SET slot = NULL RETURNING 1")
        await world.rows(shard, "UPDATE former_identifier SET slot = NULL RETURNING 1")
    assert await world.faults() == []
    await world.move("us-1")
    await world.move("eu-1")
    assert {phone: await world.node.find(phone) for phone in PHONES} == holders
    assert await world.node.remembers([kept])
    assert await world.faults() == []


async def test_a_shard_that_was_restored_moves_nothing_until_it_is_reconciled(world: World) -> None:
    await world.rows("us-1", "INSERT INTO incarnation (number, why) VALUES (9, 'test') RETURNING 1")
    with pytest.raises(MoveError, match="reconcile"):
        await world.move("us-1")
    assert set(world.table()) == {"eu-1", "us-1"}


@pytest.mark.parametrize("shard", ["eu-1", "us-1"])
async def test_two_movers_do_not_meet(world: World, shard: str) -> None:
    """Whichever shard the document of the other one names first."""
    other = await asyncpg.connect(world.dsns[shard])
    await other.fetchval(claim_move.STATEMENTS["lock_moves"])
    with pytest.raises(MoveError, match="somebody else"):
        await world.move("us-1")
    await other.close()


async def test_a_shard_begins_without_claims_and_refuses_who_thinks_otherwise(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region that was removed and is added again has its addresses, and none of its claims."""
    monkeypatch.setattr(directories, "LOOKS_MAX", 2)
    phone = next(one for one in PHONES if world.node.place_of(one) == "eu-1")
    await begin_without_claims(world.dsns["eu-1"], 8192)
    with pytest.raises(ProblemError):
        await world.node.lease([phone], new_member_id(1, 1))


async def test_after_a_restore_each_shard_keeps_what_the_topology_says(world: World) -> None:
    """The former owner is back in the time before; the topology is not."""
    holders = await fill(world)
    before = await world.rows("eu-1", "SELECT kind, value, member_id, leased_until, slot FROM claim")
    await world.move("us-1")
    for row in before:
        await world.rows("eu-1", "INSERT INTO claim VALUES ($1, $2, $3, $4, $5) RETURNING 1", *row)
    await world.rows("eu-1", "UPDATE claim_slot SET state = 'here', receiver = NULL WHERE slot < 4096 RETURNING 1")
    assert await world.faults()
    async with moving_alone({name: world.pools[name] for name in world.dsns}) as alone:
        assert alone
        with pytest.raises(MoveError, match="somebody else"):
            await world.move("eu-1")
        for name in world.dsns:
            async with world.pools[name].primary() as shard:
                await put_slots_right(shard, world.table(), name)
    assert {phone: await world.node.find(phone) for phone in PHONES} == holders
    assert await world.faults() == []
