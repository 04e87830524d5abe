"""Tampering with views is found, and so is a standby that holds something else; what is on its way is waited for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest

from cluster.verdict import EXIT_UNSEEN, exit_code
from query.views import header
from tests.command_node import running_command_node
from tests.conftest import DatabasePair, eventually
from tests.engine import PostgresServer, ValkeyServer
from tests.verify_world import TABLES, World, prepared_world
from verify import verify, view
from verify.view import ACCOUNTS, ACTIVITY, GHOSTS, OTHERS

TAMPERING = {
    "an account that is missing": (ACCOUNTS, "DEL a:{ada}"),
    "an account of other content": (ACCOUNTS, "SETRANGE a:{ada} 16 x"),
    "an account of another version": (ACCOUNTS, "SETRANGE a:{ada} 0 0000000000000001"),
    "an account that is a list": (ACCOUNTS, "DEL a:{ada}|RPUSH a:{ada} x"),
    "a profile that is missing": (OTHERS, "DEL m:{ada}"),
    "a profile of other content": (OTHERS, "SETRANGE m:{ada} 16 x"),
    "a purchase that is missing": (OTHERS, "DEL p:{ada}-{first}"),
    "a purchase of other content": (OTHERS, "SETRANGE p:{ada}-{first} 16 x"),
    "an identifier that is missing": (OTHERS, "DEL i:phone:+4930111"),
    "an identifier that leads to another": (OTHERS, "COPY i:email:cem@example.org i:phone:+4930111 REPLACE"),
    "an identifier without a header": (OTHERS, "SETRANGE i:phone:+4930111 0 x"),
    "activity that is missing": (ACTIVITY, "DEL e:{ada}"),
    "an entry that is missing": (ACTIVITY, "ZREMRANGEBYSCORE e:{ada} {first} {first}"),
    "an entry of other content": (ACTIVITY, "ZREMRANGEBYSCORE e:{ada} {first} {first}|ZADD e:{ada} {first} x"),
    "an entry too many": (ACTIVITY, "ZADD e:{ada} 999 x"),
    "activity that is no list": (ACTIVITY, "DEL e:{ada}|SET e:{ada} x"),
    "a phone that still leads to somebody": (GHOSTS, "COPY i:phone:+4930111 i:phone:+4999"),
    "a phone that leads nowhere": (GHOSTS, "SET i:phone:+4999 x"),
    "the profile of a ghost": (GHOSTS, "SET m:777 x"),
    "the account of a ghost": (GHOSTS, "COPY a:{ada} a:777"),
    "the activity of a ghost": (GHOSTS, "ZADD e:777 1 x"),
    "the purchase of a ghost": (GHOSTS, "COPY p:{ada}-{first} p:{ada}-999"),
    "an account under another spelling": (GHOSTS, "COPY a:{ada} a:0{ada}"),
    "a member beyond all numbers": (GHOSTS, "SET m:9999999999999999999 x"),
    "a key that is no text": (GHOSTS, "SET m:\xff x"),
    "an identifier of no kind": (GHOSTS, "SET i:x x"),
}

ROWS = {
    "a profile": (OTHERS, """UPDATE member SET profile = '{"name": "Eve"}' WHERE member_id = $1"""),
    "a purchase": (OTHERS, "UPDATE purchase SET till = '9' WHERE member_id = $1"),
    "an entry": (ACTIVITY, "UPDATE journal SET store = 'x' WHERE member_id = $1"),
    "an account": (ACCOUNTS, "UPDATE journal SET account_after = '{\"balance\": {}}' WHERE member_id = $1"),
    "entries that no view can show": (OTHERS, "UPDATE journal SET account_after = '{}' WHERE member_id = $1"),
    "an identifier": (GHOSTS, "DELETE FROM identifier WHERE kind = 'phone' AND member_id = $1"),
    "a new identifier": (OTHERS, "INSERT INTO identifier VALUES ('phone', '+4977', $1, 1)"),
    "a member": (GHOSTS, "DELETE FROM member WHERE member_id = $1"),
}

ONLY_ON_THE_PRIMARY = {
    "member": "UPDATE member SET version = version + 1",
    "identifier": "DELETE FROM identifier WHERE kind = 'phone'",
    "claim": "DELETE FROM claim",
    "errand": "INSERT INTO errand VALUES (1, 1, 'release', '{}', 0, now())",
    "program": "UPDATE program SET source = source || '#'",
}


@pytest.fixture(scope="module")
async def prepared(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[World]:
    async with prepared_world(postgres_server, valkey_server, tmp_path_factory.mktemp("verify")) as world:
        yield world


@pytest.fixture
async def world(prepared: World, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setattr(view, "PATIENCE_S", 0.0)
    yield prepared
    prepared.known = None
    for shard in prepared.shards.values():
        await shard.fill_views()


async def see(world: World, known: Path) -> None:
    """Have a clean run see everybody; the next one knows them."""
    world.known = known
    for _ in range(2):
        assert await world.broken() == {}


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("what", TAMPERING)
async def test_a_view_that_its_row_does_not_say_is_found_and_nothing_else(
    world: World, what: str, *, seen: bool, tmp_path: Path
) -> None:
    check, commands = TAMPERING[what]
    if seen:
        await see(world, tmp_path)
    for command in commands.format_map(world.names).split("|"):
        await world.home("ada").valkey.execute_command(*(word.encode("latin-1") for word in command.split(" ")))
    for _ in range(2):  # what is wrong is never taken for known
        broken = await world.broken()
        assert set(broken) == {check}
        assert "+49" not in str(broken)  # nobody's phone is shown


@pytest.mark.parametrize("what", ROWS)
async def test_a_row_that_its_view_does_not_show_is_found(world: World, what: str, tmp_path: Path) -> None:
    check, statement = ROWS[what]
    await see(world, tmp_path)
    await world.home("ada").connection.execute(statement, int(world.names["ada"]))
    try:
        for _ in range(2):
            assert check in await world.broken()
    finally:
        await world.home("ada").restore()
    assert await world.broken() == {}


async def test_an_emptied_valkey_is_found_without_waiting_for_each_view(world: World) -> None:
    await world.home("ada").valkey.flushdb()
    assert set(await world.broken()) == {ACCOUNTS, OTHERS, ACTIVITY}


async def test_a_view_that_is_on_its_way_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "PATIENCE_S", 30.0)
    monkeypatch.setattr(view, "RETRY_S", 0.01)
    key, valkey = f"a:{world.names['ada']}", world.home("ada").valkey
    kept = await valkey.get(key)
    await valkey.set(key, header(1) + b"{}")
    await valkey.set("m:777", b"x")
    asked = (await valkey.info("commandstats"))["cmdstat_mget"]["calls"]
    looking = asyncio.create_task(world.broken())

    async def looked_twice() -> bool:
        return (await valkey.info("commandstats"))["cmdstat_mget"]["calls"] > asked + 1

    await eventually(looked_twice)
    await valkey.set(key, kept)
    await valkey.delete("m:777")
    assert await looking == {}


async def test_a_shard_that_does_not_answer_breaks_no_promise_and_proves_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "SERVER_PATIENCE_S", 2.0)
    document = json.loads(world.path.read_text())
    document["shards"]["eu-2"]["servers"] = ["postgresql://nobody@127.0.0.1:1/nothing"]
    document["shards"]["eu-1"]["valkey"] = "redis://127.0.0.1:1"
    path = tmp_path / "unreachable.json"
    path.write_text(json.dumps(document))
    findings = await verify.verify(path)
    unseen = {one.check for one in findings if one.unseen}
    assert unseen == {"the primary can be read", "the views can be read", "all primaries at once can be read"}
    assert not any(one.violations for one in findings)
    assert exit_code(findings) == EXIT_UNSEEN


async def test_a_standby_that_does_not_answer_is_told_apart_from_one_that_holds_something_else(
    database: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "STANDBY_PATIENCE_S", 0.0)
    async with running_command_node(database, tmp_path):
        pass
    document = json.loads((tmp_path / "topology.json").read_text())
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    document["shards"]["eu-1"] |= {"servers": [database, nobody], "valkey": valkey_url}
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(document))
    findings = await verify.verify(path)
    (standby,) = [one for one in findings if one.where == "eu-1 standby"]
    assert (standby.violations, standby.unseen, standby.ok) == (0, ["eu-1: no standby"], False)
    assert exit_code(findings) == EXIT_UNSEEN


async def test_a_standby_that_holds_something_else_is_found(
    database_pair: DatabasePair, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "STANDBY_PATIENCE_S", 0.0)
    monkeypatch.setattr(view, "PATIENCE_S", 0.0)
    async with running_command_node(database_pair.primary, tmp_path) as node:
        await node.enrol(phone="+4930111")
    document = json.loads((tmp_path / "topology.json").read_text())
    document["shards"]["eu-1"] |= {"servers": [database_pair.primary, database_pair.standby], "valkey": valkey_url}
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(document))
    primary, standby = await asyncpg.connect(database_pair.primary), await asyncpg.connect(database_pair.standby)

    async def the_same() -> bool:
        return await differing(path) == []

    await eventually(the_same)
    await standby.execute("SELECT pg_wal_replay_pause()")
    try:
        for change in ONLY_ON_THE_PRIMARY.values():
            await primary.execute(change)
        assert await differing(path) == list(ONLY_ON_THE_PRIMARY)
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")
    await eventually(the_same)
    await primary.close()
    await standby.close()


async def differing(path: Path) -> list[str]:
    """The tables of which the standby holds something else."""
    (found,) = [one for one in await verify.verify(path) if one.where == "eu-1 standby"]
    assert found.checked == len(TABLES)
    return [one.partition(":")[0] for one in found.examples]
