"""Who leaves and comes back, from whatever region or shard, is known again for a while and has no bonus twice."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from command.settler import settle_due
from shard_router.card import new_card
from shard_router.member_id import parse_member_id, slot_of
from tests.command_node import PROGRAM, RunningNode, basket, change, dsns_of, running_command_node, running_regions
from tests.engine import PostgresServer
from tests.sql import fetch

BONUSES = (
    PROGRAM
    + """
[referral]
referrer = 200
newcomer = 100
[[campaigns]]
code = "welcome"
when = { first_purchase = true }
effect = { fixed = 25 }
[[coupons]]
code = "HELLO"
effect = { fixed = 50 }
"""
)
ALL, NONE = 1 + 100 + 25 + 50, 1
PHONE, EMAIL, FOREIGN = "+4930123456", "ada@example.org", "FOREIGN-1"
LINES = [{"sku": "a", "quantity": 1, "amount": 100}]


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=BONUSES, second=second_database) as running:
        yield running


async def first_basket(node: RunningNode, member: dict[str, Any]) -> int:
    """What a first basket earns, with the coupon for newcomers where it is taken."""
    body = basket({"member_id": member["member_id"]}, f"r-{member['member_id']}", lines=LINES)
    reply = await node.post("/v1/purchases", body | {"coupons": ["HELLO"]})
    if reply.status == 422:
        assert reply.code == "unknown_coupon"
        reply = await node.post("/v1/purchases", body)
    assert reply.status == 201, reply.body
    return reply.json["points_earned"]


async def leave(node: RunningNode, member: dict[str, Any]) -> None:
    assert (await node.delete(f"/v1/members/{member['member_id']}")).status == 200
    await node.run_errands()


@pytest.mark.parametrize("name", [{"phone": PHONE}, {"email": EMAIL}, {"card": FOREIGN}, {"card": new_card(1, 7)}])
async def test_who_was_erased_is_known_by_phone_email_and_card_whatever_shard_they_come_to(
    node: RunningNode, name: dict[str, str]
) -> None:
    friend = (await node.enrol())["member_id"]
    ada = await node.enrol(referred_by=friend, **name)
    assert await first_basket(node, ada) == ALL
    for _ in range(3):  # the hash comes again and again
        await leave(node, ada)
        ada = await node.enrol(referred_by=friend, **name)
        assert await first_basket(node, ada) == NONE
    await node.run_errands()
    referred = await node.post("/v1/holds", {"member": {"member_id": friend}, "points": 200})
    assert referred.status == 201
    assert referred.json["account"]["balance"]["available"] == 0
    stranger = await node.enrol(referred_by=friend, phone="+4930999999")
    assert await first_basket(node, stranger) == ALL


async def test_nothing_personal_is_kept_and_nothing_for_longer_than_the_program_says(node: RunningNode) -> None:
    ada = await node.enrol(phone=PHONE, email=EMAIL, card=FOREIGN)
    own = await node.enrol(card=new_card(1, slot_of(parse_member_id(ada["member_id"]))))
    await leave(node, ada)
    await leave(node, own)
    found = await former(node)
    assert len(found) == 4
    owners = [row["member_id"] for row in found if row["member_id"] is not None]
    assert owners == [parse_member_id(own["member_id"])]
    days = {(row["forget_at"] - datetime.now(UTC)).days for row in found}
    assert days == {364}
    await change(node, "UPDATE former_identifier SET forget_at = now() - interval '1 s'")
    again = await node.enrol(phone=PHONE)
    assert await first_basket(node, again) == 1 + 25 + 50
    for shard in node.inner.shards():
        store = node.inner.lanes_of(shard).store
        await settle_due(node.inner, shard)
        await store.forget_answers(datetime.now(UTC) - timedelta(days=30), 100)
    assert await former(node) == []


async def test_a_phone_given_up_and_taken_by_a_new_member_brings_no_bonus(node: RunningNode) -> None:
    ada = await node.enrol(phone=PHONE, card=FOREIGN)
    assert await first_basket(node, ada) == 1 + 25 + 50
    path = f"/v1/members/{ada['member_id']}/identifiers"
    assert (await node.post(path, {"remove": [{"phone": PHONE}]})).status == 201
    await node.run_errands()
    other = await node.enrol(phone=PHONE)
    assert await first_basket(node, other) == NONE


async def test_a_phone_of_one_who_left_is_known_when_it_is_added_to_a_new_member(node: RunningNode) -> None:
    await leave(node, await node.enrol(phone=PHONE))
    other = await node.enrol()
    reply = await node.post(f"/v1/members/{other['member_id']}/identifiers", {"add": [{"phone": PHONE}]})
    assert reply.status == 201
    assert await first_basket(node, other) == NONE


async def test_until_the_errand_is_done_nobody_takes_what_the_erased_was_found_by(node: RunningNode) -> None:
    """However far the courier came before it died: the hash is there before the claim is free."""
    ada = await node.enrol(phone=PHONE)
    assert (await node.delete(f"/v1/members/{ada['member_id']}")).status == 200
    assert (await node.post("/v1/members", {"phone": PHONE})).code == "member_exists"
    await node.inner.claims.remember([("phone", PHONE)], datetime.now(UTC) + timedelta(days=9))
    assert (await node.post("/v1/members", {"phone": PHONE})).code == "member_exists"
    await node.run_errands()
    assert await first_basket(node, await node.enrol(phone=PHONE)) == NONE


async def test_a_lease_that_ran_out_is_not_taken_over_before_its_holder_is_remembered(node: RunningNode) -> None:
    ada = await node.enrol(phone=PHONE)
    await change(node, "UPDATE claim SET leased_until = now() - interval '1 s'")  # as if its end had never been written
    assert (await node.delete(f"/v1/members/{ada['member_id']}")).status == 200
    assert (await node.post("/v1/members", {"phone": PHONE})).code == "in_progress"
    await node.run_errands()
    assert await first_basket(node, await node.enrol(phone=PHONE)) == NONE


async def test_who_comes_back_in_another_region_is_known_there(postgres_server: PostgresServer, tmp_path: Path) -> None:
    dsns = {region: await postgres_server.create_database() for region in ("eu", "us")}
    async with running_regions(dsns, tmp_path, program=BONUSES) as nodes:
        for number, (there, here) in enumerate((("eu", "us"), ("us", "eu"))):
            phone = f"+493012345{number}0"
            await leave(nodes[there], await nodes[there].enrol(phone=phone))
            assert await first_basket(nodes[here], await nodes[here].enrol(phone=phone)) == NONE
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


@pytest.mark.parametrize("without", ["key", "days"])
async def test_without_a_key_or_a_time_nobody_is_remembered(database: str, tmp_path: Path, without: str) -> None:
    days = "[membership]\nrejoin_days = 0\n" if without == "days" else ""
    async with running_command_node(database, tmp_path, program=BONUSES + days) as node:
        if without == "key":
            node.inner.claims.pseudonyms = lambda _: []
        own = new_card(1, 7)
        await leave(node, await node.enrol(phone=PHONE, card=own))
        assert await former(node) == []
        assert await first_basket(node, await node.enrol(phone=PHONE, card=own)) == 1 + 25 + 50


async def test_who_was_known_by_a_key_is_known_as_long_as_the_key_is_in_the_document(node: RunningNode) -> None:
    old = node.inner.claims.pseudonyms
    await leave(node, await node.enrol(phone=PHONE))
    node.inner.claims.pseudonyms = lambda text: [old(f"another key {text}")[0], *old(text)]
    await leave(node, await node.enrol(phone=PHONE))
    assert len(await former(node)) == 4  # of two phones and two cards
    assert await first_basket(node, await node.enrol(phone=PHONE)) == NONE


async def former(node: RunningNode) -> list[Any]:
    """What is kept of those who left, on all shards."""
    return [row for dsn in dsns_of(node) for row in await fetch(dsn, "SELECT * FROM former_identifier")]
