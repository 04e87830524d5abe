"""Referrals across shards: a first purchase that came back whole takes the thanks for it back, once, in any order."""

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from command.envelope import Envelope, ReceiptKey
from command.fingerprint import Fingerprint
from rules.command import Line, Receipt, RecordPurchase, ReturnedLine, ReturnPurchase
from shard_router.member_id import parse_member_id, slot_of
from tests.command_node import REWARDS, RunningNode, balance, basket, running_command_node, two_far_apart, value
from verify.across import Across
from verify.referral import check_referrals

LAST_FIRST = """
WITH gone AS (DELETE FROM errand RETURNING *)
INSERT INTO errand SELECT * FROM gone ORDER BY version DESC
"""
AGAIN = """
INSERT INTO errand
SELECT member_id, version, $1, detail -> $1, 0, now() FROM journal WHERE detail -> $1 IS NOT NULL
ON CONFLICT DO NOTHING
"""
"""As if the courier had died before it ended its errands."""


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=REWARDS, second=second_database) as running:
        yield running


@dataclass
class Pair:
    """A referrer and a newcomer on another shard."""

    node: RunningNode
    referrer: dict[str, Any]
    newcomer: dict[str, Any]
    bought: list[dict[str, Any]] = field(default_factory=list)

    async def buy(self) -> str:
        body = basket({"member_id": self.newcomer["member_id"]}, f"sold-{len(self.bought)}")
        self.bought.append(body)
        answer = await self.node.post("/v1/purchases", body)
        assert answer.status == 201, answer.body
        return answer.json["purchase_id"]

    async def bring_all_back(self, purchase: str) -> None:
        """In two parts."""
        sold = self.bought[-1]
        for number, one in enumerate(sold["lines"], 1):
            back = {name: sold[name] for name in ("store", "till", "occurred_at")}
            back |= {"receipt": f"back-{purchase}-{number}", "lines": [{"line": number, "quantity": one["quantity"]}]}
            answer = await self.node.post(f"/v1/purchases/{purchase}/returns", back)
            assert answer.status == 201, answer.body

    async def check(self, available: int, debt: int = 0) -> None:
        """All that the referrer has by these errands; and nothing is wrong, whatever is under way."""
        after = await balance(self.node, self.referrer)
        assert (after["available"] - after["debt"] - 1, after["debt"]) == (available, debt)
        await self.node.give(self.referrer["member_id"], -1)

    async def wrong(self) -> list[str]:
        topology = self.node.inner.topology.current
        async with AsyncExitStack() as stack:
            connections = {
                shard: await stack.enter_async_context(self.node.inner.pools[shard].primary())
                for shard in self.node.inner.shards()
            }
            for connection in connections.values():
                await stack.enter_async_context(connection.transaction(readonly=True))
            return (await check_referrals(Across(connections, topology))).examples


@pytest.fixture
async def pair(node: RunningNode) -> Pair:
    referrer, _ = await two_far_apart(node)
    home = node.inner.topology.current.shard_of
    while True:
        newcomer = await node.enrol(referred_by=referrer["member_id"])
        if home(parse_member_id(newcomer["member_id"])) != home(parse_member_id(referrer["member_id"])):
            return Pair(node, referrer, newcomer)


async def test_buying_returning_and_buying_again_thanks_the_referrer_once(pair: Pair) -> None:
    purchase = await pair.buy()
    await pair.node.run_errands()
    await pair.check(100)
    await pair.bring_all_back(purchase)
    assert await pair.wrong() == []
    await pair.node.run_errands()
    await pair.check(0)
    again = await pair.buy()
    assert await pair.wrong() == []
    await pair.node.run_errands()
    await pair.check(100)
    await pair.bring_all_back(again)
    await pair.node.run_errands()
    await pair.check(0)
    assert await pair.wrong() == []
    assert sum(await value(pair.node, "SELECT count(*) FROM errand")) == 0


async def test_word_of_a_purchase_and_of_its_return_comes_in_their_order_though_both_wait(pair: Pair) -> None:
    for _ in range(2):
        await pair.bring_all_back(await pair.buy())
    await pair.buy()
    assert sum(await value(pair.node, "SELECT count(*) FROM errand")) == 5
    await value(pair.node, LAST_FIRST)
    await pair.node.run_errands()
    await pair.check(100)
    kinds = "SELECT string_agg(kind, ' ' ORDER BY version) FROM journal WHERE kind LIKE 'referral%'"
    told = next(one for one in await value(pair.node, kinds) if one)
    assert told == "referral_credited referral_returned " * 2 + "referral_credited"
    assert await pair.wrong() == []


@pytest.mark.parametrize("kind", ["referral", "referral_return"])
async def test_word_that_comes_twice_or_late_changes_nothing(pair: Pair, kind: str) -> None:
    await pair.bring_all_back(await pair.buy())
    await pair.node.run_errands()
    await pair.buy()
    await pair.node.run_errands()
    for _ in range(2):
        await value(pair.node, AGAIN, kind)
        assert await pair.wrong() == []
        await pair.node.run_errands()
        await pair.check(100)
    assert await pair.wrong() == []


async def test_a_referrer_who_spent_their_thanks_owes_them(pair: Pair) -> None:
    purchase = await pair.buy()
    await pair.node.run_errands()
    await pair.node.give(pair.referrer["member_id"], -70)
    await pair.bring_all_back(purchase)
    await pair.node.run_errands()
    after = (await pair.node.give(pair.referrer["member_id"], 1)).json["account"]["balance"]
    assert (after["available"], after["debt"]) == (0, 69)
    assert await pair.wrong() == []


@pytest.mark.parametrize("erased", ["before the purchase", "before the return", "before word of it"])
async def test_nothing_is_taken_from_a_referrer_who_is_gone(pair: Pair, erased: str) -> None:
    async def erase(when: str) -> None:
        if when == erased:
            assert (await pair.node.delete(f"/v1/members/{pair.referrer['member_id']}")).status == 200

    await erase("before the purchase")
    purchase = await pair.buy()
    await pair.node.run_errands()
    await erase("before the return")
    await pair.bring_all_back(purchase)
    await erase("before word of it")
    await pair.node.run_errands()
    assert sum(await value(pair.node, "SELECT count(*) FROM errand")) == 0
    assert await pair.wrong() == []


async def test_a_newcomer_who_is_gone_leaves_what_was_under_way(pair: Pair) -> None:
    await pair.bring_all_back(await pair.buy())
    assert (await pair.node.delete(f"/v1/members/{pair.newcomer['member_id']}")).status == 200
    await pair.node.run_errands()
    await pair.check(0)
    assert await pair.wrong() == []


async def test_what_was_never_taken_back_is_found(pair: Pair) -> None:
    await pair.bring_all_back(await pair.buy())
    await pair.node.run_errands()
    await value(pair.node, "DELETE FROM journal WHERE kind = 'referral_returned'")
    assert ["never taken back" in one for one in await pair.wrong()] == [True]


async def test_a_purchase_and_both_its_returns_in_one_batch_take_the_thanks_back(pair: Pair) -> None:
    number = parse_member_id(pair.newcomer["member_id"])
    now = datetime.now(UTC)
    receipts = [Receipt("330", "1", name) for name in ("sold", "back-1", "back-2")]
    lines = (Line("a", Decimal(2), 1000),)
    part = (ReturnedLine(1, Decimal(1)),)
    commands = [
        RecordPurchase(receipts[0], "EUR", lines, now, now),
        *(ReturnPurchase(2, receipt, part, now, now) for receipt in receipts[1:]),
    ]
    envelopes = [
        Envelope(
            command=command, slot=slot_of(number), deadline=time.monotonic() + 5, request_id="t", credential="t",
            member_id=number, reference=2 if kind == "return" else None,
            receipt=ReceiptKey(one.store, one.till, one.receipt, kind, Fingerprint(f"{1:032x}"), occurred_at=now),
        )
        for command, one, kind in zip(commands, receipts, ("purchase", "return", "return"), strict=True)
    ]  # fmt: skip
    answers = await pair.node.inner.lanes_for(number).store.run(envelopes)
    assert [one.status for one in answers] == [201, 201, 201]
    assert sum(await value(pair.node, "SELECT count(*) FROM errand")) == 2
    await pair.node.run_errands()
    await pair.check(0)
    assert await pair.wrong() == []
