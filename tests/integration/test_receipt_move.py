"""A shard that goes hands its receipts to those that keep them from then on: who had one first keeps it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest

from cluster.shard_leaving import kept_by
from command.claim_move import MoveError
from command.receipt_move import hand_over_receipts, keep_receipts_again
from command.register import STATEMENTS
from shard_router.member_id import new_member_id, parse_member_id
from shard_router.server import connection_to
from tests.command_node import RunningNode, dsns
from tests.engine import PostgresServer
from tests.receipt_world import STORE, buy, claim_all, journal, members, rows
from tests.receipt_world import node as node  # noqa: PLC0414

CONFLICT = ["member_enrolled", "purchase_recorded", "purchase_returned receipt_conflict"]
STANDS = ["member_enrolled", "purchase_recorded"]
BOUGHT = """SELECT store, till, business_date, receipt, member_id, version, fingerprint
    FROM receipt WHERE member_id = $1 AND kind = 'purchase'"""
TAKE_OUT = (
    "DELETE FROM receipt WHERE kind = 'purchase' RETURNING store, till, business_date, receipt, fingerprint, member_id"
)
RECORD = """INSERT INTO receipt (store, till, business_date, receipt, fingerprint, member_id, kind, version)
    VALUES ($1, $2, $3, $4, $5, $6, 'purchase', 2)"""


class KilledError(Exception):
    """Whoever hands over is no more."""


class Giver:
    """A shard of another region, which goes; nobody lives there."""

    def __init__(self, node: RunningNode, dsn: str) -> None:
        self.node, self.dsn = node, dsn

    @property
    def keeper(self) -> str:
        return self.node.inner.topology.current.register_of("eu", STORE)

    async def execute(self, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def claim(self, claims: list[Any]) -> None:
        """As a register does."""
        await self.execute(STATEMENTS["claim_receipts"], *map(list, zip(*map(tuple, claims), strict=True)))

    async def has_claimed(self, member: str) -> None:
        """What a member bought has been claimed here, and nowhere else."""
        await rows(self.node, "DELETE FROM unclaimed_receipt RETURNING 1")
        await self.claim([*{tuple(row) for row in await rows(self.node, BOUGHT, parse_member_id(member))}])

    async def hand_over(self, *, die_after: str | None = None) -> int:
        def at(step: str) -> None:
            if step == die_after:
                raise KilledError

        shards = dict(zip(self.node.inner.shards(), dsns(self.node), strict=True))
        return await hand_over_receipts(("us-1", self.dsn), shards, lambda _: {self.keeper: "eu"}, at)

    async def hand_over_beside(self, dsn: str, sql: str, *arguments: Any) -> int:
        """Hand over while a statement of somebody else has not been committed, and is waited for."""
        async with connection_to(dsn) as writer, connection_to(dsn) as watcher:
            transaction = writer.transaction()
            await transaction.start()
            await writer.execute(sql, *arguments)
            handing = asyncio.create_task(self.hand_over())
            while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not handing.done()
            await transaction.commit()
            return await handing


@pytest.fixture
async def giver(node: RunningNode, postgres_server: PostgresServer) -> AsyncGenerator[Giver]:
    dsn = await postgres_server.create_database()
    yield Giver(node, dsn)
    await postgres_server.drop_database(dsn)


async def test_a_receipt_that_was_handed_over_is_known_where_it_is_kept_from_now_on(
    node: RunningNode, giver: Giver
) -> None:
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    assert await kept_by(giver.dsn) is None  # claims move, so they hinder nobody
    assert await giver.hand_over() == 1
    late = await buy(node, there, "1")
    assert (late.status, late.code) == (409, "receipt_conflict")
    assert (await buy(node, there, "2")).status == 201
    assert await journal(node, away) == STANDS


@pytest.mark.parametrize("step", ["fenced", "copied", None])
async def test_who_had_it_first_keeps_it_whoever_dies_between_two_steps(
    node: RunningNode, giver: Giver, step: str | None
) -> None:
    """The other one bought where receipts are kept from now on, while they were kept elsewhere."""
    there, away = await members(node)
    first = await buy(node, away, "1")
    await giver.has_claimed(away)
    assert (await buy(node, there, "1")).status == 201
    if step:
        with pytest.raises(KilledError):
            await giver.hand_over(die_after=step)
    assert await giver.hand_over() == 1
    assert await giver.hand_over() == 1
    await claim_all(node)
    await claim_all(node)
    assert (await journal(node, away), await journal(node, there)) == (STANDS, CONFLICT)
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []
    again = await buy(node, there, "1")
    assert (again.status, again.code) == (409, "receipt_conflict")
    again = await buy(node, away, "1")
    assert (again.status, again.json["points_earned"]) == (201, first.json["points_earned"])
    assert await giver.hand_over() == 1
    await claim_all(node)
    assert (await journal(node, away), await journal(node, there)) == (STANDS, CONFLICT)


async def test_what_was_claimed_before_for_somebody_who_lost_it_makes_room(node: RunningNode, giver: Giver) -> None:
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    ghost = new_member_id(2, 1)
    (keeper,) = [dsn for name, dsn in zip(node.inner.shards(), dsns(node), strict=True) if name == giver.keeper]
    connection = await asyncpg.connect(keeper)
    (claim,) = await giver.execute("SELECT store, till, business_date, receipt, fingerprint FROM receipt")
    await connection.execute(RECORD, *claim, ghost)
    await giver.hand_over()
    assert await connection.fetchval("SELECT member_id FROM receipt") == parse_member_id(away)
    assert await connection.fetch("SELECT FROM unclaimed_receipt") == []
    await connection.close()
    assert (await buy(node, there, "1")).code == "receipt_conflict"


async def test_from_the_fence_on_nothing_is_claimed_until_the_shard_stays_after_all(
    node: RunningNode, giver: Giver
) -> None:
    _, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    with pytest.raises(KilledError):
        await giver.hand_over(die_after="fenced")
    await giver.has_claimed(away)
    assert await giver.execute("SELECT FROM receipt") == []
    await keep_receipts_again(giver.dsn)
    await giver.has_claimed(away)
    assert len(await giver.execute("SELECT FROM receipt")) == 1


async def test_who_claims_just_now_is_waited_for(node: RunningNode, giver: Giver) -> None:
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    (claim,) = await giver.execute(
        "DELETE FROM receipt RETURNING store, till, business_date, receipt, member_id, version, fingerprint"
    )
    columns = [[part] for part in claim]
    assert await giver.hand_over_beside(giver.dsn, STATEMENTS["claim_receipts"], *columns) == 1
    assert (await buy(node, there, "1")).code == "receipt_conflict"


async def test_a_purchase_that_is_recorded_meanwhile_makes_room_too(node: RunningNode, giver: Giver) -> None:
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    assert (await buy(node, there, "1")).status == 201
    (keeper,) = [dsn for name, dsn in zip(node.inner.shards(), dsns(node), strict=True) if name == giver.keeper]
    async with connection_to(keeper) as connection:
        (row,) = await connection.fetch(TAKE_OUT)
    assert await giver.hand_over_beside(keeper, RECORD, *row) == 1
    await claim_all(node)
    assert (await journal(node, away), await journal(node, there)) == (STANDS, CONFLICT)


async def test_what_no_till_can_send_any_more_stays_behind(node: RunningNode, giver: Giver) -> None:
    _, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    await giver.execute("UPDATE receipt SET business_date = current_date - 42")
    assert await giver.hand_over() == 0


async def test_a_shard_that_was_restored_hands_nothing_over_until_it_is_reconciled(
    giver: Giver,
) -> None:
    await giver.execute("INSERT INTO incarnation (number, why) VALUES (9, 'test')")
    with pytest.raises(MoveError, match="reconcile"):
        await giver.hand_over()
    assert await giver.execute("SELECT FROM receipt_fence") == []


async def test_a_purchase_that_made_room_for_one_which_is_lost_has_its_name_back(
    node: RunningNode, giver: Giver
) -> None:
    """A restore took the winner before the other was taken back, and `loyalty reconcile` has freed its receipt."""
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    first = await buy(node, there, "1")
    assert await giver.hand_over() == 1
    await rows(node, "DELETE FROM receipt WHERE member_id = $1 RETURNING 1", parse_member_id(away))
    await claim_all(node)
    named = await rows(node, "SELECT subject FROM receipt WHERE member_id = $1", parse_member_id(there))
    assert [row["subject"] for row in named] == [""]
    again = await buy(node, there, "1")
    assert (again.status, again.json["points_earned"]) == (201, first.json["points_earned"])
    assert await journal(node, there) == STANDS


async def test_what_others_keep_already_is_not_handed_over(node: RunningNode, giver: Giver) -> None:
    """It kept that for a region that has joined since, where another member has the receipt now."""
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await giver.has_claimed(away)
    assert (await buy(node, there, "1")).status == 201
    shards = dict(zip(node.inner.shards(), dsns(node), strict=True))
    assert await hand_over_receipts(("us-1", giver.dsn), shards, lambda _: {}) == 0
    await claim_all(node)
    assert await journal(node, there) == STANDS
