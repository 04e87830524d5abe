"""Identifiers that versions before stored otherwise come to their one form; collisions are told, not merged."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from cluster.respell import lines_of, respell_system
from command.migrate import MIGRATIONS
from command.respell import Respelling
from shard_router.directory import Identifier
from shard_router.member_id import parse_member_id
from tests.command_node import RunningNode, running_command_node, topology_of_operator
from tests.engine import PostgresServer
from verify.finding import Finding
from verify.verify import verify

OLD_PHONE, PHONE = "+490302123456", "+49302123456"
OLD_EMAIL, EMAIL = "bjo\u0308rn@bücher.example.", "björn@xn--bcher-kva.example"
FORMS = "phones and e-mails are stored in their one form"


@pytest.fixture
async def node(tmp_path: Path, postgres_server: PostgresServer) -> AsyncGenerator[RunningNode]:
    databases = [await postgres_server.create_database() for _ in range(2)]
    async with running_command_node(databases[0], tmp_path, second=databases[1]) as running:
        yield running
    for database in databases:
        await postgres_server.drop_database(database)


@asynccontextmanager
async def shard(node: RunningNode, name: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(node.inner.topology.current.document.shards[name].servers[0])
    yield connection
    await connection.close()


async def store_before(node: RunningNode, member_id: str, old: Identifier, new: Identifier) -> None:
    """Turn what a member has into what a version before would have stored."""
    member, topology = parse_member_id(member_id), node.inner.topology.current
    async with shard(node, topology.shard_of(member)) as home:
        await home.execute("UPDATE identifier SET value = $3 WHERE (kind, value) = ($1, $2)", *new, old[1])
        path = (
            "UPDATE member SET profile = jsonb_set(profile::jsonb, ARRAY[$1], to_jsonb($2::text)) WHERE member_id = $3"
        )
        await home.execute(path, *old, member)
    async with shard(node, node.inner.directory.place_of(new)) as place:
        await place.execute("DELETE FROM claim WHERE (kind, value) = ($1, $2)", *new)
    async with shard(node, node.inner.directory.place_of(old)) as place:
        await place.execute("INSERT INTO claim VALUES ($1, $2, $3)", *old, member)


async def identifiers_of(node: RunningNode, member_id: str) -> set[Identifier]:
    return {one for one in await node.inner.identifiers_of(parse_member_id(member_id)) if one[0] != "card"}


async def profile_of(node: RunningNode, member_id: str) -> dict[str, str]:
    member = parse_member_id(member_id)
    async with shard(node, node.inner.topology.current.shard_of(member)) as home:
        return json.loads(await home.fetchval("SELECT profile FROM member WHERE member_id = $1", member))


async def claims(node: RunningNode) -> dict[Identifier, int]:
    found: dict[Identifier, int] = {}
    for name in node.inner.shards():
        async with shard(node, name) as connection:
            rows = await connection.fetch("SELECT kind, value, member_id FROM claim WHERE leased_until IS NULL")
            found |= {(row["kind"], row["value"]): row["member_id"] for row in rows}
    return found


async def respelled(folder: Path) -> Respelling:
    told = await respell_system(topology_of_operator(folder))
    assert told is not None
    return told


async def findings(folder: Path) -> list[Finding]:
    return [one for one in await verify(topology_of_operator(folder)) if one.where == "all shards"]


async def test_what_was_stored_before_comes_to_its_one_form(node: RunningNode, tmp_path: Path) -> None:
    member = (await node.enrol(phone=PHONE, email=EMAIL, name="Björn"))["member_id"]
    await store_before(node, member, ("phone", OLD_PHONE), ("phone", PHONE))
    await store_before(node, member, ("email", OLD_EMAIL), ("email", EMAIL))
    assert [one.check for one in await findings(tmp_path) if not one.ok] == [FORMS]
    told = await respelled(tmp_path)
    assert (told.changed, told.collisions) == (2, [])
    assert await identifiers_of(node, member) == {("phone", PHONE), ("email", EMAIL)}
    assert await profile_of(node, member) == {
        "card": (await profile_of(node, member))["card"], "phone": PHONE, "email": EMAIL, "name": "Björn",
    }  # fmt: skip
    await node.run_errands()
    assert await claims(node) == dict.fromkeys([("phone", PHONE), ("email", EMAIL)], parse_member_id(member))
    assert all(one.ok for one in await findings(tmp_path))
    again = await respelled(tmp_path)
    assert (again.changed, again.collisions) == (0, [])
    assert await respell_system(tmp_path / "topology.json", once=True) is None  # so a start does not look again


async def test_two_members_with_one_phone_are_told_and_stay_two(node: RunningNode, tmp_path: Path) -> None:
    first = (await node.enrol(phone=PHONE))["member_id"]
    await store_before(node, first, ("phone", OLD_PHONE), ("phone", PHONE))
    second = (await node.enrol(email="x@example.com"))["member_id"]
    async with shard(node, node.inner.directory.place_of(("phone", PHONE))) as place:  # as a version before let them
        await place.execute("INSERT INTO claim VALUES ('phone', $1, $2)", PHONE, parse_member_id(second))
    async with shard(node, node.inner.topology.current.shard_of(parse_member_id(second))) as home:
        await home.execute("INSERT INTO identifier VALUES ('phone', $1, $2, 1)", PHONE, parse_member_id(second))
    told = await respelled(tmp_path)
    assert (told.changed, len(told.collisions)) == (0, 1)
    assert lines_of(told)[1] == f"the phone of {first}, written otherwise, is that of {second}"
    assert PHONE not in "".join(lines_of(told))
    assert await identifiers_of(node, first) == {("phone", OLD_PHONE)}
    hold = await node.post("/v1/holds", {"member": {"phone": OLD_PHONE}, "points": 1})
    assert hold.code == "insufficient_points"  # the canonical one finds the second, as it was before


async def test_an_older_phone_that_is_respelled_is_not_shown_as_the_newest(node: RunningNode, tmp_path: Path) -> None:
    member = (await node.enrol(phone=PHONE))["member_id"]
    await store_before(node, member, ("phone", OLD_PHONE), ("phone", PHONE))
    added = await node.post(f"/v1/members/{member}/identifiers", {"add": [{"phone": "+4930999888"}]})
    assert added.status == 201
    await respelled(tmp_path)
    assert await identifiers_of(node, member) == {("phone", PHONE), ("phone", "+4930999888")}
    assert (await profile_of(node, member))["phone"] == "+4930999888"


async def test_what_no_plan_has_stays_as_it_is(node: RunningNode, tmp_path: Path) -> None:
    member = (await node.enrol(phone=PHONE))["member_id"]
    await store_before(node, member, ("phone", "+1234567"), ("phone", PHONE))
    told = await respelled(tmp_path)
    assert (told.changed, told.collisions) == (0, [])
    assert all(one.ok for one in await findings(tmp_path))


async def test_receipts_recorded_before_are_brought_to_the_form_in_which_they_are_looked_for(database: str) -> None:
    connection = await asyncpg.connect(database)
    names = [
        ("330", "1 ", "Bon-A\u03081"), ("330", "1", "Bon-Ä1 "), ("330", "1", "2"), ("330", "\u30003", "2"),
        ("330", " ", "4"), ("330", "5", " 6"), ("330", "5", "6"), ("330", "till 7", "8"),
    ]  # fmt: skip
    for version, name in enumerate(names):
        insert = "INSERT INTO receipt VALUES ($1, $2, '2026-11-22', $3, 'purchase', 1, $4, gen_random_uuid())"
        await connection.execute(insert, *name, version)
    await connection.execute((MIGRATIONS / "0003_receipts_in_one_form.sql").read_text())
    rows = await connection.fetch("SELECT store, till, receipt FROM receipt ORDER BY version")
    await connection.close()
    assert [tuple(row) for row in rows] == [
        ("330", "1", "Bon-Ä1"), ("330", "1", "Bon-Ä1 "), ("330", "1", "2"), ("330", "3", "2"),
        ("330", " ", "4"), ("330", "5", " 6"), ("330", "5", "6"), ("330", "till 7", "8"),
    ]  # fmt: skip
