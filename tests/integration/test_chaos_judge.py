"""What a campaign finds when the data at rest are not as its tills heard them."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from benchmarks.chaos_client import BUCKETS, Log
from benchmarks.chaos_judge import _answers, _differing, _entries, _receipts, _times
from shard_router.member_id import parse_member_id
from tests.command_node import basket, running_command_node
from tests.engine import as_superuser

ADA, BOUGHT, TOO_MUCH = "chaos-1-2-0", "chaos-1-2-0-3", "chaos-1-2-0-4"


@pytest.fixture
async def heard(database: str, tmp_path: Path) -> Log:
    """What a till heard that enrolled a member, gave them points, sold a basket and was refused a hold."""
    log = Log()
    async with running_command_node(database, tmp_path) as node:
        enrolled = await node.post("/v1/members", {}, key=f"{ADA}-1")
        member = enrolled.json["member_id"]
        given = {"member": {"member_id": member}, "points": 5, "reason": "goodwill"}
        await node.post("/v1/adjustments", given, key=f"{ADA}-2")
        bought = await node.post("/v1/purchases", basket({"member_id": member}, f"{ADA}-r3"), key=BOUGHT)
        assert bought.status == 201
        held = {"member": {"member_id": member}, "points": 1_000}
        assert (await node.post("/v1/holds", held, key=TOO_MUCH)).code == "insufficient_points"
    log.acknowledged = {f"{ADA}-{version}": (member, version) for version in (1, 2, 3)}
    log.refused, log.receipts = {TOO_MUCH: "insufficient_points"}, {f"{ADA}-r3"}
    balance = bought.json["account"]["balance"]
    log.balances = {member: {bucket: balance[bucket] for bucket in BUCKETS}}
    return log


async def findings(database: str, log: Log) -> list[str]:
    found: list[str] = []
    primary = await asyncpg.connect(as_superuser(database))
    try:
        for look in (_entries, _answers, _receipts):
            await look(primary, log, found)
        return found + await _differing(primary, log)
    finally:
        await primary.close()


def lost(log: Log) -> None:
    log.acknowledged["more"] = (log.acknowledged[BOUGHT][0], 4)


def doubled(log: Log) -> None:
    log.acknowledged["more"] = log.acknowledged[BOUGHT]


def unheard(log: Log) -> None:
    del log.acknowledged[BOUGHT]


def refused_and_done(log: Log) -> None:
    log.refused[BOUGHT] = "limit_exceeded"


def elsewhere(log: Log) -> None:
    first, second = f"{ADA}-1", f"{ADA}-2"
    log.acknowledged[first], log.acknowledged[second] = log.acknowledged[second], log.acknowledged[first]


def receipt_lost(log: Log) -> None:
    log.receipts.add(f"{ADA}-r9")


def receipt_of_a_refusal(log: Log) -> None:
    log.refused_receipts.add(f"{ADA}-r3")


def balance(log: Log) -> None:
    next(iter(log.balances.values()))["available"] += 1


def erased(log: Log) -> None:
    log.erased.update(log.balances)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda _: None, []),
        (lost, ["more: acknowledged as", "not in the journal"]),
        (doubled, ["more and chaos-1-2-0-3 were acknowledged as one entry"]),
        (unheard, ["entries nobody was told of"]),
        (refused_and_done, ["chaos-1-2-0-3: refused (limit_exceeded), and made entry 3"]),
        (elsewhere, ["chaos-1-2-0-1: acknowledged as version 2, kept as 1"]),
        (receipt_lost, ["receipt chaos-1-2-0-r9: recorded 0 times"]),
        (receipt_of_a_refusal, ["receipt chaos-1-2-0-r3 was refused and is recorded"]),
        (balance, ["by our books"]),
        (erased, ["was erased and is open"]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_whatever_is_not_as_it_was_heard_is_found(
    database: str, heard: Log, lie: Callable[[Log], None], words: list[str]
) -> None:
    lie(heard)
    found = " | ".join(await findings(database, heard))
    assert bool(found) is bool(words)
    assert all(word in found for word in words), found


@pytest.mark.parametrize("by", ["-1 hour", "1 hour"], ids=["before the one before", "after now"])
async def test_an_entry_that_a_wrong_clock_has_dated_is_found(database: str, heard: Log, by: str) -> None:
    (member, _), *_ = heard.acknowledged.values()
    primary = await asyncpg.connect(as_superuser(database))
    found: list[str] = []
    try:
        await _times(primary, found)
        assert found == []
        await primary.execute(
            "UPDATE journal SET recorded_at = recorded_at + $1::text::interval WHERE member_id = $2 AND version = 3",
            by,
            parse_member_id(member),
        )
        await _times(primary, found)
        assert [words.partition(" of ")[0] for words in found] == ["entry 3"]
    finally:
        await primary.close()
