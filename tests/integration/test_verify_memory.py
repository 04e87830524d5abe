"""`verify` folds those who changed since the last clean run, and forgets whom it found at fault."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shard_router import pool
from shard_router.topology import NOBODY, TopologyWatch
from tests.engine import PostgresServer, ValkeyServer
from tests.verify_world import World, prepared_world
from verify import stream, view
from verify.books import FOLD
from verify.memory import Counts, Memory
from verify.parallel import verify_side_by_side
from verify.part import PARTS, Audit
from verify.verify import verify


@pytest.fixture
async def world(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[World]:
    monkeypatch.setattr(view, "PATIENCE_S", 0.0)
    async with prepared_world(postgres_server, valkey_server, tmp_path) as prepared:
        prepared.known = tmp_path / "known"
        prepared.known.mkdir()
        yield prepared


def seen(world: World) -> set[int]:
    assert world.known
    found: set[int] = set()
    for file in world.known.glob("*.[0-9]"):  # of the ledger, not of the views
        found |= {row[0] for row in sqlite3.connect(file).execute("SELECT member_id FROM known")}
    return found


async def test_who_is_at_fault_is_not_known_until_it_is_mended(world: World) -> None:
    ada, home = int(world.names["ada"]), world.home("ada")
    assert await world.broken() == {}
    everybody = seen(world)
    assert ada in everybody
    await home.connection.execute("UPDATE account SET spent = spent + 1, issued = issued + 1 WHERE member_id = $1", ada)
    for _ in range(2):
        assert FOLD in await world.broken()
        assert seen(world) == everybody - {ada}
    await home.connection.execute("UPDATE account SET spent = spent - 1, issued = issued - 1 WHERE member_id = $1", ada)
    assert await world.broken() == {}
    assert seen(world) == everybody


async def test_shards_side_by_side_find_the_same_and_all_looks_at_nothing_seen_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot of all parts stays open while other processes start and work, longer than others may idle."""
    assert world.known
    one_by_one = [one.document() for one in await world.verify()]
    monkeypatch.setattr(pool, "IDLE_IN_TRANSACTION_MS", 500)
    for every in (False, True):
        found = await verify_side_by_side(world.path, NOBODY, world.known, every=every)
        assert [one.document() for one in found] == one_by_one
    ada = int(world.names["ada"])
    await world.home("ada").connection.execute("UPDATE journal SET points = points + 1 WHERE member_id = $1", ada)
    found = await verify_side_by_side(world.path, NOBODY, world.known, every=True)
    assert not all(one.ok for one in found)
    assert ada not in seen(world)


def test_the_parts_of_a_shard_hold_every_id_once(world: World) -> None:
    topology = TopologyWatch(world.path).current
    for shard in topology.document.shards:
        parts = Audit(shard, topology).parts()
        assert len(parts) == PARTS
        assert [one.last + 1 for one in parts[:-1]] == [one.first for one in parts[1:]]
        assert (parts[0].first, parts[-1].last) == (-(2**63), 2**63 - 1)
        assert {topology.shard_of(one.first) for one in parts[1:]} == {shard}


def test_all_is_forgotten_when_the_same_rows_may_mean_another_thing(tmp_path: Path) -> None:
    def run(fingerprint: str, digest: str) -> list[int]:
        memory = Memory(tmp_path / "eu-1", fingerprint)
        memory.compare([(7, digest)])
        changed = memory.changed()
        for member_id in changed:
            memory.remember(member_id, Counts((1, 2), {"coffee": 3}))
        memory.save()
        memory.close()
        return changed

    assert [run("a", "x"), run("a", "x"), run("a", "y"), run("b", "y"), run("b", "y")] == [[7], [], [7], [7], []]


def test_who_was_looked_at_is_known_by_the_digest_of_then(tmp_path: Path) -> None:
    def run(*digests: str) -> list[int]:
        memory = Memory(tmp_path / "eu-1", "a")
        memory.compare([(7, digests[0])])
        changed = memory.changed()
        memory.remember(7, Counts((1,), {}))
        memory.compare([(7, digest) for digest in digests[1:]])
        memory.save()
        memory.close()
        return changed

    assert [run("x", "y"), run("y"), run("y")] == [[7], [7], []]


async def test_members_whose_rows_come_in_several_blocks_are_found_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [one.document() for one in await verify(world.path)]
    for rows in (1, 2):
        monkeypatch.setattr(stream, "ROWS_AT_ONCE", rows)
        assert [one.document() for one in await verify(world.path)] == found


def test_what_was_not_saved_is_not_known(tmp_path: Path) -> None:
    for _ in range(2):
        memory = Memory(tmp_path / "eu-1", "a")
        memory.compare([(7, "x")])
        assert memory.changed() == [7]
        memory.remember(7, Counts((1,), {}))
        memory.close()
