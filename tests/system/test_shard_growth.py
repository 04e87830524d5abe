"""A second shard joins a region that sells meanwhile: new members live on it, old ones stay, and a restart keeps it."""

import asyncio
import itertools

import pytest

from shard_router.member_id import parse_member_id
from tests.long import long
from tests.system.conftest import loyalty
from tests.system.one_region import NOBODY, SOMEBODY_EVERYWHERE, again, enrol, shard, topology
from tests.system.one_region import alone as alone  # noqa: PLC0414
from tests.system.one_region import eu as eu  # noqa: PLC0414
from tests.system.till import System, basket


def home(system: System, member: str) -> str:
    return topology(system).shard_of(parse_member_id(member))


async def enrol_and_buy(system: System, members: list[str]) -> None:
    for number in itertools.count(1000):
        reply = await enrol(system, number)
        assert reply.status == 201, reply.body
        member = reply.json["member_id"]
        body = basket(member, "eu", f"meanwhile-{number}")
        bought = await system.insist("eu", "/v1/purchases", body, f"bought-{number}")
        assert bought.status == 201, bought.body
        members.append(member)


async def lifetime(system: System, member: str) -> tuple[int, int]:
    reply = await system.get("eu", f"/v1/members/{member}/account")
    return reply.status, reply.json["balance"]["lifetime"] if reply.status == 200 else -1


async def is_refused_while_no_slot_is_empty(eu: System) -> None:
    for name, why in (("eu", "is no name of a shard"), ("us-2", "there is no region us"), ("eu-1", "is there already")):
        code, words = await shard(eu, name)
        assert (code, why in words) == (1, True), words
    connection = await eu.primary("eu")
    await connection.execute(SOMEBODY_EVERYWHERE)
    try:
        code, words = await shard(eu, "eu-2")
    finally:
        await connection.execute(NOBODY)
        await connection.close()
    assert (code, "moving slots between shards comes later" in words) == (1, True), words
    assert list(topology(eu).document.shards) == ["eu-1"]


async def stays_as_somebody_lives_there(eu: System) -> None:
    code, words = await shard(eu, "eu-2", "remove")
    assert (code, "eu-2 holds members" in words) == (1, True), words
    assert topology(eu).document.shards["eu-2"].state == "active"


@long
@pytest.mark.timeout(900)
async def test_a_shard_joins_under_load_takes_newcomers_and_stays(eu: System) -> None:
    await is_refused_while_no_slot_is_empty(eu)
    old = (await enrol(eu, 1)).json["member_id"]
    await eu.insist("eu", "/v1/purchases", basket(old, "eu", "old"), "bought-old")
    enrolling = await eu.primary("eu")
    await enrolling.execute("SELECT pg_advisory_lock_shared(7261002)")  # one enrolment that does not end
    code, words = await shard(eu, "eu-2")
    await enrolling.close()
    assert (code, "nothing was given, ask again" in words) == (1, True), words
    joining = topology(eu).document.shards["eu-2"]
    assert (joining.state, joining.slots) == ("joining", [])
    await again(eu)  # goes on with a shard that takes nobody yet
    assert (eu.status["ready"], set(eu.status["regions"]["eu"]["shards"])) == (True, {"eu-1", "eu-2"})

    members: list[str] = []
    load = asyncio.create_task(enrol_and_buy(eu, members))
    code, words = await shard(eu, "eu-2")
    assert not load.done()
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    assert (code, "eu-2 takes new members in 2,0" in words) == (0, True), words
    assert await shard(eu, "eu-2") == (1, "shard eu-2 is there already")
    code, words = await shard(eu, "eu-3")
    assert (code, "at most 2 shards" in words) == (1, True)

    newcomers = [(await enrol(eu, number)).json["member_id"] for number in range(2, 26)]
    assert {home(eu, member) for member in newcomers} == {"eu-1", "eu-2"}
    assert home(eu, old) == "eu-1"
    await stays_as_somebody_lives_there(eu)
    there = next(member for member in newcomers if home(eu, member) == "eu-2")
    bought = await eu.insist("eu", "/v1/purchases", basket(there, "eu", "there"), "bought-there")
    assert bought.status == 201
    replayed = await eu.post("eu", "/v1/members", {"phone": "+4930666000002"}, key="grown-2")
    assert (replayed.headers["Idempotent-Replayed"], replayed.json["member_id"]) == ("true", newcomers[0])
    ready = await eu.ask("GET", f"{eu.node('eu', 'command')}/readyz?verbose")
    assert (ready.status, b"primary eu-2: ok" in ready.body) == (200, True)

    before = {member: await lifetime(eu, member) for member in (old, there, *members)}
    assert {status for status, _ in before.values()} == {200}
    await again(eu)
    assert (eu.status["ready"], set(eu.status["regions"]["eu"]["shards"])) == (True, {"eu-1", "eu-2"})
    assert {member: await lifetime(eu, member) for member in before} == before
    verdict = await asyncio.to_thread(loyalty, eu.data, "verify")
    assert verdict.returncode == 0, verdict.stdout
