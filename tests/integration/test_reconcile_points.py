"""Transfers and thanks of which a restore took one half: points are conserved, and every promise holds again."""

from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest

from tests.engine import PostgresServer
from tests.integration.tampering import lengthen
from tests.restored_world import World, restorable_world


@pytest.fixture
async def world(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[World]:
    async with restorable_world(postgres_server, tmp_path) as made:
        yield made


@pytest.mark.parametrize(("spent", "after"), [(0, (40, 0)), (30, (10, 0)), (80, (0, 40))])
async def test_a_transfer_whose_senders_half_is_lost_goes_back(
    world: World, spent: int, after: tuple[int, int]
) -> None:
    """What the receiver has spent of it is owed."""
    sender, receiver = await world.member("eu", 100), await world.member("us", 40)
    await world.keep("eu")
    await world.send(sender, receiver, 60)
    if spent:
        body = {"member": {"member_id": receiver}, "points": -spent, "reason": "test"}
        assert (await world.post(receiver, "/v1/adjustments", body)).status == 201
    await world.restore("eu")
    assert any("not sent, but" in one for examples in (await world.broken()).values() for one in examples)
    assert "1 transfers revoked whose sender's entry is lost" in await world.reconcile()
    assert (await world.balance(sender))["available"] == 100
    balance = await world.balance(receiver)
    assert (balance["available"], balance["debt"]) == after
    assert await world.broken() == {}
    assert (await world.reconcile())[1] == "nothing had to be brought back"


async def test_a_receiver_who_is_closed_owes_nothing(world: World) -> None:
    sender, receiver = await world.member("eu", 100), await world.member("us")
    await world.keep("eu")
    await world.send(sender, receiver, 60)
    assert (await world.nodes["us"].delete(f"/v1/members/{receiver}")).status == 200
    await world.restore("eu")
    await world.reconcile()
    assert (await world.balance(receiver))["debt"] == 0
    assert await world.broken() == {}


async def test_a_transfer_whose_receivers_half_is_lost_is_delivered_again(world: World) -> None:
    sender, receiver = await world.member("eu", 100), await world.member("us", 5)
    await world.keep("us")
    await world.send(sender, receiver, 60)
    await world.restore("us")
    assert "1 transfers delivered again" in await world.reconcile()
    assert ((await world.balance(sender))["available"], (await world.balance(receiver))["available"]) == (40, 65)
    assert await world.broken() == {}


async def test_a_transfer_whose_receiver_is_lost_comes_back(world: World) -> None:
    sender = await world.member("eu", 100)
    await world.keep("us")
    receiver = await world.member("us")
    await world.send(sender, receiver, 60)
    await world.restore("us")
    assert "1 transfers returned whose receiver is lost" in await world.reconcile()
    assert (await world.balance(sender)) == {"available": 100, "held": 0, "debt": 0}
    assert await world.broken() == {}


async def test_a_transfer_caught_between_its_halves_goes_on_by_itself(world: World) -> None:
    sender, receiver = await world.member("eu", 100), await world.member("us")
    body = {"from": {"member_id": sender}, "to": {"member_id": receiver}, "points": 60}
    assert (await world.post(sender, "/v1/transfers", body)).status == 201
    await world.keep("eu")
    await world.errands()
    await world.restore("eu")
    await world.reconcile()
    assert ((await world.balance(sender))["held"], (await world.balance(receiver))["available"]) == (0, 60)
    assert await world.broken() == {}


async def test_what_was_revoked_is_delivered_again_when_a_later_restore_brings_it_back(world: World) -> None:
    sender, receiver = await world.member("eu", 100), await world.member("us")
    await world.keep("eu", "before")
    await world.send(sender, receiver, 60)
    await world.keep("eu", "after")
    await world.restore("eu", "before")
    await world.reconcile()
    assert (await world.balance(receiver))["available"] == 0
    for name, available in (("after", 60), ("before", 0), ("after", 60)):
        await world.restore("eu", name)
        await world.reconcile()
        assert (await world.balance(receiver))["available"] == available, name
        assert await world.broken() == {}


async def test_two_shards_restored_to_different_points_agree_again(world: World) -> None:
    one, two = await world.member("eu", 100), await world.member("us", 100)
    await world.keep("eu")
    await world.send(one, two, 10)
    await world.send(two, one, 20)
    await world.keep("us")
    await world.send(one, two, 30)
    await world.send(two, one, 40)
    await world.restore("us")
    await world.restore("eu")
    await world.reconcile()
    assert await world.broken() == {}
    # What `us` still knows to have sent arrives; what came to it from what `eu` does not know any more is gone.
    assert ((await world.balance(one))["available"], (await world.balance(two))["available"]) == (120, 80)


SET_DETAIL = "UPDATE journal SET detail = jsonb_set(detail::jsonb, '{{{}}}', '{}') WHERE kind = $1"
TAMPERING = {
    "a revocation of something else": SET_DETAIL.format("revokes", 1),
    "a revocation of less": SET_DETAIL.format("revoked", 7),
    "a revocation that is missing": "DELETE FROM journal WHERE kind = $1",
    "a revocation that moved nothing": "UPDATE journal SET postings = '[]' WHERE kind = $1",
    "an incarnation that never was": "DELETE FROM incarnation WHERE number > 0 AND $1 > ''",
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_a_revocation_that_was_tampered_with_is_found(world: World, what: str) -> None:
    sender, receiver = await world.member("eu", 100), await world.member("us")
    await world.keep("eu")
    await world.send(sender, receiver, 60)
    await world.restore("eu")
    await world.reconcile()
    given = {"member": {"member_id": sender}, "points": 1, "reason": "an entry of the new incarnation"}
    assert (await world.post(sender, "/v1/adjustments", given)).status == 201
    for node in world.nodes.values():
        connection = await asyncpg.connect(node.dsn)
        await connection.execute(TAMPERING[what], "transfer_revoked")
        await connection.close()
    assert await world.broken() != {}


async def referred(world: World) -> tuple[str, str]:
    referrer = await world.member("us")
    return referrer, await world.member("eu", referred_by=referrer)


@pytest.mark.parametrize("is_of_before", [False, True])
async def test_thanks_for_a_purchase_that_is_lost_go_back_and_come_with_the_next(
    world: World, *, is_of_before: bool
) -> None:
    """Also where an earlier version has stored the state of who was thanked."""
    referrer, newcomer = await referred(world)
    await world.keep("eu")
    await world.buy(newcomer)
    await world.errands()
    assert (await world.balance(referrer))["available"] == 100
    if is_of_before:
        connection = await asyncpg.connect(world.nodes["us"].dsn)
        await lengthen(connection)
        await connection.close()
    await world.restore("eu")
    assert "1 thanks taken back whose purchase is lost or came back" in await world.reconcile()
    assert (await world.balance(referrer))["available"] == 0
    assert await world.broken() == {}
    await world.buy(newcomer)
    await world.errands()
    assert (await world.balance(referrer))["available"] == 100
    assert await world.broken() == {}


async def test_thanks_that_are_lost_are_given_again(world: World) -> None:
    referrer, newcomer = await referred(world)
    await world.keep("us")
    await world.buy(newcomer)
    await world.errands()
    await world.restore("us")
    assert "1 thanks given again" in await world.reconcile()
    assert (await world.balance(referrer))["available"] == 100
    assert await world.broken() == {}


async def test_thanks_that_are_not_lost_are_not_given_again(world: World) -> None:
    referrer, newcomer = await referred(world)
    await world.buy(newcomer)
    await world.errands()
    await world.keep("us")
    await world.restore("us")
    assert "nothing had to be brought back" in await world.reconcile()
    assert (await world.balance(referrer))["available"] == 100


@pytest.mark.parametrize("lost_on", ["eu", "us"])
async def test_thanks_and_their_return_agree_whichever_side_is_lost(world: World, lost_on: str) -> None:
    referrer, newcomer = await referred(world)
    bought = await world.buy(newcomer)
    await world.errands()
    await world.keep(lost_on)
    await world.bring_back(bought)
    await world.errands()
    assert (await world.balance(referrer))["available"] == 0
    await world.restore(lost_on)
    await world.reconcile()
    assert (await world.balance(referrer))["available"] == (100 if lost_on == "eu" else 0)
    assert await world.broken() == {}
    if lost_on == "eu":
        await world.bring_back(bought)
        await world.errands()
        assert (await world.balance(referrer))["available"] == 0
        assert await world.broken() == {}
