"""Receipts claimed at their store's shard (eu) after one of the shards went back to an earlier state."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from command.program import apply_program
from tests.command_node import REWARDS, Reply, basket, recent
from tests.engine import PostgresServer
from tests.restored_world import World, restorable_world


@pytest.fixture
async def world(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[World]:
    async with restorable_world(postgres_server, tmp_path) as made:
        yield made


async def buy(world: World, member: str, receipt: str) -> Reply:
    return await world.post(member, "/v1/purchases", basket({"member_id": member}, receipt))


async def test_a_receipt_whose_purchase_is_lost_is_free_again(world: World) -> None:
    away, there = await world.enrol("us"), await world.enrol("eu")
    await world.keep("us")
    assert (await buy(world, away, "lost")).status == 201
    await world.claim_receipts()
    await world.restore("us")
    assert (await buy(world, there, "lost")).code == "receipt_conflict"
    assert " 1 receipts freed whose purchase is lost" in " ".join(await world.reconcile())
    assert (await buy(world, there, "lost")).status == 201
    assert (await buy(world, away, "lost")).status == 201
    await world.claim_receipts()
    assert (await buy(world, away, "lost")).code == "receipt_conflict"  # now it is the other one's
    assert await world.broken() == {}


async def test_who_bought_before_the_restore_keeps_the_receipt_whose_claim_was_lost(world: World) -> None:
    away, there = await world.enrol("us"), await world.enrol("eu")
    await world.keep("eu")
    body = basket({"member_id": away}, "kept")
    assert (await world.post(away, "/v1/purchases", body)).status == 201
    await world.claim_receipts()
    await world.restore("eu")
    assert " 1 receipts to be claimed again" in " ".join(await world.reconcile())
    await world.claim_receipts()
    assert (await buy(world, there, "kept")).code == "receipt_conflict"
    assert (await world.post(away, "/v1/purchases", body)).status == 201  # the first answer again
    assert await world.broken() == {}


async def move_store(world: World, region: str) -> None:
    """From now on a program has the store in another region."""
    moved = REWARDS.replace(
        'code = "330"\nname = "Store 330"\nregion = "eu"', f'code = "330"\nname = "Moved"\nregion = "{region}"'
    )
    await apply_program([node.dsn for node in world.nodes.values()], moved)


async def restored_after_the_move(world: World, region: str) -> str:
    """Somebody bought when the store was in eu; then it is in us, and a region is restored: what reconcile tells."""
    away, sold_at = await world.enrol("ap"), recent()
    await move_store(world, "us")
    await world.keep(region)
    body = basket({"member_id": away}, "1") | {"occurred_at": sold_at}
    assert (await world.post(away, "/v1/purchases", body)).status == 201
    await world.claim_receipts()
    await world.restore(region)
    return " ".join(await world.reconcile())


async def test_a_receipt_of_before_its_store_moved_is_claimed_again_where_it_was(world: World) -> None:
    there = await world.enrol("eu")
    sold_at = recent()
    assert " 1 receipts to be claimed again" in await restored_after_the_move(world, "eu")
    await world.claim_receipts()
    late = basket({"member_id": there}, "1") | {"occurred_at": sold_at}
    assert (await world.post(there, "/v1/purchases", late)).code == "receipt_conflict"
    assert await world.broken() == {}


async def test_a_receipt_of_before_its_store_moved_is_not_claimed_where_the_store_is_now(world: World) -> None:
    assert "receipts to be claimed again" not in await restored_after_the_move(world, "us")
    assert await world.broken() == {}
