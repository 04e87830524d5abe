"""Batches write in one order, accounts first, so that two of them never wait for each other in a circle."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from command.record import Writes
from shard_router.member_id import parse_member_id
from tests.command_node import RunningNode, basket, running_command_node
from tests.conftest import eventually
from tests.engine import as_superuser

LOCK_ACCOUNT = "SELECT version FROM account WHERE member_id = $1 FOR UPDATE"
SAME_ROWS = """
INSERT INTO journal SELECT member_id, version + 1, kind, program_version, now(), now(), NULL, 0, '[]', '{}', '[]'
FROM journal WHERE member_id = $1 ORDER BY version DESC LIMIT 1;
INSERT INTO errand SELECT member_id, version + 1, 'transfer', '{}', 0, now() FROM account WHERE member_id = $1;
INSERT INTO receipt SELECT store, till, business_date, 'second', kind, member_id, version, fingerprint, subject
FROM receipt WHERE receipt = 'first' AND member_id = $1;
INSERT INTO idempotency
SELECT replace(key, 'first', 'second'), member_id, version, credential, fingerprint, status, answer, answered_at
FROM idempotency WHERE key LIKE '%first%' AND member_id = $1
"""
"""What the command under way is going to write besides the account. Whoever holds the account may write it too."""


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


@pytest.mark.parametrize("kind", ["purchase", "transfer"])
async def test_who_waits_for_an_account_has_written_nothing_that_its_holder_may_wait_for(
    node: RunningNode, kind: str
) -> None:
    ada, bob = (await node.enrol())["member_id"], (await node.enrol())["member_id"]

    async def command(name: str) -> Any:
        if kind == "purchase":
            return await node.post("/v1/purchases", basket({"member_id": ada}, name), key=name)
        body = {"from": {"member_id": ada}, "to": {"member_id": bob}, "points": 1}
        return await node.post("/v1/transfers", body, key=name)

    await node.give(ada, 10)
    assert (await command("first")).status in {201, 202}
    holder = await asyncpg.connect(as_superuser(node.dsn))
    transaction = holder.transaction()
    await transaction.start()
    number = parse_member_id(ada)
    await holder.execute(LOCK_ACCOUNT, number)
    second = asyncio.create_task(command("second"))

    async def waits() -> bool:
        return await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0

    await eventually(waits)
    await holder.execute("SET LOCAL lock_timeout = '500ms'")
    written = [await holder.execute(statement, number) for statement in SAME_ROWS.split(";")]
    assert written.count("INSERT 0 1") == (4 if kind == "purchase" else 3)  # a transfer has no receipt
    await transaction.rollback()
    assert (await second).status in {201, 202}
    await holder.close()


def test_receipts_and_keys_that_two_batches_share_are_written_in_one_order() -> None:
    writes = Writes()
    for name in ("b", "a", "c"):
        receipt = {"store": "s", "till": "1", "business_date": date(2026, 11, 26), "receipt": name, "kind": "purchase"}
        for table in ("receipt", "receipt_again"):
            writes.add(table, receipt | {"subject": ""})
        writes.add("idempotency", {"key": name})
        writes.add("replay", name)
    tables = writes.tables(datetime.now(UTC))
    for receipts in (tables["receipt"], writes.rows["receipt_again"]):
        assert [row["receipt"] for row in receipts] == ["a", "b", "c"]
    assert [row["key"] for row in tables["idempotency"]] == ["a", "b", "c"]
    assert [row["key"] for row in tables["replay"]] == ["a", "b", "c"]
