"""Slots without members go to another shard while people enrol: nobody is enrolled twice, or where nobody looks."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cluster.command_node import command_node
from command.__main__ import build
from command.reconcile import reconcile
from command.register import Register
from command.request import NODE
from command.settings import CommandSettings
from command.slot import STATEMENTS, SlotsBack, empty_slots, give_slots, given_to, take_refusals
from service.health import CHECKS
from shard_router.member_id import SLOT_COUNT, compose_member_id, parse_member_id, slot_of
from shard_router.slot_table import ranges_of
from tests.command_node import Reply, RunningNode, basket, running_command_node, topology_of_operator
from tests.conftest import eventually
from tests.engine import PostgresServer, as_login

ALL = range(SLOT_COUNT)
STORE = "330"


class KilledError(Exception):
    """Whoever gives slots back is no more."""


@dataclass
class Growing:
    """A node of one shard, and the database of the shard that is to join."""

    node: RunningNode
    folder: Path
    giver: asyncpg.Connection
    receiver: asyncpg.Connection
    second: str

    async def give(self, wanted: Any = ALL) -> list[int]:
        return await give_slots(self.giver, 1, wanted, receiver="eu-2", lock_timeout_ms=30_000)

    async def give_back(self, given: list[int], *, die_before: str | None = None) -> list[int]:
        """As `shard remove` does; `die_before` the topology says so, or before the first shard takes members there."""

        async def switch(slots: set[int]) -> None:
            if die_before == "switch":
                raise KilledError
            self.publish(sorted(set(given) - slots), state="joining")
            await eventually(lambda: _adopted(self.node))
            if die_before == "opening":
                raise KilledError

        return await SlotsBack(("eu-2", self.receiver), ("eu-1", self.giver), 1, 30_000).give(given, switch)

    def publish(self, given: list[int], *, state: str = "active") -> None:
        file = self.folder / "topology.json"
        document = json.loads(file.read_text())
        ranges = ranges_of(["eu-2" if slot in set(given) else "eu-1" for slot in ALL])
        first = document["shards"]["eu-1"]
        first |= {"slots": ranges.get("eu-1", []), "receipts": [[0, 4095]]}
        document["shards"]["eu-2"] = first | {
            "slots": ranges.get("eu-2", []),
            "servers": [as_login(self.second, "node")],
            "receipts": [],
            "state": state,
        }
        claims = {"claim_slots": {"eu-1": [[0, 4095]]}}  # they do not go by these slots
        file.write_text(json.dumps(document | claims | {"epoch": document["epoch"] + 1}))

    async def homes(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for name, connection in (("eu-1", self.giver), ("eu-2", self.receiver)):
            for row in await connection.fetch("SELECT member_id FROM account"):
                assert row["member_id"] not in found
                found[row["member_id"]] = name
        return found


@pytest.fixture
async def growing(postgres_server: PostgresServer, database: str, tmp_path: Path) -> AsyncGenerator[Growing]:
    second = await postgres_server.create_database()
    async with running_command_node(database, tmp_path, deadline_ms=60_000) as node:
        program = await _program(database)
        giver, receiver = await asyncpg.connect(database), await asyncpg.connect(second)
        await receiver.execute("INSERT INTO program (version, effective_at, source) VALUES ($1, $2, $3)", *program)
        yield Growing(node, tmp_path, giver, receiver, second)
        await giver.close()
        await receiver.close()
    await postgres_server.drop_database(second)


async def _program(dsn: str) -> tuple[Any, ...]:
    connection = await asyncpg.connect(dsn)
    row = await connection.fetchrow("SELECT version, effective_at, source FROM program ORDER BY version DESC")
    await connection.close()
    assert row is not None
    return tuple(row)


async def test_enrolments_meanwhile_end_on_one_shard_each_and_none_fails(growing: Growing) -> None:
    node = growing.node
    asked = [
        asyncio.create_task(node.post("/v1/members", {"phone": f"+4930777{number:05}"}, key=f"meanwhile-{number}"))
        for number in range(60)
    ]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    given = await growing.give()
    growing.publish(given, state="joining")
    assert {slot_of(member) for member in await growing.homes()}.isdisjoint(given)
    growing.publish(given)
    replies = [await one for one in asked]
    assert {reply.status for reply in replies} == {201}
    again = [
        await node.post("/v1/members", {"phone": f"+4930777{number:05}"}, key=f"meanwhile-{number}")
        for number in range(60)
    ]
    assert [reply.body for reply in again] == [reply.body for reply in replies]
    homes = await growing.homes()
    assert {parse_member_id(reply.json["member_id"]) for reply in replies} == homes.keys()
    assert {name for member, name in homes.items() if slot_of(member) in set(given)} <= {"eu-2"}
    assert {name for member, name in homes.items() if slot_of(member) not in set(given)} == {"eu-1"}


async def test_who_gives_waits_for_an_enrolment_that_has_begun(growing: Growing, database: str) -> None:
    """It has looked and not written yet: its slot is found taken once it ends."""
    enrolling = await asyncpg.connect(database)
    transaction = enrolling.transaction()
    await transaction.start()
    await enrolling.execute(STATEMENTS["enter_slots"])
    assert await enrolling.fetch(STATEMENTS["given_slots"], [7]) == []
    giving = asyncio.create_task(growing.give([7, 8]))

    async def waits() -> bool:
        return bool(
            await enrolling.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )

    await eventually(waits)
    member_id = compose_member_id(1, slot=7, unique=1)
    await enrolling.execute(
        "INSERT INTO member (member_id, version, profile, enrolled_at) VALUES ($1, 1, '{}', now())", member_id
    )
    await transaction.commit()
    await enrolling.close()
    assert await giving == [8]
    assert await given_to(growing.giver, "eu-2") == [8]
    assert await empty_slots(growing.giver, 1, [6, 7, 8]) == [6]
    assert await growing.give([6]) == [6, 8]  # asked again: what it has, and what comes to it


async def test_an_enrolment_whose_slot_has_gone_did_nothing_and_comes_back_with_its_key(
    growing: Growing,
) -> None:
    node, body = growing.node, {"phone": "+493055512345"}
    given = await growing.give()
    late = await node.post("/v1/members", body, key="late", **{"Loyalty-Deadline-Ms": "3000"})
    assert (late.status, late.code, late.json["retryable"]) == (503, "shard_unavailable", True)
    assert await growing.homes() == {}
    assert await growing.giver.fetchval("SELECT count(*) FROM idempotency") == 0
    assert await growing.giver.fetchval("SELECT count(*) FROM claim") == 0
    growing.publish(given)
    first = await node.post("/v1/members", body, key="late")
    second = await node.post("/v1/members", body, key="late")
    assert (first.status, second.status, second.body) == (201, 201, first.body)
    assert set((await growing.homes()).values()) == {"eu-2"}
    assert (await node.give(first.json["member_id"], 5)).status == 201


async def test_nobody_is_enrolled_on_a_shard_before_all_nodes_know_whose_its_slots_are(growing: Growing) -> None:
    node, body = growing.node, {"phone": "+493055512347"}
    given = await growing.give()
    growing.publish(given, state="joining")
    early = await node.post("/v1/members", body, key="early", **{"Loyalty-Deadline-Ms": "3000"})
    assert (early.status, early.code) == (503, "shard_unavailable")
    assert await growing.homes() == {}
    growing.publish(given)
    assert (await node.post("/v1/members", body, key="early")).status == 201
    assert set((await growing.homes()).values()) == {"eu-2"}


async def test_a_no_to_an_enrolment_is_the_same_after_its_slot_has_gone(growing: Growing) -> None:
    node, body = growing.node, {"phone": "+493055512346"}
    member = await node.enrol(**body)
    refused = await node.post("/v1/members", body, key="refused")
    assert (refused.status, refused.code) == (409, "member_exists")
    given = await growing.give()
    for _ in range(2):
        assert await take_refusals(growing.giver, growing.receiver, 1, given) == 1
    growing.publish(given)
    await eventually(lambda: _adopted(node))
    assert (await node.delete(f"/v1/members/{member['member_id']}")).status == 200
    await node.run_errands()
    again = await node.post("/v1/members", body, key="refused")
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (409, refused.body, "true")
    assert (await node.post("/v1/members", body, key="another")).status == 201


async def _adopted(node: RunningNode) -> bool:
    watch = node.inner.topology
    watch.look()
    return watch.current.epoch == json.loads(watch.path.read_text())["epoch"]


async def test_enrolments_meanwhile_end_on_the_shard_that_gets_its_slots_back(growing: Growing) -> None:
    """Who gets a 503 meanwhile sends the same key again, as docs/operate.md says."""
    node, given = growing.node, await growing.give()
    growing.publish(given)
    await growing.receiver.execute("SELECT pg_advisory_lock(7261002)")  # they have come as far as the second shard

    async def enrol(number: int) -> Reply:
        body, key = {"phone": f"+4930778{number:05}"}, f"back-{number}"
        while (reply := await node.post("/v1/members", body, key=key)).status == 503 and reply.json["retryable"]:
            pass
        return reply

    asked = [asyncio.create_task(enrol(number)) for number in range(40)]

    async def wait() -> bool:
        sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(await growing.receiver.fetchval(sql))

    await eventually(wait)
    giving = asyncio.create_task(growing.give_back(given))
    await growing.receiver.execute("SELECT pg_advisory_unlock(7261002)")
    if taken := await giving:  # some were faster: nothing was given, and all end where they are
        assert await given_to(growing.receiver, "eu-1") == []
        assert set(taken) <= {slot_of(member) for member in await growing.homes()}
    else:
        growing.publish([])
    assert {(await one).status for one in asked} == {201}
    assert len(await growing.homes()) == 40


@pytest.mark.parametrize("step", ["switch", "opening", None])
async def test_slots_come_back_whoever_dies_between_two_steps(growing: Growing, step: str | None) -> None:
    node, body = growing.node, {"phone": "+493055512348"}
    given = await growing.give()
    growing.publish(given)
    await eventually(lambda: _adopted(node))
    if step:
        with pytest.raises(KilledError):
            await growing.give_back(given, die_before=step)
        early = await node.post("/v1/members", body, key="early", **{"Loyalty-Deadline-Ms": "3000"})
        assert (early.status, early.code) == (503, "shard_unavailable")
        assert await growing.homes() == {}
    known = [] if step == "opening" else given  # as the topology has them by now
    assert await growing.give_back(known) == []
    assert await given_to(growing.giver, "eu-2") == []
    growing.publish([])
    assert (await node.post("/v1/members", body, key="early")).status == 201
    assert set((await growing.homes()).values()) == {"eu-1"}
    assert await growing.give_back([]) == []  # once more, and late


async def test_no_slot_comes_back_while_somebody_lives_in_one(growing: Growing) -> None:
    given = await growing.give()
    growing.publish(given)
    await eventually(lambda: _adopted(growing.node))
    member = (await growing.node.enrol())["member_id"]
    assert await growing.give_back(given) == [slot_of(parse_member_id(member))]
    assert await given_to(growing.receiver, "eu-1") == []
    assert await given_to(growing.giver, "eu-2") == given
    assert (await growing.node.post("/v1/members", {})).status == 201


async def test_nobody_is_enrolled_where_a_restore_lost_the_word_of_slots_that_were_given(growing: Growing) -> None:
    """Not before every node knows that they are there again."""
    given = await growing.give()
    growing.publish(given)
    await growing.giver.execute("DELETE FROM given_slot")
    with pytest.raises(KilledError):
        await growing.give_back(given, die_before="opening")
    early = await growing.node.post("/v1/members", {}, **{"Loyalty-Deadline-Ms": "3000"})
    assert (early.status, early.code) == (503, "shard_unavailable")


async def test_a_no_comes_back_with_its_slot(growing: Growing) -> None:
    node, body = growing.node, {"phone": "+493055512349"}
    await node.enrol(**body)
    given = await growing.give()
    growing.publish(given)
    await eventually(lambda: _adopted(node))
    refused = await node.post("/v1/members", body, key="refused")
    assert refused.code == "member_exists"
    assert await growing.receiver.fetchval("SELECT count(*) FROM idempotency") == 1
    assert await growing.give_back(given) == []
    again = await node.post("/v1/members", body, key="refused")
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (409, refused.body, "true")


async def test_a_shard_restored_to_before_its_slots_came_back_takes_members_in_them(growing: Growing) -> None:
    given = await growing.give()  # so it says, though the topology knows better
    await growing.giver.execute("INSERT INTO incarnation (number, why) VALUES (9, 'test')")
    async with command_node(topology_of_operator(growing.folder)) as node:
        await reconcile(node)
    assert (given[0], await given_to(growing.giver, "eu-2")) == (0, [])
    assert (await growing.node.post("/v1/members", {})).status == 201


async def test_a_receipt_earns_once_though_its_stores_slot_has_gone(growing: Growing) -> None:
    node = growing.node
    old = (await node.enrol())["member_id"]
    assert (await node.post("/v1/purchases", basket({"member_id": old}, "7") | {"store": STORE})).status == 201
    given = await growing.give()
    growing.publish(given)
    new = (await node.enrol())["member_id"]
    assert (await growing.homes())[parse_member_id(new)] == "eu-2"
    bought = await node.post("/v1/purchases", basket({"member_id": new}, "7") | {"store": STORE})
    assert bought.status == 201
    for shard in node.inner.shards():
        while await Register(node.inner).work_off(shard):
            pass
    points = [(await node.give(one, 1)).json["account"]["balance"]["lifetime"] for one in (old, new)]
    assert points[0] > points[1] == 1


async def test_a_node_is_as_ready_as_the_shards_it_has_by_now(growing: Growing, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.json" for name in ("topology", "credentials")}
    app = build(CommandSettings(region="eu", port=1, **paths))
    assert {name for name in app[CHECKS] if name.startswith("primary")} == {"primary eu-1"}
    growing.publish([1, 2, 3])
    app[NODE].topology.look()
    assert {name for name in app[CHECKS] if name.startswith("primary")} == {"primary eu-1", "primary eu-2"}
    assert await app[CHECKS]["primary eu-2"]() is None
    await app[NODE].pools.close()
